"""MobileNetV2 backbone (Sandler et al., CVPR 2018) with dilated last stages."""

from __future__ import annotations

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp

from kdseg_jax.models.blocks import ConvNorm, relu6, scaled, stage_dilations

Array = jax.Array

# Groups of blocks by stage: (expansion, channels, number of blocks).
_STAGES = (
    ((1, 16, 1), (6, 24, 2)),
    ((6, 32, 3),),
    ((6, 64, 4), (6, 96, 3)),
    ((6, 160, 3), (6, 320, 1)),
)


class MobileNetV2(nn.Module):
  """MobileNetV2 without its last 1x1 convolution: `(image, train) -> taps`.

  `stage1..4` are the outputs of the last block at strides 4, 8, 16 and 32 before dilation. Blocks
  end in a linear bottleneck: there is no ReLU, and `stage<i>_preactivation` is the same array.

  Attributes:
    width: multiplies all channel counts.
    output_stride: 8, 16 or 32.
    axis_name: mesh axis of the batch statistics.
    dtype: of the computation.
  """

  width: float = 1.0
  output_stride: int = 8
  axis_name: str | None = None
  dtype: jnp.dtype = jnp.float32

  @nn.compact
  def __call__(self, x: Array, train: bool) -> dict[str, Array]:
    conv_norm = functools.partial(
        ConvNorm, activation=relu6, axis_name=self.axis_name, dtype=self.dtype)
    x = conv_norm(scaled(32, self.width), 3, 2, name='stem')(x, train)
    taps = {}
    strides = ((2, 1), (2, 1), *stage_dilations(self.output_stride))
    for i, (groups, (stride, dilation)) in enumerate(zip(_STAGES, strides, strict=True)):
      number = 0
      for expansion, channels, count in groups:
        for _ in range(count):
          # The stage's stride and halved first dilation belong to its first block; in the first
          # stage to the second block, as the one of expansion 1 keeps the stem's stride.
          first = number == (1 if i == 0 else 0)
          x = InvertedResidual(
              scaled(channels, self.width), expansion, stride=stride if first else 1,
              dilation=max(1, dilation // 2) if first else dilation, conv_norm=conv_norm,
              name=f'stage{i + 1}_block{number}')(x, train)
          number += 1
      taps |= {f'stage{i + 1}': x, f'stage{i + 1}_preactivation': x}
    return taps


class InvertedResidual(nn.Module):
  """Expansion, depthwise 3x3 convolution, linear projection; a shortcut where shapes allow.

  Attributes:
    features: output channels.
    expansion: factor of the channels in between.
    stride, dilation: of the depthwise convolution.
    conv_norm: makes a `ConvNorm`.
  """

  features: int
  expansion: int
  stride: int
  dilation: int
  conv_norm: functools.partial

  @nn.compact
  def __call__(self, x: Array, train: bool) -> Array:
    shortcut, hidden = x, x.shape[-1] * self.expansion
    if self.expansion != 1:
      x = self.conv_norm(hidden, name='expand')(x, train)
    x = self.conv_norm(
        hidden, 3, self.stride, self.dilation, groups=hidden, name='depthwise')(x, train)
    x = self.conv_norm(self.features, activation=None, name='project')(x, train)
    return x + shortcut if x.shape == shortcut.shape and self.stride == 1 else x
