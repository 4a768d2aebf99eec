"""Cityscapes, 19 classes: the pairs of SKD, CIRKD and knowledge adaptation.

Commands:
  ./launch.sh data.prepare cityscapes --manual_dir=<archives> --data_dir=<data>
  ./launch.sh train --config=configs/cityscapes.py:role=teacher \\
      --config.data.root=<data> --workdir=runs/cityscapes_teacher
  ./launch.sh train --config=configs/cityscapes.py:method=cirkd \\
      --config.data.root=<data> --config.teacher.checkpoint=runs/cityscapes_teacher \\
      --workdir=runs/cityscapes_distilled
Settings, data, sources and expected results: kdseg_jax/recipes/cityscapes.py.
"""

from kdseg_jax.recipes.cityscapes import get_config  # noqa: F401
