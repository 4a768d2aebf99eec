"""What the models are made of: normalised convolutions and scaled widths."""

from __future__ import annotations

from collections.abc import Callable

import flax.linen as nn
import jax
import jax.numpy as jnp

from kdseg_jax.models.conv import Conv

Array = jax.Array


def scaled(channels: int, width: float) -> int:
  """`channels * width`, rounded to the nearest multiple of 8, at least 8."""
  return max(8, int(channels * width / 8 + 0.5) * 8)


def relu6(x: Array) -> Array:
  """`min(max(x, 0), 6)`."""
  return jnp.clip(x, 0, 6)


class BatchNorm(nn.Module):
  """Batch normalisation: eps 1e-5, momentum 0.9, statistics over the mesh axis, in float32.

  Flax keeps the biased running variance, PyTorch the unbiased one; in training both normalise by
  the biased one.

  Attributes:
    axis_name: mesh axis over which the statistics of a training batch are taken; None is none.
    dtype: of the result.
  """

  axis_name: str | None = None
  dtype: jnp.dtype = jnp.float32

  @nn.compact
  def __call__(self, x: Array, train: bool) -> Array:
    return nn.BatchNorm(
        use_running_average=not train, momentum=0.9, epsilon=1e-5, axis_name=self.axis_name,
        dtype=self.dtype, name='norm')(x)


class ConvNorm(nn.Module):
  """Convolution without bias, batch normalisation, activation.

  Attributes:
    features, kernel_size, stride, dilation, groups: of the convolution.
    activation: None is none.
    axis_name: of the normalisation.
    dtype: of the computation.
  """

  features: int
  kernel_size: int = 1
  stride: int = 1
  dilation: int = 1
  groups: int = 1
  activation: Callable[[Array], Array] | None = nn.relu
  axis_name: str | None = None
  dtype: jnp.dtype = jnp.float32

  @nn.compact
  def __call__(self, x: Array, train: bool) -> Array:
    x = Conv(self.features, self.kernel_size, self.stride, self.dilation, self.groups,
             dtype=self.dtype, name='conv')(x)
    x = BatchNorm(self.axis_name, self.dtype, name='bn')(x, train)
    return x if self.activation is None else self.activation(x)


def stage_dilations(output_stride: int) -> tuple[tuple[int, int], tuple[int, int]]:
  """(stride, dilation) of the two last stages, of strides 16 and 32 without dilation.

  Raises:
    ValueError: the output stride is not 8, 16 or 32.
  """
  known = {8: ((1, 2), (1, 4)), 16: ((2, 1), (1, 2)), 32: ((2, 1), (2, 1))}
  if output_stride not in known:
    raise ValueError(f'output_stride={output_stride}; expected 8, 16 or 32.')
  return known[output_stride]
