"""Suppression against a plain greedy one."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from kdseg_jax.tasks.detection import suppression

suppress = jax.jit(suppression.suppress, static_argnames=('iou_threshold', 'max_detections'))


def greedy(boxes, scores, classes, threshold, count):
  """Indices that are kept, by loops in float64."""
  kept = []
  for i in np.argsort(-scores, kind='stable'):
    if np.isfinite(scores[i]) and all(
        classes[i] != classes[j] or iou(boxes[i], boxes[j]) <= threshold for j in kept):
      kept.append(i)
  return kept[:count]


def iou(a, b):
  sides = np.minimum(a[2:], b[2:]) - np.maximum(a[:2], b[:2])
  both = np.prod(np.maximum(sides, 0))
  return both / (np.prod(a[2:] - a[:2]) + np.prod(b[2:] - b[:2]) - both)


def random_boxes(rng, count):
  corners = rng.integers(0, 6, (count, 2))
  return np.concatenate([corners, corners + rng.integers(1, 6, (count, 2))], 1).astype(np.float32)


@settings(max_examples=60)
@given(st.integers(0, 2**31), st.sampled_from([0.3, 0.5]), st.integers(1, 6))
def test_equals_a_greedy_one_with_ties(seed, threshold, levels):
  rng = np.random.default_rng(seed)
  boxes, classes = random_boxes(rng, 40), rng.integers(0, 3, 40)
  scores = (rng.integers(0, levels + 1, 40) / levels).astype(np.float32)  # many are equal
  scores[rng.random(40) < 0.1] = -np.inf
  for count in (12, 50):
    found = suppress(boxes, scores, classes, iou_threshold=threshold, max_detections=count)
    kept = greedy(boxes, scores, classes, threshold, count)
    assert np.array_equal(found.valid, np.arange(count) < len(kept))
    for value, wanted, empty in ((found.boxes, boxes, 0), (found.scores, scores, 0),
                                 (found.classes, classes, -1)):
      np.testing.assert_array_equal(value[:len(kept)], wanted[kept])
      assert np.all(value[len(kept):] == empty)


def test_levels_give_their_best_above_the_threshold_and_boxes_without_area_go():
  boxes = np.float32([[0, 0, 4, 4], [10, 10, 14, 14], [20, 20, 20, 30], [30, 30, 34, 34]])
  scores = np.float32([[0.9, 0.2], [0.4, 0.8], [0.95, 0.1], [np.nan, 0.1]])
  level = suppression.Level(boxes, scores, np.float32([0.5, 1, 1, 1]))
  detect = jax.jit(functools.partial(suppression.detect, score_threshold=0.15, max_detections=6))
  found = detect([level])
  np.testing.assert_allclose(found.scores, [0.8, 0.45, 0.4, 0.1, 0, 0], rtol=1e-6)
  np.testing.assert_array_equal(found.classes, [1, 0, 0, 1, -1, -1])
  few = suppression.detect([level, level], score_threshold=0.15, max_candidates=2)
  assert np.sum(few.valid) == 1  # 0.95 has no area, 0.9 is found twice, at the same place


def test_scores_are_above_the_threshold_and_as_many_as_is_usual():
  count = 1005
  corners = 2 * np.arange(count, dtype=np.float32)[:, None].repeat(2, 1)
  scores = np.linspace(1, 0.06, count, dtype=np.float32)[:, None]
  level = suppression.Level(np.concatenate([corners, corners + 1], 1), scores)
  assert np.sum(suppression.detect([level]).valid) == 100
  assert np.sum(suppression.detect([level], max_detections=count).valid) == 1000  # of a level
  few = suppression.Level(level.boxes[:4], np.float32([[0.5], [0.05], [0.25], [0.06]]))
  for options, found in (({}, 3), ({'score_threshold': 0.25}, 1)):
    assert np.sum(suppression.detect([few], max_detections=4, **options).valid) == found


def test_images_are_mapped():
  rng = np.random.default_rng(0)
  boxes = np.stack([random_boxes(rng, 9) for _ in range(3)])
  scores, classes = rng.random((3, 9), np.float32), rng.integers(0, 2, (3, 9))
  of = functools.partial(suppress, max_detections=5)
  together = jax.vmap(of)(boxes, scores, classes)
  for i, images in enumerate(zip(boxes, scores, classes)):
    jax.tree.map(np.testing.assert_array_equal, jax.tree.map(lambda x, i=i: x[i], together),
                 of(*map(jnp.asarray, images)))
