"""ResNet (He et al., 2016, arXiv:1512.03385) with dilated last stages."""

from __future__ import annotations

import functools
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from kdseg_jax.models.layers import ConvNorm, first_dilation, late_strides, scale_channels
from kdseg_jax.models.rematerialization import rematerialized

_CHANNELS = (64, 128, 256, 512)


class BasicBlock(nn.Module):
  """3x3, 3x3 and the shortcut (section 3.3); returns their sum before the last ReLU.

  Attributes:
    channels: of both convolutions and the output.
    strides: of the first convolution.
    dilation: of the stage, and so of the second convolution.
    first_dilation: of the first convolution.
    conv: makes a `ConvNorm`.
    pooled_shortcut: a shortcut that strides averages 2x2 pixels first; one in a dilated stage
      averages too, at stride 1.
  """

  channels: int
  strides: int
  dilation: int
  first_dilation: int
  conv: Any
  pooled_shortcut: bool = False
  expansion = 1

  @nn.compact
  def __call__(self, x: jax.Array, train: bool) -> jax.Array:
    y = self.conv(self.channels, 3, self.strides, self.first_dilation, name='conv1')(x, train)
    y = self.conv(self.channels, 3, 1, self.dilation, activation=None, name='conv2')(y, train)
    return y + _shortcut(self, x, train)


class Bottleneck(nn.Module):
  """1x1, 3x3, 1x1 to four times the channels (section 4.1), before the last ReLU.

  Attributes: those of `BasicBlock`; stride and first dilation are the 3x3 convolution's, as in
  torchvision (ResNet v1.5). With `stride_first` the first 1x1 strides, as in the paper and Caffe.
  """

  channels: int
  strides: int
  dilation: int
  first_dilation: int
  conv: Any
  pooled_shortcut: bool = False
  stride_first: bool = False
  expansion = 4

  @nn.compact
  def __call__(self, x: jax.Array, train: bool) -> jax.Array:
    first, second = (self.strides, 1) if self.stride_first else (1, self.strides)
    y = self.conv(self.channels, 1, first, name='conv1')(x, train)
    y = self.conv(self.channels, 3, second, self.first_dilation, name='conv2')(y, train)
    y = self.conv(4 * self.channels, 1, activation=None, name='conv3')(y, train)
    return y + _shortcut(self, x, train)


def _shortcut(block, x, train):
  """The block's input, projected by a 1x1 convolution if its shape changes."""
  features = block.expansion * block.channels
  if block.strides == 1 and x.shape[-1] == features:
    return x
  strides = block.strides
  if block.pooled_shortcut and (strides > 1 or block.dilation > 1):
    x, strides = _average(x, strides), 1
  return block.conv(features, 1, strides, activation=None, name='shortcut')(x, train)


def _average(x, strides):
  """Of 2x2 pixels, as timm's: what is padded at the bottom and right counts at stride 1 alone."""
  return nn.avg_pool(x, (2, 2), (strides, strides), 'SAME', count_include_pad=strides == 1)


_DEPTHS = {
    18: (BasicBlock, (2, 2, 2, 2)),
    34: (BasicBlock, (3, 4, 6, 3)),
    50: (Bottleneck, (3, 4, 6, 3)),
    101: (Bottleneck, (3, 4, 23, 3)),
}


class ResNet(nn.Module):
  """ResNet without classifier; every block's sum and ReLU as in torchvision.

  Stages beyond the output stride are dilated, the first convolution of their first block by half
  (DeepLab; Chen et al., 2017, arXiv:1706.05587, section 3.1, and the official code of CIRKD).
  Deep stem and pooled shortcuts together are ResNet-D (He et al., 2019, arXiv:1812.01187, section
  4).

  Attributes:
    depth: 18, 34, 50 or 101.
    width: multiplies every channel count, see `scale_channels`.
    output_stride: 4, 8, 16 or 32.
    deep_stem: three 3x3 convolutions instead of one 7x7 of 64 channels.
    stem_channels: of those three.
    ceil_mode: the stem's pooling keeps a partial last window (PyTorch's `ceil_mode=True`): one row
      and column more where the map it pools is of even size, so that at stride 8 an image of 512
      pixels has 65. SKD's official code.
    dilate_first: the first convolution of a dilated stage is dilated in full, not by half. SKD's
      official code.
    pooled_shortcuts: shortcuts that stride are averages of 2x2 pixels and a 1x1 convolution, not
      one of every second pixel.
    stride_first: bottlenecks stride in their first 1x1 convolution, not in the 3x3, as weights that
      go back to Caffe's expect. Depths without bottlenecks stay as they are.
    axis_name: of `BatchNorm`.
    dtype: of the computation.
    remat: what training keeps of each block, see `rematerialized`.
  """

  depth: int = 18
  width: float = 1.0
  output_stride: int = 8
  deep_stem: bool = False
  stem_channels: tuple[int, int, int] = (64, 64, 128)
  ceil_mode: bool = False
  dilate_first: bool = False
  pooled_shortcuts: bool = False
  stride_first: bool = False
  axis_name: str | None = None
  dtype: Any = jnp.float32
  remat: str = 'none'

  @nn.compact
  def __call__(self, x: jax.Array, train: bool) -> dict[str, jax.Array]:
    """Taps of the four stages, `stage<i>` and `stage<i>_preactivation` (before its last ReLU)."""
    conv = functools.partial(ConvNorm, axis_name=self.axis_name, dtype=self.dtype)
    scale = functools.partial(scale_channels, width=self.width)
    block, counts = _DEPTHS[self.depth]
    options = {'stride_first': True} if self.stride_first and block is Bottleneck else {}
    block = functools.partial(rematerialized(block, self.remat), conv=conv,
                              pooled_shortcut=self.pooled_shortcuts, **options)
    x = self._stem(x, train, conv, scale)
    taps = {}
    stages = zip(_CHANNELS, counts, [(1, 1), *late_strides(self.output_stride)])
    for stage, (channels, count, (strides, dilation)) in enumerate(stages, start=1):
      for i in range(count):
        first = i == 0
        preactivation = block(
            scale(channels), strides if first else 1, dilation,
            first_dilation(dilation) if first and not self.dilate_first else dilation,
            name=f'stage{stage}_block{i}')(x, train)
        x = nn.relu(preactivation)
      taps |= {f'stage{stage}': x, f'stage{stage}_preactivation': preactivation}
    return taps

  def _stem(self, x, train, conv, scale):
    if self.deep_stem:
      for i, channels in enumerate(self.stem_channels, start=1):
        x = conv(scale(channels), 3, 2 if i == 1 else 1, name=f'stem{i}')(x, train)
    else:
      x = conv(scale(64), 7, 2, name='stem')(x, train)
    return _pool(x, self.ceil_mode)


def _pool(x, ceil_mode):
  """3x3, stride 2; what is padded never counts."""
  # Padded apart and by keyword: jax2onnx loses the padding that flax's max_pool is given.
  margins = [(0, 0), *[(1, 1 + ceil_mode)] * 2, (0, 0)]
  x = jnp.pad(x, margins, constant_values=-jnp.inf)
  return nn.max_pool(x, window_shape=(3, 3), strides=(2, 2))
