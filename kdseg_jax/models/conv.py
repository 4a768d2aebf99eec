"""The one convolution of the package; how it is written out on each platform: `lowerings`."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, Literal

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import lax

from kdseg_jax import target_platform
from kdseg_jax.models import strided
from kdseg_jax.models.lowerings import Geometry, choose_lowering, output_size

Array = jax.Array
IntOrPair = int | tuple[int, int]

# Standard deviation sqrt(2 / fan_out), as torchvision initialises its ResNets.
he_normal_fan_out = nn.initializers.variance_scaling(2.0, 'fan_out', 'normal')

# Uniform in +-1 / sqrt(fan_in), PyTorch's default: the logits of an untrained model are small.
uniform_fan_in = nn.initializers.variance_scaling(1 / 3, 'fan_in', 'uniform')


def conv2d(
    x: Array,
    kernel: Array,
    *,
    strides: IntOrPair = 1,
    dilation: IntOrPair = 1,
    padding: IntOrPair = 0,
    groups: int = 1,
) -> Array:
  """Two-dimensional convolution (cross-correlation), zero-padded alike on both sides.

  `y[n, i, j, o] = sum_{a, b, c} x[n, i s + a d - p, j s + b d - p, c] kernel[a, b, c, o]`, as
  `torch.nn.functional.conv2d`, channels last. The value does not depend on the lowering, but for
  rounding.

  Args:
    x: `(N, H, W, C)`; N, H and W may be symbolic (`jax.export.symbolic_shape`).
    kernel: `(kh, kw, C / groups, O)`, of the dtype of x.
    strides: s, an integer or (rows, columns).
    dilation: d, likewise.
    padding: p, pixels on each side, likewise.
    groups: number of channel groups.

  Returns:
    `(N, (H + 2p - d(kh - 1) - 1) // s + 1, ..., O)` in the dtype of x.

  Raises:
    ValueError: shapes that do not fit each other, or an image smaller than the kernel.
  """
  geometry = Geometry(_pair(strides), _pair(dilation), _pair(padding), groups)
  _check(x.shape, kernel.shape, geometry)
  lowering = choose_lowering(x.shape, kernel.shape, geometry, target_platform.current(), x.dtype)
  return _convolve(lowering, x, kernel, geometry)


# What has the same shapes is traced once, which is most of a detector's head.
@functools.partial(jax.jit, static_argnames=('lowering', 'geometry'))
def _convolve(lowering, x, kernel, geometry):
  return lowering(x, kernel, geometry)


def conv2d_transpose(
    x: Array,
    kernel: Array,
    *,
    strides: int,
    padding: int,
    size: tuple[int, int] | None = None,
) -> Array:
  """Transposed convolution: the linear map that is adjoint to `conv2d` of the same geometry.

  `y[n, i s + a - p, j s + b - p, o] = sum over i, j, a, b, c of x[n, i, j, c] kernel[a, b, c, o]`,
  as `torch.nn.functional.conv_transpose2d`, channels last.

  Args:
    x: `(N, h, w, C)`.
    kernel: `(k, k, C, O)`, of the dtype of x.
    strides: s.
    padding: p, at most k - 1: pixels that are cut off on each side.
    size: `(H, W)` of the result, one of those from which `conv2d` makes `(h, w)`; None is
      `(h s, w s)`. (Torch's `output_padding` is what exceeds the smallest of them.)

  Returns:
    `(N, H, W, O)` in the dtype of x.

  Raises:
    ValueError: shapes that do not fit each other, or a size that is none of those.
  """
  if x.ndim != 4 or kernel.ndim != 4 or x.shape[3] != kernel.shape[2]:
    raise ValueError(
        'conv2d_transpose takes an image (N, h, w, C) and a kernel (k, k, C, O), got shapes '
        f'{x.shape} and {kernel.shape}.')
  batch, rows, columns, channels = x.shape
  k, outputs = kernel.shape[0], kernel.shape[3]
  size = (rows * strides, columns * strides) if size is None else tuple(size)
  if (k, padding) == (strides, 0) and size == (rows * k, columns * k):
    # Each pixel becomes k x k pixels: one matrix product, also for symbolic sizes.
    pointwise = kernel.transpose(2, 0, 1, 3).reshape(1, 1, channels, k * k * outputs)
    x = conv2d(x, pointwise).reshape(batch, rows, columns, k, k, outputs)
    return x.transpose(0, 1, 3, 2, 4, 5).reshape(batch, k * rows, k * columns, outputs)
  least = tuple((side - 1) * strides + k - 2 * padding for side in (rows, columns))
  extra = tuple(given - smallest for given, smallest in zip(size, least))
  if not all(0 <= more < strides for more in extra):
    raise ValueError(
        f'conv2d_transpose: an image {(rows, columns)} becomes one of {least} to '
        f'{tuple(side + strides - 1 for side in least)}, got size={size}.')
  flipped, margin = kernel[::-1, ::-1], k - 1 - padding
  if strides == 1:
    return conv2d(x, flipped, padding=margin)
  if target_platform.current() == 'cpu':
    return strided.transpose(
        x, kernel.swapaxes(2, 3), _pair(strides), _pair(padding), size).astype(x.dtype)
  return lax.conv_general_dilated(
      x, flipped, (1, 1), [(margin, margin + more) for more in extra],
      lhs_dilation=(strides, strides), dimension_numbers=('NHWC', 'HWIO', 'NHWC'))


def _pair(value):
  return (value, value) if isinstance(value, int) else tuple(value)


def _check(x_shape, kernel_shape, geometry):
  if len(x_shape) != 4 or len(kernel_shape) != 4:
    raise ValueError(
        'conv2d takes an image (N, H, W, C) and a kernel (kh, kw, C / groups, O), got shapes '
        f'{x_shape} and {kernel_shape}.')
  channels, groups = x_shape[3], geometry.groups
  if channels != kernel_shape[2] * groups or kernel_shape[3] % groups:
    raise ValueError(
        f'conv2d: an image of {channels} channels in {groups} group(s) does not fit the kernel '
        f'{kernel_shape}: (kh, kw, {channels} / {groups}, a multiple of {groups}) is expected.')
  sides = output_size(x_shape, kernel_shape, geometry)
  if any(side < 1 for side in sides if isinstance(side, int)):
    raise ValueError(
        f'conv2d: the image {x_shape} is smaller than the kernel {kernel_shape} with dilation '
        f'{geometry.dilation} and padding {geometry.padding}. Use a larger image.')


class Conv(nn.Module):
  """`conv2d` with a kernel of its own; `kernel_size // 2 * dilation` of padding by default.

  Attributes:
    features: output channels.
    kernel_size: k, of a square kernel.
    strides: stride.
    dilation: dilation.
    padding: pixels on each side; None keeps the size at stride 1 and odd k (torch's `k // 2`);
      'same' gives sizes of `ceil(size / stride)` as TensorFlow does: where the pixels it takes are
      odd in number, as for even sizes at stride 2, the bottom and right get the one more.
    groups: channel groups.
    use_bias: whether a bias is added.
    kernel_init: initialiser of the kernel `(k, k, C / groups, features)`.
    bias_init: initialiser of the bias.
    dtype: of the computation; parameters are float32.
  """

  features: int
  kernel_size: int = 3
  strides: int = 1
  dilation: int = 1
  padding: int | Literal['same'] | None = None
  groups: int = 1
  use_bias: bool = False
  kernel_init: Callable = he_normal_fan_out
  bias_init: Callable = nn.initializers.zeros
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, x: Array) -> Array:
    k = self.kernel_size
    kernel = self.param(
        'kernel', self.kernel_init, (k, k, x.shape[-1] // self.groups, self.features))
    padding = k // 2 * self.dilation if self.padding is None else self.padding
    if padding == 'same':
      x, padding = _pad_same(x, k, self.strides, self.dilation)
    x = conv2d(
        x.astype(self.dtype), kernel.astype(self.dtype), strides=self.strides,
        dilation=self.dilation, padding=padding, groups=self.groups)
    if self.use_bias:
      x += self.param('bias', self.bias_init, (self.features,)).astype(self.dtype)
    return x


def _pad_same(x, kernel_size, stride, dilation):
  """Pads what one side gets more than the other; and the padding that both sides still lack."""
  reach = dilation * (kernel_size - 1) + 1
  totals = [max(0, (-(-size // stride) - 1) * stride + reach - size) for size in x.shape[1:3]]
  if any(total % 2 for total in totals):
    x = jnp.pad(x, ((0, 0), *((0, total % 2) for total in totals), (0, 0)))
  return x, tuple(total // 2 for total in totals)


class ConvTranspose(nn.Module):
  """`conv2d_transpose` with a kernel of its own, without bias.

  Attributes:
    features: output channels.
    kernel_size: k, of a square kernel.
    strides: s; None is k without padding: each pixel becomes k x k pixels.
    dtype: of the computation; parameters are float32.
  """

  features: int
  kernel_size: int = 2
  strides: int | None = None
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, x: Array, size: tuple[int, int] | None = None) -> Array:
    """`(N, *size, features)`; size None is that of the image times the stride."""
    k = self.kernel_size
    kernel = self.param('kernel', he_normal_fan_out, (k, k, x.shape[-1], self.features))
    x, kernel = x.astype(self.dtype), kernel.astype(self.dtype)
    if self.strides is None:
      return conv2d_transpose(x, kernel, strides=k, padding=0, size=size)
    return conv2d_transpose(x, kernel, strides=self.strides, padding=k // 2, size=size)
