"""ADE20K, 150 classes: the pairs of SKD and CIRKD.

Pairs: DeepLabV3-ResNet101 -> DeepLabV3-ResNet18, -MobileNetV2, PSPNet-ResNet18 at CIRKD's settings
(crops 512x512, batch 16, lr 0.02, wd 1e-4) or its second version's (settings=cirkd_v2, 80,000
steps, wider heads), and PSPNet-ResNet101 -> PSPNet-ResNet18, -MobileNetV2, ESPNet at SKD's
(settings=skd, the same crops, batch 8, lr 0.01, wd 5e-4). MobileNetV2 and ESPNet need a teacher of
the size of their maps there: train it with --config.student.ceil_mode=False.
method=cirkd_v2 and skd_journal bring the settings of their scripts; their teacher, and the student
alone, are told: role=teacher,settings=cirkd_v2 (or skd).
Papers: Liu et al., CVPR 2019 (arXiv:1903.04197) and, for settings=skd, its journal version's
script; Yang et al., CVPR 2022 (arXiv:2204.06986).
Data: ADEChallengeData2016.zip of sceneparsing.csail.mit.edu.
Commands:
  ./launch.sh data.prepare ade20k --manual_dir=<archives> --data_dir=<data>
  ./launch.sh train --config=configs/ade20k.py:role=teacher \\
      --config.data.root=<data> --workdir=runs/ade20k_teacher
  ./launch.sh train --config=configs/ade20k.py:method=cirkd \\
      --config.data.root=<data> --config.teacher.checkpoint=runs/ade20k_teacher \\
      --workdir=runs/ade20k_distilled
Expected: mIoU on val as reported by CIRKD, one seed. At settings=cirkd: teacher 42.7;
DeepLabV3-ResNet18 with method=none 33.9, with method=cirkd 35.4. At settings=cirkd_v2: teacher
43.8; the same student with method=none 36.9, with method=cirkd_v2+context 39.8.
CIRKD's code pushes pixels of any class where ours follows the paper, and has its pairs among the
two images of each of 8 devices, ours among all 16.
Every figure needs ImageNet weights, for teacher and student: init=imagenet (torchvision's; those of
the papers have another stem, see papers.py). Not run at full size yet. model=<name> takes another
student, or teacher. Images are evaluated whole, each at
its own size, which compiles a program a size; --config.eval.pad_multiple=128 makes them few by
padding, which changes the result: see kdseg_jax/default_config.py.
"""

from kdseg_jax.recipes import papers


def get_config(arg=None):
  """Arguments: role=teacher|student, method, settings=<papers.SETTINGS>, model, init, runlocal."""
  return papers.recipe(arg, data='ade20k')
