"""ResNet for images of 32x32 pixels (He et al., 2016, arXiv:1512.03385, section 4.2)."""

from __future__ import annotations

import functools
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from kdseg_jax.models.layers import ConvNorm, scale_channels
from kdseg_jax.models.rematerialization import rematerialized
from kdseg_jax.models.resnet import BasicBlock


class CifarResNet(nn.Module):
  """A 3x3 stem and three stages of basic blocks at strides 1, 2 and 4, without classifier.

  Shortcuts that change the shape are projected, where the paper pads with zeros (the official code
  of knowledge review).

  Attributes:
    depth: 6n + 2, of n blocks a stage.
    channels: of the stem and the stages.
    width: multiplies every channel count, see `scale_channels`.
    axis_name: of `BatchNorm`.
    dtype: of the computation.
    remat: what training keeps of each block, see `rematerialized`.
  """

  depth: int = 20
  channels: tuple[int, int, int, int] = (16, 16, 32, 64)
  width: float = 1.0
  axis_name: str | None = None
  dtype: Any = jnp.float32
  remat: str = 'none'

  @nn.compact
  def __call__(self, x: jax.Array, train: bool) -> dict[str, jax.Array]:
    """Taps `stem`, after its ReLU, `stage<i>` and `stage<i>_preactivation` of the three stages."""
    conv = functools.partial(ConvNorm, axis_name=self.axis_name, dtype=self.dtype)
    block = rematerialized(BasicBlock, self.remat)
    stem, *stages = (scale_channels(channels, self.width) for channels in self.channels)
    x = conv(stem, 3, name='stem')(x, train)
    taps = {'stem': x}
    for stage, channels in enumerate(stages, start=1):
      for i in range((self.depth - 2) // 6):
        strides = 2 if stage > 1 and i == 0 else 1
        preactivation = block(
            channels, strides, 1, 1, conv, name=f'stage{stage}_block{i}')(x, train)
        x = nn.relu(preactivation)
      taps |= {f'stage{stage}': x, f'stage{stage}_preactivation': preactivation}
    return taps
