"""Does structured distillation help on the built-in scenes? The core study.

The student alone on 300 labelled scenes; distilled (pixel-wise and pair-wise) on the same; and
distilled on them and on the other 9,700 scenes without their labels, half of every batch. One
teacher, which is trained first; the same number of steps for all. The learning rate of every
student is chosen by the same rule, see `TUNE`, at each length.
Commands:
  ./launch.sh study --config=experiments/scenes_core.py --workdir=runs/scenes_core
  ./launch.sh study --config=experiments/scenes_core.py:steps=3000 \\
      --config.teacher.checkpoint=runs/scenes_core/teacher --workdir=runs/scenes_core_twice
Results: experiments/scenes_core.md
"""

from kdseg_jax.recipes import common, quickstart

METHOD = 'pixelwise+pairwise'
TUNE = {
    'field': 'optimizer.learning_rate', 'grid': (16e-3, 32e-3, 64e-3), 'extend': 4,
    'split': 'val', 'seeds': (1_000, 1_001), 'data_seed': 1_000}
DISTILLED = {'method': METHOD, 'distill': quickstart.DISTILL}
STUDENTS = {
    'alone': {}, 'distilled': DISTILLED,
    'distilled_unlabelled': DISTILLED | {'data': quickstart.UNLABELLED}}


def get_config(arg=None):
  """Arguments: steps=<of a student>, runlocal."""
  arg = common.parse_arg(arg, steps=1_500, runlocal=False)
  config = quickstart.get_config('role=student')
  config.train.steps = arg.steps
  common.study(
      config, title='Structured distillation on the built-in scenes', students=STUDENTS,
      seeds=range(5), tune=TUNE, teacher=quickstart.get_config('role=teacher'),
      description='*distilled* learns from the labelled scenes that *alone* has; in '
      '*distilled_unlabelled* half of every batch are scenes without labels. Everything else as in '
      'the recipe quickstart.')
  return common.runlocal(config) if arg.runlocal else config
