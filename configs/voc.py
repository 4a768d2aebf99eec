"""Pascal VOC 2012 and SBD (trainaug), 21 classes: the pairs of SKD, CIRKD and knowledge adaptation.

Commands:
  ./launch.sh data.prepare voc --manual_dir=<archives> --data_dir=<data>
  ./launch.sh train --config=configs/voc.py:role=teacher \\
      --config.data.root=<data> --workdir=runs/voc_teacher
  ./launch.sh train --config=configs/voc.py:method=cirkd \\
      --config.data.root=<data> --config.teacher.checkpoint=runs/voc_teacher \\
      --workdir=runs/voc_distilled
Settings, data, sources and expected results: kdseg_jax/recipes/voc.py.
"""

from kdseg_jax.recipes.voc import get_config  # noqa: F401
