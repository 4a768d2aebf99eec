"""DeepLabV3 head (Chen et al., 2017): atrous spatial pyramid pooling and image pooling."""

from __future__ import annotations

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp

from kdseg_jax.models.blocks import ConvNorm
from kdseg_jax.models.dropout import Dropout

Array = jax.Array


class DeepLabV3Head(nn.Module):
  """`(taps of the backbone, index, train) -> embedding`, the input of the classifier.

  1x1 and three dilated 3x3 convolutions and the pooled image side by side, a 1x1 projection with
  Dropout, a 3x3 convolution with Dropout.

  Attributes:
    channels: of every branch and of the embedding.
    dilations: of the 3x3 branches; 12, 24 and 36 at any output stride (as in CIRKD's code).
    branch_dropout: rate after the projection.
    dropout: rate after the last convolution.
    axis_name: mesh axis of the batch statistics.
    dtype: of the computation.
  """

  channels: int
  dilations: tuple[int, ...] = (12, 24, 36)
  branch_dropout: float = 0.5
  dropout: float = 0.1
  axis_name: str | None = None
  dtype: jnp.dtype = jnp.float32

  @nn.compact
  def __call__(self, taps: dict[str, Array], index: Array, train: bool) -> Array:
    conv_norm = functools.partial(
        ConvNorm, self.channels, axis_name=self.axis_name, dtype=self.dtype)
    x = taps['stage4']
    branches = [conv_norm(name='branch0')(x, train)]
    branches += [conv_norm(3, dilation=dilation, name=f'branch{i + 1}')(x, train)
                 for i, dilation in enumerate(self.dilations)]
    pooled = jnp.mean(x, axis=(1, 2), keepdims=True, dtype=jnp.float32).astype(self.dtype)
    pooled = conv_norm(name='image_pooling')(pooled, train)
    branches.append(jnp.broadcast_to(pooled, branches[0].shape))
    x = conv_norm(name='project')(jnp.concatenate(branches, axis=-1), train)
    x = Dropout(self.branch_dropout)(x, index, train)
    x = conv_norm(3, name='fuse')(x, train)
    return Dropout(self.dropout)(x, index, train)
