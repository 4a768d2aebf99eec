"""Cross-entropy: values by hand, gradients, masks, dtypes."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.test_util import check_grads

from kdseg_jax import losses

# Compiled: op by op, the first call of each shape takes a second.
cross_entropy = jax.jit(
    losses.cross_entropy, static_argnames=('ignore_label', 'align_corners'))


def example(classes=5, size=(4, 6), label_size=(4, 6), dtype=jnp.float32):
  rng = np.random.default_rng(0)
  logits = rng.normal(size=(3, *size, classes))
  labels = rng.integers(0, classes, (3, *label_size))
  labels = np.where(rng.random(labels.shape) < 0.3, 255, labels)
  return jnp.asarray(logits, dtype), jnp.asarray(labels, jnp.int32)


def test_value_by_hand():
  logits = jnp.log(jnp.array([[0.25, 0.75], [0.5, 0.5], [0.1, 0.9]])).reshape(1, 1, 3, 2)
  labels = jnp.array([[[0, 1, 255]]])
  loss = cross_entropy(logits, labels)
  np.testing.assert_allclose(loss, (np.log(4) + np.log(2)) / 2, rtol=1e-6)
  assert loss.shape == () and loss.dtype == jnp.float32


def test_upsampled_value_by_hand():
  # Logit differences -2, 2 at two corners are -2, 0, 2 at three aligned ones.
  logits = jnp.array([[-2., 0.], [2., 0.]]).reshape(1, 1, 2, 2)
  labels = jnp.zeros((1, 1, 3), jnp.int32)
  expected = np.mean([np.log1p(np.exp(2)), np.log(2), np.log1p(np.exp(-2))])
  np.testing.assert_allclose(cross_entropy(logits, labels), expected, rtol=1e-6)
  # Without aligned corners the outer thirds read beyond the centres, clipped: the same values.
  # At four pixels the differences are -2, -1, 1, 2 instead of -2, -2/3, 2/3, 2.
  four = cross_entropy(logits, jnp.zeros((1, 1, 4), jnp.int32), align_corners=False)
  np.testing.assert_allclose(
      four, np.mean(np.log1p(np.exp([2, 1, -1, -2]))), rtol=1e-6)


def test_equals_optax_on_valid_pixels():
  logits, labels = example()
  valid = np.asarray(labels) != 255
  expected = optax.softmax_cross_entropy_with_integer_labels(
      np.asarray(logits)[valid], np.asarray(labels)[valid]).mean()
  np.testing.assert_allclose(cross_entropy(logits, labels), expected, rtol=1e-6)


@pytest.mark.parametrize('label_size', [(4, 6), (7, 9)])
def test_finite_differences(label_size):
  with jax.enable_x64(True):
    logits, labels = example(label_size=label_size, dtype=jnp.float64)
    assert cross_entropy(logits, labels).dtype == jnp.float64
    check_grads(lambda x: cross_entropy(x, labels), (logits,), order=1, modes=['rev'])


def test_ignored_pixels_are_irrelevant_even_if_nan():
  logits, labels = example()
  broken = jnp.where((labels == 255)[..., None], jnp.nan, logits)
  value, gradient = jax.value_and_grad(cross_entropy)(broken, labels)
  expected, expected_gradient = jax.value_and_grad(cross_entropy)(logits, labels)
  np.testing.assert_allclose(value, expected, rtol=1e-6)
  np.testing.assert_allclose(gradient, expected_gradient, atol=1e-8)


@pytest.mark.parametrize('label_size', [(4, 6), (8, 8)])
def test_all_ignored_is_zero_with_zero_gradient(label_size):
  logits, labels = example(label_size=label_size)
  value, gradient = jax.value_and_grad(cross_entropy)(logits, jnp.full_like(labels, 255))
  assert value == 0
  np.testing.assert_array_equal(gradient, 0)


@pytest.mark.parametrize('bad', [-1, 5, 17, 255, 300])
def test_labels_out_of_range_count_nowhere(bad):
  logits, labels = example()
  expected = cross_entropy(logits, labels)
  marked = jnp.where(labels == 255, bad, labels)
  np.testing.assert_allclose(cross_entropy(logits, marked), expected, rtol=1e-6)


def test_ignore_label_may_be_a_class():
  logits, labels = example()
  expected = cross_entropy(logits, jnp.where(labels == 2, 255, labels))
  np.testing.assert_allclose(
      cross_entropy(logits, labels, ignore_label=2), expected, rtol=1e-6)


@pytest.mark.parametrize('classes', [5, 300])
def test_uint8_labels_equal_int32(classes):
  logits, labels = example(classes)
  labels = jnp.minimum(labels, 255)
  for ignore_label in (255, -1):
    np.testing.assert_array_equal(
        cross_entropy(logits, labels.astype(jnp.uint8), ignore_label=ignore_label),
        cross_entropy(logits, labels, ignore_label=ignore_label))


def test_huge_and_excluded_logits():
  logits = jnp.array([[1e4, -1e4, -jnp.inf], [0., 0., -jnp.inf]])
  value, gradient = jax.value_and_grad(cross_entropy)(logits, jnp.array([0, 1]))
  np.testing.assert_allclose(value, np.log(2) / 2, rtol=1e-6)
  np.testing.assert_allclose(gradient, [[0, 0, 0], [0.25, -0.25, 0]], atol=1e-7)


def test_bfloat16_is_reduced_in_float32():
  logits, labels = example(size=(8, 8), label_size=(40, 40))
  logits = logits.astype(jnp.bfloat16)
  value, gradient = jax.value_and_grad(cross_entropy)(logits, labels)
  assert value.dtype == jnp.float32 and gradient.dtype == jnp.bfloat16
  np.testing.assert_array_equal(
      value, cross_entropy(logits.astype(jnp.float32), labels))


def test_jit_vmap_and_remat():
  logits, labels = example(label_size=(7, 9))
  expected, gradient = jax.jit(jax.value_and_grad(losses.cross_entropy))(logits, labels)
  np.testing.assert_allclose(losses.cross_entropy(logits, labels), expected, rtol=1e-6)
  each, again = jax.jit(jax.vmap(jax.value_and_grad(jax.checkpoint(losses.cross_entropy))))(
      logits[:, None], labels[:, None])
  share = (labels != 255).sum((1, 2)) / (labels != 255).sum()
  np.testing.assert_allclose(share @ each, expected, rtol=1e-6)
  np.testing.assert_allclose(share[:, None, None, None] * again[:, 0], gradient, atol=1e-7)


@pytest.mark.parametrize('logits, labels, message', [
    ((2, 4, 4, 3), (3, 4, 4), r'\(2, 4, 4, 3\).*\(3, 4, 4\)'),
    ((2, 4, 3), (2, 5), r'\(2, 4, 3\).*\(2, 5\)'),
])
def test_shapes_that_do_not_fit(logits, labels, message):
  with pytest.raises(ValueError, match=message):
    losses.cross_entropy(jnp.zeros(logits), jnp.zeros(labels, jnp.int32))


def test_refuses_float_labels():
  with pytest.raises(ValueError, match='integer'):
    losses.cross_entropy(jnp.zeros((1, 2, 2, 3)), jnp.zeros((1, 2, 2)))
