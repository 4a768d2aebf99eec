"""Does structured distillation help on the built-in scenes? The core study.

Student alone, with pixel-wise distillation, with pair-wise distillation, and with both, against one
teacher, which is trained first; at the length of the quickstart and at twice as many steps. The
learning rate is the one of three that suits the student alone best, on other seeds and batches.
Commands:
  ./launch.sh study --config=experiments/scenes_core.py:tune --workdir=runs/scenes_core_tune
  ./launch.sh study --config=experiments/scenes_core.py --workdir=runs/scenes_core
  ./launch.sh study --config=experiments/scenes_core.py:tune,steps=3000 \\
      --workdir=runs/scenes_core_tune_twice
  ./launch.sh study --config=experiments/scenes_core.py:steps=3000,method=pixelwise+pairwise \\
      --config.teacher.checkpoint=runs/scenes_core/teacher --workdir=runs/scenes_core_twice
Results: experiments/scenes_core.md
"""

from configs import common, quickstart

LEARNING_RATES = {'lr 4e-3': 4e-3, 'lr 8e-3': 8e-3, 'lr 16e-3': 16e-3}
METHODS = ('pixelwise', 'pairwise', 'pixelwise+pairwise')


def get_config(arg=None):
  """Arguments: steps=<of a student>, method=<default: METHODS>, tune (learning rates), runlocal."""
  arg = common.parse_arg(arg, steps=1_500, method='', tune=False, runlocal=False)
  config = quickstart.get_config('role=student')
  config.train.steps = arg.steps
  if arg.tune:
    students = {name: {'optimizer': {'learning_rate': rate}}
                for name, rate in LEARNING_RATES.items()}
    config.eval.split = 'val'
    config.seed = 1_000  # of the data
    common.study(
        config, title='Learning rate of the student alone', students=students,
        baseline='lr 16e-3', seeds=(1_000, 1_001),
        description='The student alone on the val split, on batches that are not used again.')
  else:
    methods = [arg.method] if arg.method else METHODS
    students = {'alone': {}} | {
        method: {'method': method, 'distill': quickstart.DISTILL} for method in methods}
    common.study(
        config, title='Structured distillation on the built-in scenes', students=students,
        seeds=range(5), teacher=quickstart.get_config('role=teacher'),
        description='Everything else as in configs/quickstart.py.')
  return common.runlocal(config) if arg.runlocal else config
