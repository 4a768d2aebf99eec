"""Cityscapes, 19 classes: the pairs of SKD and CIRKD, 40,000 steps.

Pairs: DeepLabV3-ResNet101 -> DeepLabV3-ResNet18, -MobileNetV2, PSPNet-ResNet18 at CIRKD's settings
(crops 512x1024, batch 16, lr 0.02, wd 1e-4), and PSPNet-ResNet101 -> PSPNet-ResNet18, -MobileNetV2,
ESPNet at SKD's (settings=skd, crops 512x512, batch 8, lr 0.01, wd 5e-4).
Papers: Liu et al., CVPR 2019 (arXiv:1903.04197); Yang et al., CVPR 2022 (arXiv:2204.06986).
Data: leftImg8bit_trainvaltest.zip and gtFine_trainvaltest.zip of cityscapes-dataset.com.
Commands:
  ./launch.sh data.prepare cityscapes --manual_dir=<archives> --data_dir=<data>
  ./launch.sh train --config=configs/cityscapes.py:role=teacher \\
      --config.data.root=<data> --workdir=runs/cityscapes_teacher
  ./launch.sh train --config=configs/cityscapes.py:method=pixelwise+pairwise \\
      --config.data.root=<data> --config.teacher.checkpoint=runs/cityscapes_teacher \\
      --workdir=runs/cityscapes_distilled
Expected: mIoU on val as reported, one seed: teacher 78.1; DeepLabV3-ResNet18 74.2 alone, 75.4 with
SKD, 76.4 with CIRKD; DeepLabV3-MobileNetV2 73.1, 73.8, 75.4; PSPNet-ResNet18 72.6 alone, 74.7 with
CIRKD. At SKD's settings PSPNet-ResNet18: 69.1 alone, 70.5 pixel-wise, 71.8 with pair-wise, 74.1
with holistic (mIoU on val).
The papers start from ImageNet weights, which are not included: expect less from scratch. Not run at
full size yet. model=<name> takes another student, or teacher.
"""

from configs import papers


def get_config(arg=None):
  """Arguments: role=teacher|student, method, settings=cirkd|skd, model=<name>, runlocal."""
  return papers.recipe(
      arg, data='cityscapes', crops={'cirkd': (512, 1024), 'skd': (512, 512)})
