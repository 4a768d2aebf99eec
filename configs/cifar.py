"""CIFAR: a ResNet-56 teacher, a ResNet-20 student, as in knowledge review.

Commands:
  export KDSEG_DATA=<archives>
  ./launch.sh train --config=configs/cifar.py:role=teacher --workdir=runs/cifar_teacher
  ./launch.sh train --config=configs/cifar.py:method=review \\
      --config.teacher.checkpoint=runs/cifar_teacher --workdir=runs/cifar_distilled
  ./launch.sh evaluate --workdir=runs/cifar_distilled --split=test
Settings, data, sources and expected results: kdseg_jax/recipes/cifar.py.
"""

from kdseg_jax.recipes.cifar import get_config  # noqa: F401
