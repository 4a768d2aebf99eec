"""Pascal VOC 2012 with SBD (trainaug), 21 classes: the pairs of SKD and CIRKD.

Pairs: DeepLabV3-ResNet101 -> DeepLabV3-ResNet18, -MobileNetV2, PSPNet-ResNet18 at CIRKD's settings
(crops 512x512, batch 16, lr 0.02, wd 1e-4) or its second version's (settings=cirkd_v2, 80,000
steps, wider heads), and PSPNet-ResNet101 -> PSPNet-ResNet18, -MobileNetV2, ESPNet at SKD's
(settings=skd, the same crops, batch 8, lr 0.01, wd 5e-4). MobileNetV2 and ESPNet need a teacher of
the size of their maps there: train it with --config.student.ceil_mode=False.
method=cirkd_v2 and skd_journal bring the settings of their scripts; their teacher, and the student
alone, are told: role=teacher,settings=cirkd_v2 (or skd).
Papers: Liu et al., CVPR 2019 (arXiv:1903.04197) and, for settings=skd, its journal version's
script; Yang et al., CVPR 2022 (arXiv:2204.06986).
Data: VOCtrainval_11-May-2012.tar of host.robots.ox.ac.uk/pascal/VOC and benchmark.tgz of SBD.
Commands:
  ./launch.sh data.prepare voc --manual_dir=<archives> --data_dir=<data>
  ./launch.sh train --config=configs/voc.py:role=teacher \\
      --config.data.root=<data> --workdir=runs/voc_teacher
  ./launch.sh train --config=configs/voc.py:method=cirkd \\
      --config.data.root=<data> --config.teacher.checkpoint=runs/voc_teacher \\
      --workdir=runs/voc_distilled
Expected: mIoU on val as reported by CIRKD at settings=cirkd, one seed: teacher 77.7;
DeepLabV3-ResNet18 with method=none 73.2, with method=cirkd 74.5; PSPNet-ResNet18 73.3 and 74.8.
CIRKD's code pushes pixels of any class where ours follows the paper, and has its pairs among the
two images of each of 8 devices, ours among all 16.
Both memory weights are the 0.01 of CIRKD's scripts for this data set, and 0.1 at settings=cirkd_v2,
as in those of its second version. There the teacher has 77.8, and the students are MobileNetV3,
which is not here.
Every figure needs ImageNet weights, for teacher and student: init=imagenet (torchvision's; those of
the papers have another stem, see papers.py). Not run at full size yet. model=<name> takes another
student, or teacher. Images are evaluated whole, each at
its own size, which compiles a program a size; --config.eval.pad_multiple=128 makes them few by
padding, which changes the result: see kdseg_jax/default_config.py.
"""

from kdseg_jax.recipes import papers

MEMORY = {'distill': {'memory': {'pixel_weight': 0.01, 'region_weight': 0.01}}}


def get_config(arg=None):
  """Arguments: role=teacher|student, method, settings=<papers.SETTINGS>, model, init, runlocal."""
  return papers.recipe(arg, data='voc', own={'cirkd': MEMORY, 'skd': MEMORY})
