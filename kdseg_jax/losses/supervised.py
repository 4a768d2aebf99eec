"""Losses on labels alone."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax import lax

from kdseg_jax.losses import _common, resizing


def cross_entropy(
    logits: jax.Array,
    labels: jax.Array,
    *,
    ignore_label: int = 255,
    align_corners: bool = True,
    axis_name: str | None = None,
) -> jax.Array:
  """Mean cross-entropy over the valid pixels, after upsampling the logits to label size.

  `mean over valid pixels p of -log softmax(upsample(logits))[p, labels[p]]`

  A pixel is valid if its label is in [0, C) and is not `ignore_label`. Any other label (-1, 255,
  or one that a wrong mapping left behind) contributes nothing and does not count: under jit it
  cannot be reported. Check the labels of a new data set once.

  Args:
    logits: `(N, h, w, C)`, or `(..., C)` where labels are `(...)`.
    labels: integers of any width, `(N, H, W)`. Logits of another spatial size are resized to
      (H, W) bilinearly in float32.
    ignore_label: label of the pixels that do not count.
    align_corners: as in `resizing.resize_bilinear`; the official codes of SKD, CIRKD and PSPNet
      use True, of SegFormer and UPerNet False.
    axis_name: mapped axis over which the batch is spread. The mean is then over the valid pixels
      of all devices, psum(sum) / psum(count), however unevenly they are spread.

  Returns:
    float32 scalar (float64 for float64 logits); 0 with zero gradient if no pixel is valid.

  Raises:
    ValueError: the labels are not integers, or the shapes do not fit.

  Reference: the task loss of Liu et al., "Structured Knowledge Distillation for Semantic
  Segmentation" (CVPR 2019), and of most work since. The auxiliary head's loss is a second call,
  by custom times 0.4. The official CIRKD code divides 0 by 0 where no pixel is valid.
  """
  labels = _common.as_labels('cross_entropy', labels)
  [logits] = _common.as_float(logits)
  if logits.shape[:-1] != labels.shape:
    if logits.ndim != 4 or labels.ndim != 3 or logits.shape[0] != labels.shape[0]:
      raise ValueError(
          'cross_entropy takes logits (N, h, w, C) with labels (N, H, W), or (..., C) with (...), '
          f'got logits {logits.shape} with labels {labels.shape}.')
    logits = resizing.resize_bilinear(logits, labels.shape[1:], align_corners=align_corners)

  classes = jnp.arange(logits.shape[-1], dtype=jnp.int32)
  valid = _common.valid_labels(labels, classes.size, ignore_label)
  logits = jnp.where(valid[..., None], logits, 0)  # keeps NaNs there out of the gradient
  # By hand: on CPU jax.nn.logsumexp of upsampled logits is half as fast, and selecting the label's
  # logit, unlike gathering it, has a gradient without a scatter.
  logits -= lax.stop_gradient(jnp.max(logits, axis=-1, keepdims=True))
  labelled = jnp.sum(jnp.where(classes == labels[..., None], logits, 0), axis=-1)
  values = jnp.log(jnp.sum(jnp.exp(logits), axis=-1)) - labelled
  return _common.masked_mean(values, valid, axis_name)
