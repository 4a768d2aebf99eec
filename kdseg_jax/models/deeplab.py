"""The head of DeepLabV3 (Chen et al., 2017, arXiv:1706.05587) and the auxiliary head."""

from __future__ import annotations

import functools
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from kdseg_jax.models.conv import Conv
from kdseg_jax.models.dropout import Dropout
from kdseg_jax.models.layers import ConvNorm

# Uniform in +-1 / sqrt(fan_in), PyTorch's default: the logits of an untrained model are small.
_classifier_init = nn.initializers.variance_scaling(1 / 3, 'fan_in', 'uniform')


class DeepLabV3Head(nn.Module):
  """Atrous spatial pyramid pooling (section 3.3), a 3x3 convolution and the classifier.

  1x1, three dilated 3x3 and pooling over the whole map, concatenated; 1x1 and Dropout 0.5; 3x3
  and Dropout; 1x1 with bias. The paper halves the rates at output stride 16 and has no second
  3x3; here both are as in the official code of CIRKD (and of torchvision, but for the rates).

  Attributes:
    num_classes: number of classes.
    channels: of every layer but the classifier.
    rates: dilations of the 3x3 branches.
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
  def __call__(self, x: jax.Array, index: jax.Array, train: bool) -> tuple[jax.Array, jax.Array]:
    """`(logits, embedding)` of a map `(N, h, w, C)`; embedding is the classifier's input."""
    conv = functools.partial(
        ConvNorm, self.channels, axis_name=self.axis_name, dtype=self.dtype)
    branches = [conv(1, name='aspp0')(x, train)]
    for i, rate in enumerate(self.rates, start=1):
      branches.append(conv(3, dilation=rate, name=f'aspp{i}')(x, train))
    pooled = jnp.mean(x, axis=(1, 2), keepdims=True, dtype=jnp.float32)
    pooled = conv(1, name='aspp_pooling')(pooled, train)
    branches.append(jnp.broadcast_to(pooled, branches[0].shape))
    x = conv(1, name='project')(jnp.concatenate(branches, axis=-1), train)
    x = Dropout(self.project_dropout, name='project_dropout')(x, index, train)
    x = conv(3, name='conv')(x, train)
    x = Dropout(self.dropout, name='dropout')(x, index, train)
    return _classify(self.num_classes, x), x


class AuxiliaryHead(nn.Module):
  """3x3 convolution, Dropout and classifier on an earlier stage (PSPNet, arXiv:1612.01105).

  Attributes:
    num_classes: number of classes.
    channels: of the 3x3 convolution.
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
  def __call__(self, x: jax.Array, index: jax.Array, train: bool) -> jax.Array:
    """Logits of a map `(N, h, w, C)`."""
    x = ConvNorm(
        self.channels, 3, axis_name=self.axis_name, dtype=self.dtype, name='conv')(x, train)
    return _classify(self.num_classes, Dropout(self.dropout, name='dropout')(x, index, train))


def _classify(num_classes, x):
  return Conv(num_classes, 1, use_bias=True, kernel_init=_classifier_init, name='classifier')(x)
