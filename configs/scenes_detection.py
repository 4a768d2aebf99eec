"""Detection on the scenes: small detectors of digits on photographs, generated as they are needed.

Commands:
  ./launch.sh train --config=configs/scenes_detection.py:role=teacher \\
      --workdir=runs/scenes_detector
  ./launch.sh evaluate --workdir=runs/scenes_detector --split=test
  ./launch.sh predict --workdir=runs/scenes_detector --split=test --config.eval.limit=8
Settings, data and other heads: kdseg_jax/recipes/scenes_detection.py.
"""

from kdseg_jax.recipes.scenes_detection import get_config  # noqa: F401
