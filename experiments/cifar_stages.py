"""Which stage of a teacher should teach which stage of a student? The question of knowledge review.

A ResNet-20 of CIFAR-100 learns from a ResNet-56, one pair of stages at a time: each of its three
stages from each of the teacher's. That deep stages of the student learn from shallow ones of the
teacher is what the paper begins with: hence *review*. A pair is compared as in the method, after
two convolutions with BatchNorm, but by the mean squared error alone; maps are brought to the
teacher's size by the nearest pixel. The pooled vector is left out: of a map, one pixel would be
compared with it.
Paper: Chen et al., CVPR 2021 (arXiv:2104.09044), section 3.1.
Commands, with $KDSEG_DATA as in configs/cifar.py:
  ./launch.sh study --config=experiments/cifar_stages.py --workdir=runs/cifar_stages
  ./launch.sh study --config=experiments/cifar_stages.py:data=npz,images=10000,steps=4000 \\
      --workdir=runs/cifar_stages_npz
Not run at size yet; there is no result.
"""

import itertools

from kdseg_jax.recipes import cifar, common

STAGES = ('stage1', 'stage2', 'stage3')


def get_config(arg=None):
  """Arguments: data=<name>, images=<number>, steps=<of a student>, runlocal."""
  arg = common.parse_arg(arg, data='cifar100', images=50_000, steps=0, runlocal=False)
  config, teacher, review = cifar.study_parts(arg.data, arg.images, arg.steps, arg.runlocal)
  pairs = {
      f'{own}_from_{other}': {'method': 'review', 'distill': {'review': review | {
          'form': 'single_stage', 'levels': (), 'student_taps': (own,),
          'teacher_taps': (f'{other}_preactivation',)}}}
      for own, other in itertools.product(STAGES, STAGES)}
  common.study(
      config, title='Stages of a student from stages of a teacher, on CIFAR', seeds=range(3),
      teacher=teacher, students={'alone': {}} | pairs,
      description='In *stage3_from_stage1*, stage 3 of the student learns from stage 1 of the '
      'teacher, and likewise all pairs, by the mean squared error.')
  return common.runlocal(config) if arg.runlocal else config
