"""ImageNet: ResNet-34 -> ResNet-18 and ResNet-50 -> MobileNetV1, as in knowledge review.

Commands:
  ./launch.sh data.prepare imagenet --manual_dir=<archives> --data_dir=<data>
  ./launch.sh import --source=imagenet --model=resnet34 --workdir=runs/resnet34
  ./launch.sh train --config=configs/imagenet.py:method=review --config.data.root=<data> \\
      --config.teacher.checkpoint=runs/resnet34 --workdir=runs/resnet18_distilled
Settings, data, sources and expected results: kdseg_jax/recipes/imagenet.py.
"""

from kdseg_jax.recipes.imagenet import get_config  # noqa: F401
