"""ESPNet and ESPNet-C (Mehta et al., 2018, arXiv:1803.06815).

The layers and their order are those of the authors' code, which the structured-distillation code
(Liu et al., 2019) trains; BatchNorm has eps 1e-3 as there.
"""

from __future__ import annotations

import functools
import itertools
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from kdseg_jax.errors import UserError
from kdseg_jax.models.conv import Conv, ConvTranspose, uniform_fan_in
from kdseg_jax.models.layers import half_size, scale_channels
from kdseg_jax.models.normalization import BatchNorm
from kdseg_jax.models.rematerialization import rematerialized

_DILATIONS = (1, 2, 4, 8, 16)
_norm = functools.partial(BatchNorm, epsilon=1e-3)


class PReLU(nn.Module):
  """`max(x, 0) + slope * min(x, 0)`, one trained slope a channel, 0.25 at first."""

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    slope = self.param('slope', nn.initializers.constant(0.25), (x.shape[-1],))
    return jnp.where(x >= 0, x, slope.astype(x.dtype) * x)


class NormPReLU(nn.Module):
  """BatchNorm and PReLU.

  Attributes:
    axis_name: of `BatchNorm`.
    dtype: of the result.
  """

  axis_name: str | None = None
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, x: jax.Array, train: bool) -> jax.Array:
    return PReLU(name='prelu')(_norm(self.axis_name, self.dtype, name='norm')(x, train))


class SpatialPyramid(nn.Module):
  """The ESP module: reduce, split, transform, merge.

  A convolution to a fifth of the channels; five 3x3 of dilations 1 to 16 on that, the first of
  which makes up for the remainder; the sums of those of dilation 2 to 2, 4, 8 and 16
  (hierarchical feature fusion) are concatenated behind the first.

  Attributes:
    channels: of the output, at least 5.
    strides: of the first convolution, 3x3 if it strides and 1x1 otherwise.
    residual: whether the input is added.
    axis_name: of `BatchNorm`.
    dtype: of the computation.
  """

  channels: int
  strides: int = 1
  residual: bool = True
  axis_name: str | None = None
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, x: jax.Array, train: bool) -> jax.Array:
    conv = functools.partial(Conv, dtype=self.dtype)
    fifth = self.channels // len(_DILATIONS)
    widths = [self.channels - 4 * fifth] + 4 * [fifth]
    reduced = conv(fifth, 1 if self.strides == 1 else 3, self.strides, name='reduce')(x)
    first, *others = [
        conv(width, 3, dilation=dilation, name=f'dilated{dilation}')(reduced)
        for width, dilation in zip(widths, _DILATIONS)]
    y = jnp.concatenate([first, *itertools.accumulate(others)], axis=-1)
    return NormPReLU(self.axis_name, self.dtype, name='norm')(x + y if self.residual else y, train)


class ESPNetEncoder(nn.Module):
  """The encoder of both: three stages, of strides 2, 4 and 8.

  Attributes:
    width: multiplies the channel counts 16, 64 and 128, see `scale_channels`.
    blocks: p and q, the residual ESP modules of stages 2 and 3.
    axis_name: of `BatchNorm`.
    dtype: of the computation.
    remat: what training keeps of each ESP module, see `rematerialized`.
  """

  width: float = 1.0
  blocks: tuple[int, int] = (2, 8)
  axis_name: str | None = None
  dtype: Any = jnp.float32
  remat: str = 'none'

  @nn.compact
  def __call__(self, x: jax.Array, train: bool) -> dict[str, jax.Array]:
    """Taps `stage1` to `stage3` and `stage<i>_preactivation`, before the last PReLU.

    A stage ends where its maps are concatenated: the first convolution and the image at half
    size; first and last map of the ESP modules and, in stage 2, the image at a quarter. In the
    structured-distillation code, the features that are distilled are `stage3`.
    """
    common = {'axis_name': self.axis_name, 'dtype': self.dtype}
    block = functools.partial(rematerialized(SpatialPyramid, self.remat), **common)
    stem_channels, *channels = (scale_channels(c, self.width) for c in (16, 64, 128))
    half = half_size(x)
    x = Conv(stem_channels, 3, 2, dtype=self.dtype, name='stem')(x)
    x = NormPReLU(**common, name='stem_norm')(x, train)
    taps = self._end_of_stage(1, [x, half], train)
    for stage, images in ((2, [half_size(half)]), (3, [])):
      features = channels[stage - 2]
      first = x = block(features, 2, residual=False, name=f'stage{stage}_down')(
          taps[f'stage{stage - 1}'], train)
      for i in range(self.blocks[stage - 2]):
        x = block(features, name=f'stage{stage}_block{i}')(x, train)
      # The order in which the authors' code concatenates is another in each stage.
      maps = [x, first, *images] if stage == 2 else [first, x]
      taps |= self._end_of_stage(stage, maps, train)
    return taps

  def _end_of_stage(self, stage, maps, train):
    x = jnp.concatenate([m.astype(self.dtype) for m in maps], axis=-1)
    x = _norm(self.axis_name, self.dtype, name=f'stage{stage}_norm')(x, train)
    return {f'stage{stage}': PReLU(name=f'stage{stage}_prelu')(x),
            f'stage{stage}_preactivation': x}


class ESPNetCHead(nn.Module):
  """The classifier of ESPNet-C: a 1x1 convolution without bias.

  Attributes:
    num_classes: number of classes.
  """

  num_classes: int

  @nn.compact
  def __call__(
      self, taps: dict[str, jax.Array], index: jax.Array, train: bool
  ) -> tuple[jax.Array, jax.Array]:
    """`(logits, embedding)` at stride 8; embedding is `stage3`."""
    x = taps['stage3']
    return Conv(self.num_classes, 1, kernel_init=uniform_fan_in, name='classifier')(x), x


class ESPNetHead(nn.Module):
  """The decoder of ESPNet: from stage 3 upwards, with as many channels as classes.

  Where the stages are of odd size, upsampled maps are cropped to them at the right and bottom.

  Attributes:
    num_classes: number of classes, at least 5.
    axis_name: of `BatchNorm`.
    dtype: of the computation; the classifier computes in float32.
  """

  num_classes: int
  axis_name: str | None = None
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(
      self, taps: dict[str, jax.Array], index: jax.Array, train: bool
  ) -> tuple[jax.Array, jax.Array]:
    """`(logits, embedding)`: logits at twice the size of `stage1`, which embedding has.

    Raises:
      ValueError: fewer than 5 classes.
    """
    if self.num_classes < len(_DILATIONS):
      raise UserError(
          f'num_classes={self.num_classes} is too few for ESPNet, whose decoder splits as many '
          f'channels into {len(_DILATIONS)} branches; use espnet_c.')
    common = {'axis_name': self.axis_name, 'dtype': self.dtype}
    conv = functools.partial(Conv, self.num_classes, dtype=self.dtype)
    up = functools.partial(ConvTranspose, self.num_classes, dtype=self.dtype)
    stage1, stage2 = taps['stage1'], taps['stage2']
    x = conv(1, name='stage3_scores')(taps['stage3'])
    x = _norm(**common, name='stage3_norm')(x, train)
    x = _crop(up(name='stage3_up')(x), stage2)
    x = jnp.concatenate([conv(1, name='stage2_scores')(stage2), x], axis=-1)
    x = NormPReLU(**common, name='stage2_norm')(x, train)
    x = SpatialPyramid(self.num_classes, residual=False, **common, name='stage2_pyramid')(x, train)
    x = _crop(up(name='stage2_up')(x), stage1)
    x = NormPReLU(**common, name='stage1_norm')(x, train)
    x = conv(3, name='conv')(jnp.concatenate([x, stage1], axis=-1))
    x = NormPReLU(**common, name='conv_norm')(x, train)
    return ConvTranspose(self.num_classes, name='classifier')(x), x


def _crop(x, like):
  return x[:, :like.shape[1], :like.shape[2]]
