"""Flax models that return `(prediction, taps)`, by name."""

from __future__ import annotations

import functools
from typing import Any, NamedTuple

import flax.linen as nn
import jax.numpy as jnp

from kdseg_jax import names
from kdseg_jax.errors import UserError
from kdseg_jax.models import cifar, detectors
from kdseg_jax.models.backbones import BACKBONES, BackboneSpec
from kdseg_jax.models.classifier import Classifier
from kdseg_jax.models.complexity import Complexity, complexity
from kdseg_jax.models.deeplab import DeepLabV3Head, DeepLabV3PlusHead, PlainHead
from kdseg_jax.models.espnet import ESPNetCHead, ESPNetEncoder, ESPNetHead
from kdseg_jax.models.layers import scale_channels
from kdseg_jax.models.normalization import (
    CHANNEL_ORDERS,
    Preprocessing,
)
from kdseg_jax.models.pspnet import AuxiliaryHead, PSPNetHead
from kdseg_jax.models.rematerialization import check_policy
from kdseg_jax.models.segmenter import Segmenter

__all__ = ['CLASSIFIERS', 'DETECTORS', 'NAMES', 'Complexity', 'backbone_of', 'complexity', 'create',
           'options_of', 'output_stride_of', 'preprocessing_of']


class _Head(NamedTuple):
  """A head: its class, and its channels at width 1 on other and on wide backbones."""

  module: type[nn.Module]
  channels: tuple[int, int] | None = None


_HEADS = {
    'pspnet': _Head(PSPNetHead, (128, 512)),
    'deeplabv3': _Head(DeepLabV3Head, (128, 256)),
    'deeplabv3plus': _Head(DeepLabV3PlusHead, (256, 256)),
    'plain': _Head(PlainHead, (256, 256)),
}
_ESPNET_ENCODER = BackboneSpec(ESPNetEncoder, (19, 131, 256), output_strides=(8,))
_SEGMENTERS = {
    f'{head}_{backbone}': (BACKBONES[backbone], _HEADS[head])
    for head in _HEADS for backbone in BACKBONES
} | {
    'espnet': (_ESPNET_ENCODER, _Head(ESPNetHead)),
    'espnet_c': (_ESPNET_ENCODER, _Head(ESPNetCHead)),
}
_CLASSIFIERS = BACKBONES | cifar.BACKBONES
_DETECTORS = {
    f'{head}_{backbone}': (BACKBONES[backbone]._replace(output_strides=(detectors.OUTPUT_STRIDE,)),
                           detectors.HEADS[head])
    for head in detectors.HEADS for backbone in BACKBONES
}
CLASSIFIERS = tuple(_CLASSIFIERS)  # names of models that are a backbone with its classifier
DETECTORS = tuple(_DETECTORS)  # of those with a dense head on a feature pyramid
NAMES = (*_SEGMENTERS, *CLASSIFIERS, *DETECTORS)  # of all models that `create` knows
# Of a backbone's fields, those that are arguments of `create` for all models.
_COMMON_OPTIONS = {'width', 'output_stride', 'axis_name', 'dtype', 'remat'}
_DTYPES = {'float32': jnp.float32, 'bfloat16': jnp.bfloat16}
_ATROUS_RATES = (96, 192, 288)  # over the output stride (DeepLabV3, section 3.3)


def create(
    name: str,
    num_classes: int,
    *,
    width: float = 1.0,
    output_stride: int | None = None,
    aux: bool = False,
    axis_name: str | None = None,
    dtype: Any = jnp.float32,
    remat: str = 'none',
    mean: tuple[float, float, float] | None = None,
    std: tuple[float, float, float] | None = None,
    channel_order: str = 'rgb',
    head_channels: int | None = None,
    aux_channels: int | None = None,
    aux_bias: bool = False,
    negative_slope: float = 0.0,
    project_dropout: float = 0.5,
    dropout: float | None = None,
    **options: Any,
) -> nn.Module:
  """A model by name; see `Segmenter`, `Classifier` and `Detector` for what it takes and returns.

  Args:
    name: one of `NAMES`: `<head>_<backbone>`, 'espnet' or 'espnet_c'; a backbone alone is a
      classifier, and so are the nets of `cifar`, `cifar_<network>`. With the heads gfl, retinanet,
      fcos and atss it is a detector.
    num_classes: number of classes.
    width: multiplies every channel count of backbone and head, rounded to a multiple of 8; the
      ShuffleNets and the half MobileNetV2 have 1 only.
    output_stride: 4, 8, 16 or 32; reached by dilation instead of striding, which in turn scales the
      rates of atrous pyramids; None is 8, and the largest of classifiers. Logits of deeplabv3plus
      are at stride 4 and those of espnet at 1, whatever it is; the ESPNets have 8 only, detectors
      32, and the nets for CIFAR their own.
    aux: whether there is an auxiliary head on stage 3.
    axis_name: mapped axis over which BatchNorm statistics are synchronised in training.
    dtype: of the computation, also as 'float32' or 'bfloat16'; parameters, statistics and logits
      are float32.
    remat: 'none', or what is recomputed in the backward pass to save memory, see
      `rematerialization.rematerialized`: 'everything' inside the backbone's blocks, or all but
      what one of `jax.checkpoint_policies` keeps. Values and parameters are the same.
    mean: that images are normalised with, RGB in 0-255; None is `preprocessing_of` the model.
    std: likewise.
    channel_order: 'rgb', or 'bgr' of weights that expect the channels in that order.
    head_channels: channels of the head; None is CIRKD's 128 (on ResNet-50, 101 and the Xceptions
      256, 512 in PSPNet), and the papers' 256 in deeplabv3plus and plain, * width; of a detector's
      pyramid and towers 256 * width.
    aux_channels: channels of the auxiliary head, if there is one; None is a quarter of stage 3's.
      Structured distillation has half of them.
    aux_bias: whether the 3x3 convolution of the auxiliary head has a bias, as there.
    negative_slope: of the activations in pspnet and its auxiliary head, 0.01 there; 0 is ReLU.
    project_dropout: rate after the projection of the atrous pyramid, in the heads with a pyramid.
    dropout: rate before the classifiers, in all heads but ESPNet's and the detectors'; None is 0.1,
      and 0 of the nets for CIFAR.
    **options: further fields of the backbone and of detectors, see `options_of`: `deep_stem`,
      `ceil_mode` and `dilate_first` of the ResNets, `blocks` of ESPNet; those of `detectors.build`.

  Raises:
    ValueError: unknown name, policy, dtype or option (names the nearest); a width, output stride or
      `head_channels` that the model cannot have.
  """
  spec, head = _parts(name)
  names.require(channel_order, CHANNEL_ORDERS, 'channel_order')
  output_stride = output_stride or output_stride_of(name)
  if width <= 0:
    raise UserError(f'width={width} of {name} must be positive.')
  if width != 1 and 'width' not in spec.options:
    raise UserError(f'width={width}: the channels of {name} are fixed. Leave it 1.')
  if output_stride not in spec.output_strides:
    raise UserError(f'output_stride={output_stride} is unknown to {name}; expected one of '
                    f'{spec.output_strides}.')
  check_policy(remat)
  if isinstance(dtype, str):
    names.require(dtype, _DTYPES, 'dtype')
    dtype = _DTYPES[dtype]
  common = {'axis_name': axis_name, 'dtype': dtype}
  of_backbone = {'width': width, 'output_stride': output_stride, 'remat': remat, **common}
  for option in options:
    names.require(option, sorted(options_of(name)), f'option of {name}')
  if negative_slope and (head is None or head.module is not PSPNetHead):
    raise UserError(f'negative_slope={negative_slope}: {name} has no leaky activations in its '
                    'head, only pspnet can. Leave it 0.')
  mean, std = (default if given is None else tuple(given)
               for given, default in zip((mean, std), spec.preprocessing))
  dropout = spec.dropout if dropout is None else dropout
  network = {'backbone': _build(spec.build, spec.options, of_backbone | options),
             'preprocessing': Preprocessing(mean, std, channel_order)}
  if name in _DETECTORS:
    if aux:
      raise UserError(f'{name} is a detector: it has no auxiliary head (aux={aux}). Leave it out.')
    return detectors.build(
        head, num_classes=num_classes, width=width, dtype=dtype, head_channels=head_channels,
        **network, **{option: value for option, value in options.items()
                      if option in detectors.options_of(head)})
  if head is None:
    return _classifier(name, spec, network, num_classes, width, aux, head_channels,
                       dropout=dropout, **common)
  common |= {'num_classes': num_classes, 'dropout': dropout, 'negative_slope': negative_slope}
  return Segmenter(
      **network,
      head=_head(name, spec, head, width, head_channels, output_stride=output_stride,
                 project_dropout=project_dropout, **common),
      auxiliary_head=AuxiliaryHead(
          channels=aux_channels or scale_channels(spec.channels[2] / 4, width),
          use_bias=aux_bias, **common) if aux else None)


def backbone_of(name: str) -> tuple[str, BackboneSpec]:
  """Name and description of the backbone that a model is built on.

  Raises:
    ValueError: an unknown model, or one whose backbone is its own (the ESPNets, those for CIFAR).
  """
  names.require(name, NAMES, 'model')
  for backbone, spec in BACKBONES.items():
    if name == backbone or name.endswith(f'_{backbone}'):
      return backbone, spec
  raise UserError(f'{name} has a backbone of its own; the others are {", ".join(BACKBONES)}.')


def options_of(name: str) -> frozenset[str]:
  """Names of the further fields of a model's backbone, and of a detector, that `create` takes.

  Raises:
    ValueError: an unknown model.
  """
  spec, head = _parts(name)
  of_detector = detectors.options_of(head) if name in _DETECTORS else frozenset()
  return spec.options - _COMMON_OPTIONS | of_detector


def output_stride_of(name: str) -> int:
  """The output stride of a model where none is given.

  Raises:
    ValueError: an unknown model.
  """
  spec, head = _parts(name)
  return max(spec.output_strides) if head is None or name in _DETECTORS else 8


def preprocessing_of(name: str) -> Preprocessing:
  """Mean and deviation of images where none are given: ImageNet's, or those of `cifar`.

  Raises:
    ValueError: an unknown model.
  """
  return _parts(name)[0].preprocessing


def _parts(name):
  """A model's backbone, and head of `_HEADS` or `detectors.HEADS`; a classifier has None."""
  names.require(name, NAMES, 'model')
  return _SEGMENTERS.get(name) or _DETECTORS.get(name) or (_CLASSIFIERS[name], None)


def _head(name, spec, head, width, head_channels, *, output_stride, **common):
  if head_channels is not None and head.channels is None:
    raise UserError(f'head_channels={head_channels}: the channels of {name} follow from its '
                    'classes. Leave it None.')
  scale = functools.partial(scale_channels, width=width)
  options = {
      'low_level_channels': scale(48),
      'rates': tuple(rate // output_stride for rate in _ATROUS_RATES),
      **common}
  if head.channels is not None:
    options['channels'] = head_channels or scale(head.channels[spec.wide])
  return _build(head.module, _fields(head.module), options)


def _classifier(name, spec, network, num_classes, width, aux, head_channels, *, dropout, **common):
  if aux or head_channels is not None:
    raise UserError(f'{name} is a classifier: it has no auxiliary head (aux={aux}) and no '
                    f'channels of a head (head_channels={head_channels}). Leave both out.')
  head = spec.classifier(num_classes=num_classes, dropout=dropout, **common)
  # As in torchvision, a narrow network keeps its wide last convolution.
  channels = head.channels and scale_channels(head.channels, max(1.0, width))
  return Classifier(**network, head=head.clone(channels=channels))


def _fields(module: type[nn.Module]) -> set[str]:
  return set(module.__dataclass_fields__) - {'parent', 'name'}


def _build(module, known, options):
  """A module with those of the options that it knows."""
  return module(**{name: value for name, value in options.items() if name in known})
