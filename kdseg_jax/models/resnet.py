"""ResNet backbones (He et al., CVPR 2016) with dilated last stages."""

from __future__ import annotations

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp

from kdseg_jax.models.blocks import ConvNorm, scaled, stage_dilations

Array = jax.Array


class ResNet(nn.Module):
  """ResNet of basic blocks: `(image, train) -> taps` `stage1..4` and `stage<i>_preactivation`.

  The first stage has stride 4. Where a stage is dilated instead of strided, the first convolution
  of its first block has half of the stage's dilation (the convention of the official CIRKD code).

  Attributes:
    blocks: number of blocks of each stage.
    width: multiplies all channel counts.
    output_stride: 8, 16 or 32.
    axis_name: mesh axis of the batch statistics.
    dtype: of the computation.
  """

  blocks: tuple[int, int, int, int]
  width: float = 1.0
  output_stride: int = 8
  axis_name: str | None = None
  dtype: jnp.dtype = jnp.float32

  @nn.compact
  def __call__(self, x: Array, train: bool) -> dict[str, Array]:
    conv_norm = functools.partial(ConvNorm, axis_name=self.axis_name, dtype=self.dtype)
    x = conv_norm(scaled(64, self.width), 7, 2, name='stem')(x, train)
    x = nn.max_pool(x, (3, 3), (2, 2), ((1, 1), (1, 1)))
    taps = {}
    stages = ((1, 1), (2, 1), *stage_dilations(self.output_stride))
    for i, (count, (stride, dilation)) in enumerate(zip(self.blocks, stages, strict=True)):
      features = scaled(64 * 2 ** i, self.width)
      for k in range(count):
        x, preactivation = BasicBlock(
            features, stride=stride if k == 0 else 1, dilation=dilation,
            first_dilation=max(1, dilation // 2) if k == 0 else dilation,
            conv_norm=conv_norm, name=f'stage{i + 1}_block{k}')(x, train)
      taps |= {f'stage{i + 1}': x, f'stage{i + 1}_preactivation': preactivation}
    return taps


class BasicBlock(nn.Module):
  """Two 3x3 convolutions and a shortcut: `(x, train) -> (output, output before the last ReLU)`.

  Attributes:
    features: output channels.
    stride: of the first convolution and of the shortcut.
    dilation: of the second convolution.
    first_dilation: of the first convolution.
    conv_norm: makes a `ConvNorm`.
  """

  features: int
  stride: int
  dilation: int
  first_dilation: int
  conv_norm: functools.partial

  @nn.compact
  def __call__(self, x: Array, train: bool) -> tuple[Array, Array]:
    shortcut = x
    if self.stride != 1 or x.shape[-1] != self.features:
      shortcut = self.conv_norm(
          self.features, 1, self.stride, activation=None, name='shortcut')(x, train)
    x = self.conv_norm(self.features, 3, self.stride, self.first_dilation, name='conv1')(x, train)
    x = self.conv_norm(
        self.features, 3, 1, self.dilation, activation=None, name='conv2')(x, train)
    x += shortcut
    return nn.relu(x), x
