"""Your own images and labels: DeepLabV3-ResNet50 teacher, DeepLabV3-ResNet18 student, crops of 512.

Settings: SGD, poly schedule and augmentation of CIRKD (CVPR 2022).
Data: images/train/ labels/train/ images/val/ labels/val/, or images/ and labels/ with train.txt and
val.txt, and classes.txt, in --config.data.root or $KDSEG_DATA; see kdseg_jax/data/folder.py. Check
them first: ./launch.sh data.check <folder>
More images without labels: --config.data.unlabelled=<folder>.
Commands:
  export KDSEG_DATA=<folder>
  ./launch.sh train --config=configs/folder.py:role=teacher,init=imagenet \\
      --workdir=runs/folder_teacher
  ./launch.sh train --config=configs/folder.py:method=pixelwise+pairwise,init=imagenet \\
      --config.teacher.checkpoint=runs/folder_teacher --workdir=runs/folder_distilled
  ./launch.sh evaluate --workdir=runs/folder_distilled --split=val
Images of many sizes compile a program a size when they are evaluated:
--config.eval.pad_multiple=128 makes them few by padding, which changes the result (see
kdseg_jax/default_config.py); "--config.data.size=(h,w)" brings all to one by resizing.
Of a few hundred images nothing good is learned from noise: teacher and student need init=imagenet.
"""

from kdseg_jax.recipes import common


def get_config(arg=None):
  """Arguments: role=teacher|student, method=<methods>, init=<weights to start from>, runlocal."""
  arg = common.parse_recipe_arg(arg, init='')
  config = common.segmentation(arg.method, arg.role)
  config.data.name = 'folder'
  config.augmentation.crop = (512, 512)
  config.train.update(steps=20_000, batch_size=16)
  config.optimizer.update(learning_rate=0.02, warmup_steps=500)
  config.student.name = 'deeplabv3_resnet50' if arg.role == 'teacher' else 'deeplabv3_resnet18'
  config.student.init = arg.init
  return common.runlocal(config) if arg.runlocal else config
