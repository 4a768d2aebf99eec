"""COCO 2017: GFL-ResNet101 -> GFL-ResNet50 and the other pairs of CrossKD.

Commands:
  ./launch.sh data.prepare coco --manual_dir=<archives> --data_dir=<data>
  ./launch.sh train --config=configs/coco.py:role=teacher --config.data.root=<data> \\
      --workdir=runs/gfl_r101
  ./launch.sh train --config=configs/coco.py:method=crosskd --config.data.root=<data> \\
      --config.teacher.checkpoint=runs/gfl_r101 --workdir=runs/gfl_r50_crosskd
Settings, data, pairs and expected results: kdseg_jax/recipes/coco.py.
"""

from kdseg_jax.recipes.coco import get_config  # noqa: F401
