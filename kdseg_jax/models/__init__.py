"""Flax models that return `(prediction, taps)`, by name."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import flax.linen as nn
import jax.numpy as jnp

from kdseg_jax import names
from kdseg_jax.models.complexity import Complexity, complexity
from kdseg_jax.models.deeplab import AuxiliaryHead, DeepLabV3Head
from kdseg_jax.models.layers import late_strides, scale_channels
from kdseg_jax.models.mobilenet import MobileNetV2
from kdseg_jax.models.normalization import IMAGENET_MEAN, IMAGENET_STD
from kdseg_jax.models.resnet import ResNet
from kdseg_jax.models.segmenter import Segmenter

__all__ = ['NAMES', 'Complexity', 'complexity', 'create']


class _Backbone(NamedTuple):
  """A backbone as heads see it; channel counts at width 1, as CIRKD uses them."""

  create: Callable
  head_channels: int
  stage3_channels: int


_BACKBONES = {
    'resnet18': _Backbone(functools.partial(ResNet, 18), 128, 256),
    'resnet34': _Backbone(functools.partial(ResNet, 34), 128, 256),
    'resnet50': _Backbone(functools.partial(ResNet, 50), 256, 1024),
    'resnet101': _Backbone(functools.partial(ResNet, 101), 256, 1024),
    'mobilenetv2': _Backbone(MobileNetV2, 128, 96),
}
_HEADS = {'deeplabv3': DeepLabV3Head}
NAMES = tuple(f'{head}_{backbone}' for head in _HEADS for backbone in _BACKBONES)


def create(
    name: str,
    num_classes: int,
    *,
    width: float = 1.0,
    output_stride: int = 8,
    aux: bool = False,
    axis_name: str | None = None,
    dtype: Any = jnp.float32,
    mean: tuple[float, float, float] = IMAGENET_MEAN,
    std: tuple[float, float, float] = IMAGENET_STD,
    head_channels: int | None = None,
    project_dropout: float = 0.5,
    dropout: float = 0.1,
    **backbone: Any,
) -> nn.Module:
  """A model by name; see `Segmenter` for what it takes and returns.

  Args:
    name: `<head>_<backbone>`, one of `NAMES`.
    num_classes: number of classes.
    width: multiplies every channel count of backbone and head, rounded to a multiple of 8.
    output_stride: 8, 16 or 32; reached by dilation instead of striding.
    aux: whether there is an auxiliary head on stage 3, a quarter as wide as that.
    axis_name: mapped axis over which BatchNorm statistics are synchronised in training.
    dtype: of the computation; parameters, statistics and logits are float32.
    mean: that images are normalised with, RGB in 0-255.
    std: likewise.
    head_channels: channels of the head; None is CIRKD's 128 (256 on ResNet-50 and 101) * width.
    project_dropout: rate after the projection in the head.
    dropout: rate before the classifiers.
    **backbone: further fields of the backbone (`deep_stem` of the ResNets).

  Raises:
    ValueError: unknown name (names the nearest), width or output stride.
  """
  names.require(name, NAMES, 'model')
  if width <= 0:
    raise ValueError(f'width={width} of {name} must be positive.')
  late_strides(output_stride)  # an unknown one is refused here, not when the model first runs
  head_name, backbone_name = name.split('_')
  entry = _BACKBONES[backbone_name]
  common = {'axis_name': axis_name, 'dtype': dtype}
  scale = functools.partial(scale_channels, width=width)
  auxiliary_head = AuxiliaryHead(
      num_classes, scale(entry.stage3_channels / 4), dropout, **common) if aux else None
  return Segmenter(
      backbone=entry.create(width=width, output_stride=output_stride, **common, **backbone),
      head=_HEADS[head_name](
          num_classes, head_channels or scale(entry.head_channels),
          project_dropout=project_dropout, dropout=dropout, **common),
      auxiliary_head=auxiliary_head, mean=tuple(mean), std=tuple(std))
