"""The terms of CIRKD on and off, and the sizes of its queues, on the built-in scenes.

The ablations of Yang et al., CVPR 2022, in kind: each term added to pixel-wise
distillation alone and together, or queues of 1,000 to 30,000 pixels a class.
Commands, after experiments/scenes_core.py has trained the teacher:
  ./launch.sh study --config=experiments/scenes_cirkd.py \\
      --config.teacher.checkpoint=runs/scenes_core/teacher --workdir=runs/scenes_cirkd
  ./launch.sh study --config=experiments/scenes_cirkd.py:queues \\
      --config.teacher.checkpoint=runs/scenes_core/teacher --workdir=runs/scenes_cirkd_queues
No result is committed: one seed and 400 steps, the defaults, would show nothing. A comparison takes
steps=<thousands>,seeds=5 and learning rates tuned as in experiments/scenes_core.py.
"""

from kdseg_jax.recipes import common, quickstart

QUEUES = (1_000, 3_000, 10_000, 20_000, 30_000)
PIXEL = {'memory': {'region_weight': 0.0}}
REGION = {'memory': {'pixel_weight': 0.0}}


def get_config(arg=None):
  """Arguments: steps=<of a student>, seeds=<how many>, queues (their sizes), runlocal."""
  arg = common.parse_arg(arg, steps=400, seeds=1, queues=False, runlocal=False)
  config = quickstart.get_config('role=student')
  config.train.steps = arg.steps
  if arg.queues:
    students = {f'pixels_{size}': {'method': 'cirkd', 'distill': {'memory': {'pixel_slots': size}}}
                for size in QUEUES}
  else:
    students = {
        'cross_image': {'method': 'kd+cross_image'},
        'pixel': {'method': 'kd+memory', 'distill': PIXEL},
        'region': {'method': 'kd+memory', 'distill': REGION},
        'pixel_region': {'method': 'kd+memory'},
        'cross_image_pixel': {'method': 'cirkd', 'distill': PIXEL},
        'cross_image_region': {'method': 'cirkd', 'distill': REGION},
        'all': {'method': 'cirkd'},
    }
  common.study(
      config, title='CIRKD on the built-in scenes', seeds=range(arg.seeds), baseline='kd',
      description=f'{arg.seeds} seed(s), {arg.steps} steps. With one seed this shows that every '
      'combination runs, not which is better.',
      students={'kd': {'method': 'kd'}, **students},
      teacher=quickstart.get_config('role=teacher'))
  return common.runlocal(config) if arg.runlocal else config
