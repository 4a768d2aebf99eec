"""CIFAR: a ResNet-56 teacher, a ResNet-20 student, as in knowledge review.

Settings: SGD with Nesterov momentum, batch 128, 240 epochs, lr 0.1 divided by 10 after 150, 180 and
210 of them, wd 5e-4 of all parameters; borders of 4 pixels, crops of 32 and mirror images (official
code, dvlab-research/ReviewKD, CIFAR-100/train.py; 0.02 for the ShuffleNets and MobileNetV2).
Paper: Chen et al., CVPR 2021 (arXiv:2104.09044).
Data: cifar-100-python.tar.gz or cifar-10-python.tar.gz (data=cifar10) of
www.cs.toronto.edu/~kriz/cifar.html, as it is or unpacked, in --config.data.root or $KDSEG_DATA. A
file of one's own: data=npz, and images=<number> of its training images, of which an epoch is made.
Commands:
  export KDSEG_DATA=<archives>
  ./launch.sh train --config=configs/cifar.py:role=teacher --workdir=runs/cifar_teacher
  ./launch.sh train --config=configs/cifar.py:method=review \\
      --config.teacher.checkpoint=runs/cifar_teacher --workdir=runs/cifar_distilled
  ./launch.sh evaluate --workdir=runs/cifar_distilled --split=test
Expected: top-1 on test of CIFAR-100 as the paper reports: teacher 72.34, student alone 69.06, with
method=review 71.89. Not run at full size yet. The best checkpoint is chosen on test, as in the
official code.
model=<name> takes another student, or teacher. Methods that compare pixels have the maps of the
last stage, before the mean over its positions.
"""

from kdseg_jax import models, names
from kdseg_jax.models import cifar
from kdseg_jax.recipes import common

EPOCHS, MILESTONES = 240, (150, 180, 210)
_MODELS = {'teacher': 'cifar_resnet56', 'student': 'cifar_resnet20'}
_SMALL_RATE = ('shuffle', 'mobile')  # official code: these start at 0.02
_REVIEW_WARMUP = 20  # epochs in which the weight of review grows, official code


def get_config(arg=None):
  """Arguments: role=teacher|student, method, data=<name>, images=<number>, model, runlocal."""
  arg = common.parse_recipe_arg(arg, data='cifar100', images=50_000, model='')
  config = common.classification(arg.method, arg.role)
  name = arg.model or _MODELS[arg.role]
  names.require(name, cifar.BACKBONES, 'model of this recipe')
  epoch = -(-arg.images // 128)  # steps; the last batch of official epochs is a smaller one
  config.data.name = arg.data
  config.augmentation.update(crop=(32, 32), scale=(), flip=0.5, pad=4)
  mean, std, _ = cifar.PREPROCESSING
  config.student.update(
      name=name, output_stride=models.output_stride_of(name), aux=False, dropout=0.0, mean=mean,
      std=std)
  config.train.update(steps=EPOCHS * epoch, batch_size=128)
  config.optimizer.update(
      learning_rate=0.02 if any(part in name for part in _SMALL_RATE) else 0.1, nesterov=True,
      weight_decay=5e-4, decay='all', schedule='steps', factor=0.1,
      milestones=tuple(after / EPOCHS for after in MILESTONES))
  config.eval.update(split='test', every_steps=5 * epoch, batch_size=500)
  config.checkpoint.every_steps = 5 * epoch
  _choose_taps(config, [f'stage{i + 1}' for i in range(len(cifar.BACKBONES[name].channels))])
  if 'review' in config.distill:
    config.distill.review.update(
        warmup_steps=_REVIEW_WARMUP * epoch, teacher_batch_statistics=True)
    if not arg.model:
      common.set_weight(config.distill, arg.method, 'review', 0.6)  # official script, of this pair
  if arg.runlocal:
    common.runlocal(config)
    config.student.name = 'cifar_resnet8'
    if 'review' in config.distill:
      config.distill.review.warmup_steps = 0
  return config


def study_parts(data, images, steps, runlocal):
  """`(config, config of the teacher, fields of the term review)` of a study of knowledge review.

  `steps` are a student's, of which the weight grows over the recipe's share; 0 are the recipe's.
  The teacher is that of its last step: the best would be chosen on the images of the test.
  """
  shared = f'data={data},images={images},runlocal={runlocal}'
  config = get_config(shared)
  review = get_config(f'method=review,{shared}').distill.review
  fields = {name: review[name] for name in (
      'weight', 'warmup_steps', 'teacher_batch_statistics', 'student_taps', 'teacher_taps')}
  if steps:
    fields['warmup_steps'] = review.warmup_steps * steps // config.train.steps
    config.train.steps = steps
  teacher = get_config(f'role=teacher,{shared}')
  teacher.eval.every_steps = teacher.train.steps
  return config, teacher, fields


def _choose_taps(config, stages):
  """The maps of the stages, of which a teacher is to have as many; other defaults are vectors."""
  common.compare_maps(config.distill, stages[-1])
  if 'review' in config.distill:
    config.distill.review.update(
        student_taps=(*stages, 'pooled'),
        teacher_taps=(*(f'{stage}_preactivation' for stage in stages), 'pooled'))
