"""Quickstart: a small teacher, a student alone and the same student distilled, on the scenes.

Command: ./launch.sh quickstart
Two of the three runs alone:
  ./launch.sh train --config=configs/quickstart.py:role=student --workdir=runs/student
  ./launch.sh train --config=configs/quickstart.py:method=pixelwise+pairwise,unlabelled \\
      --config.teacher.checkpoint=runs/quickstart/teacher --workdir=runs/distilled
Settings, data and what they are for: kdseg_jax/recipes/quickstart.py.
"""

from kdseg_jax.recipes.quickstart import *  # noqa: F403
