"""EfficientNet-Lite: EfficientNet (Tan & Le, 2019, arXiv:1905.11946) as made for small devices.

Of EfficientNet it leaves out squeeze-and-excitation, swish (ReLU6 instead) and the scaling of the
stem; numbers are those of the official code, tensorflow/tpu `models/official/efficientnet/lite`.
"""

from __future__ import annotations

import functools
import math
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from kdseg_jax.errors import UserError
from kdseg_jax.models.layers import ConvNorm, late_strides, scale_channels
from kdseg_jax.models.mobilenet import InvertedResidual, inverted_residual_stages
from kdseg_jax.models.rematerialization import rematerialized


class Group(NamedTuple):
  """Equal blocks in a row: channels of their outputs, size of the depthwise kernel, their count."""

  channels: int
  kernel_size: int
  repeats: int


# Table 1 of EfficientNet from its third row on, by stage; what its second row has is the stem's
# block, of 16 channels.
_STAGES = (
    (Group(24, 3, 2),),
    (Group(40, 5, 2),),
    (Group(80, 3, 3), Group(112, 5, 3)),
    (Group(192, 5, 4), Group(320, 3, 1)),
)


class _Variant(NamedTuple):
  """Attributes: `width`, `depth`: multipliers; `image_size`: that it was trained at, in pixels."""

  width: float
  depth: float
  image_size: int


_VARIANTS = (
    _Variant(1.0, 1.0, 224),
    _Variant(1.0, 1.1, 240),
    _Variant(1.1, 1.2, 260),
    _Variant(1.2, 1.4, 300),
    _Variant(1.4, 1.8, 380),
)


def groups(variant: int) -> tuple[tuple[Group, ...], ...]:
  """The blocks of each stage before any scaling of channels, at the depth of a variant.

  Repeats are scaled and rounded up, but for those of the last group.

  Raises:
    ValueError: variant other than 0 to 4.
  """
  depth = _find(variant).depth
  last = _STAGES[-1][-1]
  return tuple(
      tuple(group if group is last else group._replace(repeats=math.ceil(depth * group.repeats))
            for group in stage)
      for stage in _STAGES)


class EfficientNetLite(nn.Module):
  """EfficientNet-Lite0 to 4 up to the last block: without the last 1x1 convolution and classifier.

  Stages beyond the output stride are dilated, their first block by half. TensorFlow pads a strided
  convolution by the size of its map. What the released weights were trained with is kept at all
  sizes of the image: 'same' of `Conv` where an image of 224, 240, 260, 300, 380 pixels, by variant,
  makes the map even, else alike on both sides. The epsilon of BatchNorm is 1e-3. Training drops no
  blocks.

  Attributes:
    variant: 0 to 4.
    width: multiplies every channel count beyond what the variant does, see `scale_channels`.
    output_stride: 4, 8, 16 or 32.
    axis_name: of `BatchNorm`.
    dtype: of the computation.
    remat: what training keeps of each block, see `rematerialized`.
  """

  variant: int = 0
  width: float = 1.0
  output_stride: int = 8
  axis_name: str | None = None
  dtype: Any = jnp.float32
  remat: str = 'none'

  @nn.compact
  def __call__(self, x: jax.Array, train: bool) -> dict[str, jax.Array]:
    """Taps of the four stages, `stage<i>` and `stage<i>_preactivation`.

    Both are the output of the stage's last block, a linear bottleneck that no ReLU follows.
    """
    variant = _find(self.variant)
    scale = functools.partial(scale_channels, width=variant.width * self.width)
    convs = [
        functools.partial(
            ConvNorm, activation=nn.relu6, padding=padding, epsilon=1e-3,
            axis_name=self.axis_name, dtype=self.dtype)
        for padding in _paddings(variant.image_size)]
    block = rematerialized(InvertedResidual, self.remat)
    x = convs[0](scale_channels(32, self.width), 3, 2, name='stem')(x, train)
    x = block(scale(16), 1, 1, 1, convs[0], name='stem_block')(x, train)
    stages = [
        [functools.partial(block, scale(group.channels), 6, conv=conv,
                           kernel_size=group.kernel_size)
         for group in stage for _ in range(group.repeats)]
        for stage, conv in zip(groups(self.variant), convs[1:])]
    return inverted_residual_stages(x, train, stages, [(2, 1), *late_strides(self.output_stride)])


def _paddings(image_size):
  """Of the stem and the four stages, whose maps an image of this size makes even or odd."""
  sizes = [math.ceil(image_size / stride) for stride in (1, 2, 4, 8, 16)]
  return ['same' if size % 2 == 0 else None for size in sizes]


def _find(variant):
  if variant not in range(len(_VARIANTS)):
    raise UserError(f'variant={variant} of EfficientNet-Lite is unknown; expected 0 to 4.')
  return _VARIANTS[variant]
