"""Detection on the scenes: small detectors of digits on photographs, generated as they are needed.

Settings: 128x128 scenes; a ResNet-18 of half the width as teacher, of a quarter as student, both
with pyramid and towers of 48 channels, two convolutions in a tower. SGD, lr 0.02 with 100 steps of
warm-up (0.01 without GroupNorm: RetinaNet), batch 16, gradients clipped to norm 10.
Commands:
  ./launch.sh train --config=configs/scenes_detection.py:role=teacher \\
      --workdir=runs/scenes_detector
  ./launch.sh evaluate --workdir=runs/scenes_detector --split=test
  ./launch.sh predict --workdir=runs/scenes_detector --split=test --config.eval.limit=8
method=crosskd and the other methods of detectors take --config.teacher.checkpoint=<workdir>; in
crosskd features pass the second convolution of the teacher's towers.
Another head of the teacher: --config.distill.crosskd.teacher_head=<head>.
head=gfl (the default), retinanet, fcos or atss.
Reached on val: the teacher AP 75.4, AP50 92.9, one seed. Other heads were not run at full size.
"""

from kdseg_jax import names
from kdseg_jax.models import detectors
from kdseg_jax.recipes import common

_SIDE, _CHANNELS = 128, 48  # of the scenes; of pyramid and towers
_OF_ROLE = {'teacher': 0.5, 'student': 0.25}  # width of the backbone


def get_config(arg=None):
  """Arguments: role=teacher|student, method=<methods>, head=gfl|retinanet|fcos|atss, runlocal."""
  arg = common.parse_recipe_arg(arg, head='gfl')
  names.require(arg.head, detectors.HEADS, 'head of this recipe')
  config = common.detection(arg.method, arg.role)
  config.data.size = (_SIDE, _SIDE)
  config.augmentation.update(crop=(_SIDE, _SIDE), flip=0.0)  # mirrored digits are none
  config.student.update(
      name=f'{arg.head}_resnet18', width=_OF_ROLE[arg.role], head_channels=_CHANNELS,
      stacked_convs=2)
  config.task.max_boxes = 8  # a scene has up to 4
  common.fit_towers(config.distill, layer=1)
  config.train.update(steps=2_000, batch_size=16)
  config.optimizer.update(
      learning_rate=0.01 if arg.head == 'retinanet' else 0.02, warmup_steps=100, clip_norm=10.0)
  config.eval.update(every_steps=500, batch_size=25)
  config.checkpoint.every_steps = 500
  return common.runlocal(config) if arg.runlocal else config
