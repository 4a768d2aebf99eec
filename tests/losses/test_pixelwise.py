"""Pixel-wise distillation: values by hand, gradients, masks, properties."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jax.test_util import check_grads

from kdseg_jax import losses

# Compiled: op by op, the first call of each shape takes a second.
pixelwise_kl = jax.jit(losses.pixelwise_kl, static_argnames=('form', 'reduction'))

SHAPE = (2, 3, 4, 5)


def example(seed=0, dtype=jnp.float32):
  rng = np.random.default_rng(seed)
  student, teacher = (jnp.asarray(2 * rng.normal(size=SHAPE), dtype) for _ in range(2))
  return student, teacher, jnp.asarray(rng.random(SHAPE[:-1]) < 0.6)


def test_value_by_hand():
  teacher = jnp.log(jnp.array([[0.25, 0.75], [0.5, 0.5]]))
  student = jnp.log(jnp.array([[0.5, 0.5], [0.5, 0.5]]))
  first = 0.25 * np.log(0.5) + 0.75 * np.log(1.5)  # KL(teacher || student), not the reverse
  loss = pixelwise_kl(student, teacher)
  np.testing.assert_allclose(loss, first / 2, rtol=1e-6)
  assert loss.shape == () and loss.dtype == jnp.float32
  where = jnp.array([True, False])
  np.testing.assert_allclose(
      pixelwise_kl(student, teacher, where=where), first, rtol=1e-6)
  np.testing.assert_allclose(
      pixelwise_kl(student, teacher, form='cross_entropy'), np.log(2), rtol=1e-6)


def test_temperature_divides_the_logits_and_multiplies_the_loss():
  student, teacher, _ = example()
  np.testing.assert_allclose(
      pixelwise_kl(student, teacher, temperature=4.0),
      16 * pixelwise_kl(student / 4, teacher / 4), rtol=1e-5)


def test_sum_over_batch_divides_by_the_pixels_of_one_image():
  student, teacher, where = example()
  total = pixelwise_kl(student, teacher, reduction='sum_over_batch')
  np.testing.assert_allclose(total, 2 * pixelwise_kl(student, teacher), rtol=1e-6)
  masked = pixelwise_kl(student, teacher, reduction='sum_over_batch', where=where)
  mean = pixelwise_kl(student, teacher, where=where)
  np.testing.assert_allclose(masked, mean * where.sum() / 12, rtol=1e-6)


def test_forms_have_the_same_gradient():
  student, teacher, _ = example()
  gradients = [
      jax.grad(pixelwise_kl)(student, teacher, form=form)
      for form in ('kl', 'cross_entropy')]
  np.testing.assert_allclose(*gradients, atol=1e-7)


@pytest.mark.parametrize('options', [
    {}, {'temperature': 3.0}, {'form': 'cross_entropy', 'reduction': 'sum_over_batch'}])
def test_finite_differences(options):
  with jax.enable_x64(True):
    student, teacher, where = example(dtype=jnp.float64)
    loss = lambda x: pixelwise_kl(x, teacher, where=where, **options)
    assert loss(student).dtype == jnp.float64
    check_grads(loss, (student,), order=1, modes=['rev'])


def test_no_gradient_into_the_teacher():
  student, teacher, _ = example()
  np.testing.assert_array_equal(jax.grad(pixelwise_kl, argnums=1)(student, teacher), 0)


def test_masked_pixels_are_irrelevant_even_if_nan():
  student, teacher, where = example()
  loss = jax.value_and_grad(lambda s, t: pixelwise_kl(s, t, where=where))
  broken = lambda x: jnp.where(where[..., None], x, jnp.nan)
  value, gradient = loss(broken(student), broken(teacher))
  expected, expected_gradient = loss(student, teacher)
  np.testing.assert_allclose(value, expected, rtol=1e-6)
  np.testing.assert_allclose(gradient, expected_gradient, atol=1e-8)


@pytest.mark.parametrize('reduction', ['mean', 'sum_over_batch'])
def test_all_masked_is_zero_with_zero_gradient(reduction):
  student, teacher, where = example()
  value, gradient = jax.value_and_grad(pixelwise_kl)(
      student, teacher, where=jnp.zeros_like(where), reduction=reduction)
  assert value == 0
  np.testing.assert_array_equal(gradient, 0)


def test_classes_that_both_exclude_add_nothing():
  student, teacher, _ = example()
  padding = [(0, 0)] * 3 + [(0, 2)]
  pad = lambda x: jnp.pad(x, padding, constant_values=-jnp.inf)
  value, gradient = jax.value_and_grad(pixelwise_kl)(pad(student), pad(teacher))
  expected, expected_gradient = jax.value_and_grad(pixelwise_kl)(student, teacher)
  np.testing.assert_allclose(value, expected, rtol=1e-6)
  np.testing.assert_allclose(gradient, jnp.pad(expected_gradient, padding), atol=1e-8)


def test_bfloat16_is_reduced_in_float32():
  student, teacher, _ = (x.astype(jnp.bfloat16) for x in example())
  value, gradient = jax.value_and_grad(pixelwise_kl)(student, teacher)
  assert value.dtype == jnp.float32 and gradient.dtype == jnp.bfloat16
  np.testing.assert_array_equal(
      value, pixelwise_kl(student.astype(jnp.float32), teacher.astype(jnp.float32)))


def test_jit_vmap_and_remat():
  student, teacher, where = example()
  loss = lambda s, t, w: losses.pixelwise_kl(s, t, where=w, temperature=2.0)
  expected, gradient = jax.jit(jax.value_and_grad(loss))(student, teacher, where)
  np.testing.assert_allclose(loss(student, teacher, where), expected, rtol=1e-6)
  each, again = jax.jit(jax.vmap(jax.value_and_grad(jax.checkpoint(loss))))(
      student, teacher, where)
  share = where.sum((1, 2)) / where.sum()
  np.testing.assert_allclose(share @ each, expected, rtol=1e-6)
  np.testing.assert_allclose(share[:, None, None, None] * again, gradient, atol=1e-7)


@settings(deadline=None, max_examples=15, database=None)
@given(st.integers(0, 10**6), st.floats(-50, 50))
def test_properties(seed, shift):
  student, teacher, _ = example(seed)
  loss = pixelwise_kl(student, teacher)
  assert loss >= 0
  np.testing.assert_allclose(pixelwise_kl(student, student), 0, atol=1e-6)
  order = np.random.default_rng(seed).permutation(SHAPE[1] * SHAPE[2])
  mix = lambda x: x.reshape(2, -1, 5)[::-1, order].reshape(SHAPE)
  np.testing.assert_allclose(pixelwise_kl(mix(student), mix(teacher)), loss, rtol=1e-5)
  np.testing.assert_allclose(pixelwise_kl(student + shift, teacher), loss, rtol=1e-3)


def test_errors_say_what_to_do():
  student, teacher, where = example()
  with pytest.raises(ValueError, match=r'\(2, 3, 4, 5\) and \(2, 3, 4, 4\).*resize'):
    losses.pixelwise_kl(student, teacher[..., :4])
  with pytest.raises(ValueError, match=r'where.*\(2, 3, 4\)'):
    losses.pixelwise_kl(student, teacher, where=where[..., None])
  with pytest.raises(ValueError, match='form='):
    losses.pixelwise_kl(student, teacher, form='reverse')
  with pytest.raises(ValueError, match='reduction='):
    losses.pixelwise_kl(student, teacher, reduction='sum')
  with pytest.raises(ValueError, match='temperature'):
    losses.pixelwise_kl(student, teacher, temperature=0.0)
