"""CamVid, 11 classes: DeepLabV3-ResNet18 teacher, DeepLabV3-MobileNetV2 student, 180x240.

Settings: SGD, poly schedule and augmentation of CIRKD (CVPR 2022), at half the image size.
Data: the SegNet layout (train/ trainannot/ val/ valannot/ test/ testannot/) in --config.data.root
or $KDSEG_DATA.
Commands:
  export KDSEG_DATA=<camvid>
  ./launch.sh train --config=configs/camvid.py:role=teacher --workdir=runs/camvid_teacher
  ./launch.sh train --config=configs/camvid.py:method=pixelwise+pairwise \\
      --config.teacher.checkpoint=runs/camvid_teacher --workdir=runs/camvid_distilled
  ./launch.sh evaluate --workdir=runs/camvid_distilled --split=val
"""

from kdseg_jax.recipes import common


def get_config(arg=None):
  """Arguments: role=teacher|student, method=<methods>, runlocal."""
  arg = common.parse_recipe_arg(arg)
  config = common.segmentation(arg.method, arg.role)
  config.data.update(name='camvid', size=(180, 240))
  config.augmentation.crop = (180, 180)
  config.train.update(steps=4_000, batch_size=16)
  config.optimizer.update(learning_rate=0.02, warmup_steps=100)
  config.eval.every_steps = 500
  config.checkpoint.every_steps = 500
  if arg.role == 'teacher':
    config.student.update(name='deeplabv3_resnet18', width=1.0)
  else:
    config.student.update(name='deeplabv3_mobilenetv2', width=0.5, aux=False)
  if 'double_similarity_pixel' in config.distill:  # the student has no auxiliary head
    config.distill.double_similarity_pixel.taps = ('embedding', 'logits')
  return common.runlocal(config) if arg.runlocal else config
