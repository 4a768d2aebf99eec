"""Blood cells (BCCD), or boxes of your own in the layout of Pascal VOC: a GFL detector.

Settings: images fitted into 256x320 in training and evaluation, mirrored half the time; GFL on
MobileNetV2 as teacher, on ResNet-18 of a quarter of the width as student, both with pyramid and
towers of 64 channels, two convolutions in a tower. AdamW, lr 5e-4 with 50 steps of
warm-up, 800 steps of 8 images, gradients clipped to norm 10; with init the running statistics of
the backbone stay.
Data: BCCD (github.com/Shenggan/BCCD_Dataset; 3 classes, 640x480) or any JPEGImages/, Annotations/
and ImageSets/Main/<split>.txt, in --config.data.root or $KDSEG_DATA; see
kdseg_jax/data/voc_boxes.py. Check them first:
  ./launch.sh data.check <folder> --layout=voc_boxes
Commands:
  export KDSEG_DATA=<folder>
  ./launch.sh train --config=configs/bccd.py:role=teacher,init=imagenet --workdir=runs/bccd_teacher
  ./launch.sh evaluate --workdir=runs/bccd_teacher --split=val
  ./launch.sh predict --workdir=runs/bccd_teacher --split=val --config.eval.limit=8
method=crosskd and the other methods of detectors take --config.teacher.checkpoint=<workdir>; in
crosskd features pass the second convolution of the teacher's towers.
Another head of the teacher: --config.distill.crosskd.teacher_head=<head>.
head=gfl (the default), retinanet, fcos or atss.
Reached on val: the teacher with init=imagenet AP 54.0, AP50 86.0, one seed, in 16 minutes on two
threads of a CPU. Methods, at learning rates of their own: experiments/bccd.md. Other heads were not
run at full size.
"""

from kdseg_jax import names
from kdseg_jax.models import detectors
from kdseg_jax.recipes import common

_CANVAS = (256, 320)
_CHANNELS = 64  # of pyramid and towers
_OF_ROLE = {'teacher': ('mobilenetv2', 1.0), 'student': ('resnet18', 0.25)}  # backbone, its width


def get_config(arg=None):
  """Arguments: role=teacher|student, method, head, init=<weights to start from>, runlocal."""
  arg = common.parse_recipe_arg(arg, head='gfl', init='')
  names.require(arg.head, detectors.HEADS, 'head of this recipe')
  config = common.detection(arg.method, arg.role)
  backbone, width = _OF_ROLE[arg.role]
  config.data.name = 'voc_boxes'
  config.augmentation.update(crop=_CANVAS, resize=(_CANVAS,), flip=0.5)
  config.student.update(
      name=f'{arg.head}_{backbone}', width=width, head_channels=_CHANNELS, stacked_convs=2,
      init=arg.init, frozen_statistics=bool(arg.init))
  common.fit_towers(config.distill, layer=1)
  config.train.update(steps=800, batch_size=8)
  config.optimizer.update(name='adamw', learning_rate=5e-4, warmup_steps=50, clip_norm=10.0)
  config.eval.update(every_steps=200, batch_size=8, canvas=_CANVAS)
  config.checkpoint.every_steps = 100
  return common.runlocal(config) if arg.runlocal else config
