"""A segmentation network: backbone, head and an optional auxiliary head."""

from __future__ import annotations

import flax.linen as nn
import jax
import jax.numpy as jnp

from kdseg_jax.models import normalization


class Segmenter(nn.Module):
  """Runs a backbone and its heads on images, and returns what they made on the way.

  Attributes:
    backbone: `(x, train) -> taps` with `stage1` to `stage4` (`stage3` in ESPNet).
    head: `(taps, index, train) -> (logits, embedding)`; takes from the taps what it needs.
    auxiliary_head: `(stage3, index, train) -> logits`, for training only; None for none.
    mean: of the images the weights expect, RGB in 0-255.
    std: likewise.
  """

  backbone: nn.Module
  head: nn.Module
  auxiliary_head: nn.Module | None = None
  mean: tuple[float, float, float] = normalization.IMAGENET_MEAN
  std: tuple[float, float, float] = normalization.IMAGENET_STD

  def __call__(
      self,
      image: jax.Array,
      mask: jax.Array | None = None,
      index: jax.Array | None = None,
      train: bool = False,
  ) -> tuple[jax.Array, dict[str, jax.Array]]:
    """Logits at the stride of the head, and taps.

    Args:
      image: `(N, H, W, 3)` RGB in 0-255, uint8 or float; normalised here.
      mask: `(N, H, W)` bool, False = padding, which becomes 0; None is all True.
      index: `(N,)` int32, global indices of the examples, for Dropout; None is `arange(N)`.
      train: BatchNorm by the batch (`mutable=['batch_stats']`) and Dropout (needs
        `rngs={'dropout': key}`).

    Returns:
      `logits (N, h, w, num_classes)` float32, with `h = ceil(H / stride)` (espnet: twice the
      height of stage1; ResNets with `ceil_mode`: `(H + 1) // stride + 1`), and the dict of
      taps: `stage1` to `stage4`, or to `stage3` of the ESPNets (after the last activation of the
      stage, if one follows it), `stage<i>_preactivation`, `embedding` (the classifier's input,
      after Dropout in training), `logits` and, with an auxiliary head, `aux_logits`.

    Raises:
      ValueError: image or mask of a wrong shape.
    """
    x = normalization.normalize_image(image, mask, mean=self.mean, std=self.std)
    if index is None:
      index = jnp.arange(image.shape[0], dtype=jnp.int32)
    taps = self.backbone(x, train)
    logits, embedding = self.head(taps, index, train)
    taps = taps | {'embedding': embedding, 'logits': logits}
    if self.auxiliary_head is not None:
      taps['aux_logits'] = self.auxiliary_head(taps['stage3'], index, train)
    return logits, taps
