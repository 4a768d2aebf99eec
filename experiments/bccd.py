"""Which distillation helps a small detector? On blood cells.

GFL with a ResNet-18 of a quarter of the width, from a GFL-MobileNetV2 that starts from ImageNet
weights: the student alone; prediction mimicking; localisation distillation; PKD; CrossKD; knowledge
review on the pyramid. Everything at 256x320, students from noise. The learning rate of every
student is chosen by the same rule, see `TUNE`.
Data, BCCD with its val as test (lists of the names test and trainval are replaced), a fifth of its
train as val (the teacher learns from both, as trainval), and images and annotations as they are:
  cp -r BCCD bccd && cd bccd/ImageSets/Main
  mv val.txt test.txt && mv train.txt trainval.txt
  awk 'NR % 5 == 1' trainval.txt > val.txt && awk 'NR % 5 != 1' trainval.txt > train.txt
  cd ../../..
Command:
  ./launch.sh study --config=experiments/bccd.py --config.data.root=bccd \\
      --config.study.teacher.data.root=bccd --workdir=runs/bccd_study
Results: experiments/bccd.md
"""

from kdseg_jax.recipes import bccd, common

TUNE = {
    'field': 'optimizer.learning_rate', 'grid': (4e-3, 8e-3, 16e-3), 'extend': 4, 'split': 'val',
    'seeds': (1_000,), 'data_seed': 1_000}
FUSED_CHANNELS = 64  # of knowledge review, whose 256 are wider than teacher and student
NAMES = {
    'mimicking': 'prediction_mimicking', 'localization': 'localization_distillation', 'pkd': 'pkd',
    'crosskd': 'crosskd', 'review': 'review'}


def get_config(arg=None):
  """Arguments: steps=<of a student>, seeds=<how many>, runlocal."""
  arg = common.parse_arg(arg, steps=400, seeds=3, runlocal=False)
  teacher = bccd.get_config('role=teacher,init=imagenet')
  teacher.data.train_split = 'trainval'
  teacher.eval.update(split='test', every_steps=teacher.train.steps)  # its last step, not its best
  return study(
      arg, bccd.get_config, teacher, TUNE, title='Distillation of a small detector of blood cells',
      description='GFL-ResNet-18 (a quarter of the width) from GFL-MobileNetV2. Weights and masks '
      'of every method are those of its official code; in crosskd features pass the second of two '
      'convolutions of the teacher\'s towers.')


def study(arg, recipe, teacher, tune, *, title, description):
  """Students of this teacher; `recipe` is that of a student with a method."""
  config = recipe('role=student')
  config.train.steps = arg.steps
  config.eval.update(split='test', every_steps=arg.steps)
  students = {name: {'method': method, 'distill': recipe(f'method={method}').distill.to_dict()}
              for name, method in NAMES.items()}
  students['review']['distill']['review']['channels'] = FUSED_CHANNELS
  common.study(config, title=title, description=description, students={'alone': {}} | students,
               seeds=range(arg.seeds), tune=tune, teacher=teacher)
  return common.runlocal(config) if arg.runlocal else config
