"""Which distillation helps a small detector? On the built-in scenes.

GFL with a ResNet-18 of a quarter of the width on 300 scenes, from one of half the width that has
learned from all of them: the students of experiments/bccd.py. The learning rate of every student is
chosen by the same rule, see `TUNE`. On one core of a CPU (Python 3.13, jax 0.12) a step of 18
students side by side takes 3.0 s: 1.7 minutes for the 600 of one, and half a minute to compile it.
No result is committed yet.
Command:
  ./launch.sh study --config=experiments/scenes_detection.py --workdir=runs/scenes_detection_study
"""

from experiments import bccd
from kdseg_jax.recipes import common, scenes_detection

LABELLED = 300  # scenes of the students
TUNE = bccd.TUNE | {'grid': (0.01, 0.02, 0.04)}


def get_config(arg=None):
  """Arguments: steps=<of a student>, seeds=<how many>, runlocal."""
  arg = common.parse_arg(arg, steps=600, seeds=3, runlocal=False)
  return bccd.study(
      arg, _recipe, scenes_detection.get_config('role=teacher'), TUNE,
      title='Distillation of a small detector on the built-in scenes',
      description='GFL-ResNet-18, a quarter of the width on 300 scenes from half of it on 10,000. '
      'Weights and masks of every method are those of its official code; in crosskd features pass '
      'the second of two convolutions of the teacher\'s towers.')


def _recipe(arg):
  config = scenes_detection.get_config(arg)
  config.data.train_limit = LABELLED
  return config
