"""The heads of DeepLab, versions 3 (Chen et al., 2017, arXiv:1706.05587) and 3+ (1802.02611).

And what is left of them in MobileNetV2 (Sandler et al., 2018, arXiv:1801.04381) without a pyramid.
"""

from __future__ import annotations

import functools
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from kdseg_jax.models.dropout import Dropout
from kdseg_jax.models.layers import ConvNorm, SeparableConvNorm, classify
from kdseg_jax.resizing import resize_bilinear


class DeepLabV3Head(nn.Module):
  """Atrous spatial pyramid pooling (section 3.3), a 3x3 convolution and the classifier.

  1x1, three dilated 3x3 and pooling over the whole map, concatenated; 1x1 and Dropout 0.5; 3x3
  and Dropout; 1x1 with bias. The paper has no second 3x3; it is from the official code of CIRKD
  (and torchvision).

  Attributes:
    num_classes: number of classes.
    channels: of every layer but the classifier.
    rates: dilations of the 3x3 branches; the default is the paper's for output stride 8.
    project_dropout: rate after the projection.
    dropout: rate before the classifier.
    axis_name: of `BatchNorm`.
    dtype: of the computation; the classifier computes in float32.
  """

  num_classes: int
  channels: int
  rates: tuple[int, ...] = (12, 24, 36)
  project_dropout: float = 0.5
  dropout: float = 0.1
  axis_name: str | None = None
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(
      self, taps: dict[str, jax.Array], index: jax.Array, train: bool
  ) -> tuple[jax.Array, jax.Array]:
    """`(logits, embedding)` of `stage4`; embedding is the classifier's input."""
    x = _atrous_pyramid(self, taps['stage4'], train, functools.partial(_conv(self), 3), self.rates)
    x = Dropout(self.project_dropout, name='project_dropout')(x, index, train)
    x = _conv(self)(3, name='conv')(x, train)
    x = Dropout(self.dropout, name='dropout')(x, index, train)
    return classify(self.num_classes, x), x


class DeepLabV3PlusHead(nn.Module):
  """Atrous spatial pyramid pooling and a decoder at stride 4 (section 3.1 of V3+).

  The pyramid of DeepLabV3, upsampled (aligned corners) to the low-level features, concatenated with
  a 1x1 convolution of these; two 3x3 and Dropout; 1x1 with bias. All 3x3, of pyramid and decoder,
  are depthwise separable, with BatchNorm and ReLU after the depthwise part too (official code). The
  paper names no Dropout before the classifier; `dropout=0` is without.

  Low-level features are the tap `low_level` where the backbone has one, else `stage1`.

  Attributes:
    num_classes: number of classes.
    channels: of every layer but `low_level` and the classifier.
    low_level_channels: that the low-level features are reduced to.
    rates: dilations of the 3x3 branches; the default is the paper's for output stride 8.
    project_dropout: rate after the pyramid.
    dropout: rate before the classifier.
    axis_name: of `BatchNorm`.
    dtype: of the computation; the classifier computes in float32.
  """

  num_classes: int
  channels: int
  low_level_channels: int = 48
  rates: tuple[int, ...] = (12, 24, 36)
  project_dropout: float = 0.5
  dropout: float = 0.1
  axis_name: str | None = None
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(
      self, taps: dict[str, jax.Array], index: jax.Array, train: bool
  ) -> tuple[jax.Array, jax.Array]:
    """`(logits, embedding)`, at the stride of the low-level features."""
    conv = functools.partial(ConvNorm, axis_name=self.axis_name, dtype=self.dtype)
    separable = functools.partial(SeparableConvNorm, self.channels, conv=conv)
    x = _atrous_pyramid(self, taps['stage4'], train, separable, self.rates)
    x = Dropout(self.project_dropout, name='project_dropout')(x, index, train)
    low_level = conv(self.low_level_channels, 1, name='low_level')(
        taps.get('low_level', taps['stage1']), train)
    x = resize_bilinear(x, low_level.shape[1:3], align_corners=True)
    x = jnp.concatenate([x, low_level], axis=-1)
    x = separable(name='decoder1')(x, train)
    x = separable(name='decoder2')(x, train)
    x = Dropout(self.dropout, name='dropout')(x, index, train)
    return classify(self.num_classes, x), x


class PlainHead(nn.Module):
  """Neither pyramid nor decoder: a 1x1 convolution and pooling over the whole map.

  Concatenated; 1x1 and Dropout; 1x1 with bias: what MobileNetV2 (table 7, without ASPP) and the
  student of knowledge adaptation (He et al., CVPR 2019) have instead.

  Attributes:
    num_classes: number of classes.
    channels: of every layer but the classifier.
    dropout: rate before the classifier.
    axis_name: of `BatchNorm`.
    dtype: of the computation; the classifier computes in float32.
  """

  num_classes: int
  channels: int
  dropout: float = 0.1
  axis_name: str | None = None
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(
      self, taps: dict[str, jax.Array], index: jax.Array, train: bool
  ) -> tuple[jax.Array, jax.Array]:
    """`(logits, embedding)` of `stage4`; embedding is the classifier's input."""
    x = _atrous_pyramid(self, taps['stage4'], train, functools.partial(_conv(self), 3), rates=())
    x = Dropout(self.dropout, name='dropout')(x, index, train)
    return classify(self.num_classes, x), x


def _conv(head):
  """`ConvNorm` with the channels of a head."""
  return functools.partial(
      ConvNorm, head.channels, axis_name=head.axis_name, dtype=head.dtype)


def _atrous_pyramid(head, x, train, conv, rates):
  """Atrous spatial pyramid pooling of a map `(N, h, w, C)`, its layers those of the head.

  `conv` makes its 3x3 convolutions, one a rate.
  """
  pointwise = _conv(head)
  branches = [pointwise(1, name='aspp0')(x, train)]
  for i, rate in enumerate(rates, start=1):
    branches.append(conv(dilation=rate, name=f'aspp{i}')(x, train))
  pooled = jnp.mean(x, axis=(1, 2), keepdims=True, dtype=jnp.float32)
  pooled = pointwise(1, name='aspp_pooling')(pooled, train)
  branches.append(jnp.broadcast_to(pooled, branches[0].shape))
  return pointwise(1, name='project')(jnp.concatenate(branches, axis=-1), train)
