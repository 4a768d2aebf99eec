"""Every method on the built-in scenes, one seed: a smoke test, no comparison.

One seed and 400 steps show that each method trains and what it costs; its interval cannot be known.
Command, after experiments/scenes_core.py has trained the teacher:
  ./launch.sh study --config=experiments/scenes_methods.py \\
      --config.teacher.checkpoint=runs/scenes_core/teacher --workdir=runs/scenes_methods
No result is committed: it would show nothing.
"""

from kdseg_jax.distillers.methods import METHODS
from kdseg_jax.recipes import common, quickstart

JOINED = 'skd+channel_wise'


def get_config(arg=None):
  """Arguments: steps=<of a student>, runlocal."""
  arg = common.parse_arg(arg, steps=400, runlocal=False)
  config = quickstart.get_config('role=student')
  config.train.steps = arg.steps
  # Those without a term of their own: nothing, and a block around another method.
  methods = [name for name in METHODS if name not in ('none', 'context')] + [JOINED]
  common.study(
      config, title='Every method on the built-in scenes (smoke test)', seeds=(0,),
      description=f'One seed, {arg.steps} steps: this shows that every method runs and what it '
      'costs, not which is better.',
      students={'alone': {}} | {
          name: {'method': name, 'distill': quickstart.DISTILL} for name in methods},
      teacher=quickstart.get_config('role=teacher'))
  return common.runlocal(config) if arg.runlocal else config
