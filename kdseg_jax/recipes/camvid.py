"""CamVid, 11 classes, 180x240: DeepLabV3-MobileNetV2 teacher, its half as wide student.

Settings: SGD, poly schedule and augmentation of CIRKD (CVPR 2022), at half the image size. As in
DeepLabV3 (section 4.1), the teacher learns at output stride 16, and is fine-tuned at 8, where the
student learns too.
Data: the SegNet layout (train/ trainannot/ val/ valannot/ test/ testannot/) in --config.data.root
or $KDSEG_DATA.
Commands:
  export KDSEG_DATA=<camvid>
  ./launch.sh train --config=configs/camvid.py:role=teacher,init=imagenet \\
      --workdir=runs/camvid_stride16
  ./launch.sh train --config=configs/camvid.py:role=teacher,finetune,init=runs/camvid_stride16 \\
      --workdir=runs/camvid_teacher
  ./launch.sh train --config=configs/camvid.py:method=pixelwise+pairwise \\
      --config.teacher.checkpoint=runs/camvid_teacher --workdir=runs/camvid_distilled
  ./launch.sh train --config=configs/camvid.py:method=adaptation,teacher_init=imagenet \\
      --workdir=runs/camvid_adaptation
  ./launch.sh evaluate --workdir=runs/camvid_distilled --split=val
Expected: the teacher needs init=imagenet for what experiments/camvid_imagenet.md reports of it.
Without a teacher.checkpoint, as in the last `train`, a teacher is trained first, at the student's
output stride, in the folder teacher/ of the work directory, then what the method prepares
(prepared/), then the student: the same command goes on from wherever it was stopped.
Published weights are of width 1: none fit the student as it is; with --config.student.width=1 it
takes init=imagenet too.
"""

from kdseg_jax.recipes import common


def get_config(arg=None):
  """Arguments: role=teacher|student, method=<methods>, init=<weights>, finetune, runlocal.

  teacher_init=<weights> is the init of the teacher that is trained first for a student.
  """
  arg = common.parse_recipe_arg(arg, init='', teacher_init='', finetune=False)
  config = common.segmentation(arg.method, arg.role)
  config.data.update(name='camvid', size=(180, 240))
  config.augmentation.crop = (180, 180)
  config.train.update(steps=3_000, batch_size=8)
  config.optimizer.update(learning_rate=0.03, warmup_steps=100)
  config.eval.every_steps = 500
  config.checkpoint.every_steps = 500
  common.set_student(config, name='deeplabv3_mobilenetv2', aux=False, init=arg.init)
  if arg.role == 'teacher':
    config.student.output_stride = 16
  else:
    config.student.width = 0.5
    teacher = get_config(f'role=teacher,init={arg.teacher_init}' + ',runlocal' * arg.runlocal)
    teacher.student.output_stride = config.student.output_stride
    common.own_teacher(config, teacher)
  if arg.finetune:
    config.student.output_stride = 8
    config.train.steps = 400
    config.optimizer.learning_rate = 0.003
    config.eval.every_steps = config.checkpoint.every_steps = 200
  return common.runlocal(config) if arg.runlocal else config
