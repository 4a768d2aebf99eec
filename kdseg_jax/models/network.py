"""What segmenters, classifiers and detectors share: preprocessing, backbone, heads on its taps."""

from __future__ import annotations

import flax.linen as nn
import jax
import jax.numpy as jnp

from kdseg_jax.models import normalization


class Network(nn.Module):
  """Images through a backbone and then `heads`, which subclasses define.

  Attributes:
    backbone: `(x, train) -> taps` with `stage1` to `stage4` (`stage3` in the ESPNets and most nets
      for CIFAR).
    head: `(taps, index, train) -> (logits, embedding)`; takes from the taps what it needs.
    preprocessing: of the images, as the weights expect them.
  """

  backbone: nn.Module
  head: nn.Module
  preprocessing: normalization.Preprocessing = normalization.IMAGENET

  def __call__(
      self,
      image: jax.Array,
      mask: jax.Array | None = None,
      index: jax.Array | None = None,
      train: bool = False,
  ) -> tuple[jax.Array, dict[str, jax.Array]]:
    """Logits, and the taps that were made on the way.

    Args:
      image: `(N, H, W, 3)` RGB in 0-255, uint8 or float; normalised here.
      mask: `(N, H, W)` bool, False = padding, which becomes 0; None is all True.
      index: `(N,)` int32, global indices of the examples, for Dropout; None is `arange(N)`.
      train: BatchNorm by the batch (`mutable=['batch_stats']`) and Dropout (needs
        `rngs={'dropout': key}`).

    Returns:
      Float32 logits, of a shape that the subclass states, and the dict of taps: those of
      the backbone, `stage1` to `stage4` (after the last activation of the stage, if one follows it)
      and `stage<i>_preactivation`; `embedding` (the classifier's input, after Dropout in training),
      `logits`, and what the subclass adds.

    Raises:
      ValueError: image or mask of a wrong shape.
    """
    if index is None:
      index = jnp.arange(image.shape[0], dtype=jnp.int32)
    return self.heads(self.backbone(self.preprocessing(image, mask), train), index, train)

  def heads(
      self, taps: dict[str, jax.Array], index: jax.Array, train: bool
  ) -> tuple[jax.Array, dict[str, jax.Array]]:
    """`(logits, taps)` from the taps of the backbone."""
    logits, embedding = self.head(taps, index, train)
    return logits, taps | {'embedding': embedding, 'logits': logits}
