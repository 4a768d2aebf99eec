"""MobileNetV1 (Howard et al., 2017, arXiv:1704.04861) and V2 (Sandler et al., 2018, 1801.04381).

Both with dilated last stages; of V2 also the one for images of 32x32 pixels.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from kdseg_jax.models.layers import (
    ConvNorm,
    SeparableConvNorm,
    first_dilation,
    late_strides,
    scale_channels,
)
from kdseg_jax.models.rematerialization import rematerialized

# Table 2 from its third row on, by stage: channels of each block. All expand by 6; the first block
# of a stage strides.
_STAGES = (
    (24,) * 2,
    (32,) * 3,
    (64,) * 4 + (96,) * 3,
    (160,) * 3 + (320,),
)
# Table 1 of MobileNetV1 from its fourth row on, by stage, likewise.
_STAGES_V1 = ((128,) * 2, (256,) * 2, (512,) * 6, (1024,) * 2)


class MobileNetV1(nn.Module):
  """MobileNetV1 without classifier.

  Stages beyond the output stride are dilated, their first block by half.

  Attributes:
    width: multiplies every channel count, see `scale_channels`.
    output_stride: 4, 8, 16 or 32.
    axis_name: of `BatchNorm`.
    dtype: of the computation.
    remat: what training keeps of each block, see `rematerialized`.
  """

  width: float = 1.0
  output_stride: int = 8
  axis_name: str | None = None
  dtype: Any = jnp.float32
  remat: str = 'none'

  @nn.compact
  def __call__(self, x: jax.Array, train: bool) -> dict[str, jax.Array]:
    """Taps of the four stages, `stage<i>` and `stage<i>_preactivation` (before its last ReLU)."""
    conv = functools.partial(ConvNorm, axis_name=self.axis_name, dtype=self.dtype)
    scale = functools.partial(scale_channels, width=self.width)
    block = functools.partial(
        rematerialized(SeparableConvNorm, self.remat), conv=conv, activation=None)
    x = conv(scale(32), 3, 2, name='stem')(x, train)
    x = nn.relu(block(scale(64), 1, 1, name='stem_block')(x, train))
    taps = {}
    steps = [(2, 1), *late_strides(self.output_stride)]
    for stage, (blocks, (strides, dilation)) in enumerate(zip(_STAGES_V1, steps), start=1):
      for i, channels in enumerate(blocks):
        preactivation = block(
            scale(channels), strides if i == 0 else 1, dilation if i else first_dilation(dilation),
            name=f'stage{stage}_block{i}')(x, train)
        x = nn.relu(preactivation)
      taps |= {f'stage{stage}': x, f'stage{stage}_preactivation': preactivation}
    return taps


class InvertedResidual(nn.Module):
  """1x1 expansion, depthwise, linear 1x1; the input is added where shapes allow (table 1).

  Attributes:
    channels: of the output.
    expansion: of the input's channels.
    strides: of the depthwise convolution.
    dilation: of the depthwise convolution.
    conv: makes a `ConvNorm`.
    kernel_size: of the depthwise convolution.
    always_expand: there is an expansion, of as many channels, where it is by 1 too.
  """

  channels: int
  expansion: int
  strides: int
  dilation: int
  conv: Any
  kernel_size: int = 3
  always_expand: bool = False

  @nn.compact
  def __call__(self, x: jax.Array, train: bool) -> jax.Array:
    hidden = self.expansion * x.shape[-1]
    y = x
    if self.expansion > 1 or self.always_expand:
      y = self.conv(hidden, 1, name='expand')(y, train)
    y = self.conv(hidden, self.kernel_size, self.strides, self.dilation, groups=hidden,
                  name='depthwise')(y, train)
    y = self.conv(self.channels, 1, activation=None, name='project')(y, train)
    return x + y if self.strides == 1 and x.shape[-1] == self.channels else y


def inverted_residual_stages(
    x: jax.Array,
    train: bool,
    stages: Sequence[Sequence[Callable]],
    steps: Sequence[tuple[int, int]],
) -> dict[str, jax.Array]:
  """The four stages of the calling module, `stage<i>_block<j>`, and their taps.

  The first block of a dilated stage is dilated by half.

  Args:
    x: input of the first stage.
    train: of the blocks.
    stages: what makes each block, given strides, dilation and name, by stage.
    steps: `(stride, dilation)` of each stage.

  Returns:
    `stage<i>` and `stage<i>_preactivation`: both are the output of the stage's last block.
  """
  taps = {}
  for stage, (blocks, (strides, dilation)) in enumerate(zip(stages, steps), start=1):
    for i, block in enumerate(blocks):
      first = i == 0
      x = block(
          strides=strides if first else 1, dilation=first_dilation(dilation) if first else dilation,
          name=f'stage{stage}_block{i}')(x, train)
    taps |= {f'stage{stage}': x, f'stage{stage}_preactivation': x}
  return taps


class MobileNetV2(nn.Module):
  """MobileNetV2 up to the last bottleneck: without the last 1x1 convolution and classifier.

  Stages beyond the output stride are dilated, their first block by half (the official code of
  CIRKD).

  Attributes:
    width: multiplies every channel count, see `scale_channels`.
    output_stride: 4, 8, 16 or 32.
    axis_name: of `BatchNorm`.
    dtype: of the computation.
    remat: what training keeps of each block, see `rematerialized`.
  """

  width: float = 1.0
  output_stride: int = 8
  axis_name: str | None = None
  dtype: Any = jnp.float32
  remat: str = 'none'

  @nn.compact
  def __call__(self, x: jax.Array, train: bool) -> dict[str, jax.Array]:
    """Taps of the four stages, `stage<i>` and `stage<i>_preactivation`.

    Both are the output of the stage's last block, a linear bottleneck that no ReLU follows. The
    stages end where torchvision's `features` 3, 6, 13 and 17 do.
    """
    conv = functools.partial(
        ConvNorm, activation=nn.relu6, axis_name=self.axis_name, dtype=self.dtype)
    scale = functools.partial(scale_channels, width=self.width)
    block = functools.partial(rematerialized(InvertedResidual, self.remat), conv=conv)
    x = conv(scale(32), 3, 2, name='stem')(x, train)
    x = block(scale(16), 1, 1, 1, name='stem_block')(x, train)
    stages = [
        [functools.partial(block, scale(channels), 6) for channels in stage] for stage in _STAGES]
    return inverted_residual_stages(x, train, stages, [(2, 1), *late_strides(self.output_stride)])


class CifarMobileNetV2(nn.Module):
  """MobileNetV2 of half the channels for images of 32x32 pixels; stages at strides 2, 4, 8 and 16.

  The official code of decoupled distillation (mdistiller), `mobile_half`: ReLU instead of ReLU6,
  the first stage does not stride, and the stem's block has an expansion by 1. Channels are exact
  halves, 12 and 16 of the first stages, which `scale_channels` would round: it has no other width.

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
    """Taps `stem`, after its ReLU, and those of the four stages as of `MobileNetV2`."""
    conv = functools.partial(ConvNorm, axis_name=self.axis_name, dtype=self.dtype)
    block = functools.partial(rematerialized(InvertedResidual, self.remat), conv=conv)
    stem = conv(16, 3, 2, name='stem')(x, train)
    x = block(8, 1, 1, 1, always_expand=True, name='stem_block')(stem, train)
    stages = [
        [functools.partial(block, channels // 2, 6) for channels in stage] for stage in _STAGES]
    steps = [(1, 1), (2, 1), (2, 1), (2, 1)]
    return {'stem': stem} | inverted_residual_stages(x, train, stages, steps)
