"""Cityscapes, 19 classes: the pairs of SKD, CIRKD and knowledge adaptation.

Pairs: DeepLabV3-ResNet101 -> DeepLabV3-ResNet18, -MobileNetV2, PSPNet-ResNet18 at CIRKD's settings
(crops 512x1024, batch 16, lr 0.02, wd 1e-4) or its second version's (settings=cirkd_v2, 80,000
steps, batch 8, lr 0.01, wider heads), and PSPNet-ResNet101 -> PSPNet-ResNet18, -MobileNetV2,
ESPNet at SKD's (settings=skd, crops 512x512, batch 8, lr 0.01, wd 5e-4). MobileNetV2 and ESPNet
need a teacher of the size of their maps there: train it with --config.student.ceil_mode=False.
Knowledge adaptation's (settings=adaptation): DeepLabV3+-ResNet50, or -Xception41 and -Xception65
(model=deeplabv3plus_xception41), -> MobileNetV2 without pyramid and decoder (plain_mobilenetv2) at
output stride 16, other strides by --config.student.output_stride; crops 769x769, batch 16, lr
0.007, wd 4e-5, 90,000 steps.
method=cirkd_v2, skd_journal and adaptation bring the settings of their papers; their teacher, and
the student alone, are told: role=teacher,settings=cirkd_v2 (or skd, adaptation).
Papers: Liu et al., CVPR 2019 (arXiv:1903.04197) and, for settings=skd, its journal version's
script; Yang et al., CVPR 2022 (arXiv:2204.06986); He et al., CVPR 2019 (arXiv:1903.04688).
Data: leftImg8bit_trainvaltest.zip and gtFine_trainvaltest.zip of cityscapes-dataset.com; for
train_on=coarse also leftImg8bit_trainextra.zip and gtCoarse.zip, prepared as cityscapes_coarse.
Commands:
  ./launch.sh data.prepare cityscapes --manual_dir=<archives> --data_dir=<data>
  ./launch.sh train --config=configs/cityscapes.py:role=teacher \\
      --config.data.root=<data> --workdir=runs/cityscapes_teacher
  ./launch.sh train --config=configs/cityscapes.py:method=cirkd \\
      --config.data.root=<data> --config.teacher.checkpoint=runs/cityscapes_teacher \\
      --workdir=runs/cityscapes_distilled
Knowledge adaptation, teacher and student:
  export KDSEG_DATA=<data>
  ./launch.sh train --workdir=runs/fine \\
      --config=configs/cityscapes.py:role=teacher,settings=adaptation,init=imagenet
  ./launch.sh train --config=configs/cityscapes.py:method=adaptation,init=imagenet \\
      --config.teacher.checkpoint=runs/fine --workdir=runs/adapted
For test both are trained on, on the coarse labels and on train and val together; the teacher:
  ./launch.sh train --workdir=runs/coarse \\
      --config=configs/cityscapes.py:role=teacher,settings=adaptation,train_on=coarse,init=runs/fine
  ./launch.sh train --workdir=runs/test \\
      --config=configs/cityscapes.py:settings=adaptation,role=teacher,train_on=trainval,init=runs/coarse
Expected: mIoU as reported, one seed. On val at settings=cirkd, teacher 78.1:
  method                               DeepLabV3-ResNet18   -MobileNetV2   PSPNet-ResNet18
  none                                               74.2           73.1              72.6
  skd_cirkd                                          75.4           73.8
  intra_class_variation+kd+adversarial               75.6           73.5
  channel_wise+adversarial (a)                       75.6           74.7
  double_similarity (b)                              74.8           74.1
  cirkd (c)                                          76.4           75.4              74.7
(a) with --config.distill.channel_wise_features.official_channel_count=True. (b) on MobileNetV2,
CIRKD's code has the student's logits in the place of its missing auxiliary head's, ours leaves both
heads out. (c) CIRKD's code pushes pixels of any class where ours follows the paper, and has its
pairs among the two images of each of 8 devices, ours among all 16.
On test at settings=cirkd_v2, teacher 78.3, DeepLabV3-ResNet18: method=none 73.6, cirkd_v2+context
75.6, the queue and the pairs (of one image a device) as in (c).
On val at settings=skd, teacher 78.3, PSPNet-ResNet18: method=none 69.1; skd_journal 74.1, with
--config.distill.holistic.weight=0 71.8, and --config.distill.pairwise.weight=0 besides 70.5.
On test at settings=adaptation: the student alone 70.2, adapted 72.7; on val about 71 (from reviews
of the paper, not checked against its tables). With train_on=coarse val has coarse labels too.
Every figure needs ImageNet weights, for teacher and student: init=imagenet (torchvision's; those of
the papers have another stem, see papers.py). Not run at full size yet. model=<name> takes another
student, or teacher.
"""

from kdseg_jax.recipes import papers

# What else is trained on; the paper of adaptation does not say how long.
TRAIN_ON = {'coarse': {'data': 'cityscapes_coarse', 'split': 'train_extra'},
            'trainval': {'split': 'train+val'}}


def get_config(arg=None):
  """The config of a run.

  Arguments: role=teacher|student, method, settings=<papers.SETTINGS>, model, init,
  train_on=coarse|trainval, runlocal.
  """
  return papers.recipe(arg, data='cityscapes', own={
      'cirkd': {'crop': (512, 1024)},
      'cirkd_v2': {'crop': (512, 1024), 'batch_size': 8, 'learning_rate': 0.01},
      'adaptation': {'crop': (769, 769), 'steps': 90_000}}, train_on=TRAIN_ON)
