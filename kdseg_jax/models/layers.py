"""What the backbones and heads share: a convolution with its BatchNorm, widths, dilation."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, Literal

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import lax

from kdseg_jax.errors import UserError
from kdseg_jax.models.conv import Conv, uniform_fan_in
from kdseg_jax.models.normalization import BatchNorm

OUTPUT_STRIDES = (4, 8, 16, 32)

def scale_channels(channels: float, width: float) -> int:
  """`channels * width`, rounded to a multiple of 8: at least 8, and never 10% too few.

  The rule of MobileNet (`_make_divisible` in its official code and torchvision), for all models.
  """
  exact = channels * width
  rounded = max(8, int(exact + 4) // 8 * 8)
  return rounded + 8 if rounded < 0.9 * exact else rounded


def late_strides(output_stride: int) -> list[tuple[int, int]]:
  """`(stride, dilation)` of stages 2, 3 and 4, whose own output strides are 8, 16 and 32.

  A stage beyond the output stride keeps the resolution and dilates by what is no longer strided.

  Raises:
    ValueError: output stride other than 4, 8, 16, 32.
  """
  if output_stride not in OUTPUT_STRIDES:
    raise UserError(f'output_stride={output_stride} is unknown; expected one of {OUTPUT_STRIDES}.')
  return [(2, 1) if own <= output_stride else (1, own // output_stride) for own in (8, 16, 32)]


def classify(num_classes: int, x: jax.Array) -> jax.Array:
  """Float32 logits: a 1x1 convolution with bias, named `classifier`, of the calling module."""
  return Conv(num_classes, 1, use_bias=True, kernel_init=uniform_fan_in, name='classifier')(x)


def first_dilation(dilation: int) -> int:
  """Dilation of the first block of a stage: half, as its input comes from the stage before."""
  return max(1, dilation // 2)


def rectifier(negative_slope: float) -> Callable[[jax.Array], jax.Array]:
  """ReLU, or with a slope other than 0 the leaky ReLU `max(x, 0) + negative_slope min(x, 0)`."""
  return functools.partial(
      nn.leaky_relu, negative_slope=negative_slope) if negative_slope else nn.relu


def half_size(x: jax.Array) -> jax.Array:
  """The mean of 3x3 pixels, those beyond the border being 0, at every second one."""
  # Not flax's avg_pool, whose padding jax2onnx loses.
  return lax.reduce_window(
      x, 0.0, lax.add, (1, 3, 3, 1), (1, 2, 2, 1), ((0, 0), (1, 1), (1, 1), (0, 0))) / 9


class ConvNorm(nn.Module):
  """Convolution, BatchNorm, activation.

  Attributes:
    features: output channels.
    kernel_size: of a square kernel.
    strides: stride.
    dilation: dilation.
    groups: channel groups.
    use_bias: whether the convolution has a bias, which the BatchNorm takes away again.
    activation: function after the BatchNorm, None for none.
    padding: of `Conv`.
    epsilon: of `BatchNorm`.
    axis_name: of `BatchNorm`.
    dtype: of the computation.
  """

  features: int
  kernel_size: int = 3
  strides: int = 1
  dilation: int = 1
  groups: int = 1
  use_bias: bool = False
  activation: Callable | None = nn.relu
  padding: int | Literal['same'] | None = None
  epsilon: float = 1e-5
  axis_name: str | None = None
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, x: jax.Array, train: bool) -> jax.Array:
    x = self.convolution(use_bias=self.use_bias, name='conv')(x)
    x = BatchNorm(self.axis_name, self.dtype, self.epsilon, name='norm')(x, train)
    return x if self.activation is None else self.activation(x)

  def convolution(self, **options: Any) -> Conv:
    """The convolution alone, with options that are not this layer's own."""
    return Conv(self.features, self.kernel_size, self.strides, self.dilation, self.padding,
                groups=self.groups, dtype=self.dtype, **options)


class SeparableConvNorm(nn.Module):
  """Depthwise 3x3 and pointwise 1x1 convolution, a BatchNorm after each.

  Figure 3 of MobileNetV1 (Howard et al., 2017, arXiv:1704.04861); atrous in DeepLabV3+ (Chen et
  al., 2018, arXiv:1802.02611, section 3.1).

  Attributes:
    features: output channels.
    strides: of the depthwise convolution.
    dilation: of the depthwise convolution.
    conv: makes a `ConvNorm`.
    depthwise_activation: after the first BatchNorm, None for none.
    activation: after the second one, likewise.
  """

  features: int
  strides: int = 1
  dilation: int = 1
  conv: Any = ConvNorm
  depthwise_activation: Callable | None = nn.relu
  activation: Callable | None = nn.relu

  @nn.compact
  def __call__(self, x: jax.Array, train: bool) -> jax.Array:
    x = self.conv(
        x.shape[-1], 3, self.strides, self.dilation, groups=x.shape[-1],
        activation=self.depthwise_activation, name='depthwise')(x, train)
    return self.conv(self.features, 1, activation=self.activation, name='pointwise')(x, train)
