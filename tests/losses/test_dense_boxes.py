"""Anchors and boxes by the names of the heads."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kdseg_jax import losses
from kdseg_jax.losses import dense_boxes

SHAPES, STRIDES = ((2, 3), (1, 2)), (8, 16)
STDS = {'retinanet': (1.0, 1.0, 1.0, 1.0), 'atss': (0.1, 0.1, 0.2, 0.2)}


def centers(priors):
  return priors if priors.shape[-1] == 2 else (priors[:, :2] + priors[:, 2:]) / 2


@pytest.mark.parametrize('head', dense_boxes.HEADS)
def test_boxes_come_back_from_what_they_are_encoded_as(head):
  priors, strides = dense_boxes.joined_priors(head, SHAPES, strides=STRIDES)
  anchors = dense_boxes.per_position(head)
  assert len(priors) == len(strides) == 8 * anchors
  np.testing.assert_array_equal(strides, [8] * 6 * anchors + [16] * 2 * anchors)
  half = np.array([16.0, 8.0])
  boxes = np.concatenate([centers(priors) - half, centers(priors) + half], axis=-1)
  if head == 'gfl':  # half of 16 and 8 pixels, in strides, with all the mass in one bin
    sides = np.tile(half, 2) / np.asarray(strides)[:, None]
    low = np.floor(sides).astype(int)
    share = sides - low
    logits = np.full((*sides.shape, 5), -1e9)
    np.put_along_axis(logits, low[..., None], np.log1p(-share)[..., None], -1)
    np.put_along_axis(logits, low[..., None] + 1, np.log(np.maximum(share, 1e-30))[..., None], -1)
    reg = logits.reshape(len(sides), -1).astype(np.float32)
  elif head == 'fcos':
    reg = losses.encode_distances(priors, boxes)
  else:
    reg = losses.encode_deltas(priors, boxes, stds=STDS[head])
  np.testing.assert_allclose(
      dense_boxes.decode(head, reg, priors, strides), boxes, rtol=1e-4, atol=1e-3)


def test_maps_are_joined_level_by_level_row_by_row_anchor_by_anchor():
  maps = [np.arange(12.0, dtype=np.float32).reshape(1, 1, 2, 6),
          np.arange(12.0, 18.0, dtype=np.float32).reshape(1, 1, 1, 6)]
  np.testing.assert_array_equal(
      dense_boxes.join(maps, 3), np.arange(18.0).reshape(1, 9, 2))
  with pytest.raises(ValueError, match='6 channels are not those of 4 anchors'):
    dense_boxes.join(maps, 4)


@pytest.mark.parametrize('dtype, joined', [
    ('bfloat16', 'float32'), ('float32', 'float32'), ('float64', 'float64')])
def test_maps_are_joined_in_float32_or_more(dtype, joined):
  with jax.enable_x64(True):
    assert dense_boxes.join([jnp.ones((1, 2, 2, 4), dtype)], 1).dtype == joined


def test_unknown_heads_are_refused():
  with pytest.raises(ValueError, match="head='yolo' is unknown"):
    dense_boxes.priors('yolo', SHAPES)
