"""Assignment against official outputs and plain loops."""

import functools
import pathlib

import jax
import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from kdseg_jax import losses
from kdseg_jax.tasks.detection import assignment

with np.load(pathlib.Path(__file__).parents[2] / 'golden' / 'detection.npz') as file:
  GOLDEN = {name: file[name] for name in file.files if '_assign/' in name}
SHAPES, STRIDES = [(4, 5), (2, 3)], (8, 16)
ANCHORS = np.concatenate(losses.anchors(SHAPES, strides=STRIDES, octave_base_scale=2))
POINTS = np.concatenate(losses.points(SHAPES, strides=STRIDES))
RANGES = np.repeat(np.float32([[-1, 16], [16, 1e8]]), [20, 6], axis=0)
atss = jax.jit(functools.partial(assignment.atss, top_k=4), static_argnums=1)
valuable = jax.jit(functools.partial(assignment.valuable_region, top_k=4), static_argnums=1)
max_iou, fcos = jax.jit(assignment.max_iou), jax.jit(assignment.fcos)


def of(case, name):
  return GOLDEN[f'cross_{case}_assign/{name}']


def truth(seed, rows=5):
  rng = np.random.default_rng(seed)
  corners = rng.uniform(0, 25, (rows, 2))
  boxes = np.concatenate([corners, corners + rng.uniform(3, 20, (rows, 2))], 1)
  return boxes.astype(np.float32), rng.random(rows) < 0.7


def test_equals_the_official_code():
  valid = np.ones(5, bool)
  found = assignment.atss(of('atss', 'priors'), tuple(of('atss', 'num_level')),
                          of('atss', 'gt'), valid)
  np.testing.assert_array_equal(found.box + 1, of('atss', 'gt_inds'))
  np.testing.assert_array_equal(
      np.where(found.positive, found.overlap, -1e8), of('atss', 'max_overlaps'))
  found = max_iou(of('maxiou', 'priors'), of('maxiou', 'gt'), valid)
  np.testing.assert_array_equal(
      np.where(found.box == assignment.IGNORED, -1, found.box + 1), of('maxiou', 'gt_inds'))
  np.testing.assert_allclose(found.overlap, of('maxiou', 'max_overlaps'), atol=1e-6)


@settings(max_examples=25)
@given(st.integers(0, 2**31))
def test_atss_and_the_valuable_region_equal_their_definitions_on_anchors_that_take_part(seed):
  boxes, valid = truth(seed)
  where = np.random.default_rng(seed).random(26) < 0.5
  assume(where[:20].any() and where[20:].any())
  centers = (ANCHORS[:, :2] + ANCHORS[:, 2:]) / 2
  overlaps = np.asarray(losses.pairwise_overlaps(boxes, ANCHORS))
  distances = np.asarray(losses.pairwise_overlaps(boxes, ANCHORS, form='diou'))
  best, region = np.full(26, -1.0), np.zeros(26, bool)
  wanted = np.full(26, assignment.BACKGROUND)
  for m in np.flatnonzero(valid):
    distance = np.linalg.norm(centers - (boxes[m, :2] + boxes[m, 2:]) / 2, axis=1)
    near = np.concatenate([[i for i in sorted(range(*level), key=lambda i: distance[i])
                            if where[i]][:4] for level in ((0, 20), (20, 26))]).astype(int)
    threshold = overlaps[m, near].mean() + overlaps[m, near].std(ddof=1)
    region |= where & (distances[m] >= 0.25 * threshold) & (distances[m] < threshold)
    for i in near:
      inside = min(*(centers[i] - boxes[m, :2]), *(boxes[m, 2:] - centers[i])) > 0.01
      if overlaps[m, i] >= threshold and inside and overlaps[m, i] > best[i]:
        best[i], wanted[i] = overlaps[m, i], m
  np.testing.assert_array_equal(atss(ANCHORS, (20, 6), boxes, valid, where).box, wanted)
  np.testing.assert_array_equal(valuable(ANCHORS, (20, 6), boxes, valid, where), region)


@settings(max_examples=25)
@given(st.integers(0, 2**31), st.booleans())
def test_fcos_equals_its_definition(seed, sampled):
  boxes, valid = truth(seed)
  strides = np.repeat(np.float32(STRIDES), [20, 6])
  wanted = []
  for point, (low, high), stride in zip(POINTS, RANGES, strides):
    takes = []
    for m in np.flatnonzero(valid):
      sides = [*(point - boxes[m, :2]), *(boxes[m, 2:] - point)]
      center = (boxes[m, :2] + boxes[m, 2:]) / 2
      near = not sampled or np.all(np.abs(point - center) < 1.5 * stride)
      if min(sides) > 0 and low <= max(sides) <= high and near:
        takes.append((np.prod(boxes[m, 2:] - boxes[m, :2]), m))
    wanted.append(min(takes)[1] if takes else assignment.BACKGROUND)
  found = fcos(POINTS, RANGES, boxes, valid, strides=strides if sampled else None)
  np.testing.assert_array_equal(found.box, wanted)


def test_max_iou_ignores_between_the_thresholds_and_every_box_takes_its_best():
  anchors = np.float32([[0, 0, 10, 10], [0, 0, 10, 4.5], [50, 50, 60, 60], [0, 0, 10, 10]])
  boxes = np.float32([[0, 0, 10, 10], [55, 55, 80, 80], [0, 0, 0, 0]])
  none, ignored = assignment.BACKGROUND, assignment.IGNORED
  of_valid = lambda valid, **options: list(
      max_iou(anchors, boxes, np.bool_(valid), **options).box)
  assert of_valid([1, 1, 0]) == [0, ignored, 1, 0]
  assert of_valid([1, 1, 1]) == [0, ignored, 1, 0]  # a box that overlaps nothing takes nothing
  assert of_valid([0, 0, 0]) == [none] * 4
  assert of_valid([1, 0, 0], where=np.bool_([1, 0, 1, 0])) == [0, ignored, none, ignored]
  low = assignment.max_iou(anchors, boxes, np.ones(3, bool), low_quality=False)
  assert list(low.box) == [0, ignored, none, 0]


@settings(max_examples=25)
@given(st.integers(0, 2**31))
def test_boxes_find_their_best_anchor_among_those_that_take_part(seed):
  boxes, valid = truth(seed)
  part = np.sort(np.random.default_rng(seed).permutation(26)[:9])
  found = max_iou(ANCHORS, boxes, valid, np.isin(np.arange(26), part))
  alone = max_iou(ANCHORS[part], boxes, valid)
  np.testing.assert_array_equal(found.box[part], alone.box)
  np.testing.assert_array_equal(found.overlap[part], alone.overlap)
  assert (np.delete(found.box, part) == assignment.IGNORED).all()


def test_task_aligned_takes_the_best_predictions_near_the_box():
  centers = np.float32([[5, 5], [6, 5], [30, 30], [5, 6]])
  boxes, classes = np.float32([[0, 0, 10, 10]]), np.int32([1])
  predicted = np.float32([[0, 0, 10, 10], [0, 0, 10, 8], [0, 0, 10, 10], [20, 20, 30, 30]])
  scores = np.float32([[0.9, 0.5], [0, 0.6], [0, 0.9], [0, 0.9]])
  found, alignment = assignment.task_aligned(
      scores, predicted, centers, boxes, classes, np.ones(1, bool))
  assert list(found.box) == [0, 0, -1, -1]
  np.testing.assert_allclose(alignment, [0.5, 0.6 * 0.8**6, 0, 0], rtol=1e-5)
  few, _ = assignment.task_aligned(
      scores, predicted, centers, boxes, classes, np.ones(1, bool), top_k=1)
  assert not few.positive.any()  # the best one is too far away
  part, _ = assignment.task_aligned(
      scores, predicted, centers, boxes, classes, np.ones(1, bool), np.bool_([0, 1, 1, 1]))
  assert list(part.box) == [-1, 0, -1, -1]
  assert not np.any(jax.grad(lambda *x: assignment.task_aligned(
      *x, centers, boxes, classes, np.ones(1, bool))[1].sum())(scores, predicted))


def test_the_valuable_region_is_around_the_box():
  boxes, valid = truth(3)
  region = assignment.valuable_region(ANCHORS, (20, 6), boxes, valid, top_k=4)
  near = np.asarray(losses.pairwise_overlaps(boxes, ANCHORS, form='diou'))
  assert region.any() and not assignment.valuable_region(
      ANCHORS, (20, 6), boxes, valid, top_k=4, gamma=1.0).any()
  assert near[valid][:, np.asarray(region)].max(0).min() > 0
  assert not assignment.valuable_region(ANCHORS, (20, 6), boxes, np.zeros(5, bool)).any()


def test_images_are_mapped():
  boxes, valid = (np.stack(x) for x in zip(truth(0), truth(1)))
  together = jax.vmap(lambda *image: assignment.atss(ANCHORS, (20, 6), *image, top_k=4))(
      boxes, valid)
  for i in range(2):
    np.testing.assert_array_equal(
        together.box[i], atss(ANCHORS, (20, 6), boxes[i], valid[i]).box)


def test_a_single_candidate_that_equals_its_threshold_is_positive():
  anchor, box = np.float32([[0, 0, 8, 8]]), np.float32([[0, 0, 8, 12]])
  found = atss(anchor, (1,), box, np.ones(1, bool))
  assert found.box.tolist() == [0] and found.overlap[0] == pytest.approx(2 / 3)
  assert atss(anchor, (1,), box, np.zeros(1, bool)).box.tolist() == [-1]


def test_an_overlap_at_a_threshold_is_positive_or_ignored():
  anchors = np.float32([[0, 0, 8, 8], [0, 0, 8, 4], [0, 0, 8, 2], [0, 0, 8, 1.5]])
  found = jax.jit(functools.partial(assignment.max_iou, negative=0.25, low_quality=False))(
      anchors, anchors[:1], np.ones(1, bool))
  assert found.box.tolist() == [0, 0, assignment.IGNORED, assignment.BACKGROUND]
  np.testing.assert_array_equal(found.overlap, [1, 0.5, 0.25, 0.1875])


def test_of_boxes_that_share_their_best_anchor_the_last_has_it():
  anchors = np.float32([[0, 0, 8, 2], [0, 0, 2, 8], [30, 30, 40, 40]])
  boxes = np.float32([[0, 0, 8, 3], [0, 0, 8, 8], [0, 0, 8, 8]])  # IoU 0.67 and 0.25
  taken = lambda count: max_iou(anchors, boxes, np.arange(3) < count).box.tolist()
  assert taken(1) == [0, -1, -1] and taken(2) == [1, 1, -1] and taken(3) == [2, 2, -1]


def test_the_size_of_a_box_may_be_the_end_of_a_range():
  points, box = np.float32([[4, 8]]), np.float32([[0, 0, 16, 16]])  # 12 to the right side
  for low, high, wanted in ((0, 12, 0), (12, 20, 0), (0, 11, -1), (13, 20, -1)):
    found = fcos(points, np.float32([[low, high]]), box, np.ones(1, bool))
    assert list(found.box) == [wanted], (low, high)
  edge = np.float32([[0, 8]])
  assert list(fcos(edge, np.float32([[0, 99]]), box, np.ones(1, bool)).box) == [-1]


def test_task_aligned_weighs_as_it_is_told_leaves_out_padding_and_prefers_the_nearer_box():
  centers = np.float32([[5, 5], [6, 5]])
  boxes = np.float32([[0, 0, 10, 10], [0, 0, 10, 8], [0, 0, 10, 9]])
  predicted, scores = boxes[:2], np.float32([[0.5, 0.5], [0.5, 0.25]])
  classes = np.int32([1, 0, 1])
  of = jax.jit(lambda valid: assignment.task_aligned(
      scores, predicted, centers, boxes, classes, valid, alpha=2, beta=1))
  found, alignment = of(np.bool_([1, 1, 0]))
  assert list(found.box) == [0, 1]
  np.testing.assert_allclose(alignment, [0.5**2, 0.5**2])
  found, alignment = of(np.bool_([1, 0, 0]))
  assert list(found.box) == [0, 0]
  np.testing.assert_allclose(alignment, [0.5**2, 0.25**2 * 0.8], rtol=1e-6)
  assert of(np.zeros(3, bool))[0].box.tolist() == [-1, -1]


@pytest.mark.parametrize('sizes', [(20, 5), (20, 7), (26, 6), ()])
@pytest.mark.parametrize('assign', [assignment.atss, assignment.valuable_region])
def test_levels_that_are_not_those_of_the_anchors_are_refused(assign, sizes):
  with pytest.raises(ValueError, match='26 anchors, but levels of'):
    assign(ANCHORS, sizes, *truth(0))
