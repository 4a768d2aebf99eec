"""Metrics from counts that add up over batches and devices."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

from kdseg_jax.coco_ap import CocoResults, coco_ap

__all__ = ['CocoResults', 'coco_ap', 'confusion_matrix', 'mean_iou', 'pixel_accuracy']


def confusion_matrix(labels, predictions, num_classes: int, *, where=None) -> jax.Array:
  """How often each label was given each prediction.

  Works under jit, vmap and inside a mapped function; the counts of batches and devices add up
  (psum). Over 2**31 pixels in total, sum the batches in int64 on the host:
  `total += np.asarray(matrix, np.int64)`.

  Args:
    labels: integers of any shape. Labels outside [0, num_classes), such as 255, count nowhere.
    predictions: integers of the same shape, in [0, num_classes) wherever the label counts.
    num_classes: C.
    where: bool of the same shape, False where a pixel does not count.

  Returns:
    `(C, C)` int32 (int64 under x64), rows = labels, columns = predictions.

  Raises:
    ValueError: shapes differ, inputs are not integers, one call has 2**31 pixels or more, or a
      prediction that counts is outside [0, C). The last cannot be seen under jit, where such a
      prediction counts nowhere.
  """
  labels, predictions = jnp.asarray(labels), jnp.asarray(predictions)
  for name, values in (('labels', labels), ('predictions', predictions)):
    if not jnp.issubdtype(values.dtype, jnp.integer):
      raise ValueError(f'confusion_matrix takes integer {name}, got {values.dtype}.')
  if labels.shape != predictions.shape or (where is not None and np.shape(where) != labels.shape):
    raise ValueError(
        f'confusion_matrix takes arrays of one shape, got labels {labels.shape}, predictions '
        f'{predictions.shape}' + ('.' if where is None else f', where {np.shape(where)}.'))
  if labels.size >= 2**31:
    raise ValueError(f'{labels.size} pixels in one call overflow int32; count them in parts.')

  labels, predictions = labels.astype(jnp.int32), predictions.astype(jnp.int32)
  counted = _in_range(labels, num_classes)
  if where is not None:
    counted &= jnp.asarray(where, bool)
  valid = counted & _in_range(predictions, num_classes)
  if not isinstance(valid, jax.core.Tracer) and bool(jnp.any(counted & ~valid)):
    wrong = np.unique(np.asarray(predictions)[np.asarray(counted & ~valid)])
    raise ValueError(
        f'predictions {wrong[:5].tolist()} are outside [0, {num_classes}); expected class indices, '
        'e.g. argmax over the logits.')
  # One bin more than cells takes all that does not count.
  cells = num_classes**2
  index = jnp.where(valid, labels * num_classes + predictions, cells)
  counts = jnp.bincount(index.ravel(), length=cells + 1)[:cells]
  return counts.reshape(num_classes, num_classes)


def mean_iou(matrix, *, absent_as_zero: bool = False):
  """Intersection over union of each class, and their mean over the classes that occur.

  `iou[c] = matrix[c, c] / (sum matrix[c, :] + sum matrix[:, c] - matrix[c, c])`

  Args:
    matrix: confusion matrix `(C, C)`, numpy or jax.
    absent_as_zero: a class that occurs in neither labels nor predictions counts as 0, as in the
      official codes of SKD and CIRKD, instead of being NaN and left out of the mean.

  Returns:
    `(mean, per_class)` of shapes () and `(C,)`, in [0, 1]; float64 numpy, or float32 under jit.
    The mean is NaN if no class occurs.

  Raises:
    ValueError: not a square matrix, or one with negative counts.

  Example: two of three pixels of class 0 were found, and the one of class 1; class 2 is nowhere.

  >>> import numpy as np
  >>> mean, per_class = mean_iou(np.array([[2, 1, 0], [0, 1, 0], [0, 0, 0]]))
  >>> round(float(mean), 3), per_class.round(3).tolist()
  (0.583, [0.667, 0.5, nan])
  """
  xp, matrix = _as_counts(matrix)
  hits = xp.diagonal(matrix)
  union = matrix.sum(axis=0) + matrix.sum(axis=1) - hits
  occurs = union > 0
  per_class = hits / xp.maximum(union, 1)  # 0 for a class that does not occur
  if absent_as_zero:
    return per_class.mean(), per_class
  mean = xp.where(occurs.any(), per_class.sum() / xp.maximum(occurs.sum(), 1), xp.nan)
  return mean[()], xp.where(occurs, per_class, xp.nan)


def pixel_accuracy(matrix):
  """Share of the counted pixels whose prediction is their label; NaN if there are none.

  Takes what `mean_iou` takes, and raises what it raises.
  """
  xp, matrix = _as_counts(matrix)
  total = matrix.sum()
  return xp.where(total > 0, xp.trace(matrix) / xp.maximum(total, 1), xp.nan)[()]


def _in_range(values: jax.Array, num_classes: int) -> jax.Array:
  return (values >= 0) & (values < num_classes)


def _as_counts(matrix):
  """`(numpy or jax.numpy, matrix as float)`: floats, as sums of int32 counts may overflow."""
  if np.ndim(matrix) != 2 or np.shape(matrix)[0] != np.shape(matrix)[1]:
    raise ValueError(f'a confusion matrix is square (C, C), got shape {np.shape(matrix)}.')
  if isinstance(matrix, jax.core.Tracer):
    return jnp, matrix.astype(jnp.float32)
  matrix = np.asarray(matrix)
  if (matrix < 0).any():
    raise ValueError(
        'the confusion matrix has negative counts: its sum has overflowed int32. Sum the batches '
        'in int64 on the host: total += np.asarray(matrix, np.int64).')
  return np, matrix.astype(np.float64)
