"""Every method of segmentation on the built-in scenes, one seed: a smoke test, no comparison.

One seed and 400 steps show that each method trains and what it costs; its interval cannot be known.
Command, after experiments/scenes_core.py has trained the teacher:
  ./launch.sh study --config=experiments/scenes_methods.py \\
      --config.teacher.checkpoint=runs/scenes_core/teacher --workdir=runs/scenes_methods
No result is committed: it would show nothing.
"""

from kdseg_jax.distillers.crosskd import TERMS as CROSSKD
from kdseg_jax.distillers.detector_baselines import TERMS as DETECTOR_BASELINES
from kdseg_jax.distillers.methods import METHODS
from kdseg_jax.recipes import common, quickstart

JOINED = 'skd+channel_wise'
# Nothing, a block around another method, and what reads a detector.
LEFT_OUT = {'none', 'context', *CROSSKD, *DETECTOR_BASELINES}


def get_config(arg=None):
  """Arguments: steps=<of a student>, runlocal."""
  arg = common.parse_arg(arg, steps=400, runlocal=False)
  config = quickstart.get_config('role=student')
  config.train.steps = arg.steps
  methods = [name for name in METHODS if name not in LEFT_OUT] + [JOINED]
  common.study(
      config, title='Every method on the built-in scenes (smoke test)', seeds=(0,),
      description=f'One seed, {arg.steps} steps: this shows that every method runs and what it '
      'costs, not which is better.',
      students={'alone': {}} | {
          name: {'method': name, 'distill': quickstart.DISTILL} for name in methods},
      teacher=quickstart.get_config('role=teacher'))
  return common.runlocal(config) if arg.runlocal else config
