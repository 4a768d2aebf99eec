"""Does knowledge review help a small classifier, and more than plain KD? On a part of CIFAR-10.

ResNet-20 from ResNet-56 on 9,000 images: alone; with KD (temperature 4); with knowledge review
(the weight 0.6 of its official script, which grows over a twelfth of the steps); with both. The
teacher normalises by its running statistics: one pass of it serves all students. The learning rate
of every student is chosen by the same rule, see `TUNE`.
Data, 9,000 images for training, 1,000 to tune on and 2,000 to test on, from a file that holds
10,000 and 2,000 of CIFAR-10 as train and test:
  python -c "
  import numpy as np
  file = dict(np.load('cifar10_subset.npz'))
  val = np.arange(10_000) % 10 == 0
  for kind in ('image', 'label'):
    train = file.pop(f'train_{kind}')
    file |= {f'train_{kind}': train[~val], f'val_{kind}': train[val]}
  np.savez('cifar10_tune.npz', **file)"
Command:
  ./launch.sh study --config=experiments/cifar_review.py --config.data.root=cifar10_tune.npz \\
      --config.study.teacher.data.root=cifar10_tune.npz --workdir=runs/cifar_review
Results: experiments/cifar_review.md
"""

from kdseg_jax.recipes import cifar, common

IMAGES, BATCH = 9_000, 64
TUNE = {
    'field': 'optimizer.learning_rate', 'grid': (0.025, 0.05, 0.1), 'extend': 4, 'split': 'val',
    'seeds': (1_000,), 'data_seed': 1_000}
KD = {'kd': {'temperature': 4.0}}


def get_config(arg=None):
  """Arguments: steps=<of a student>, teacher_steps=<of the teacher>, runlocal."""
  arg = common.parse_arg(arg, steps=600, teacher_steps=1_500, runlocal=False)
  config = _recipe('role=student', arg.steps)
  teacher = _recipe('role=teacher', arg.teacher_steps)
  teacher.optimizer.learning_rate = 0.05
  review = {'review': _recipe('role=student,method=review', arg.steps).distill.review.to_dict() | {
      'warmup_steps': arg.steps // 12, 'teacher_batch_statistics': False}}
  common.study(
      config, title='Knowledge review on a part of CIFAR-10', seeds=range(3), tune=TUNE,
      teacher=teacher, students={
          'alone': {},
          'kd': {'method': 'kd', 'distill': KD},
          'review': {'method': 'review', 'distill': review},
          'kd_review': {'method': 'kd+review', 'distill': KD | review}},
      description='ResNet-20 from ResNet-56 on 9,000 images of CIFAR-10. *kd*: temperature 4, '
      'weight 1. *review*: weight 0.6, grown over a twelfth of the steps. Everything else as in '
      'the recipe cifar, with batches of 64.')
  return common.runlocal(config) if arg.runlocal else config


def _recipe(arg, steps):
  config = cifar.get_config(f'data=npz,images={IMAGES},{arg}')
  config.train.update(steps=steps, batch_size=BATCH)
  config.eval.every_steps = steps
  config.checkpoint.every_steps = 300
  return config
