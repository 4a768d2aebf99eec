"""Confusion counts and what is computed from them."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType
from jax.sharding import PartitionSpec as P

from kdseg_jax import metrics

LABELS = np.array([[0, 0, 1, 1], [2, 255, -1, 3]])
PREDICTIONS = np.array([[0, 1, 1, 1], [0, 2, 0, 1]])


def random_pair(seed=0, shape=(8, 9, 7), classes=5):
  rng = np.random.default_rng(seed)
  labels = rng.integers(0, classes + 1, shape)
  return np.where(labels == classes, 255, labels), rng.integers(0, classes, shape)


def test_counts_by_hand():
  matrix = metrics.confusion_matrix(LABELS, PREDICTIONS, 3)
  np.testing.assert_array_equal(matrix, [[1, 1, 0], [0, 2, 0], [1, 0, 0]])
  assert jnp.issubdtype(matrix.dtype, jnp.integer)


def test_masked_pixels_count_nowhere():
  where = np.array([[True, False, True, False], [True] * 4])
  np.testing.assert_array_equal(
      metrics.confusion_matrix(LABELS, PREDICTIONS, 3, where=where),
      [[1, 0, 0], [0, 1, 0], [1, 0, 0]])
  assert metrics.confusion_matrix(LABELS, PREDICTIONS, 3, where=np.zeros((2, 4))).sum() == 0


@pytest.mark.parametrize('dtype', [np.uint8, np.int64])
def test_equals_counting_one_by_one(dtype):
  labels, predictions = random_pair()
  expected = np.zeros((5, 5), int)
  for label, prediction in zip(labels.ravel(), predictions.ravel()):
    if label != 255:
      expected[label, prediction] += 1
  np.testing.assert_array_equal(
      metrics.confusion_matrix(labels.astype(dtype), predictions.astype(dtype), 5), expected)
  np.testing.assert_array_equal(
      jax.jit(metrics.confusion_matrix, static_argnums=2)(labels, predictions, 5), expected)
  each = jax.jit(jax.vmap(lambda a, b: metrics.confusion_matrix(a, b, 5)))(labels, predictions)
  np.testing.assert_array_equal(each.sum(0), expected)


def test_uint8_with_more_classes_than_it_holds():
  labels = np.array([7, 250], np.uint8)
  matrix = np.asarray(metrics.confusion_matrix(labels, labels, 300))
  assert matrix[7, 7] == matrix[250, 250] == 1 and matrix.sum() == 2


def test_adds_up_over_devices():
  labels, predictions = random_pair()
  mesh = jax.make_mesh((8,), ('data',), axis_types=(AxisType.Auto,))
  count = lambda a, b: jax.lax.psum(metrics.confusion_matrix(a, b, 5), 'data')
  spread = jax.jit(jax.shard_map(
      count, mesh=mesh, in_specs=(P('data'), P('data')), out_specs=P()))(labels, predictions)
  np.testing.assert_array_equal(spread, metrics.confusion_matrix(labels, predictions, 5))


def test_predictions_out_of_range():
  with pytest.raises(ValueError, match=r'\[3, 7\].*outside \[0, 3\)'):
    metrics.confusion_matrix(np.array([0, 1, 2]), np.array([3, 1, 7]), 3)
  # Where the pixel does not count, any prediction will do; under jit it counts nowhere.
  metrics.confusion_matrix(np.array([255, 1]), np.array([255, 1]), 3)
  metrics.confusion_matrix(np.array([0, 1]), np.array([7, 1]), 3, where=np.array([False, True]))
  counted = jax.jit(metrics.confusion_matrix, static_argnums=2)(
      np.array([0, 1, 1]), np.array([3, 1, -1]), 3)
  np.testing.assert_array_equal(counted, np.diag([0, 1, 0]))


def test_refuses_other_shapes_and_floats():
  with pytest.raises(ValueError, match=r'\(2, 4\).*\(4,\)'):
    metrics.confusion_matrix(LABELS, PREDICTIONS[0], 3)
  with pytest.raises(ValueError, match=r'where \(4,\)'):
    metrics.confusion_matrix(LABELS, PREDICTIONS, 3, where=np.ones(4, bool))
  with pytest.raises(ValueError, match='integer predictions'):
    metrics.confusion_matrix(LABELS, PREDICTIONS.astype(float), 3)
  with pytest.raises(ValueError, match='integer labels'):
    metrics.confusion_matrix(LABELS == 1, PREDICTIONS, 3)


def test_more_pixels_than_an_int32_counts_are_refused():
  count = lambda pixels: jax.eval_shape(
      lambda x: metrics.confusion_matrix(x, x, 3), jax.ShapeDtypeStruct((pixels,), np.uint8))
  with pytest.raises(ValueError, match='2147483648 pixels in one call overflow'):
    count(2**31)
  assert count(2**31 - 1).shape == (3, 3)


def test_mean_iou_by_hand():
  # Class 0: 1 of 3, class 1: 2 of 3, class 2: 0 of 1; class 3 occurs nowhere.
  matrix = np.zeros((4, 4), np.int64)
  matrix[:3, :3] = [[1, 1, 0], [0, 2, 0], [1, 0, 0]]
  mean, per_class = metrics.mean_iou(matrix)
  np.testing.assert_allclose(per_class, [1 / 3, 2 / 3, 0, np.nan])
  np.testing.assert_allclose(mean, 1 / 3)
  mean, per_class = metrics.mean_iou(matrix, absent_as_zero=True)
  np.testing.assert_allclose(per_class, [1 / 3, 2 / 3, 0, 0])
  np.testing.assert_allclose(mean, 1 / 4)
  np.testing.assert_allclose(metrics.pixel_accuracy(matrix), 3 / 5)


@pytest.mark.parametrize('absent_as_zero', [False, True])
def test_same_under_jit(absent_as_zero):
  matrix = metrics.confusion_matrix(*random_pair(classes=4), 5)
  expected = metrics.mean_iou(matrix, absent_as_zero=absent_as_zero)
  compiled = jax.jit(lambda m: metrics.mean_iou(m, absent_as_zero=absent_as_zero))(matrix)
  for a, b in zip(compiled, expected):
    np.testing.assert_allclose(a, b, rtol=1e-6)
  np.testing.assert_allclose(
      jax.jit(metrics.pixel_accuracy)(matrix), metrics.pixel_accuracy(matrix), rtol=1e-6)


@pytest.mark.filterwarnings('error')
def test_nothing_counted_is_nan_without_warnings():
  empty = np.zeros((3, 3), np.int32)
  mean, per_class = metrics.mean_iou(empty)
  assert np.isnan(mean) and np.isnan(per_class).all()
  assert np.isnan(metrics.pixel_accuracy(empty))
  assert metrics.mean_iou(empty, absent_as_zero=True)[0] == 0


def test_counts_near_the_limit_of_int32():
  matrix = np.diag([2**31 - 1, 2**31 - 1]).astype(np.int32)
  matrix[0, 1] = 2**31 - 1
  np.testing.assert_allclose(metrics.mean_iou(matrix)[1], [1 / 2, 1 / 2])
  np.testing.assert_allclose(metrics.pixel_accuracy(matrix), 2 / 3)
  with pytest.raises(ValueError, match='overflow'):
    metrics.mean_iou(matrix + np.int32(1))


def test_one_wrong_pixel_of_many_is_seen():
  matrix = np.array([[2**25 - 1, 1], [0, 0]])  # float32 would round the hits up
  for value in (metrics.pixel_accuracy(matrix), metrics.mean_iou(matrix)[1][0]):
    assert float(value) == 1 - 2**-25


def test_refuses_what_is_no_confusion_matrix():
  for function in (metrics.mean_iou, metrics.pixel_accuracy):
    for shape in ((2, 3), (4,), (2, 2, 2)):
      with pytest.raises(ValueError, match='square.*' + re.escape(str(shape))):
        function(np.zeros(shape))
