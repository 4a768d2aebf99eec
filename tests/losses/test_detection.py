"""Losses of detectors and cross-head distillation: what holds for any input."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kdseg_jax import losses


def normal(*shape, seed=0):
  return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def boxes(*shape, seed=0):
  corners = np.random.default_rng(seed).uniform(0, 20, (*shape, 2))
  sides = np.random.default_rng(seed + 1).uniform(1, 20, (*shape, 2))
  return np.concatenate([corners, corners + sides], axis=-1).astype(np.float32)


PROBABILITIES = 1 / (1 + np.exp(-normal(6, 5, seed=1)))
ONE_HOT = np.eye(5, dtype=np.float32)[[0, 1, 2, 3, 4, 0]]
# Loss, prediction, target, both with 6 rows.
LOSSES = {
    'quality_focal': (losses.quality_focal, normal(6, 5), PROBABILITIES),
    'sigmoid_focal': (losses.sigmoid_focal, normal(6, 5), ONE_HOT),
    'distribution_focal': (
        losses.distribution_focal, normal(6, 5), np.float32([0, 0.5, 1.2, 2.9, 4, 3])),
    'distribution_kl': (losses.distribution_kl, normal(6, 5), normal(6, 5, seed=1)),
    'binary_cross_entropy': (losses.binary_cross_entropy, normal(6), PROBABILITIES[:, 0]),
    'smooth_l1': (losses.smooth_l1, normal(6, 4), normal(6, 4, seed=1)),
    'giou': (losses.giou, boxes(6), boxes(6, seed=5)),
    'diou': (losses.diou, boxes(6), boxes(6, seed=5)),
    'iou_log': (losses.iou_log, boxes(6), boxes(6) + 1),
    'cross_head_classification': (
        losses.cross_head_classification, normal(6, 5), normal(6, 5, seed=1)),
    **{f'cross_head_classification_{form}': (
        functools.partial(losses.cross_head_classification, form=form), normal(6, 5),
        normal(6, 5, seed=1)) for form in ('cross_entropy', 'kl')},
    'localization_distillation': (
        losses.localization_distillation, normal(6, 20), normal(6, 20, seed=1))}
every_loss = pytest.mark.parametrize('name', LOSSES)


@every_loss
def test_weights_choose_and_the_normalizer_divides(name):
  loss, predicted, target = LOSSES[name]
  each = [loss(predicted[i:i + 1], target[i:i + 1]) for i in range(6)]
  weights = np.float32([0, 1, 0.5, 0, 2, 1])
  np.testing.assert_allclose(
      loss(predicted, target, weights=weights, normalizer=3), np.dot(weights, each) / 3, rtol=1e-5)


@every_loss
def test_the_sum_is_that_of_all_devices(name):
  loss, predicted, target = LOSSES[name]
  weights = np.float32([0, 1, 0.5, 0, 2, 1])
  each = jax.vmap(lambda x, y, w: loss(
      x, y, weights=w, normalizer=3.0, axis_name='devices'), axis_name='devices')(
          *(x[:, None] for x in (predicted, target, weights)))
  np.testing.assert_allclose(
      each, np.full(6, loss(predicted, target, weights=weights, normalizer=3)), rtol=1e-5)


@every_loss
def test_values_without_weight_do_not_matter_and_without_any_the_loss_is_zero(name):
  loss, predicted, target = LOSSES[name]
  of = jax.value_and_grad(lambda x, y, w, n: loss(x, y, weights=w, normalizer=n), (0, 1))
  weights = np.float32([1, 1, 0, 1, 1, 1])
  spoil = lambda x: np.where((weights == 0).reshape(6, *[1] * (x.ndim - 1)), np.nan, x)
  value, gradients = of(predicted, target, weights, 2.0)
  spoilt, others = of(spoil(predicted), spoil(target), weights, 2.0)
  np.testing.assert_array_equal(value, spoilt)
  np.testing.assert_array_equal(gradients[0], others[0])
  assert np.any(gradients[0]) and not np.any(gradients[1]) and not np.any(others[1])
  value, gradients = of(predicted, target, np.zeros(6, np.float32), jnp.float32(0))
  assert value == 0 and not np.any(gradients[0])


@every_loss
def test_gradients_are_slopes(name):
  loss, predicted, target = LOSSES[name]
  with jax.enable_x64(True):
    predicted, target = predicted.astype(np.float64), target.astype(np.float64)
    direction = np.random.default_rng(7).normal(size=predicted.shape)
    slope = np.sum(jax.grad(loss)(predicted, target) * direction)
    step = 1e-6
    difference = (loss(predicted + step * direction, target)
                  - loss(predicted - step * direction, target)) / (2 * step)
    assert difference.dtype == jnp.float64
    np.testing.assert_allclose(slope, difference, rtol=1e-6)


@every_loss
def test_half_precision_is_computed_in_float32(name):
  loss, predicted, target = LOSSES[name]
  halves = [jnp.asarray(x, jnp.bfloat16) for x in (predicted, target)]
  value = loss(*halves)
  assert value.dtype == jnp.float32 and value.shape == ()
  np.testing.assert_allclose(value, loss(*(np.asarray(x, np.float32) for x in halves)), rtol=1e-6)


@every_loss
def test_what_does_not_fit_is_refused(name):
  loss, predicted, target = LOSSES[name]
  with pytest.raises(ValueError):
    loss(predicted, target[:5])
  with pytest.raises(ValueError, match='leading axes'):
    loss(predicted, target, weights=np.ones(5))
  with pytest.raises(ValueError, match='normalizer=0.* positive'):
    loss(predicted, target, normalizer=0)


def test_cross_entropy_equals_its_definition():
  """Values and gradients, at 0 and at large logits too, where either softplus is all there is."""
  def definition(logits, targets):
    return jnp.sum(targets * jax.nn.softplus(-logits) + (1 - targets) * jax.nn.softplus(logits))

  with jax.enable_x64(True):
    logits = jnp.asarray([-700., -30., -1.5, 0., 0.3, 2., 40., 800.]).repeat(3)
    targets = jnp.tile(jnp.asarray([0., 0.3, 1.]), 8)
    actual = jax.value_and_grad(losses.binary_cross_entropy)(logits, targets)
    expected = jax.value_and_grad(definition)(logits, targets)
  for ours, theirs in zip(actual, expected, strict=True):
    np.testing.assert_allclose(np.asarray(ours), np.asarray(theirs), rtol=1e-12, atol=1e-300)


def test_large_logits_have_exact_losses():
  value = losses.binary_cross_entropy(np.float32([100, -100, 100]), np.float32([1, 0, 0]))
  np.testing.assert_allclose(value, 100, rtol=1e-6)
  gradient = jax.grad(losses.sigmoid_focal)(np.float32([[1e4, -1e4]]), np.float32([[0, 1]]))
  assert np.all(np.isfinite(gradient)) and np.any(gradient)


@settings(max_examples=30)
@given(st.integers(0, 2**31), st.floats(0.1, 50), st.floats(-30, 30))
def test_overlaps_of_boxes_are_bounded_symmetric_and_of_no_scale(seed, scale, shift):
  a, b = boxes(7, seed=seed), boxes(7, seed=seed + 9)
  moved = lambda x: (x * scale + shift).astype(np.float32)
  for form, least in (('iou', 0), ('giou', -1), ('diou', -1)):
    value = losses.pairwise_overlaps(a, b, form=form)
    assert np.all(value >= least) and np.all(value <= 1)
    np.testing.assert_allclose(value, losses.pairwise_overlaps(b, a, form=form).T, atol=1e-5)
    np.testing.assert_allclose(
        value, losses.pairwise_overlaps(moved(a), moved(b), form=form), atol=1e-3)
    np.testing.assert_allclose(losses.box_overlaps(a, a, form=form), 1, rtol=1e-5)


def test_diou_and_the_logarithm_of_iou_equal_their_definitions():
  a, b = boxes(9).astype(float), boxes(9, seed=5).astype(float)
  b[0] = a[0] + 100  # apart
  distances, logarithms = [], []
  for one, other in zip(a, b):
    sides = np.minimum(one[2:], other[2:]) - np.maximum(one[:2], other[:2])
    shared = np.prod(np.maximum(sides, 0))
    iou = shared / (np.prod(one[2:] - one[:2]) + np.prod(other[2:] - other[:2]) - shared)
    hull = np.maximum(one[2:], other[2:]) - np.minimum(one[:2], other[:2])
    apart = (one[:2] + one[2:] - other[:2] - other[2:]) / 2
    distances.append(1 - iou + np.sum(apart**2) / np.sum(hull**2))
    logarithms.append(-np.log(max(iou, 1e-6)))
  for loss, values in ((losses.diou, distances), (losses.iou_log, logarithms)):
    np.testing.assert_allclose(loss(a, b), np.sum(values), rtol=1e-5)
    np.testing.assert_allclose(loss(a[:1], b[:1]), values[0], rtol=1e-5)
    assert values[0] > 1.5 * min(values)


def test_smooth_l1_is_quadratic_below_beta_and_linear_beyond():
  difference = np.float32([[0.3, 0.1, -0.4, 0.5], [0.6, -2, 7, -0.2]])
  apart = np.abs(difference)
  for beta in (0.0, 0.5):
    value, slope = jax.value_and_grad(losses.smooth_l1)(difference, 0 * difference, beta=beta)
    below = apart < beta
    square = apart**2 / (2 * (beta or 1))
    np.testing.assert_allclose(
        value, np.sum(np.where(below, square, apart - beta / 2)), rtol=1e-6)
    np.testing.assert_allclose(
        slope, np.where(below, difference / (beta or 1), np.sign(difference)), rtol=1e-6)


def test_numbers_beyond_the_bins_are_the_last_ones():
  logits = normal(4, 5)
  np.testing.assert_allclose(
      losses.distribution_focal(logits, np.float32([-2, 7, 4.5, 1.5])),
      losses.distribution_focal(logits, np.float32([0, 4, 4, 1.5])), rtol=1e-6)


def test_offsets_and_limits_of_anchors_and_deltas():
  centers = lambda levels: [(x[:, :2] + x[:, 2:]) / 2 for x in levels]
  shapes, strides = [(2, 3), (1, 2)], (8, 16)
  for offset in (0.0, 0.25, 0.5):
    jax.tree.map(np.testing.assert_array_equal,
                 centers(losses.anchors(shapes, strides=strides, center_offset=offset)),
                 losses.points(shapes, strides=strides, offset=offset))
  anchors = np.float32([[10, 20, 14, 28]] * 2)
  deltas = np.float32([[0, 0, 9, 9], [0, 0, -9, -9]])
  decoded = losses.decode_deltas(anchors, deltas)
  np.testing.assert_allclose(
      decoded[:, 2:] - decoded[:, :2], [[250, 500], [4 / 62.5, 8 / 62.5]], rtol=1e-3)
  np.testing.assert_array_equal(
      losses.decode_deltas(anchors, deltas, size=(40, 30)), np.clip(decoded, 0, [30, 40] * 2))


def test_codes_are_inverse():
  targets, anchors = boxes(9), boxes(9, seed=4)
  points = (targets[:, :2] + targets[:, 2:]) / 2
  np.testing.assert_allclose(
      losses.decode_distances(points, losses.encode_distances(points, targets)), targets, rtol=1e-5)
  coder = {'means': (0.1, 0, 0, 0.2), 'stds': (0.1, 0.1, 0.2, 0.2)}
  np.testing.assert_allclose(losses.decode_deltas(
      anchors, losses.encode_deltas(anchors, targets, **coder), **coder), targets, atol=1e-3)
  np.testing.assert_allclose(losses.centerness(points, targets), 1, rtol=1e-4)
  np.testing.assert_array_equal(losses.centerness(targets[:, :2], targets), 0)


def test_aligned_features_have_the_teachers_statistics_and_are_rectified_behind_a_layer():
  student, teacher = 3 * normal(2, 4, 5, 3) + 2, normal(2, 4, 5, 3, seed=1) - 1
  aligned = losses.align_statistics(student, teacher)
  for statistic in (np.mean, np.std):
    np.testing.assert_allclose(statistic(aligned, (0, 1, 2)), statistic(teacher, (0, 1, 2)),
                               rtol=1e-4, atol=1e-5)
  np.testing.assert_array_equal(losses.cross_head_input(student, teacher, layer=0), aligned)
  np.testing.assert_array_equal(
      losses.cross_head_input(student, teacher, layer=3), np.maximum(aligned, 0))


def test_constant_channels_and_single_elements_have_no_gradient():
  student, teacher = normal(2, 3, 3, 2), normal(2, 3, 3, 2, seed=1)
  student[..., 0] = 0.5
  aligned = losses.align_statistics(student, teacher)
  np.testing.assert_allclose(aligned[..., 0], teacher[..., 0].mean(), rtol=1e-5)
  one, other = normal(1, 1, 1, 2), normal(1, 1, 1, 2, seed=1)
  np.testing.assert_array_equal(losses.align_statistics(one, other), other)
  assert losses.pearson_features(one, other) == 0
  for function in (losses.pearson_features,
                   lambda s, t: jnp.sum(losses.align_statistics(s, t)**3)):
    gradient = jax.grad(function)(student, teacher)
    assert not np.any(gradient[..., 0]) and np.any(gradient[..., 1])
    assert np.all(np.isfinite(gradient))
    assert not np.any(jax.grad(function)(one, other))
    assert not np.any(jax.grad(function, 1)(student, teacher))


def test_pearson_features_know_no_scale_and_sum_over_levels():
  student, teacher = normal(2, 3, 4, 3), normal(2, 3, 4, 3, seed=1)
  value = losses.pearson_features(student, teacher)
  np.testing.assert_allclose(losses.pearson_features(3 * student + 1, teacher), value, rtol=1e-4)
  np.testing.assert_allclose(
      losses.pearson_features([student, teacher], [teacher, student]), 2 * value, rtol=1e-5)
  assert losses.pearson_features(student, student) == 0
  for students, teachers in (([student], [teacher] * 2), ([student] * 2, [teacher]), ([], [])):
    with pytest.raises(ValueError, match=f'got {len(students)} and {len(teachers)}'):
      losses.pearson_features(students, teachers)


def test_forms_of_cross_head_classification():
  student, teacher = normal(6, 5), normal(6, 5, seed=1)
  of = lambda form: jax.value_and_grad(lambda x: losses.cross_head_classification(
      x, teacher, form=form, weights=np.float32([1, 0, 1, 1, 0, 1])))
  cross_entropy, kl = of('cross_entropy')(student), of('kl')(student)
  np.testing.assert_allclose(cross_entropy[1], kl[1], rtol=1e-6)
  assert cross_entropy[0] > kl[0] > 0
  for form in ('kl', 'quality_focal'):
    np.testing.assert_allclose(of(form)(teacher)[0], 0, atol=1e-5)
  np.testing.assert_allclose(
      losses.cross_head_classification(student, teacher, beta=2.0),
      losses.quality_focal(student, jax.nn.sigmoid(teacher), beta=2.0), rtol=1e-6)


def test_boxes_that_touch_are_moved_and_boxes_apart_have_a_constant_logarithm():
  target = np.float32([[0, 0, 4, 4]])
  touching, apart = np.float32([[4, 0, 8, 4]]), np.float32([[5, 0, 9, 4]])
  # Each pixel to the left shares 4 more of the 32 of the union, which stays as it is.
  slope = jax.jit(jax.grad(lambda box: losses.box_overlaps(box, target)[0]))
  np.testing.assert_allclose(slope(touching)[0, 0], -4 / 32, rtol=1e-5)
  assert not np.any(slope(apart))
  value, slope = jax.jit(jax.value_and_grad(losses.iou_log))(apart, target)
  np.testing.assert_allclose(value, -np.log(1e-6), rtol=1e-5)
  assert not np.any(slope)


def test_distributions_are_averaged_over_weights_and_sides():
  student, teacher = normal(2, 3, 20), normal(2, 3, 20, seed=1)
  weights = np.float32([[1, 0, 2], [0, 3, 0]])
  each = np.float32([[losses.distribution_kl(student[i, j].reshape(4, 5),
                                             teacher[i, j].reshape(4, 5)) / 4
                      for j in range(3)] for i in range(2)])
  loss = jax.value_and_grad(
      lambda x, w: losses.cross_head_distribution(x, teacher, weights=w))
  np.testing.assert_allclose(
      loss(student, weights)[0], np.sum(weights * each) / weights.sum(), rtol=1e-5)
  np.testing.assert_allclose(
      losses.cross_head_distribution(student, teacher), each.mean(), rtol=1e-5)
  value, gradient = loss(student, 0 * weights)
  assert value == 0 and not np.any(gradient)


def test_distributions_are_softened_by_the_temperature():
  student, teacher = normal(6, 20), normal(6, 20, seed=1)
  temperature = 3.0
  soft = lambda x: np.exp(x.reshape(6, 4, 5) / temperature) / np.exp(
      x.reshape(6, 4, 5) / temperature).sum(-1, keepdims=True)
  p, q = soft(teacher.astype(float)), soft(student.astype(float))
  each = temperature**2 * p * np.log(p / q)
  sides = lambda x: x.reshape(6, 4, 5)
  np.testing.assert_allclose(losses.distribution_kl(
      sides(student), sides(teacher), temperature=temperature), each.sum(), rtol=1e-5)
  np.testing.assert_allclose(losses.cross_head_distribution(
      student, teacher, temperature=temperature), each.sum(-1).mean(), rtol=1e-5)
  np.testing.assert_allclose(losses.localization_distillation(
      student, teacher, temperature=temperature), each.mean((1, 2)).sum(), rtol=1e-5)
  for loss, official in ((losses.localization_distillation, 10.0),
                         (losses.cross_head_distribution, 1.0)):
    assert loss(student, teacher) == loss(student, teacher, temperature=official)


def test_weights_are_the_teachers_highest_probabilities_or_one():
  logits, where = normal(2, 3, 5), np.bool_([[1, 0, 1], [0, 0, 1]])
  highest = 1 / (1 + np.exp(-logits.max(-1)))
  np.testing.assert_allclose(losses.score_weights(logits), highest, rtol=1e-6)
  np.testing.assert_allclose(losses.score_weights(logits, where), highest * where, rtol=1e-6)
  np.testing.assert_array_equal(losses.score_weights(logits, where, uniform=True), where)
  assert not np.any(jax.grad(lambda x: jnp.sum(losses.score_weights(x)))(logits))
