"""ImageNet: ResNet-34 -> ResNet-18 and ResNet-50 -> MobileNetV1, as in knowledge review.

Settings: SGD with momentum, batch 256, 100 epochs, lr 0.1 divided by 10 after 30, 60 and 90 of
them, wd 1e-4 of all parameters; windows of 8 to 100% of the area at 224x224 and mirror images;
evaluated on the centre 224x224 at a shorter side of 256 (official code, dvlab-research/ReviewKD,
ImageNet/imagenet_amp.py). method=review has its weight of the pair, 1 for ResNet-18 and 8 for
MobileNetV1, without warm-up, on the four stages and their pooled vector. Like there, stages are
taken after their ReLU (it is in place), but MobileNet's before; its fusion has 256 channels.
Paper: Chen et al., CVPR 2021 (arXiv:2104.09044).
Data: ILSVRC2012_img_train.tar, ILSVRC2012_img_val.tar and ILSVRC2012_devkit_t12.tar.gz of
image-net.org. Extracted images, train/<synset>/ and val/<synset>/: data=class_folder, with their
folder as --config.data.root. images=<number> of its training images, of which an epoch is made.
Commands:
  ./launch.sh data.prepare imagenet --manual_dir=<archives> --data_dir=<data>
  ./launch.sh import --source=imagenet --model=resnet34 --workdir=runs/resnet34
  ./launch.sh train --config=configs/imagenet.py:method=review --config.data.root=<data> \\
      --config.teacher.checkpoint=runs/resnet34 --workdir=runs/resnet18_distilled
  ./launch.sh import --source=imagenet --model=resnet50 --workdir=runs/resnet50
  ./launch.sh train --config=configs/imagenet.py:method=review,model=mobilenetv1 \\
      --config.data.root=<data> --config.teacher.checkpoint=runs/resnet50 \\
      --workdir=runs/mobilenetv1_distilled
Expected: top-1 on val as the official code reports, ResNet-18 alone 69.75, with method=review
71.61; MobileNetV1 68.87 and 72.56. The teachers are torchvision's, 73.31 and 76.13. Not run at full
size yet. The best checkpoint is chosen on val, as there. BatchNorms are of all 256 images where
those of the code are of the 64 of a device.
model=<name> takes another student; role=teacher trains ResNet-34, or model=<name>.
"""

from kdseg_jax import models
from kdseg_jax.recipes import common

EPOCHS, MILESTONES, BATCH = 100, (30, 60, 90), 256
_MODELS = {'teacher': 'resnet34', 'student': 'resnet18'}
_STAGES = ('stage1', 'stage2', 'stage3', 'stage4')
# Fields of review in which a student's differ, official code.
_REVIEW = {'mobilenetv1': {
    'weight': 8.0, 'channels': 256,
    'student_taps': (*(f'{stage}_preactivation' for stage in _STAGES), 'pooled')}}


def get_config(arg=None):
  """Arguments: role=teacher|student, method, data=<name>, images=<number>, model, runlocal."""
  arg = common.parse_recipe_arg(arg, data='imagenet', images=1_281_167, model='')
  config = common.classification(arg.method, arg.role)
  name = arg.model or _MODELS[arg.role]
  epoch = -(-arg.images // BATCH)  # steps
  config.data.name = arg.data
  config.augmentation.update(crop=(224, 224), scale=(), resized_crop=(0.08, 1.0), flip=0.5)
  config.student.update(
      name=name, output_stride=models.output_stride_of(name), aux=False, dropout=0.0)
  config.train.update(steps=EPOCHS * epoch, batch_size=BATCH)
  config.optimizer.update(
      learning_rate=0.1, momentum=0.9, weight_decay=1e-4, decay='all', schedule='steps',
      factor=0.1, milestones=tuple(after / EPOCHS for after in MILESTONES))
  config.eval.update(every_steps=epoch, batch_size=BATCH, short_side=256, crop=(224, 224))
  config.checkpoint.every_steps = epoch
  common.compare_maps(config.distill, _STAGES[-1])
  if 'review' in config.distill:
    config.distill.review.update(_review_of(name, weighted='review@' in arg.method))
  return common.runlocal(config) if arg.runlocal else config


def _review_of(name, weighted):
  """The fields of review for a student; a weight that is `weighted` explicitly stays."""
  taps = (*_STAGES, 'pooled')
  own = {'student_taps': taps, 'teacher_taps': taps} | _REVIEW.get(name, {})
  return {field: value for field, value in own.items() if not (weighted and field == 'weight')}
