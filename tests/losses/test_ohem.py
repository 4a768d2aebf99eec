"""Online hard example mining against the official rule, written out in numpy."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.ndimage
from jax.test_util import check_grads

from kdseg_jax import losses

ohem = jax.jit(losses.ohem_cross_entropy, static_argnames=(
    'ignore_label', 'align_corners', 'threshold_stride'))
ohem_and_gradient = jax.jit(
    jax.value_and_grad(losses.ohem_cross_entropy), static_argnames='threshold_stride')


def example(label_size=(16, 24), scale=3.0, dtype=jnp.float32):
  """Upsampled logits that are right, and surely so, for many pixels."""
  rng = np.random.default_rng(0)
  labels = rng.integers(0, 5, (3, *label_size))
  coarse = labels[:, ::2, ::2]
  logits = scale * (rng.normal(size=(*coarse.shape, 5)) + 1.5 * np.eye(5)[coarse])
  labels[rng.random(labels.shape) < [[[0.1]], [[0.5]], [[0.9]]]] = 255
  return jnp.asarray(logits, dtype), jnp.asarray(labels, jnp.int32)


def official(logits, labels, threshold, min_kept, stride=1):
  """Loss and number of kept pixels by the rule of `OhemCrossEntropy2d`, in float64."""
  logits = np.asarray(losses.resize_bilinear(logits, labels.shape[1:], align_corners=True))
  labels = np.asarray(labels)
  p = np.exp(logits - logits.max(-1, keepdims=True))
  p /= p.sum(-1, keepdims=True)
  zoom = functools.partial(scipy.ndimage.zoom, mode='constant')
  small, small_labels = (p, labels) if stride == 1 else (
      zoom(p, (1, 1 / stride, 1 / stride, 1), order=1),
      zoom(labels, (1, 1 / stride, 1 / stride), order=0))
  valid = small_labels != 255
  true = np.sort(small[valid, small_labels[valid]])
  k = min_kept // stride**2
  cutoff = 1.0 if k >= true.size else max(threshold, true[k - 1] if k else 0)
  valid = labels != 255
  true = p[valid, labels[valid]]
  kept = true <= cutoff
  return -np.log(true[kept]).mean(), kept.sum()


@pytest.mark.parametrize('threshold, min_kept, stride', [
    (0.7, 0, 1), (0.7, 40, 1), (0.2, 400, 1), (0.0, 1, 1), (1.0, 0, 1), (0.7, 100_000, 1),
    (0.2, 400, 4), (0.9, 0, 4), (0.2, 100_000, 4)])
def test_equals_the_official_rule(threshold, min_kept, stride):
  with jax.enable_x64(True):
    logits, labels = example(dtype=jnp.float64)
    expected, kept = official(logits, labels, threshold, min_kept, stride)
    loss, gradient = ohem_and_gradient(
        logits, labels, threshold=threshold, min_kept=min_kept, threshold_stride=stride)
    np.testing.assert_allclose(loss, expected, rtol=1e-12)
  assert kept >= 1 and np.any(gradient)
  single, _ = ohem_and_gradient(logits.astype(jnp.float32), labels, threshold=threshold,
                                min_kept=min_kept, threshold_stride=stride)
  assert single.dtype == jnp.float32
  np.testing.assert_allclose(single, expected, rtol=1e-5)


def test_the_cases_differ():
  """Else the test above would not tell the rules apart."""
  logits, labels = example()
  kept = [official(logits, labels, *case)[1] for case in [
      (0.7, 40), (0.2, 400), (0.0, 1), (1.0, 0), (0.2, 400, 4)]]
  assert len(set(kept)) == 5 and kept[2] == 1 and kept[3] == np.sum(labels != 255)
  assert kept[1] == 400


def test_value_by_hand():
  p = jnp.array([0.9, 0.8, 0.6, 0.5, 0.1])
  logits, labels = jnp.log(jnp.stack([p, 1 - p], -1)), jnp.array([0, 0, 0, 255, 0])
  mean = lambda *p: -np.mean(np.log(p))
  for min_kept, expected in [(0, mean(0.6, 0.1)), (2, mean(0.6, 0.1)), (3, mean(0.8, 0.6, 0.1)),
                             (4, mean(0.9, 0.8, 0.6, 0.1)), (9, mean(0.9, 0.8, 0.6, 0.1))]:
    np.testing.assert_allclose(ohem(logits, labels, min_kept=min_kept), expected, rtol=1e-6)


def test_pixels_as_hard_as_the_last_kept_one_are_kept_too():
  logits = jnp.log(jnp.array([[0.9, 0.1], [0.8, 0.2], [0.8, 0.2], [0.1, 0.9]]))
  loss = ohem(logits, jnp.zeros(4, jnp.int32), min_kept=2)
  np.testing.assert_allclose(loss, -np.mean(np.log([0.8, 0.8, 0.1])), rtol=1e-6)


def test_enough_kept_is_cross_entropy():
  logits, labels = example()
  for align_corners in (True, False):
    np.testing.assert_allclose(
        ohem(logits, labels, align_corners=align_corners),
        losses.cross_entropy(logits, labels, align_corners=align_corners), rtol=1e-6)
  np.testing.assert_allclose(  # another ignored label
      ohem(logits, jnp.where(labels == 255, 2, labels), ignore_label=2),
      losses.cross_entropy(logits, jnp.where(labels == 2, 255, labels)), rtol=1e-6)


def test_more_kept_than_an_int32_counts_is_all_of_them():
  logits, labels = example()
  np.testing.assert_allclose(losses.ohem_cross_entropy(logits, labels, min_kept=2**40),
                             losses.cross_entropy(logits, labels), rtol=1e-6)


@pytest.mark.parametrize('min_kept', [0, 200])
def test_finite_differences_with_the_threshold_as_a_constant(min_kept):
  """p_(k) moves with the logits, but what is kept does not, away from ties."""
  with jax.enable_x64(True):
    logits, labels = example(dtype=jnp.float64)
    loss = lambda x: ohem(x, labels, threshold=0.5, min_kept=min_kept)
    check_grads(loss, (logits,), order=1, modes=['rev'], eps=1e-7, rtol=1e-5)


@pytest.mark.parametrize('stride', [1, 4])
def test_all_ignored_is_zero_with_zero_gradient(stride):
  loss = functools.partial(
      ohem_and_gradient, threshold=0.7, min_kept=50, threshold_stride=stride)
  logits, labels = example()
  value, gradient = loss(logits, jnp.full_like(labels, 255))
  assert value == 0
  np.testing.assert_array_equal(gradient, 0)


def test_nans_matter_where_pixels_are_valid_and_only_there():
  logits, labels = example(label_size=(8, 12))
  logits = jnp.repeat(jnp.repeat(logits, 2, 1), 2, 2)  # not resized: labels of the same size
  loss = functools.partial(ohem_and_gradient, threshold=0.7, min_kept=50)
  broken = jnp.where((labels == 255)[..., None], jnp.nan, logits)
  for got, want in zip(loss(broken, labels), loss(logits, labels)):
    np.testing.assert_allclose(got, want, atol=1e-7)
  assert np.isnan(loss(logits.at[0, 0, 0].set(jnp.nan), labels.at[0, 0, 0].set(1))[0])


def test_bfloat16_and_vmap():
  logits, labels = example()
  half = logits.astype(jnp.bfloat16)
  value, gradient = ohem_and_gradient(half, labels, min_kept=300)
  assert value.dtype == jnp.float32 and gradient.dtype == jnp.bfloat16
  np.testing.assert_array_equal(value, ohem(half.astype(jnp.float32), labels, min_kept=300))
  each = jax.jit(jax.vmap(functools.partial(losses.ohem_cross_entropy, min_kept=60)))(
      logits[:, None], labels[:, None])
  np.testing.assert_allclose(
      each, [ohem(x, y, min_kept=60) for x, y in zip(logits[:, None], labels[:, None])], rtol=1e-6)


@pytest.mark.parametrize('options, message', [
    ({'threshold': 1.5}, 'threshold=1.5 must be in'), ({'min_kept': -1}, 'min_kept=-1 must be in'),
    ({'threshold_stride': 0}, 'threshold_stride=0 must be in'),
    ({'threshold_stride': 2}, r'takes labels \(N, H, W\), got \(4,\)')])
def test_options_out_of_range_are_refused(options, message):
  with pytest.raises(ValueError, match=message):
    losses.ohem_cross_entropy(jnp.zeros((4, 2)), jnp.zeros(4, jnp.int32), **options)


def test_shapes_that_do_not_fit_name_the_function():
  with pytest.raises(ValueError, match='ohem_cross_entropy takes logits'):
    losses.ohem_cross_entropy(jnp.zeros((2, 4, 3)), jnp.zeros((2, 5), jnp.int32))
