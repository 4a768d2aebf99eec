"""Anchors and boxes of the four dense heads, by the names of the heads.

| head | anchors a position | numbers of a box |
|---|---|---|
| gfl | 1 | 4 (reg_max + 1) logits |
| retinanet | 9 | 4 deltas |
| fcos | 1 point | 4 distances, in pixels |
| atss | 1 | 4 deltas |
"""

from __future__ import annotations

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

from kdseg_jax.losses import _common, box_coding

HEADS = ('gfl', 'retinanet', 'fcos', 'atss')
_ATSS_STDS = (0.1, 0.1, 0.2, 0.2)


def per_position(head: str) -> int:
  """Number of anchors or points of a position."""
  _common.check_choice('head', head, HEADS)
  return 9 if head == 'retinanet' else 1


def priors(
    head: str, shapes: box_coding.Shapes, *, strides: Sequence[int] = box_coding.STRIDES
) -> list[jax.Array]:
  """Of every level the anchors `(P, 4)`, of FCOS the points `(P, 2)`, in pixels.

  Args:
    head: of `HEADS`.
    shapes: (height, width) of every level's map.
    strides: of every level.

  Raises:
    ValueError: an unknown head, or not as many shapes as strides.
  """
  _common.check_choice('head', head, HEADS)
  if head == 'fcos':
    return box_coding.points(shapes, strides=strides)
  if head == 'retinanet':
    return box_coding.anchors(shapes, strides=strides, octave_base_scale=4, scales_per_octave=3,
                              ratios=(0.5, 1.0, 2.0))
  return box_coding.anchors(shapes, strides=strides)


def joined_priors(
    head: str, shapes: box_coding.Shapes, *, strides: Sequence[int] = box_coding.STRIDES
) -> tuple[jax.Array, jax.Array]:
  """`priors` of all levels, one after the other, and the stride `(P,)` of each."""
  joined = jnp.concatenate(priors(head, shapes, strides=strides))  # says if levels are missing
  sizes = [height * width * per_position(head) for height, width in shapes]
  return joined, jnp.asarray(np.repeat(np.asarray(strides, np.float32), sizes))


def decode(head: str, reg: jax.Array, priors: jax.Array, strides: jax.Array) -> jax.Array:
  """The boxes `(..., P, 4)`, in pixels, of a head's raw numbers.

  Args:
    head: of `HEADS`.
    reg: `(..., P, numbers of a box)`.
    priors: `(P, 4)` or `(P, 2)`, see `joined_priors`.
    strides: `(P,)`, of which GFL's distances are multiples.

  Raises:
    ValueError: an unknown head.
  """
  _common.check_choice('head', head, HEADS)
  if head == 'fcos':
    return box_coding.decode_distances(priors, reg)
  if head == 'gfl':
    points = box_coding.centers(priors) / strides[:, None]
    return strides[:, None] * box_coding.decode_distances(points, box_coding.integral(reg))
  return box_coding.decode_deltas(
      priors, reg, stds=_ATSS_STDS if head == 'atss' else (1.0, 1.0, 1.0, 1.0))


def join(maps: Sequence[jax.Array], anchors: int) -> jax.Array:
  """Maps `(N, h, w, anchors * D)`, one a level, as `(N, P, D)`, float32 or float64.

  Raises:
    ValueError: channels that are no multiple of the number of anchors.
  """
  for x in maps:
    if x.shape[-1] % anchors:
      raise ValueError(f'{x.shape[-1]} channels are not those of {anchors} anchors.')
  return jnp.concatenate([
      x.reshape(x.shape[0], -1, x.shape[-1] // anchors) for x in maps],
      axis=1).astype(jnp.promote_types(jnp.float32, maps[0].dtype))
