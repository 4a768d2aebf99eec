"""CamVid, 11 classes, 180x240: DeepLabV3-MobileNetV2 teacher, its half as wide student.

Commands:
  export KDSEG_DATA=<camvid>
  ./launch.sh train --config=configs/camvid.py:role=teacher,init=imagenet \\
      --workdir=runs/camvid_stride16
  ./launch.sh train --config=configs/camvid.py:role=teacher,finetune,init=runs/camvid_stride16 \\
      --workdir=runs/camvid_teacher
  ./launch.sh train --config=configs/camvid.py:method=pixelwise+pairwise \\
      --config.teacher.checkpoint=runs/camvid_teacher --workdir=runs/camvid_distilled
  ./launch.sh evaluate --workdir=runs/camvid_distilled --split=val
Settings, data, sources and expected results: kdseg_jax/recipes/camvid.py.
"""

from kdseg_jax.recipes.camvid import get_config  # noqa: F401
