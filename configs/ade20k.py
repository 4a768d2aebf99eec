"""ADE20K, 150 classes: the pairs of SKD and CIRKD.

Commands:
  ./launch.sh data.prepare ade20k --manual_dir=<archives> --data_dir=<data>
  ./launch.sh train --config=configs/ade20k.py:role=teacher \\
      --config.data.root=<data> --workdir=runs/ade20k_teacher
  ./launch.sh train --config=configs/ade20k.py:method=cirkd \\
      --config.data.root=<data> --config.teacher.checkpoint=runs/ade20k_teacher \\
      --workdir=runs/ade20k_distilled
Settings, data, sources and expected results: kdseg_jax/recipes/ade20k.py.
"""

from kdseg_jax.recipes.ade20k import get_config  # noqa: F401
