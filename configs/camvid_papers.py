"""CamVid at full size, 11 classes: the pairs of SKD and CIRKD.

Commands:
  ./launch.sh data.prepare camvid --manual_dir=<archives> --data_dir=<data>
  ./launch.sh train --config=configs/camvid_papers.py:role=teacher \\
      --config.data.root=<data> --workdir=runs/camvid_papers_teacher
  ./launch.sh train --config=configs/camvid_papers.py:method=cirkd \\
      --config.data.root=<data> --config.teacher.checkpoint=runs/camvid_papers_teacher \\
      --workdir=runs/camvid_papers_distilled
Settings, data, sources and expected results: kdseg_jax/recipes/camvid_papers.py.
"""

from kdseg_jax.recipes.camvid_papers import get_config  # noqa: F401
