"""Flax models that return `(prediction, taps)`, by name."""

from __future__ import annotations

import functools
from typing import Any, NamedTuple

import flax.linen as nn
import jax.numpy as jnp

from kdseg_jax import names
from kdseg_jax.errors import UserError
from kdseg_jax.models.complexity import Complexity, complexity
from kdseg_jax.models.deeplab import DeepLabV3Head, DeepLabV3PlusHead
from kdseg_jax.models.espnet import ESPNetCHead, ESPNetEncoder, ESPNetHead
from kdseg_jax.models.layers import OUTPUT_STRIDES, scale_channels
from kdseg_jax.models.mobilenet import MobileNetV2
from kdseg_jax.models.normalization import IMAGENET_MEAN, IMAGENET_STD
from kdseg_jax.models.pspnet import AuxiliaryHead, PSPNetHead
from kdseg_jax.models.rematerialization import check_policy
from kdseg_jax.models.resnet import ResNet
from kdseg_jax.models.segmenter import Segmenter

__all__ = ['NAMES', 'Complexity', 'complexity', 'create']


class _Backbone(NamedTuple):
  """A backbone as heads see it.

  Attributes:
    module: its class.
    options: fields of the module.
    stage3_channels: at width 1; the auxiliary head has a quarter of them.
    wide: whether it ends in as many channels as the bottlenecks of ResNet-50 do.
    output_strides: that it can have.
  """

  module: type[nn.Module]
  options: dict[str, Any]
  stage3_channels: int
  wide: bool = False
  output_strides: tuple[int, ...] = OUTPUT_STRIDES


class _Head(NamedTuple):
  """A head: its class, and its channels at width 1 on other and on wide backbones (CIRKD's)."""

  module: type[nn.Module]
  channels: tuple[int, int] | None = None


_BACKBONES = {
    'resnet18': _Backbone(ResNet, {'depth': 18}, 256),
    'resnet34': _Backbone(ResNet, {'depth': 34}, 256),
    'resnet50': _Backbone(ResNet, {'depth': 50}, 1024, wide=True),
    'resnet101': _Backbone(ResNet, {'depth': 101}, 1024, wide=True),
    'mobilenetv2': _Backbone(MobileNetV2, {}, 96),
}
_HEADS = {
    'pspnet': _Head(PSPNetHead, (128, 512)),
    'deeplabv3': _Head(DeepLabV3Head, (128, 256)),
    'deeplabv3plus': _Head(DeepLabV3PlusHead, (128, 256)),
}
_ESPNET_ENCODER = _Backbone(ESPNetEncoder, {}, 256, output_strides=(8,))
_MODELS = {
    f'{head}_{backbone}': (_BACKBONES[backbone], _HEADS[head])
    for head in _HEADS for backbone in _BACKBONES
} | {
    'espnet': (_ESPNET_ENCODER, _Head(ESPNetHead)),
    'espnet_c': (_ESPNET_ENCODER, _Head(ESPNetCHead)),
}
NAMES = tuple(_MODELS)  # of all models that `create` knows
_DTYPES = {'float32': jnp.float32, 'bfloat16': jnp.bfloat16}
_ATROUS_RATES = (96, 192, 288)  # over the output stride (DeepLabV3, section 3.3)


def create(
    name: str,
    num_classes: int,
    *,
    width: float = 1.0,
    output_stride: int = 8,
    aux: bool = False,
    axis_name: str | None = None,
    dtype: Any = jnp.float32,
    remat: str = 'none',
    mean: tuple[float, float, float] = IMAGENET_MEAN,
    std: tuple[float, float, float] = IMAGENET_STD,
    head_channels: int | None = None,
    project_dropout: float = 0.5,
    dropout: float = 0.1,
    **backbone: Any,
) -> nn.Module:
  """A model by name; see `Segmenter` for what it takes and returns.

  Args:
    name: `<head>_<backbone>`, 'espnet' or 'espnet_c'; one of `NAMES`.
    num_classes: number of classes.
    width: multiplies every channel count of backbone and head, rounded to a multiple of 8.
    output_stride: 8, 16 or 32; reached by dilation instead of striding, which in turn scales the
      rates of atrous pyramids. Logits of deeplabv3plus are at stride 4 and those of espnet at 1,
      whatever it is; the ESPNets have 8 only.
    aux: whether there is an auxiliary head on stage 3, a quarter as wide as that.
    axis_name: mapped axis over which BatchNorm statistics are synchronised in training.
    dtype: of the computation, also as 'float32' or 'bfloat16'; parameters, statistics and logits
      are float32.
    remat: 'none', or what is recomputed in the backward pass to save memory, see
      `rematerialization.rematerialized`: 'everything' inside the backbone's blocks, or all but
      what one of `jax.checkpoint_policies` keeps. Values and parameters are the same.
    mean: that images are normalised with, RGB in 0-255.
    std: likewise.
    head_channels: channels of the head; None is CIRKD's 128 (on ResNet-50 and 101 256, 512 in
      PSPNet) * width.
    project_dropout: rate after the projection of the atrous pyramid, in the heads that have one.
    dropout: rate before the classifiers, in all heads but ESPNet's.
    **backbone: further fields of the backbone (`deep_stem` and `ceil_mode` of the ResNets, `blocks`
      of ESPNet).

  Raises:
    ValueError: unknown name, policy, dtype or field of the backbone (names the nearest); a width,
      output stride or `head_channels` that the model cannot have.
  """
  names.require(name, NAMES, 'model')
  encoder, head = _MODELS[name]
  if width <= 0:
    raise UserError(f'width={width} of {name} must be positive.')
  if output_stride not in encoder.output_strides:
    raise UserError(f'output_stride={output_stride} is unknown to {name}; expected one of '
                    f'{encoder.output_strides}.')
  if head_channels is not None and head.channels is None:
    raise UserError(f'head_channels={head_channels}: the channels of {name} follow from its '
                    'classes. Leave it None.')
  check_policy(remat)
  if isinstance(dtype, str):
    names.require(dtype, _DTYPES, 'dtype')
    dtype = _DTYPES[dtype]
  scale = functools.partial(scale_channels, width=width)
  common = {'axis_name': axis_name, 'dtype': dtype}
  auxiliary_head = AuxiliaryHead(
      num_classes, scale(encoder.stage3_channels / 4), dropout, **common) if aux else None
  options = {'width': width, 'output_stride': output_stride, 'remat': remat, **common,
             **encoder.options}
  for option in backbone:
    names.require(option, sorted(_fields(encoder.module) - set(options)), f'option of {name}')
  head_options = {
      'num_classes': num_classes,
      'low_level_channels': scale(48),
      'rates': tuple(rate // output_stride for rate in _ATROUS_RATES),
      'project_dropout': project_dropout, 'dropout': dropout, **common}
  if head.channels is not None:
    head_options['channels'] = head_channels or scale(head.channels[encoder.wide])
  return Segmenter(
      backbone=_build(encoder.module, options | backbone), head=_build(head.module, head_options),
      auxiliary_head=auxiliary_head, mean=tuple(mean), std=tuple(std))


def _fields(module: type[nn.Module]) -> set[str]:
  return set(module.__dataclass_fields__) - {'parent', 'name'}


def _build(module: type[nn.Module], options: dict[str, Any]) -> nn.Module:
  """A module with those of the options that it has a field for."""
  known = _fields(module)
  return module(**{name: value for name, value in options.items() if name in known})
