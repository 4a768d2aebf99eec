"""Pascal VOC 2012 with SBD (trainaug), 21 classes: the pairs of SKD and CIRKD, 40,000 steps.

Pairs: DeepLabV3-ResNet101 -> DeepLabV3-ResNet18, -MobileNetV2, PSPNet-ResNet18 at CIRKD's settings
(crops 512x512, batch 16, lr 0.02, wd 1e-4), and PSPNet-ResNet101 -> PSPNet-ResNet18, -MobileNetV2,
ESPNet at SKD's (settings=skd, the same crops, batch 8, lr 0.01, wd 5e-4).
Papers: Liu et al., CVPR 2019 (arXiv:1903.04197); Yang et al., CVPR 2022 (arXiv:2204.06986).
Data: VOCtrainval_11-May-2012.tar of host.robots.ox.ac.uk/pascal/VOC and benchmark.tgz of SBD.
Commands:
  ./launch.sh data.prepare voc --manual_dir=<archives> --data_dir=<data>
  ./launch.sh train --config=configs/voc.py:role=teacher \\
      --config.data.root=<data> --workdir=runs/voc_teacher
  ./launch.sh train --config=configs/voc.py:method=pixelwise+pairwise \\
      --config.data.root=<data> --config.teacher.checkpoint=runs/voc_teacher \\
      --workdir=runs/voc_distilled
Expected: mIoU on val as reported by CIRKD, one seed: teacher 77.7; DeepLabV3-ResNet18 73.2 alone,
74.5 with CIRKD; PSPNet-ResNet18 73.3 and 74.8.
The papers start from ImageNet weights, which are not included: expect less from scratch. Not run at
full size yet. model=<name> takes another student, or teacher. Images are evaluated whole, each at
its own size, which compiles a program a size; --config.eval.pad_multiple=128 makes them few by
padding, which changes the result: see kdseg_jax/default_config.py.
"""

from configs import papers


def get_config(arg=None):
  """Arguments: role=teacher|student, method, settings=cirkd|skd, model=<name>, runlocal."""
  return papers.recipe(
      arg, data='voc', crops={'cirkd': (512, 512)})
