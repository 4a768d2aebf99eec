"""Predictions of a dense head as one array, without suppression: what an export computes.

A row is an anchor or point: its box `x1 y1 x2 y2` in pixels, clipped to the image; a factor, the
centerness, 1 of heads that have none; and the probability of each class. The score of a class is
their product. Rows go level by level, row by row, and at a position anchor by anchor.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

from kdseg_jax.losses import box_coding
from kdseg_jax.tasks.detection import heads, suppression

BOX, FACTOR = 4, 5  # numbers before the factor, and before the classes


def rows(head: heads.DenseHead, raw: heads.Raw, size: tuple[int, int]) -> jax.Array:
  """`(N, P, 5 + C)` float32.

  Args:
    head: whose outputs they are.
    raw: of all levels.
    size: (height, width) of the images.
  """
  found = head.decoded(raw)
  factors = jnp.ones_like(found.scores[..., 0]) if found.factors is None else found.factors
  return jnp.concatenate(
      [box_coding.clip(found.boxes, size), factors[..., None], found.scores], axis=-1)


def detections(head: heads.DenseHead, found: jax.Array, size: tuple[int, int], sizes: jax.Array
               ) -> suppression.Detections:
  """What is detected, of `rows`, as `DenseHead.detections` of the raw outputs.

  Args:
    head: whose rows they are.
    found: `(N, P, 5 + C)`.
    size: (height, width) of the images that the model saw.
    sizes: `(N, 2)` of their parts without padding, to which boxes are clipped.
  """
  shapes = [(-(-size[0] // stride), -(-size[1] // stride)) for stride in head.strides]
  boxes, factors, scores = jnp.split(found, (BOX, FACTOR), axis=-1)
  return head.select(suppression.Decoded(boxes, scores, factors[..., 0]), shapes, sizes=sizes)
