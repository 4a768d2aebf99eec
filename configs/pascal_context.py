"""Pascal Context, 59 classes: the pairs of SKD, CIRKD and knowledge adaptation.

Commands:
  ./launch.sh data.prepare pascal_context --manual_dir=<archives> --data_dir=<data>
  ./launch.sh train --config=configs/pascal_context.py:role=teacher \\
      --config.data.root=<data> --workdir=runs/pascal_context_teacher
  ./launch.sh train --config=configs/pascal_context.py:method=pixelwise+pairwise \\
      --config.data.root=<data> --config.teacher.checkpoint=runs/pascal_context_teacher \\
      --workdir=runs/pascal_context_distilled
Settings, data, sources and expected results: kdseg_jax/recipes/pascal_context.py.
"""

from kdseg_jax.recipes.pascal_context import get_config  # noqa: F401
