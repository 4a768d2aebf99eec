"""Wide ResNet for images of 32x32 pixels (Zagoruyko & Komodakis, 2016, arXiv:1605.07146)."""

from __future__ import annotations

import functools
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from kdseg_jax.models.conv import Conv
from kdseg_jax.models.layers import scale_channels
from kdseg_jax.models.normalization import BatchNorm
from kdseg_jax.models.rematerialization import rematerialized

_CHANNELS = (16, 32, 64)


class PreactivationBlock(nn.Module):
  """Twice BatchNorm, ReLU and 3x3, and the shortcut (figure 1).

  Attributes:
    channels: of both convolutions and the output.
    strides: of the first convolution.
    axis_name: of `BatchNorm`.
    dtype: of the computation.
  """

  channels: int
  strides: int
  axis_name: str | None
  dtype: Any

  @nn.compact
  def __call__(self, x: jax.Array, train: bool) -> tuple[jax.Array, jax.Array]:
    """The sum, and the input after the first BatchNorm."""
    conv = functools.partial(Conv, self.channels, dtype=self.dtype)
    norm = functools.partial(BatchNorm, self.axis_name, self.dtype)
    normalized = norm(name='norm1')(x, train)
    y = nn.relu(normalized)
    if self.strides > 1 or x.shape[-1] != self.channels:
      x = conv(1, self.strides, name='shortcut')(y)
    y = conv(3, self.strides, name='conv1')(y)
    y = nn.relu(norm(name='norm2')(y, train))
    return x + conv(3, name='conv2')(y), normalized


class WideResNet(nn.Module):
  """A 3x3 stem and three stages at strides 1, 2 and 4 (table 1), without classifier or Dropout.

  Attributes:
    depth: 6n + 4, of n blocks a stage.
    widen_factor: multiplies the stages' 16, 32 and 64 channels; the stem has 16.
    width: multiplies every channel count, the stem's too, see `scale_channels`.
    axis_name: of `BatchNorm`.
    dtype: of the computation.
    remat: what training keeps of each block, see `rematerialized`.
  """

  depth: int = 16
  widen_factor: int = 2
  width: float = 1.0
  axis_name: str | None = None
  dtype: Any = jnp.float32
  remat: str = 'none'

  @nn.compact
  def __call__(self, x: jax.Array, train: bool) -> dict[str, jax.Array]:
    """Taps of the three stages, as the official code of knowledge review has them.

    `stem` and `stage<i>` are the bare sums, `stage<i>_preactivation` these after the next BatchNorm
    (the next stage's first, or the last one) and before its ReLU; `activated` is the ReLU of
    `stage3_preactivation`, which is pooled.
    """
    block = functools.partial(
        rematerialized(PreactivationBlock, self.remat), axis_name=self.axis_name, dtype=self.dtype)
    x = Conv(scale_channels(16, self.width), 3, dtype=self.dtype, name='stem')(x)
    taps = {'stem': x}
    for stage, channels in enumerate(_CHANNELS, start=1):
      channels = scale_channels(self.widen_factor * channels, self.width)
      for i in range((self.depth - 4) // 6):
        first = stage > 1 and i == 0
        x, normalized = block(
            channels, 2 if first else 1, name=f'stage{stage}_block{i}')(x, train)
        if first:
          taps[f'stage{stage - 1}_preactivation'] = normalized
      taps[f'stage{stage}'] = x
    normalized = BatchNorm(self.axis_name, self.dtype, name='norm')(x, train)
    return taps | {'stage3_preactivation': normalized, 'activated': nn.relu(normalized)}
