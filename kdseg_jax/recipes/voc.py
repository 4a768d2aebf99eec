"""Pascal VOC 2012 and SBD (trainaug), 21 classes: the pairs of SKD, CIRKD and knowledge adaptation.

Pairs: DeepLabV3-ResNet101 -> DeepLabV3-ResNet18, -MobileNetV2, PSPNet-ResNet18 at CIRKD's settings
(crops 512x512, batch 16, lr 0.02, wd 1e-4) or its second version's (settings=cirkd_v2, 80,000
steps, wider heads), and PSPNet-ResNet101 -> PSPNet-ResNet18, -MobileNetV2, ESPNet at SKD's
(settings=skd, the same crops, batch 8, lr 0.01, wd 5e-4). MobileNetV2 and ESPNet need a teacher of
the size of their maps there: train it with --config.student.ceil_mode=False.
Knowledge adaptation's (settings=adaptation): DeepLabV3+-ResNet50, or -Xception41 and -Xception65
(model=deeplabv3plus_xception41), -> MobileNetV2 without pyramid and decoder (plain_mobilenetv2) at
output stride 16, other strides by --config.student.output_stride; crops 513x513, batch 16, lr
0.007, wd 4e-5, 30,000 steps.
method=cirkd_v2, skd_journal and adaptation bring the settings of their papers; their teacher, and
the student alone, are told: role=teacher,settings=cirkd_v2 (or skd, adaptation).
Papers: Liu et al., CVPR 2019 (arXiv:1903.04197) and, for settings=skd, its journal version's
script; Yang et al., CVPR 2022 (arXiv:2204.06986); He et al., CVPR 2019 (arXiv:1903.04688).
Data: VOCtrainval_11-May-2012.tar of host.robots.ox.ac.uk/pascal/VOC and benchmark.tgz of SBD; for
train_on=coco train2017.zip, val2017.zip and annotations_trainval2017.zip of cocodataset.org,
prepared as coco_voc: COCO's masks in VOC's classes.
Commands:
  ./launch.sh data.prepare voc --manual_dir=<archives> --data_dir=<data>
  ./launch.sh train --config=configs/voc.py:role=teacher \\
      --config.data.root=<data> --workdir=runs/voc_teacher
  ./launch.sh train --config=configs/voc.py:method=cirkd \\
      --config.data.root=<data> --config.teacher.checkpoint=runs/voc_teacher \\
      --workdir=runs/voc_distilled
Knowledge adaptation trains on COCO first (300,000 steps), teacher and student alike:
  ./launch.sh data.prepare coco_voc --manual_dir=<archives> --data_dir=<data>
  ./launch.sh train --config.data.root=<data> --workdir=runs/adaptation_coco \\
      --config=configs/voc.py:role=teacher,settings=adaptation,train_on=coco,init=imagenet
  ./launch.sh train --config.data.root=<data> --workdir=runs/adaptation_teacher \\
      --config=configs/voc.py:role=teacher,settings=adaptation,init=runs/adaptation_coco
  ./launch.sh train --config.data.root=<data> --workdir=runs/student_coco \\
      --config=configs/voc.py:settings=adaptation,train_on=coco,init=imagenet
  ./launch.sh train --config=configs/voc.py:method=adaptation,init=runs/student_coco \\
      --config.data.root=<data> --config.teacher.checkpoint=runs/adaptation_teacher \\
      --workdir=runs/adapted
Expected: mIoU on val as reported by CIRKD at settings=cirkd, one seed: teacher 77.7;
DeepLabV3-ResNet18 with method=none 73.2, with method=cirkd 74.5; PSPNet-ResNet18 73.3 and 74.8.
CIRKD's code pushes pixels of any class where ours follows the paper, and has its pairs among the
two images of each of 8 devices, ours among all 16.
Both memory weights are the 0.01 of CIRKD's scripts for this data set, and 0.1 at settings=cirkd_v2,
as in those of its second version. There the teacher has 77.8, and the students are MobileNetV3,
which is not here.
At settings=adaptation: the student alone 70.6, with FitNets 71.3, adapted 72.5; not checked
against the paper.
Every figure needs ImageNet weights, for teacher and student: init=imagenet (torchvision's; those of
the papers have another stem, see papers.py). Not run at full size yet. model=<name> takes another
student, or teacher. Images are evaluated whole, each at
its own size, which compiles a program a size; --config.eval.pad_multiple=128 makes them few by
padding, which changes the result: see kdseg_jax/default_config.py.
"""

from kdseg_jax.recipes import papers

MEMORY = {'distill': {'memory': {'pixel_weight': 0.01, 'region_weight': 0.01}}}
TRAIN_ON = {'coco': {'data': 'coco_voc', 'steps': 300_000}}  # before VOC, as knowledge adaptation


def get_config(arg=None):
  """The config of a run.

  Arguments: role=teacher|student, method, settings=<papers.SETTINGS>, model, init,
  train_on=coco, runlocal.
  """
  return papers.recipe(
      arg, data='voc', own={'cirkd': MEMORY, 'skd': MEMORY}, train_on=TRAIN_ON)
