"""The critic of adversarial distillation: a self-attention discriminator of class maps."""

from __future__ import annotations

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import lax

from kdseg_jax.errors import UserError
from kdseg_jax.models.conv import Conv, conv2d, uniform_fan_in
from kdseg_jax.models.layers import scale_channels
from kdseg_jax.models.normalization import BatchNorm

_CHANNELS = (64, 128, 256, 512)
_LAST_KERNEL = 4



class SpectralConv(nn.Module):
  """Convolution whose kernel is divided by its largest singular value; with bias.

  The kernel is seen as a matrix W, `(features, k k C)`. The collection `spectral` holds unit
  vectors `u (features,)` and `v (k k C,)`. A training forward advances them by one power
  iteration, `v = unit(W'u), u = unit(W v)`, and so must have the collection mutable; evaluation
  uses them as they are (official code: advances them there too). The kernel is divided by
  `sigma = u . W v`, which is differentiated with respect to W, not u and v.

  Attributes:
    features: output channels.
    kernel_size: k, of a square kernel.
    strides: stride.
    padding: pixels on each side.

  Reference: Miyato et al., "Spectral Normalization for Generative Adversarial Networks" (2018),
  algorithm 1.
  """

  features: int
  kernel_size: int
  strides: int
  padding: int

  @nn.compact
  def __call__(self, x: jax.Array, train: bool) -> jax.Array:
    shape = (self.kernel_size, self.kernel_size, x.shape[-1], self.features)
    kernel = self.param('kernel', uniform_fan_in, shape)
    bias = self.param('bias', nn.initializers.zeros, (self.features,))
    matrix = kernel.reshape(-1, self.features).T
    u, v = (
        self.variable('spectral', name, lambda size=size: _unit(
            jax.random.normal(self.make_rng('params'), (size,))))
        for name, size in zip('uv', matrix.shape))
    if train:
      constant = lax.stop_gradient(matrix)
      v.value = _unit(_product(u.value, constant))
      u.value = _unit(_product(constant, v.value))
    kernel /= _singular_value(matrix, u.value, v.value)
    x = conv2d(x, kernel.astype(x.dtype), strides=self.strides, padding=self.padding)
    return x + bias.astype(x.dtype)


def _singular_value(matrix, u, v):
  return _product(u, _product(matrix, v))


def _product(a, b):
  return jnp.matmul(a, b, precision=lax.Precision.HIGHEST)


def _unit(x):
  return x / (jnp.linalg.norm(x) + 1e-12)


class SelfAttention(nn.Module):
  """Every pixel adds a weighted sum over all pixels of its map, scaled by `gamma`, at first 0.

  `x_i + gamma * sum_j softmax_j(q_i . k_j) v_j`; q, k and v are 1x1 convolutions with bias, q and
  k with an eighth of the channels. There is no scaling of the products.

  Reference: Zhang et al., "Self-Attention Generative Adversarial Networks" (2019), section 3.
  """

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    channels = x.shape[-1]

    def project(features, name):
      y = Conv(features, 1, use_bias=True, kernel_init=uniform_fan_in, dtype=x.dtype, name=name)(x)
      return y.reshape(x.shape[0], -1, features)

    query, key = (project(max(1, channels // 8), name) for name in ('query', 'key'))
    weights = nn.softmax(jnp.einsum('nic,njc->nij', query, key), axis=-1)
    y = jnp.einsum('nij,njc->nic', weights, project(channels, 'value'))
    gamma = self.param('gamma', nn.initializers.zeros, ())
    return x + gamma.astype(x.dtype) * y.reshape(x.shape)


class Critic(nn.Module):
  """Scores maps: high for those of the teacher, low for those of the student.

  Four spectrally normalised 4x4 convolutions of stride 2 to 64, 128, 256 and 512 channels, each
  with a leaky ReLU (0.1), self-attention after the third and the fourth, and a plain 4x4
  convolution without padding to one score: 65x65 logits have one score, larger ones a map of them.
  A layer that would leave less than 4x4 for the last one keeps the size instead: 3x3, stride 1.
  Official code: leaves the fourth layer out for sizes other than 65x65, and is limited to few.

  Variables: `params`; `spectral` of `SpectralConv`; `batch_stats` if `input_norm`.

  Attributes:
    width: multiplies every channel count, rounded to a multiple of 8.
    input_norm: whether a BatchNorm comes first, as in the official code on raw logits.
    axis_name: of that BatchNorm.

  Reference: the discriminator of Zhang et al., "Self-Attention Generative Adversarial Networks"
  (2019), as SKD (Liu et al., CVPR 2019) and CIRKD use it.
  """

  width: float = 1.0
  input_norm: bool = False
  axis_name: str | None = None

  @nn.compact
  def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
    """Scores of maps.

    Args:
      x: `(N, H, W, C)`, H and W at least 4.
      train: whether spectral vectors advance, `mutable=['spectral', 'batch_stats']`, and the
        BatchNorm uses the batch.

    Returns:
      `(N, h, w)` in float32 (float64 for float64), one or a map of them, see above.

    Raises:
      ValueError: a map of fewer than 4 rows or columns.
    """
    if x.ndim != 4 or min(x.shape[1:3]) < _LAST_KERNEL:
      raise UserError(
          f'The critic takes maps (N, H, W, C) of at least {_LAST_KERNEL}x{_LAST_KERNEL}, got '
          f'shape {x.shape}. Use larger crops, or models of a smaller output stride.')
    x = x.astype(jnp.promote_types(jnp.float32, x.dtype))
    if self.input_norm:
      x = BatchNorm(self.axis_name, x.dtype, name='norm')(x, train)
    for i, channels in enumerate(_CHANNELS, start=1):
      strided = min(x.shape[1:3]) >= 2 * _LAST_KERNEL
      kernel_size, strides = (4, 2) if strided else (3, 1)
      x = SpectralConv(scale_channels(channels, self.width), kernel_size, strides, padding=1,
                       name=f'conv{i}')(x, train)
      x = nn.leaky_relu(x, 0.1)
      if i >= 3:
        x = SelfAttention(name=f'attention{i}')(x)
    x = Conv(1, _LAST_KERNEL, padding=0, use_bias=True, kernel_init=uniform_fan_in, dtype=x.dtype,
             name='last')(x)
    return x[..., 0]
