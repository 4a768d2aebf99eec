"""The feature pyramid of dense detectors (Lin et al., 2017, arXiv:1612.03144), P3 to P7."""

from __future__ import annotations

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from kdseg_jax import names
from kdseg_jax.models.conv import Conv

LEVELS = ('p3', 'p4', 'p5', 'p6', 'p7')
STRIDES = (8, 16, 32, 64, 128)  # of the levels
EXTRA_CONVS = ('on_input', 'on_output')
_STAGES = ('stage2', 'stage3', 'stage4')  # at the strides of P3 to P5

# Uniform in +-sqrt(6 / (fan_in + fan_out)).
_xavier_uniform = nn.initializers.variance_scaling(1.0, 'fan_avg', 'uniform')


class FeaturePyramid(nn.Module):
  """Maps P3 to P7 of equal channels from the stages at strides 8, 16 and 32 (section 3).

  A 1x1 convolution of each stage, from the last on added to the one before it at twice the size
  (nearest), and a 3x3 of each sum: P3, P4, P5. P6 and P7 are 3x3 convolutions of stride 2 (Lin et
  al., 2017, arXiv:1708.02002, section 4), P7 of P6. All have a bias; no norm, no activation.

  Attributes:
    channels: of every level.
    extra_convs: what P6 is made of: 'on_input', the last stage, as the paper of RetinaNet has it;
      'on_output', P5.
    extra_relu: whether P7 is made of relu(P6), as in that paper and mmdetection's FCOS; its
      RetinaNet, ATSS and GFL have none.
    dtype: of the computation.
  """

  channels: int
  extra_convs: str = 'on_output'
  extra_relu: bool = False
  dtype: Any = jnp.float32

  def check(self) -> None:
    """Raises UserError, naming the nearest, if `extra_convs` is unknown."""
    names.require(self.extra_convs, EXTRA_CONVS, 'extra_convs')

  @nn.compact
  def __call__(self, taps: dict[str, jax.Array]) -> dict[str, jax.Array]:
    """`p3` to `p7`, `(N, ceil(H / stride), ceil(W / stride), channels)`, of the backbone's taps."""
    top, found = None, {}
    for level, stage in reversed(list(zip(LEVELS, _STAGES))):
      lateral = self._conv(1, f'{level}_lateral')(taps[stage])
      top = lateral if top is None else lateral + upsample_nearest(top, lateral.shape[1:3])
      found[level] = self._conv(3, level)(top)
    x = taps[_STAGES[-1]] if self.extra_convs == 'on_input' else found['p5']
    found['p6'] = self._conv(3, 'p6', 2)(x)
    x = nn.relu(found['p6']) if self.extra_relu else found['p6']
    found['p7'] = self._conv(3, 'p7', 2)(x)
    return {level: found[level] for level in LEVELS}

  def _conv(self, kernel_size, name, strides=1):
    return Conv(self.channels, kernel_size, strides, use_bias=True, kernel_init=_xavier_uniform,
                dtype=self.dtype, name=name)


def upsample_nearest(x: jax.Array, size: tuple[int, int]) -> jax.Array:
  """Twice the size by the nearest pixel, cut to `size`: equal to resizing to it by the nearest.

  Args:
    x: `(N, h, w, C)`.
    size: `(H, W)`, each twice that of x or one less, as maps are that were halved to x.

  Returns:
    `(N, H, W, C)`.
  """
  batch, rows, columns, channels = x.shape
  x = jnp.broadcast_to(x[:, :, None, :, None], (batch, rows, 2, columns, 2, channels))
  return x.reshape(batch, 2 * rows, 2 * columns, channels)[:, :size[0], :size[1]]
