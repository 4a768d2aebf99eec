"""Normalisation of images and of features."""

from __future__ import annotations

from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

IMAGENET_MEAN = (123.675, 116.28, 103.53)
IMAGENET_STD = (58.395, 57.12, 57.375)
CHANNEL_ORDERS = ('rgb', 'bgr')


class Preprocessing(NamedTuple):
  """What a model does to images before its first layer.

  Attributes:
    mean: that is subtracted from each channel, RGB in 0-255 whatever the order.
    std: that each channel is divided by, likewise.
    channel_order: 'rgb', or 'bgr' for weights that were trained on OpenCV's order.
  """

  mean: tuple[float, float, float] = IMAGENET_MEAN
  std: tuple[float, float, float] = IMAGENET_STD
  channel_order: str = 'rgb'

  def __call__(self, image: jax.Array, mask: jax.Array | None = None) -> jax.Array:
    """`normalize_image`, then the channels in their order."""
    x = normalize_image(image, mask, mean=self.mean, std=self.std)
    return x[..., ::-1] if self.channel_order == 'bgr' else x


IMAGENET = Preprocessing()


def normalize_image(
    image: jax.Array,
    mask: jax.Array | None,
    *,
    mean: tuple[float, float, float],
    std: tuple[float, float, float],
) -> jax.Array:
  """`(image - mean) / std` in float32, 0 wherever the mask is False.

  Args:
    image: `(N, H, W, 3)` RGB in 0-255, uint8 or float.
    mask: `(N, H, W)` bool, False = padding; None is all True. What a padded pixel held does not
      matter, be it NaN.
    mean: of each channel, in 0-255.
    std: of each channel, in 0-255.

  Raises:
    ValueError: the image is not `(N, H, W, 3)`, or the mask is not of its `(N, H, W)`.
  """
  if image.ndim != 4 or image.shape[-1] != 3:
    raise ValueError(f'A model takes RGB images (N, H, W, 3), got shape {image.shape}.')
  if mask is not None and mask.shape != image.shape[:3]:
    raise ValueError(
        f'The padding mask has shape {mask.shape}; expected {image.shape[:3]}, the (N, H, W) of '
        'the images.')
  x = (image.astype(jnp.float32) - jnp.array(mean, jnp.float32)) / jnp.array(std, jnp.float32)
  return x if mask is None else jnp.where(mask[..., None], x, 0)


class BatchNorm(nn.Module):
  """Batch normalisation, momentum 0.9 (PyTorch's 0.1), statistics in float32.

  The running variance is the biased one, where PyTorch keeps the unbiased: weights trained here
  and there differ by n / (n - 1) in it, n being the number of pixels of a batch.

  Attributes:
    axis_name: mapped axis over which statistics are synchronised in training; None is local.
      Evaluation, and `init`, work outside of the map as well.
    dtype: of the result.
    epsilon: added to the variance.
  """

  axis_name: str | None = None
  dtype: Any = jnp.float32
  epsilon: float = 1e-5

  @nn.compact
  def __call__(self, x: jax.Array, train: bool) -> jax.Array:
    return nn.BatchNorm(
        use_running_average=not train, momentum=0.9, epsilon=self.epsilon,
        axis_name=self.axis_name, dtype=self.dtype, name='norm')(x)
