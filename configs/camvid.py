"""CamVid, 11 classes: DeepLabV3-ResNet18 teacher, DeepLabV3-MobileNetV2 student, 180x240.

Commands:
  export KDSEG_DATA=<camvid>
  ./launch.sh train --config=configs/camvid.py:role=teacher --workdir=runs/camvid_teacher
  ./launch.sh train --config=configs/camvid.py:method=pixelwise+pairwise \\
      --config.teacher.checkpoint=runs/camvid_teacher --workdir=runs/camvid_distilled
  ./launch.sh evaluate --workdir=runs/camvid_distilled --split=val
Settings, data, sources and expected results: kdseg_jax/recipes/camvid.py.
"""

from kdseg_jax.recipes.camvid import get_config  # noqa: F401
