"""Losses on labels alone."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from kdseg_jax import resizing
from kdseg_jax.losses import _common


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
    ValueError: the labels are not integers, the shapes do not fit (channels first, as far as
      shapes can tell), or C is 1.

  Reference: the task loss of Liu et al., "Structured Knowledge Distillation for Semantic
  Segmentation" (CVPR 2019), and of most work since. The auxiliary head's loss is a second call,
  by custom times 0.4. The official CIRKD code divides 0 by 0 where no pixel is valid.
  """
  logits, labels, valid = _at_label_size(
      'cross_entropy', logits, labels, ignore_label, align_corners)
  return _common.masked_mean(_values(logits, labels, valid), valid, axis_name)


def ohem_cross_entropy(
    logits: jax.Array,
    labels: jax.Array,
    *,
    threshold: float = 0.7,
    min_kept: int = 100_000,
    ignore_label: int = 255,
    align_corners: bool = True,
    threshold_stride: int = 1,
    axis_name: str | None = None,
) -> jax.Array:
  """Mean cross-entropy over the hard pixels of a batch (online hard example mining).

  `mean of -log p[i] over the valid pixels i with p[i] <= max(threshold, p_(k))`

  p[i] is the predicted probability of the true class of pixel i, after upsampling; p_(k), with
  k = `min_kept`, is the k-th smallest of them over the valid pixels of the whole batch. So every
  pixel counts that is predicted with less than `threshold`, and never fewer than k; all valid ones
  if they are not more than k. Which pixels count is a constant in the gradient.

  Args:
    logits: as in `cross_entropy`.
    labels: as in `cross_entropy`, which also says which pixels are valid.
    threshold: in [0, 1].
    min_kept: k, over the batch of all devices; 0 leaves the threshold alone. The default is the
      official one, for batches of about a million pixels: a tenth of a batch is usual.
    ignore_label: label of the pixels that do not count.
    align_corners: as in `cross_entropy`.
    threshold_stride: s > 1 finds p_(k) with k = min_kept // s**2 on probabilities resized to 1/s
      of the label size (bilinear, corners aligned; nearest labels), as the official code of SKD
      does with 8, there to save time.
    axis_name: mapped axis over which the batch is spread: pixels are ranked, and averaged, over
      all devices. p_(k) is found exactly, by bisection on counts: what is exchanged is one number
      for each bit of a probability, not the probabilities.

  Returns:
    float32 scalar (float64 for float64 logits); 0 with zero gradient if no pixel is valid.

  Raises:
    ValueError: as `cross_entropy`, or threshold, min_kept or threshold_stride is out of its range.

  Reference: Shrivastava et al., "Training Region-based Object Detectors with Online Hard Example
  Mining" (CVPR 2016), for pixels as in Wu et al., "Bridging Category-level and Instance-level
  Semantic Image Segmentation" (2016). Official codes of OCNet and SKD (`OhemCrossEntropy2d`) agree
  with the default here, except that SKD's finds the threshold on a map of 1/8, see above. Some
  later copies forget the threshold where min_kept is 0. The auxiliary head keeps the plain
  cross-entropy in SKD's.
  """
  _common.check_range('threshold', threshold, 0, 1)
  _common.check_range('min_kept', min_kept, 0)
  _common.check_range('threshold_stride', threshold_stride, 1)
  logits, labels, valid = _at_label_size(
      'ohem_cross_entropy', logits, labels, ignore_label, align_corners)
  values = _values(logits, labels, valid)
  probability = jnp.exp(-lax.stop_gradient(values))
  ranked, counts = probability, valid
  if threshold_stride > 1:
    labels, ranked = _downsample(labels, jax.nn.softmax(lax.stop_gradient(logits)),
                                 threshold_stride)
    counts = _common.valid_labels(labels, logits.shape[-1], ignore_label)
    ranked = _select(ranked, labels)
  if isinstance(min_kept, int):  # counts are int32
    min_kept = min(min_kept, np.iinfo(np.int32).max)
  cutoff = _kth_smallest(ranked, counts, min_kept // threshold_stride**2, axis_name)
  kept = ~(probability > jnp.maximum(cutoff, threshold))  # `<=` would hide a NaN
  return _common.masked_mean(values, valid & kept, axis_name)


def _at_label_size(name, logits, labels, ignore_label, align_corners):
  """Logits in float32, upsampled to the labels; labels as int32; which pixels are valid."""
  labels = _common.as_labels(name, labels)
  [logits] = _common.as_logits(name, logits)
  _common.check_classes(name, logits.shape)
  if logits.shape[:-1] != labels.shape:
    if logits.ndim != 4 or labels.ndim != 3 or logits.shape[0] != labels.shape[0]:
      raise ValueError(
          f'{name} takes logits (N, h, w, C) with labels (N, H, W), or (..., C) with (...), '
          f'got logits {logits.shape} with labels {labels.shape}.')
    _common.check_channels_last(name, logits.shape, labels.shape)
    logits = resizing.resize_bilinear(logits, labels.shape[1:], align_corners=align_corners)
  return logits, labels, _common.valid_labels(labels, logits.shape[-1], ignore_label)


def _values(logits, labels, valid):
  """-log softmax(logits)[label] of every pixel; finite and without gradient where not valid."""
  logits = jnp.where(valid[..., None], logits, 0)  # keeps NaNs there out of the gradient
  # By hand: on CPU jax.nn.logsumexp of upsampled logits is half as fast, and selecting the label's
  # logit, unlike gathering it, has a gradient without a scatter.
  logits -= lax.stop_gradient(jnp.max(logits, axis=-1, keepdims=True))
  return jnp.log(jnp.sum(jnp.exp(logits), axis=-1)) - _select(logits, labels)


def _select(x, labels):
  """x[..., label] without a gather."""
  classes = jnp.arange(x.shape[-1], dtype=jnp.int32)
  return jnp.sum(jnp.where(classes == labels[..., None], x, 0), axis=-1)


def _downsample(labels, probabilities, stride):
  """Both at 1/stride of the size, corners aligned: nearest labels, interpolated probabilities."""
  if labels.ndim != 3:
    raise ValueError(
        f'threshold_stride={stride} takes labels (N, H, W), got {labels.shape}.')
  size = tuple(max(round(side / stride), 1) for side in labels.shape[1:])
  rows, columns = (
      np.floor(np.linspace(0, source - 1, target) + 0.5).astype(np.int32)
      for source, target in zip(labels.shape[1:], size))
  return (labels[:, rows[:, None], columns],
          resizing.resize_bilinear(probabilities, size, align_corners=True))


def _kth_smallest(x, where, k, axis_name):
  """The k-th smallest of numbers in [0, 1] on all devices; 0 for k = 0, 1 if k are all or more."""
  def count(mask):
    number = jnp.sum(mask, dtype=jnp.int32)
    return number if axis_name is None else lax.psum(number, axis_name)

  # Floats that are not negative are ordered as their bits are, so the answer is the largest integer
  # that fewer than k are below of, found bit by bit. Sorting would cost more and need a gather.
  width = jnp.finfo(x.dtype).bits
  integers = lax.bitcast_convert_type(jnp.where(where, x, 1), jnp.dtype(f'int{width}'))

  def add_bit(i, found):
    candidate = found | lax.shift_left(jnp.ones_like(found), (width - 3 - i).astype(found.dtype))
    return jnp.where(count(integers < candidate) < k, candidate, found)

  total = count(where)
  found = lax.fori_loop(0, width - 2, add_bit, (0 * total).astype(integers.dtype))
  return jnp.where(k >= total, 1, lax.bitcast_convert_type(found, x.dtype))
