"""The heads of PSPNet (Zhao et al., 2017, arXiv:1612.01105): pyramid pooling and auxiliary."""

from __future__ import annotations

import functools
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from kdseg_jax.models.dropout import Dropout
from kdseg_jax.models.layers import ConvNorm, classify, rectifier
from kdseg_jax.resizing import adaptive_average_pool, resize_bilinear


class PSPNetHead(nn.Module):
  """Pyramid pooling (section 3.2), a 3x3 convolution and the classifier.

  The map, and for each pool size its average over a grid of so many bins, 1x1 and bilinear
  upsampling (aligned corners), concatenated; 3x3 and Dropout; 1x1 with bias. The branches share
  the channels of the map among them.

  Attributes:
    num_classes: number of classes.
    channels: of the 3x3 convolution.
    pool_sizes: bins along each side.
    dropout: rate before the classifier.
    negative_slope: of the activations; 0 is ReLU.
    axis_name: of `BatchNorm`.
    dtype: of the computation; the classifier computes in float32.
  """

  num_classes: int
  channels: int
  pool_sizes: tuple[int, ...] = (1, 2, 3, 6)
  dropout: float = 0.1
  negative_slope: float = 0.0
  axis_name: str | None = None
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(
      self, taps: dict[str, jax.Array], index: jax.Array, train: bool
  ) -> tuple[jax.Array, jax.Array]:
    """`(logits, embedding)` of `stage4`; embedding is the classifier's input."""
    x = taps['stage4']
    conv = functools.partial(ConvNorm, activation=rectifier(self.negative_slope),
                             axis_name=self.axis_name, dtype=self.dtype)
    branches = [x]
    for size in self.pool_sizes:
      pooled = adaptive_average_pool(x, (size, size))
      pooled = conv(x.shape[-1] // len(self.pool_sizes), 1, name=f'pool{size}')(pooled, train)
      branches.append(resize_bilinear(pooled, x.shape[1:3], align_corners=True))
    x = conv(self.channels, 3, name='conv')(jnp.concatenate(branches, axis=-1), train)
    x = Dropout(self.dropout, name='dropout')(x, index, train)
    return classify(self.num_classes, x), x


class AuxiliaryHead(nn.Module):
  """3x3 convolution, Dropout and classifier on an earlier stage (section 4).

  Attributes:
    num_classes: number of classes.
    channels: of the 3x3 convolution.
    dropout: rate before the classifier.
    negative_slope: of the activation; 0 is ReLU.
    use_bias: whether the 3x3 convolution has a bias.
    axis_name: of `BatchNorm`.
    dtype: of the computation; the classifier computes in float32.
  """

  num_classes: int
  channels: int
  dropout: float = 0.1
  negative_slope: float = 0.0
  use_bias: bool = False
  axis_name: str | None = None
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, x: jax.Array, index: jax.Array, train: bool) -> jax.Array:
    """Logits of a map `(N, h, w, C)`."""
    x = ConvNorm(
        self.channels, 3, use_bias=self.use_bias, activation=rectifier(self.negative_slope),
        axis_name=self.axis_name, dtype=self.dtype, name='conv')(x, train)
    return classify(self.num_classes, Dropout(self.dropout, name='dropout')(x, index, train))
