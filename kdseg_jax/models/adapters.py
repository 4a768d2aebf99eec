"""The modules of knowledge adaptation: an autoencoder of the teacher, adapters of the student.

The paper (He et al., "Knowledge Adaptation for Efficient Semantic Segmentation", CVPR 2019,
sections 3.1 and 3.2) has no official code. What it leaves open is said where it was chosen.
"""

from __future__ import annotations

from collections.abc import Sequence

import flax.linen as nn
import jax

from kdseg_jax.models.conv import Conv, ConvTranspose
from kdseg_jax.models.layers import ConvNorm
from kdseg_jax.models.normalization import BatchNorm

LAYERS = 3


def widths(features: int, channels: int) -> tuple[int, int, int]:
  """Output channels of the encoder's layers, from features of one width to a code of another."""
  return features, channels, channels


def strides_between(size: tuple[int, int], target: tuple[int, int]) -> tuple[int, int, int]:
  """Strides, each 1 or 2, after which features of `size` come nearest to the size `target`.

  The first layers are strided: 2, 1, 1 halves. Never up, and by 8 at most.
  """
  sizes = [size]
  for _ in range(LAYERS):
    sizes.append(tuple((side + 1) // 2 for side in sizes[-1]))
  distance = lambda other: sum(abs(a - b) for a, b in zip(other, target))
  halvings = min(range(LAYERS + 1), key=lambda i: distance(sizes[i]))
  return (2,) * halvings + (1,) * (LAYERS - halvings)


class Encoder(nn.Module):
  """Three strided 3x3 convolutions, each with BatchNorm and ReLU, to a compact code.

  Variables: `params`, `batch_stats`.

  Attributes:
    channels: of the code.
    strides: of the layers; a side of n pixels becomes `ceil(n / stride)`.
    axis_name: of the BatchNorms.

  The paper has three strided convolutions. Chosen here: kernels, BatchNorm, ReLU, and widths
  C, D, D from features C wide to a code D wide.
  """

  channels: int
  strides: tuple[int, ...] = (1, 1, 1)
  axis_name: str | None = None

  @nn.compact
  def __call__(self, x: jax.Array, train: bool) -> jax.Array:
    """The code `(N, h, w, channels)` of features `(N, H, W, C)`."""
    for i, (width, stride) in enumerate(zip(widths(x.shape[-1], self.channels), self.strides)):
      x = ConvNorm(width, strides=stride, axis_name=self.axis_name, name=f'layer{i}')(x, train)
    return x


class Decoder(nn.Module):
  """Three transposed 3x3 convolutions, the mirror image of `Encoder`; the last one is linear.

  Variables: `params`, `batch_stats`.

  Attributes:
    features: output channels, those of what was encoded.
    strides: of the encoder, in its order.
    axis_name: of the BatchNorms.
  """

  features: int
  strides: tuple[int, ...] = (1, 1, 1)
  axis_name: str | None = None

  @nn.compact
  def __call__(self, code: jax.Array, size: tuple[int, int], train: bool) -> jax.Array:
    """The reconstruction `(N, *size, features)`, `size` being that of what was encoded."""
    x, sizes = code, self._sizes(size)
    inputs = (self.features, *widths(self.features, code.shape[-1]))[:LAYERS]
    for i in reversed(range(LAYERS)):
      x = ConvTranspose(inputs[i], 3, self.strides[i], name=f'layer{i}')(x, sizes[i])
      if i:
        x = nn.relu(BatchNorm(self.axis_name, name=f'norm{i}')(x, train))
    return x + self.param('bias', nn.initializers.zeros, (self.features,))

  def _sizes(self, size: Sequence[int]) -> list[tuple[int, ...]]:
    sizes = [tuple(size)]
    for stride in self.strides:
      sizes.append(tuple(-(-side // stride) for side in sizes[-1]))
    return sizes


class Autoencoder(nn.Module):
  """`Encoder` and `Decoder`: a reconstruction of exactly the size of the features, and the code.

  Variables: `params` and `batch_stats`, each of `encoder` and `decoder`.

  Attributes:
    channels: of the code.
    strides: of `Encoder`.
    axis_name: of the BatchNorms.
  """

  channels: int
  strides: tuple[int, ...] = (1, 1, 1)
  axis_name: str | None = None

  @nn.compact
  def __call__(self, x: jax.Array, train: bool) -> tuple[jax.Array, jax.Array]:
    """`(reconstruction, code)` of features `(N, H, W, C)`."""
    code = Encoder(self.channels, self.strides, self.axis_name, name='encoder')(x, train)
    decoder = Decoder(x.shape[-1], self.strides, self.axis_name, name='decoder')
    return decoder(code, x.shape[1:3], train), code


class FeatureAdapter(nn.Module):
  """3x3 convolution of stride 1 and padding 1, BatchNorm, ReLU, as the paper has it.

  Variables: `params`, `batch_stats`.

  Attributes:
    channels: output channels, those of the code.
    axis_name: of the BatchNorm.
  """

  channels: int
  axis_name: str | None = None

  @nn.compact
  def __call__(self, x: jax.Array, train: bool) -> jax.Array:
    return ConvNorm(self.channels, axis_name=self.axis_name, name='layer')(x, train)


class AffinityAdapter(nn.Module):
  """3x3 convolution of stride 1 and padding 1 without bias.

  The paper names the adapter and not its layers: chosen here, as in the third-party code of
  torchdistill.

  Attributes:
    channels: output channels, those of the code.
  """

  channels: int

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    return Conv(self.channels, name='layer')(x)
