"""Modified aligned Xception (Chen et al., 2018, arXiv:1802.02611, figure 4) with dilated stages."""

from __future__ import annotations

import functools
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from kdseg_jax.errors import UserError
from kdseg_jax.models.layers import (
    ConvNorm,
    SeparableConvNorm,
    first_dilation,
    late_strides,
    scale_channels,
)
from kdseg_jax.models.rematerialization import rematerialized

# Modules of the middle flow, by depth: what the third stage has after its first one.
MIDDLE_MODULES = {41: 8, 65: 16}
# By stage, the channels of each module's three convolutions, without the middle flow.
_STAGES = (
    ((128, 128, 128),),
    ((256, 256, 256),),
    ((728, 728, 728),),
    ((728, 1024, 1024), (1536, 1536, 2048)),
)


class XceptionModule(nn.Module):
  """Three separable convolutions, the last of which strides, and the shortcut; before a ReLU.

  ReLUs come before each separable convolution and none within; the shortcut, a 1x1 convolution if
  the shape changes, takes the input as it is. The last module of the network has no shortcut and
  its ReLUs after each convolution instead, depthwise and pointwise.

  Attributes:
    channels: of the three convolutions.
    strides: of the third.
    dilation: of all three.
    conv: makes a `ConvNorm`.
    last: whether it is the last one of the network.
  """

  channels: tuple[int, int, int]
  strides: int
  dilation: int
  conv: Any
  last: bool = False

  @nn.compact
  def __call__(self, x: jax.Array, train: bool) -> tuple[jax.Array, jax.Array]:
    """`(output, input of the third convolution)`, both before their ReLU."""
    y = before = x
    for i, channels in enumerate(self.channels, start=1):
      before = y
      y = SeparableConvNorm(
          channels, self.strides if i == 3 else 1, self.dilation, self.conv,
          depthwise_activation=nn.relu if self.last else None, activation=None,
          name=f'conv{i}')(y if self.last and i == 1 else nn.relu(y), train)
    return y if self.last else y + self._shortcut(x, train), before

  def _shortcut(self, x, train):
    if self.strides == 1 and x.shape[-1] == self.channels[-1]:
      return x
    return self.conv(
        self.channels[-1], 1, self.strides, activation=None, name='shortcut')(x, train)


class Xception(nn.Module):
  """Xception-41 or -65 without classifier, as in DeepLab's official code and timm.

  Stages beyond the output stride are dilated, their first module by half. The epsilon of BatchNorm
  is 1e-3.

  Attributes:
    depth: 41 or 65.
    width: multiplies every channel count, see `scale_channels`.
    output_stride: 4, 8, 16 or 32.
    axis_name: of `BatchNorm`.
    dtype: of the computation.
    remat: what training keeps of each module, see `rematerialized`.
  """

  depth: int = 41
  width: float = 1.0
  output_stride: int = 8
  axis_name: str | None = None
  dtype: Any = jnp.float32
  remat: str = 'none'

  @nn.compact
  def __call__(self, x: jax.Array, train: bool) -> dict[str, jax.Array]:
    """Taps of the four stages, `stage<i>` and `stage<i>_preactivation`, and `low_level`.

    Modules end before a ReLU, which is that of the stage's tap. `low_level`, at stride 4, is what
    DeepLabV3+ decodes with (its official code): the second convolution of stage 2, before its ReLU.

    Raises:
      ValueError: depth other than 41 or 65.
    """
    if self.depth not in MIDDLE_MODULES:
      raise UserError(f'depth={self.depth} of Xception is unknown; expected one of '
                      f'{tuple(MIDDLE_MODULES)}.')
    conv = functools.partial(
        ConvNorm, epsilon=1e-3, axis_name=self.axis_name, dtype=self.dtype)
    scale = functools.partial(scale_channels, width=self.width)
    module = rematerialized(XceptionModule, self.remat)
    x = conv(scale(32), 3, 2, name='stem1')(x, train)
    x = conv(scale(64), 3, name='stem2')(x, train)
    taps = {}
    steps = [(2, 1), *late_strides(self.output_stride)]
    for stage, (modules, (strides, dilation)) in enumerate(zip(_STAGES, steps), start=1):
      modules += modules[-1:] * MIDDLE_MODULES[self.depth] if stage == 3 else ()
      for i, channels in enumerate(modules):
        x, before = module(
            tuple(map(scale, channels)), strides if i == 0 else 1,
            dilation if i else first_dilation(dilation), conv,
            last=stage == 4 and i == 1, name=f'stage{stage}_block{i}')(x, train)
        if (stage, i) == (2, 0):
          taps['low_level'] = before
      taps |= {f'stage{stage}': nn.relu(x), f'stage{stage}_preactivation': x}
    return taps
