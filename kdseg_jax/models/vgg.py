"""VGG (Simonyan & Zisserman, 2015, arXiv:1409.1556) with BatchNorm, for 32x32 pixels."""

from __future__ import annotations

import functools
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from kdseg_jax.models.layers import ConvNorm, scale_channels
from kdseg_jax.models.rematerialization import rematerialized

_CHANNELS = (64, 128, 256, 512, 512)


class VGG(nn.Module):
  """Five stages of 3x3 convolutions with bias at strides 1, 2, 4, 8 and 8, without classifier.

  Between stages is a maximum over 2x2 pixels, but before the last only for images of 64 rows, the
  size of Tiny ImageNet (the official code of decoupled distillation, mdistiller).

  Attributes:
    convolutions: of each stage: 1 in VGG-8, 2 in VGG-13.
    width: multiplies every channel count, see `scale_channels`.
    axis_name: of `BatchNorm`.
    dtype: of the computation.
    remat: what training keeps of each convolution, see `rematerialized`.
  """

  convolutions: int = 1
  width: float = 1.0
  axis_name: str | None = None
  dtype: Any = jnp.float32
  remat: str = 'none'

  @nn.compact
  def __call__(self, x: jax.Array, train: bool) -> dict[str, jax.Array]:
    """Taps `stem`, the first stage, and `stage<i>`, `stage<i>_preactivation` of the other four."""
    conv = functools.partial(
        rematerialized(ConvNorm, self.remat), kernel_size=3, use_bias=True, activation=None,
        axis_name=self.axis_name, dtype=self.dtype)
    pooled = (1, 2, 3, 4) if x.shape[1] == 64 else (1, 2, 3)
    taps = {}
    for stage, channels in enumerate(_CHANNELS):
      if stage in pooled:
        x = nn.max_pool(x, window_shape=(2, 2), strides=(2, 2))
      for i in range(self.convolutions):
        preactivation = conv(
            scale_channels(channels, self.width), name=f'stage{stage}_conv{i}')(x, train)
        x = nn.relu(preactivation)
      if stage:
        taps |= {f'stage{stage}': x, f'stage{stage}_preactivation': preactivation}
      else:
        taps['stem'] = x
    return taps
