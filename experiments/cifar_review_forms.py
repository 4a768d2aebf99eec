"""What does each part of knowledge review add? Its forms, attention and hierarchical context.

A ResNet-20 of CIFAR-100 learns from a ResNet-56 by the forms that lead to the method in the paper:
the last map alone, each stage from its own, each from its own and the deeper ones one by one,
fused at once, and fused one after the other (residual). Where maps are fused, they are added or
weighted by attention (ABF); all are compared by the mean squared error, or by hierarchical context
(HCL). `residual_abf_hcl` is the method.
Paper: Chen et al., CVPR 2021 (arXiv:2104.09044), sections 3.1 to 3.4.
Commands, with $KDSEG_DATA as in configs/cifar.py:
  ./launch.sh study --config=experiments/cifar_review_forms.py --workdir=runs/cifar_review_forms
  ./launch.sh study --config=experiments/cifar_review_forms.py:data=npz,images=10000,steps=4000 \\
      --workdir=runs/cifar_review_forms_npz
Not run at size yet; there is no result.
"""

import itertools

from kdseg_jax.models.fusion import FORMS
from kdseg_jax.recipes import cifar, common

FUSING = ('fused', 'residual')  # in the others nothing is fused, by attention or without
LEVELS = (4, 2, 1)


def get_config(arg=None):
  """Arguments: data=<name>, images=<number>, steps=<of a student>, runlocal."""
  arg = common.parse_arg(arg, data='cifar100', images=50_000, steps=0, runlocal=False)
  config, teacher, review = cifar.study_parts(arg.data, arg.images, arg.steps, arg.runlocal)
  maps = {taps: review[taps][:-1] for taps in ('student_taps', 'teacher_taps')}
  students = {'alone': {}}
  for form, abf, hcl in itertools.product(FORMS, (False, True), (False, True)):
    if form in FUSING or not abf:
      own = {'form': form, 'attention': abf, 'levels': LEVELS if hcl else ()}
      students[form + '_abf' * abf + '_hcl' * hcl] = {'method': 'review', 'distill': {
          'review': review | own | (maps if form == 'single_stage' else {})}}
  common.study(
      config, title='The parts of knowledge review, on CIFAR', seeds=range(3), teacher=teacher,
      students=students,
      description='*abf*: maps are fused by attention instead of added; *hcl*: compared by '
      'hierarchical context instead of the mean squared error; *residual_abf_hcl* is the method.')
  return common.runlocal(config) if arg.runlocal else config
