"""ShuffleNetV1 and V2 for images of 32x32 pixels, as the official code of knowledge review.

V1: Zhang et al., 2018, arXiv:1707.01083, of 3 groups; V2: Ma et al., 2018, arXiv:1807.11164, at
width 1. For small images the stem is a 1x1 convolution at stride 1, and nothing is pooled after it.
"""

from __future__ import annotations

import functools
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from kdseg_jax.models.layers import ConvNorm, half_size
from kdseg_jax.models.rematerialization import rematerialized

_STEM = 24
_BLOCKS = (4, 8, 4)  # of each stage; the first strides
_GROUPS = 3  # of V1
_CHANNELS_V1 = (240, 480, 960)
_CHANNELS_V2 = (116, 232, 464)


def shuffle(x: jax.Array, groups: int) -> jax.Array:
  """Channels in the order that puts the first of every group first, then the second ones, ..."""
  by_group = x.reshape(*x.shape[:-1], groups, x.shape[-1] // groups)
  return by_group.swapaxes(-1, -2).reshape(x.shape)


class ShuffleUnitV1(nn.Module):
  """Grouped 1x1, shuffle, depthwise, grouped 1x1 and the shortcut (figure 2 of V1).

  One that strides concatenates its averaged input instead of adding it. Unlike in the paper, a ReLU
  follows the depthwise convolution.

  Attributes:
    channels: of the output.
    strides: 1 or 2.
    groups: of the first convolution; the last has 3.
    conv: makes a `ConvNorm`.
  """

  channels: int
  strides: int
  groups: int
  conv: Any

  @nn.compact
  def __call__(self, x: jax.Array, train: bool) -> jax.Array:
    """The output before the last ReLU."""
    strides = self.strides > 1
    channels = self.channels - x.shape[-1] if strides else self.channels
    hidden = channels // 4
    y = self.conv(hidden, 1, groups=self.groups, name='conv1')(x, train)
    y = self.conv(hidden, 3, self.strides, groups=hidden, name='conv2')(
        shuffle(y, self.groups), train)
    y = self.conv(channels, 1, groups=_GROUPS, activation=None, name='conv3')(y, train)
    if not strides:
      return x + y
    return jnp.concatenate([y, half_size(x)], axis=-1)


class ShuffleUnitV2(nn.Module):
  """1x1, depthwise and 1x1 of the second half of the channels, and a shuffle (figure 3c of V2).

  Attributes:
    conv: makes a `ConvNorm`.
  """

  conv: Any

  @nn.compact
  def __call__(self, x: jax.Array, train: bool) -> tuple[jax.Array, jax.Array]:
    """The output, and the halves side by side before last ReLU and shuffle."""
    kept, y = jnp.split(x, 2, axis=-1)
    half = y.shape[-1]
    y = self.conv(half, 1, name='conv1')(y, train)
    y = self.conv(half, 3, groups=half, activation=None, name='conv2')(y, train)
    y = self.conv(half, 1, activation=None, name='conv3')(y, train)
    preactivation = jnp.concatenate([kept, y], axis=-1)
    return shuffle(jnp.concatenate([kept, nn.relu(y)], axis=-1), 2), preactivation


class StridingUnitV2(nn.Module):
  """Two branches of the whole input at stride 2, and a shuffle (figure 3d of V2).

  Attributes:
    channels: of the output.
    conv: makes a `ConvNorm`.
  """

  channels: int
  conv: Any

  @nn.compact
  def __call__(self, x: jax.Array, train: bool) -> jax.Array:
    half, inputs = self.channels // 2, x.shape[-1]
    left = self.conv(inputs, 3, 2, groups=inputs, activation=None, name='left1')(x, train)
    left = self.conv(half, 1, name='left2')(left, train)
    right = self.conv(half, 1, name='right1')(x, train)
    right = self.conv(half, 3, 2, groups=half, activation=None, name='right2')(right, train)
    right = self.conv(half, 1, name='right3')(right, train)
    return shuffle(jnp.concatenate([left, right], axis=-1), 2)


class ShuffleNetV1(nn.Module):
  """A 1x1 stem and three stages at strides 2, 4 and 8, without classifier.

  Attributes:
    axis_name: of `BatchNorm`.
    dtype: of the computation.
    remat: what training keeps of each block, see `rematerialized`.
  """

  axis_name: str | None = None
  dtype: Any = jnp.float32
  remat: str = 'none'

  @nn.compact
  def __call__(self, x: jax.Array, train: bool) -> dict[str, jax.Array]:
    """Taps `stem`, after its ReLU, `stage<i>` and `stage<i>_preactivation` of the three stages."""
    conv = functools.partial(ConvNorm, axis_name=self.axis_name, dtype=self.dtype)
    unit = rematerialized(ShuffleUnitV1, self.remat)
    x = conv(_STEM, 1, name='stem')(x, train)
    taps = {'stem': x}
    for stage, (channels, count) in enumerate(zip(_CHANNELS_V1, _BLOCKS), start=1):
      for i in range(count):
        groups = 1 if stage == 1 and i == 0 else _GROUPS  # the stem's channels are too few
        preactivation = unit(channels, 2 if i == 0 else 1, groups, conv,
                             name=f'stage{stage}_block{i}')(x, train)
        x = nn.relu(preactivation)
      taps |= {f'stage{stage}': x, f'stage{stage}_preactivation': preactivation}
    return taps


class ShuffleNetV2(nn.Module):
  """As `ShuffleNetV1`; the last 1x1 convolution is the classifier's.

  Attributes: those of `ShuffleNetV1`.
  """

  axis_name: str | None = None
  dtype: Any = jnp.float32
  remat: str = 'none'

  @nn.compact
  def __call__(self, x: jax.Array, train: bool) -> dict[str, jax.Array]:
    """Taps `stem`, after its ReLU, `stage<i>` and `stage<i>_preactivation` of the three stages.

    A stage's last ReLU is on half of its channels, and the shuffle that follows is in `stage<i>`
    alone.
    """
    conv = functools.partial(ConvNorm, axis_name=self.axis_name, dtype=self.dtype)
    striding, unit = (
        rematerialized(block, self.remat) for block in (StridingUnitV2, ShuffleUnitV2))
    x = conv(_STEM, 1, name='stem')(x, train)
    taps = {'stem': x}
    for stage, (channels, count) in enumerate(zip(_CHANNELS_V2, _BLOCKS), start=1):
      x = striding(channels, conv, name=f'stage{stage}_block0')(x, train)
      for i in range(1, count):
        x, preactivation = unit(conv, name=f'stage{stage}_block{i}')(x, train)
      taps |= {f'stage{stage}': x, f'stage{stage}_preactivation': preactivation}
    return taps
