"""Pascal Context, 59 classes: the pairs of SKD, CIRKD and knowledge adaptation.

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
Data: VOCtrainval_03-May-2010.tar of host.robots.ox.ac.uk/pascal/VOC and trainval.tar.gz of
cs.stanford.edu/~roozbeh/pascal-context.
Commands:
  ./launch.sh data.prepare pascal_context --manual_dir=<archives> --data_dir=<data>
  ./launch.sh train --config=configs/pascal_context.py:role=teacher \\
      --config.data.root=<data> --workdir=runs/pascal_context_teacher
  ./launch.sh train --config=configs/pascal_context.py:method=pixelwise+pairwise \\
      --config.data.root=<data> --config.teacher.checkpoint=runs/pascal_context_teacher \\
      --workdir=runs/pascal_context_distilled
Knowledge adaptation, teacher and student, without COCO before:
  ./launch.sh train --config.data.root=<data> --workdir=runs/adaptation_teacher \\
      --config=configs/pascal_context.py:role=teacher,settings=adaptation,init=imagenet
  ./launch.sh train --config=configs/pascal_context.py:method=adaptation,init=imagenet \\
      --config.data.root=<data> --config.teacher.checkpoint=runs/adaptation_teacher \\
      --workdir=runs/adapted
Expected: SKD and CIRKD report no figure of this data set at these settings; knowledge adaptation
does, which is not given here.
Every figure needs ImageNet weights, for teacher and student: init=imagenet (torchvision's; those of
the papers have another stem, see papers.py). Not run at full size yet. model=<name> takes another
student, or teacher. Images are evaluated whole, each at
its own size, which compiles a program a size; --config.eval.pad_multiple=128 makes them few by
padding, which changes the result: see kdseg_jax/default_config.py.
"""

from kdseg_jax.recipes import papers


def get_config(arg=None):
  """Arguments: role=teacher|student, method, settings=<papers.SETTINGS>, model, init, runlocal."""
  return papers.recipe(arg, data='pascal_context')
