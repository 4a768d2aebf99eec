"""COCO 2017: GFL-ResNet101 -> GFL-ResNet50 and the other pairs of CrossKD.

Settings: images of at most 800 and 1333 pixels, shorter and longer side, their shape kept, mirrored
half the time; SGD, lr 0.01 after 500 steps of warm-up from its thousandth, divided by 10 after two
thirds and eleven twelfths of the epochs, wd 1e-4 of all parameters, batch 16; 12 epochs (1x) or 24
(2x) of the 117,266 images with boxes. ResNets start from ImageNet; their stem and first stage stay,
and the statistics of all BatchNorms. Pyramid and towers of 256 channels, four convolutions.
Weights, assignment and test of each head are its defaults, kdseg_jax/tasks/detection/heads.py;
those of the methods stand beside their factories.
Paper: Wang et al., CVPR 2024 (arXiv:2306.11369); official code, jbwang1997/CrossKD, configs/.
Pairs (head=, backbone=; teacher -> student):
  gfl (the default): resnet101, 2x with shorter sides of 480 to 800 -> resnet50, 1x; resnet50, 1x ->
    resnet18, 1x.
  retinanet: resnet101 -> resnet50, 2x; resnet50,schedule=1x -> resnet18 and (not published; its
    head is not documented) mobilenetv2, 1x. P6 is of P5 in students that are distilled, and of the
    last stage in teachers and alone, as in the code: --config.student.extra_convs=on_input.
  atss: resnet101 -> resnet50, 1x.
  fcos: resnet101 -> resnet50, 2x with shorter sides of 640 or 800; a third of the rate for 500
    steps, biases of convolutions at twice the rate without decay, gradients clipped to norm 35, the
    scales and biases of BatchNorms stay too. Published FCOS goes with Caffe's ResNets (BGR,
    deviation 1, stride in the first 1x1): caffe,init=<work directory of such weights>; without,
    it starts from torchvision's like the others. Its later form: --config.task.box_loss=giou
    --config.task.center_sampling=True --config.student.norm_on_bbox=True
    --config.student.centerness_on_reg=True --config.student.tower_bias=True.
  Of unlike heads, GFL from ATSS-ResNet101 or RetinaNet-ResNet101: teacher_head=atss or retinanet,
    the fields teacher_head of the methods. RetinaNet has nine anchors a position and GFL one:
    crosskd compares nine, each where the student's counts, and prediction_mimicking refuses (the
    paper mimics, and its code of this is not published).
Methods: crosskd, prediction_mimicking, localization_distillation, pkd, pyramid_fitnets, review (of
the pyramid), joined as crosskd+pkd. The weight of pkd is 6 for GFL, 2 for RetinaNet and FCOS, 1 for
ATSS, as that code adds it to crosskd.
Data: train2017.zip, val2017.zip and annotations_trainval2017.zip of cocodataset.org, prepared, or
extracted in one folder, which is read as it is; or a folder of one's own in that layout, see
kdseg_jax/data/coco.py, of images=<number>.
Teachers are trained, or imported from mmdetection's files, as gfl_r101_fpn_mstrain_2x_coco.
Commands:
  ./launch.sh data.prepare coco --manual_dir=<archives> --data_dir=<data>
  ./launch.sh import --source=<file> --model=gfl_resnet101 --data=coco --workdir=runs/gfl_r101
  ./launch.sh evaluate --workdir=runs/gfl_r101 --data_root=<data> --split=val \\
      --config.eval.sides='(800,1333)' --config.eval.pad_multiple=32
  ./launch.sh train --config=configs/coco.py:role=teacher --config.data.root=<data> \\
      --workdir=runs/gfl_r101
  ./launch.sh train --config=configs/coco.py:method=crosskd --config.data.root=<data> \\
      --config.teacher.checkpoint=runs/gfl_r101 --workdir=runs/gfl_r50_crosskd
  ./launch.sh evaluate --workdir=runs/gfl_r50_crosskd --data_root=<data> --split=val
  ./launch.sh train --config=configs/coco.py:method=crosskd,teacher_head=atss \\
      --config.data.root=<data> --config.teacher.checkpoint=runs/atss_r101 \\
      --workdir=runs/gfl_r50_from_atss
The layer whose features are handed over, GFL-ResNet18 from -ResNet50, for 0 and so on to 4:
  ./launch.sh train --config=configs/coco.py:backbone=resnet18,method=crosskd,layer=0 \\
      --config.data.root=<data> --config.teacher.checkpoint=runs/gfl_r50 \\
      --workdir=runs/gfl_r18_layer0
Expected: AP on val as the official code reports: teacher, student alone, crosskd, crosskd+pkd of
GFL 44.9, 40.2, 43.7, 43.9; RetinaNet 38.9, 37.4, 39.7, 39.8; FCOS 40.8, 38.5, 41.1, 41.3; ATSS
41.5, 39.4, 41.8, 41.8. From summaries of the paper, unverified: GFL-ResNet18 35.8, with layer 0 to
4 38.2, 38.3, 38.6, 38.7, 38.2, localization_distillation 37.8, pkd 38.0; GFL-ResNet50 from ATSS
42.1 (mimicking 39.7), from RetinaNet 41.2 (30.3); MobileNetV2 30.9, pkd 33.2, crosskd 34.1.
Not run at full size.
Deviates: images are put on a canvas of 800x1344, upright ones of 1344x800, in evaluation too. That
code has batches of one orientation too, of the images of each of 8 GPUs by itself, but pads each to
its largest image. What sees padding there sees more of it here (a fifth of the positions of an
image of 480x640): GroupNorm; the statistics of crosskd and pkd, and the maps of review; FCOS, whose
focal loss and terms of crosskd count it. In evaluation none but to multiples of 32, as imported
models are evaluated above, with a program a size:
--config.eval.canvas='()' --config.eval.pad_multiple=32. One program, and more padding:
--config.data.by_orientation=False --config.augmentation.crop='(1344,1344)'
--config.eval.canvas='(1344,1344)'. Images are shrunk by area, there bilinearly. The Swin-T teacher
is not here.
"""

from kdseg_jax import models, names
from kdseg_jax.errors import UserError
from kdseg_jax.interop import pretrained
from kdseg_jax.models import detectors
from kdseg_jax.recipes import common

# The canvas is `SIDES` to multiples of 32.
BATCH, WARMUP, SIDES, CANVAS = 16, 500, (800, 1333), (800, 1344)
EPOCHS = {'1x': 12, '2x': 24}
_BACKBONES = {'teacher': 'resnet101', 'student': 'resnet50'}
_TWICE = ('gfl_resnet101', 'retinanet_resnet50', 'retinanet_resnet101')  # and FCOS
# (shorter, longer side), drawn; of others SIDES alone.
_RESIZE = {'gfl_resnet101': tuple((side, SIDES[1]) for side in range(480, SIDES[0] + 1))}
_RESIZE_FCOS = ((640, SIDES[1]), SIDES)
_PKD = {'gfl': 6.0, 'retinanet': 2.0, 'fcos': 2.0, 'atss': 1.0}  # weight by the student's head
_FROZEN = ('backbone/stem*', 'backbone/stage1*')
_CAFFE = {'mean': (122.7717, 115.9465, 102.9801), 'std': (1.0, 1.0, 1.0), 'channel_order': 'bgr',
          'stride_first': True}


def get_config(arg=None):
  """The config of a run.

  Arguments: role=teacher|student, method, head=gfl|retinanet|fcos|atss, backbone, schedule=1x|2x,
  layer=<that crosskd takes over, 0 to 4>, teacher_head, init=<weights to start from; empty is
  none>, caffe, images=<number of an epoch>, runlocal.
  """
  arg = common.parse_recipe_arg(
      arg, head='gfl', backbone='', schedule='', layer=-1, teacher_head='', init='imagenet',
      caffe=False, images=117_266)
  names.require(arg.head, detectors.HEADS, 'head of this recipe')
  config = common.detection(arg.method, arg.role)
  name = f'{arg.head}_{arg.backbone or _BACKBONES[arg.role]}'
  names.require(name, models.DETECTORS, 'model of this recipe')
  twice = arg.head == 'fcos' or name in _TWICE
  schedule = arg.schedule or ('2x' if twice else '1x')
  names.require(schedule, EPOCHS, 'schedule')
  config.data.update(name='coco', train_split='train_with_boxes', by_orientation=True)
  config.augmentation.update(crop=CANVAS, flip=0.5, resize=_RESIZE.get(
      name, _RESIZE_FCOS if arg.head == 'fcos' else (SIDES,)))
  _set_student(config, name, arg)
  _set_schedule(config, EPOCHS[schedule], -(-arg.images // BATCH))
  if arg.head == 'fcos':
    config.optimizer.update(warmup='constant', warmup_factor=1 / 3, bias_factor=2.0,
                            decay='all_but_biases', clip_norm=35.0)
  _set_methods(config, arg)
  return common.runlocal(config) if arg.runlocal else config


def _set_student(config, name, arg):
  student = config.student
  student.update(name=name, init=arg.init, head_channels=256, stacked_convs=4,
                 frozen_statistics=bool(arg.init))
  if arg.head == 'retinanet':
    student.extra_convs = 'on_output' if config.distill else 'on_input'
  if arg.head == 'fcos':
    student.update(norm_on_bbox=False, centerness_on_reg=False, tower_bias=False)
  is_resnet = 'resnet' in name
  if arg.init and is_resnet:
    config.train.freeze = _FROZEN + (('backbone/*/norm/*',) if arg.head == 'fcos' else ())
  if arg.caffe:
    if not is_resnet or pretrained.is_name(arg.init):
      raise UserError(f'caffe: {name} with init={arg.init}; expected a ResNet, and weights that '
                      'were trained on such images, init=<work directory>, or none, init=.')
    student.update(_CAFFE)


def _set_schedule(config, epochs, epoch):
  """Epochs of so many steps, an evaluation after each."""
  steps = epochs * epoch
  warmup = min(WARMUP, steps // 4)  # of a small folder of one's own
  # Milestones are shares of what comes after the warm-up.
  shares = [(after * epochs * epoch // 12 - warmup) / (steps - warmup) for after in (8, 11)]
  config.train.update(steps=steps, batch_size=BATCH)
  config.optimizer.update(
      learning_rate=0.01, momentum=0.9, weight_decay=1e-4, decay='all', schedule='steps',
      factor=0.1, milestones=tuple(shares), warmup_steps=warmup, warmup_factor=1e-3)
  config.eval.update(every_steps=epoch, batch_size=8, canvas=CANVAS, sides=SIDES)
  config.checkpoint.every_steps = epoch


def _set_methods(config, arg):
  distill = config.distill
  common.set_weight(distill, arg.method, 'pkd', _PKD[arg.head])
  if arg.layer >= 0:
    if 'crosskd' not in distill:
      raise UserError(f'layer={arg.layer} is of method=crosskd, and method={arg.method}.')
    distill.crosskd.layer = arg.layer
  if arg.teacher_head:
    names.require(arg.teacher_head, detectors.HEADS, 'teacher_head')
    for options in distill.values():
      if 'teacher_head' in options:
        options.teacher_head = arg.teacher_head
