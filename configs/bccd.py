"""Blood cells (BCCD), or boxes of your own in the layout of Pascal VOC: a GFL detector.

Commands:
  export KDSEG_DATA=<folder>
  ./launch.sh train --config=configs/bccd.py:role=teacher,init=imagenet --workdir=runs/bccd_teacher
  ./launch.sh evaluate --workdir=runs/bccd_teacher --split=val
  ./launch.sh predict --workdir=runs/bccd_teacher --split=val --config.eval.limit=8
Settings, data and other heads: kdseg_jax/recipes/bccd.py.
"""

from kdseg_jax.recipes.bccd import get_config  # noqa: F401
