"""The one convolution of all models, with lowerings that suit the CPU backend.

On TPU and GPU it is `lax.conv_general_dilated`. XLA's own lowering for the CPU is slow in a few
cases; `choose_lowering` alone decides, from static shapes and the backend, what is used there.
"""

from __future__ import annotations

import itertools

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import lax

Array = jax.Array
Pair = tuple[int, int]

he_normal = nn.initializers.variance_scaling(2.0, 'fan_out', 'normal')  # before BN and ReLU
default_uniform = nn.initializers.variance_scaling(1 / 3, 'fan_in', 'uniform')  # classifiers


class Conv(nn.Module):
  """Convolution with symmetric zero padding that keeps the size at stride 1.

  Attributes:
    features: output channels.
    kernel_size: side of the kernel.
    stride: step in both directions.
    dilation: distance between taps.
    groups: the input and output channels are split into so many independent parts.
    use_bias: adds a bias.
    kernel_init: initialiser of the kernel.
    dtype: of the computation; parameters are float32.
  """

  features: int
  kernel_size: int = 1
  stride: int = 1
  dilation: int = 1
  groups: int = 1
  use_bias: bool = False
  kernel_init: nn.initializers.Initializer = he_normal
  dtype: jnp.dtype = jnp.float32

  @nn.compact
  def __call__(self, x: Array) -> Array:
    shape = (self.kernel_size, self.kernel_size, x.shape[-1] // self.groups, self.features)
    kernel = self.param('kernel', self.kernel_init, shape, jnp.float32)
    padding = self.dilation * (self.kernel_size - 1) // 2
    x = conv2d(
        x.astype(self.dtype), kernel.astype(self.dtype), strides=(self.stride, self.stride),
        dilation=(self.dilation, self.dilation), padding=(padding, padding), groups=self.groups)
    if self.use_bias:
      x += self.param('bias', nn.initializers.zeros, (self.features,), jnp.float32).astype(x.dtype)
    return x


def conv2d(
    x: Array, kernel: Array, *, strides: Pair = (1, 1), dilation: Pair = (1, 1),
    padding: Pair = (0, 0), groups: int = 1,
) -> Array:
  """2-D convolution (cross-correlation), channels last.

  Args:
    x: `(N, H, W, I)`.
    kernel: `(kh, kw, I / groups, O)`.
    strides: steps down and to the right.
    dilation: distances between taps.
    padding: zeros on either side, of rows and of columns.
    groups: independent parts of the channels.

  Returns:
    `(N, H', W', O)` with `H' = (H + 2 p - d (kh - 1) - 1) // s + 1`.
  """
  lowering = choose_lowering(
      x.shape, kernel.shape, strides, dilation, padding, groups, jax.default_backend())
  return lowering(x, kernel, strides, dilation, padding, groups)


def choose_lowering(
    x_shape: tuple[int, ...], kernel_shape: tuple[int, ...], strides: Pair, dilation: Pair,
    padding: Pair, groups: int, backend: str,
):
  """The function that computes a convolution, from static shapes and the backend alone."""
  if backend != 'cpu':
    return general
  if kernel_shape[:2] == (1, 1) and padding == (0, 0) and groups == 1:
    return matrix_product
  if groups == x_shape[-1] == kernel_shape[3]:
    return shifted_sum
  if groups == 1 and strides == (1, 1) and _overlap_share(
      x_shape, kernel_shape, dilation, padding) <= _MAX_OVERLAP:
    return valid_overlaps
  return general


# Largest share of the taps inside the map up to which `valid_overlaps` was the faster one;
# experiments/benchmarks/convolutions.py measures it.
_MAX_OVERLAP = 0.5


def general(x, kernel, strides, dilation, padding, groups):
  """XLA's own convolution: the reference of all others."""
  return lax.conv_general_dilated(
      x, kernel, strides, [(p, p) for p in padding], rhs_dilation=dilation,
      dimension_numbers=('NHWC', 'HWIO', 'NHWC'), feature_group_count=groups)


def matrix_product(x, kernel, strides, dilation, padding, groups):
  """1x1 kernel without padding: a product over the channels."""
  x = x[:, ::strides[0], ::strides[1]]
  return jnp.einsum('nhwi,io->nhwo', x, kernel[0, 0])


def shifted_sum(x, kernel, strides, dilation, padding, groups):
  """Depthwise kernel: one multiply-add of a shifted map a tap."""
  size = _output_size(x.shape, kernel.shape, strides, dilation, padding)
  x = jnp.pad(x, [(0, 0), *((p, p) for p in padding), (0, 0)])
  total = 0
  for i, j in itertools.product(*map(range, kernel.shape[:2])):
    corner = (i * dilation[0], j * dilation[1])
    window = [slice(c, c + s * (n - 1) + 1, s)
              for c, s, n in zip(corner, strides, size, strict=True)]
    total += x[:, window[0], window[1]] * kernel[i, j, 0]
  return total


def valid_overlaps(x, kernel, strides, dilation, padding, groups):
  """Stride 1, dilation near the size of the map: each tap is a product over what it meets of it."""
  size = _output_size(x.shape, kernel.shape, strides, dilation, padding)
  total = jnp.zeros((x.shape[0], *size, kernel.shape[3]), x.dtype)
  for i, j in itertools.product(*map(range, kernel.shape[:2])):
    spans = [_span(tap * d - p, n, m) for tap, d, p, n, m in zip(
        (i, j), dilation, padding, x.shape[1:3], size, strict=True)]
    if any(stop <= start for _, start, stop in spans):
      continue
    (dy, top, bottom), (dx, left, right) = spans
    part = jnp.einsum('nhwi,io->nhwo', x[:, top + dy:bottom + dy, left + dx:right + dx],
                      kernel[i, j])
    total = total.at[:, top:bottom, left:right].add(part)
  return total


def _span(offset, length, output_length):
  """Offset, and the output positions whose input position lies in the map."""
  return offset, max(0, -offset), min(output_length, length - offset)


def _output_size(x_shape, kernel_shape, strides, dilation, padding):
  return tuple(
      (n + 2 * p - d * (k - 1) - 1) // s + 1
      for n, k, s, d, p in zip(x_shape[1:3], kernel_shape, strides, dilation, padding))


def _overlap_share(x_shape, kernel_shape, dilation, padding):
  """Share of the multiply-adds of a stride-1 convolution whose input is not padding."""
  size = _output_size(x_shape, kernel_shape, (1, 1), dilation, padding)
  share = 1.0
  for n, k, d, p, m in zip(x_shape[1:3], kernel_shape, dilation, padding, size):
    inside = 0
    for tap in range(k):
      _, start, stop = _span(tap * d - p, n, m)
      inside += max(0, stop - start)
    share *= inside / (k * m)
  return share
