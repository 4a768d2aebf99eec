"""Distillation of how similar the parts of an image are to each other."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from kdseg_jax.losses import _common, pooling


def scaled_node_size(spatial_shape: tuple[int, int], scale: float) -> tuple[int, int]:
  """Node size as a share of the map: `(int(H * scale), int(W * scale))`, at least 1.

  The official rule of structured distillation with scale 0.5. As pooling keeps partial edge
  windows, even maps give 2x2 nodes and odd ones 3x3, the last row and column one pixel thin.

  Raises:
    ValueError: the scale is not positive.

  >>> scaled_node_size((64, 33), 0.5)
  (32, 16)
  """
  _common.check_positive('scale', scale)
  height, width = spatial_shape
  return max(1, int(height * scale)), max(1, int(width * scale))


def pairwise_affinity(
    student: jax.Array,
    teacher: jax.Array,
    *,
    node_size: int | tuple[int, int] | None = None,
    pool: str = 'max',
    norm_gradient: bool = True,
    norm: str = 'add_eps',
    eps: float = 1e-8,
    neighbourhood: int | None = None,
    axis_name: str | None = None,
) -> jax.Array:
  """Mean squared difference of the cosine similarities between the nodes of an image.

  `mean over images, i, j of (s_i . s_j - t_i . t_j)**2`, where s_i and t_i are the pooled and
  normalised features of node i. Student and teacher may have different widths.

  Over all pairs, the n x n similarities are never built where their Gram matrices are cheaper:
  `|SS' - TT'|**2 = |S'S|**2 - 2 |S'T|**2 + |T'T|**2`, summed with compensation, since these large
  terms cancel: the absolute error of the loss stays below about 1e-7 in float32.

  Args:
    student: features `(N, H, W, D)`.
    teacher: features `(N, H, W, E)`; no gradient flows into them.
    node_size: pooling window and stride in pixels, an int or (height, width); None is one node a
      pixel. Partial windows at the bottom and right edge are kept (ceil mode). Not the number of
      nodes; for the paper's share of the map see `scaled_node_size`.
    pool: 'max', or 'mean' (edge windows divide by their own pixels). Of equal maxima the first
      in row order takes the gradient; max has no forward-mode derivative.
    norm_gradient: False treats the norm of a node as a constant in the gradient.
    norm: 'add_eps' is `x / (|x| + eps)`, 'clamp' is `x / max(|x|, eps)`. A zero node normalises to
      0 with zero gradient.
    eps: see `norm`.
    neighbourhood: only pairs of nodes at most this many rows and columns apart count, and the mean
      is over those (the connection range of the journal version); None is all pairs. No official
      code restricts the pairs: it is tested against the equation, written out.
    axis_name: mapped axis over which the batch is spread: mean over the images of all devices.

  Returns:
    float32 scalar (float64 for float64 features), at least 0.

  Raises:
    ValueError: the spatial shapes differ, or an option is unknown or out of range.

  Reference: Liu et al., "Structured Knowledge Distillation for Semantic Segmentation" (CVPR 2019),
  eq. 2; journal version, "Structured Knowledge Distillation for Dense Prediction" (2020). Where
  official codes differ: SKD's (journal) is `node_size=scaled_node_size((H, W), 0.5),
  norm_gradient=False`; SKD's (CVPR) has neither pooling nor eps; CIRKD's SKD is `node_size=2,
  norm='clamp', eps=1e-12`.
  """
  _common.check_choice('pool', pool, pooling.KINDS)
  _common.check_choice('norm', norm, _common.NORMS)
  _common.check_positive('eps', eps)
  if neighbourhood is not None and neighbourhood < 0:
    raise ValueError(f'neighbourhood={neighbourhood} must be at least 0, or None for all pairs.')
  student, teacher = _common.as_features(
      'pairwise_affinity', student, lax.stop_gradient(teacher))
  if student.ndim != 4 or teacher.ndim != 4 or student.shape[:3] != teacher.shape[:3]:
    raise ValueError(
        'pairwise_affinity takes features (N, H, W, C) of the same N, H and W, got student '
        f'{student.shape} and teacher {teacher.shape}; resize one first (losses.resize_bilinear).'
        + _common.layout_hint(student.shape, teacher.shape))

  window = pooling.window_of('node_size', node_size)
  student, teacher = (
      _common.safe_normalize(
          pooling.pool(x, window, pool), eps=eps, norm=norm, norm_gradient=norm_gradient)
      for x in (student, teacher))
  images, height, width, _ = student.shape
  if neighbourhood is None or neighbourhood >= max(height, width) - 1:
    pairs = (height * width)**2
    total = _all_pairs(*(x.reshape(images, height * width, -1) for x in (student, teacher)))
  else:
    pairs = _band_size(height, neighbourhood) * _band_size(width, neighbourhood)
    total = _near_pairs(student, teacher, neighbourhood)
  loss = total / float(images * pairs)  # as an int it may exceed int32
  return loss if axis_name is None else lax.pmean(loss, axis_name)


def _all_pairs(student: jax.Array, teacher: jax.Array) -> jax.Array:
  """Sum of squared affinity differences over all pairs of rows of `(N, n, D)`, `(N, n, E)`."""
  nodes, d, e = student.shape[1], student.shape[2], teacher.shape[2]
  if nodes * (d + e) <= d * d + d * e + e * e:
    return _direct(student, teacher)
  return _gram(student, teacher)


def _direct(student: jax.Array, teacher: jax.Array) -> jax.Array:
  difference = _common.products('nic,njc->nij', student, student) - _common.products(
      'nic,njc->nij', teacher, teacher)
  return jnp.sum(difference**2)


def _gram(student: jax.Array, teacher: jax.Array) -> jax.Array:
  squares = lambda a, b: _common.products('nic,nid->ncd', a, b)**2
  terms = jnp.concatenate([
      squares(student, student).ravel(), -2 * squares(student, teacher).ravel(),
      squares(teacher, teacher).ravel()])
  # Large terms cancel: a plain float32 sum is off by 1e-4 of a small result, or negative. Only the
  # value needs care; the gradient takes each term by itself.
  rough = jnp.sum(terms)
  value = jnp.maximum(_compensated_sum(lax.stop_gradient(terms)), 0)
  return rough + (value - lax.stop_gradient(rough))


@jax.jit  # one compilation instead of some hundred for those who call the loss without jit
def _compensated_sum(x: jax.Array) -> jax.Array:
  """Sum of a vector as if in twice the precision: pairwise, with the rounding errors (Knuth)."""
  errors = jnp.zeros((), x.dtype)
  x = jnp.pad(x, (0, (1 << (x.size - 1).bit_length()) - x.size))
  while x.size > 1:
    a, b = jnp.split(x, 2)
    x = a + b
    virtual = x - a
    errors += jnp.sum((a - (x - virtual)) + (b - virtual))
  return x[0] + errors


def _near_pairs(student: jax.Array, teacher: jax.Array, reach: int) -> jax.Array:
  """As `_all_pairs` over maps `(N, H, W, C)`, pairs at most `reach` rows and columns apart.

  One batch of W x W products for each row distance: memory is linear in the number of nodes.
  """
  _, height, width, _ = student.shape
  reach_rows = min(reach, height - 1)
  columns = np.arange(width)
  near = np.abs(columns[:, None] - columns) <= reach
  # Rows beyond the map are zeros, whose affinities are 0 in both.
  padded = [jnp.pad(x, ((0, 0), (0, reach_rows), (0, 0), (0, 0))) for x in (student, teacher)]

  @jax.checkpoint  # else the shifted copies of all distances are kept for the gradient
  def at_distance(rows):
    ours, theirs = (
        _common.products('nyac,nybc->nyab', x, lax.dynamic_slice_in_dim(y, rows, height, axis=1))
        for x, y in zip((student, teacher), padded))
    return jnp.sum(jnp.where(near, ours - theirs, 0)**2)

  totals = lax.map(at_distance, np.arange(reach_rows + 1))
  return 2 * jnp.sum(totals) - totals[0]  # a distance counts upwards and downwards, 0 once


def _band_size(length: int, reach: int) -> int:
  """Number of pairs (i, j) in [0, length) with |i - j| <= reach."""
  reach = min(reach, length - 1)
  return length * (2 * reach + 1) - reach * (reach + 1)
