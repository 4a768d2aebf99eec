"""Classifiers of images of 32x32 pixels, by name: the networks of knowledge review.

ResNets, Wide ResNets and ShuffleNets are those of its official code (dvlab-research/ReviewKD), VGG
and MobileNetV2 those of mdistiller, which its code asks for and lacks. Both codes give lists of
features, of the student after and of the teacher before the last activation of each stage. What
they hold are these taps:

| list | the first | then of each stage | the last |
|---|---|---|---|
| of the student, `is_feat=True` | `stem` | `stage<i>` | `pooled`, there a 1x1 map |
| of the teacher, `preact=True` | `stem` | `stage<i>_preactivation` | `pooled` |

The method leaves out the first. There are three stages, and four of VGG and MobileNetV2, whose two
lists are the same; a Wide ResNet's `stage<i>` have no activation, see `WideResNet`.
"""

from __future__ import annotations

import functools
from collections.abc import Callable

import flax.linen as nn

from kdseg_jax.models.backbones import BackboneSpec
from kdseg_jax.models.cifar_resnet import CifarResNet
from kdseg_jax.models.classifier import ClassifierHead
from kdseg_jax.models.mobilenet import CifarMobileNetV2
from kdseg_jax.models.normalization import Preprocessing
from kdseg_jax.models.shufflenet import ShuffleNetV1, ShuffleNetV2
from kdseg_jax.models.vgg import VGG
from kdseg_jax.models.wide_resnet import WideResNet

# Of knowledge review's official code, CIFAR-100/train.py.
PREPROCESSING = Preprocessing((125.3, 123.0, 113.9), (63.0, 62.1, 66.7))


def _spec(
    build: Callable[..., nn.Module], stages: tuple[int, ...], output_stride: int, **head,
) -> BackboneSpec:
  """`stages`: their channels; `head`: further fields of the classifier's head."""
  return BackboneSpec(
      build, stages, output_strides=(output_stride,),
      classifier=functools.partial(ClassifierHead, **{'tap': f'stage{len(stages)}'} | head),
      preprocessing=PREPROCESSING, dropout=0.0)


def _resnet(depth: int, width: int = 1) -> BackboneSpec:
  channels = (16 * width, 32 * width, 64 * width)
  stem = 16 if width == 1 else 32
  return _spec(functools.partial(CifarResNet, depth=depth, channels=(stem, *channels)), channels, 4)


def _wide_resnet(depth: int, factor: int) -> BackboneSpec:
  return _spec(functools.partial(WideResNet, depth=depth, widen_factor=factor),
               (16 * factor, 32 * factor, 64 * factor), 4, tap='activated')


def _vgg(convolutions: int) -> BackboneSpec:
  return _spec(functools.partial(VGG, convolutions=convolutions), (128, 256, 512, 512), 8)


BACKBONES = {
    **{f'cifar_resnet{depth}': _resnet(depth) for depth in (8, 14, 20, 32, 44, 56, 110)},
    **{f'cifar_resnet{depth}x4': _resnet(depth, 4) for depth in (8, 32)},
    **{f'cifar_wrn_{depth}_{factor}': _wide_resnet(depth, factor)
       for depth, factor in ((16, 1), (16, 2), (40, 1), (40, 2))},
    'cifar_vgg8': _vgg(1),
    'cifar_vgg13': _vgg(2),
    'cifar_mobilenetv2_half': _spec(
        CifarMobileNetV2, (12, 16, 48, 160), 16, channels=1280, activation=nn.relu),
    'cifar_shufflenetv1': _spec(ShuffleNetV1, (240, 480, 960), 8),
    'cifar_shufflenetv2': _spec(
        ShuffleNetV2, (116, 232, 464), 8, channels=1024, activation=nn.relu),
}
