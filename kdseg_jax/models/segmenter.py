"""A segmentation model: input normalisation, backbone, head, classifier, auxiliary head."""

from __future__ import annotations

import flax.linen as nn
import jax
import jax.numpy as jnp

from kdseg_jax.models.blocks import ConvNorm
from kdseg_jax.models.conv import Conv, default_uniform
from kdseg_jax.models.dropout import Dropout

Array = jax.Array


class Segmenter(nn.Module):
  """`(image, mask, index, train) -> (logits, taps)`.

  Call it as `apply(variables, image)`, and in training with `train=True`, `index=`,
  `mutable=['batch_stats']` and `rngs={'dropout': key}`.

  Attributes:
    backbone: `(image, train) -> taps` with `stage1..4`.
    head: `(taps, index, train) -> embedding`.
    num_classes: channels of the logits.
    aux: adds the auxiliary head on stage 3; its `aux_logits` are used in training only.
    dropout: rate in the auxiliary head.
    mean, std: of the input, RGB, 0 to 255.
    axis_name: mesh axis of the batch statistics.
    dtype: of the computation; parameters, statistics and logits are float32.
  """

  backbone: nn.Module
  head: nn.Module
  num_classes: int
  aux: bool = False
  dropout: float = 0.1
  mean: tuple[float, float, float] = (123.675, 116.28, 103.53)
  std: tuple[float, float, float] = (58.395, 57.12, 57.375)
  axis_name: str | None = None
  dtype: jnp.dtype = jnp.float32

  @nn.compact
  def __call__(
      self, image: Array, mask: Array | None = None, index: Array | None = None,
      train: bool = False,
  ) -> tuple[Array, dict[str, Array]]:
    """Runs the model.

    Args:
      image: `(N, H, W, 3)` RGB, 0 to 255, uint8 or float.
      mask: `(N, H, W)` bool, False is padding, which becomes 0 after normalisation.
      index: `(N,)` global indices of the examples, for Dropout; None is 0, 1, ...
      train: uses batch statistics and Dropout.

    Returns:
      Logits `(N, h, w, num_classes)` float32 at the output stride, and taps: the backbone's,
      `embedding` (after Dropout in training), `logits`, and with `aux` `aux_logits`.
    """
    index = jnp.arange(image.shape[0]) if index is None else index
    taps = self.backbone(self.normalize(image, mask), train)
    taps['embedding'] = self.head(taps, index, train)
    taps['logits'] = self.classify(taps['embedding'], 'classifier')
    if self.aux:
      x = taps['stage3']
      x = ConvNorm(max(8, x.shape[-1] // 4), 3, axis_name=self.axis_name, dtype=self.dtype,
                   name='auxiliary_conv')(x, train)
      x = Dropout(self.dropout)(x, index, train)
      taps['aux_logits'] = self.classify(x, 'auxiliary_classifier')
    return taps['logits'], taps

  def normalize(self, image: Array, mask: Array | None) -> Array:
    """`(image - mean) / std`, and 0 in the padding."""
    x = (image.astype(jnp.float32) - jnp.asarray(self.mean)) / jnp.asarray(self.std)
    x = x if mask is None else jnp.where(mask[..., None], x, 0)
    return x.astype(self.dtype)

  def classify(self, x: Array, name: str) -> Array:
    """1x1 convolution with bias to float32 logits."""
    return Conv(self.num_classes, use_bias=True, kernel_init=default_uniform, dtype=self.dtype,
                name=name)(x).astype(jnp.float32)
