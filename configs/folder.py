"""Your own images and labels: DeepLabV3-ResNet50 teacher, DeepLabV3-ResNet18 student, crops of 512.

Commands:
  export KDSEG_DATA=<folder>
  ./launch.sh train --config=configs/folder.py:role=teacher,init=imagenet \\
      --workdir=runs/folder_teacher
  ./launch.sh train --config=configs/folder.py:method=pixelwise+pairwise,init=imagenet \\
      --config.teacher.checkpoint=runs/folder_teacher --workdir=runs/folder_distilled
  ./launch.sh evaluate --workdir=runs/folder_distilled --split=val
Settings, data, sources and expected results: kdseg_jax/recipes/folder.py.
"""

from kdseg_jax.recipes.folder import get_config  # noqa: F401
