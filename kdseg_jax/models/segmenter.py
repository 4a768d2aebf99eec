"""A segmentation network: backbone, head and an optional auxiliary head."""

from __future__ import annotations

import flax.linen as nn
import jax

from kdseg_jax.models.network import Network


class Segmenter(Network):
  """Logits `(N, h, w, num_classes)` at the stride of the head, and taps.

  `h = ceil(H / stride)` (espnet: twice the height of stage1; ResNets with `ceil_mode`:
  `(H + 1) // stride + 1`). With an auxiliary head there is the tap `aux_logits` too.

  Attributes:
    auxiliary_head: `(stage3, index, train) -> logits`, for training only; None for none.
  """

  auxiliary_head: nn.Module | None = None

  def heads(
      self, taps: dict[str, jax.Array], index: jax.Array, train: bool
  ) -> tuple[jax.Array, dict[str, jax.Array]]:
    """`(logits, taps)` from the taps of the backbone."""
    logits, taps = super().heads(taps, index, train)
    if self.auxiliary_head is not None:
      taps['aux_logits'] = self.auxiliary_head(taps['stage3'], index, train)
    return logits, taps
