"""What critics and their adversaries minimise: by hand, by finite differences, at the edges."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kdseg_jax import losses


def test_scores_by_hand():
  real, fake = jnp.array([[1., 3.], [0.5, -2.]]), jnp.array([[-3., 0.], [2., 0.]])
  np.testing.assert_allclose(losses.wasserstein_critic(real, fake), -0.25 - 0.625)
  np.testing.assert_allclose(losses.wasserstein_generator(fake), 0.25)
  np.testing.assert_allclose(
      losses.hinge_critic(real, fake), (0 + 0 + 0.5 + 3) / 4 + (0 + 1 + 3 + 1) / 4)


def test_a_critic_that_descends_scores_the_real_higher():
  for loss in (losses.wasserstein_critic, losses.hinge_critic):
    real, fake = jax.grad(loss, (0, 1))(jnp.zeros(3), jnp.zeros(3))
    assert np.all(real < 0) and np.all(fake > 0)
  assert np.all(jax.grad(losses.wasserstein_generator)(jnp.zeros(3)) < 0)


def test_penalty_of_a_linear_critic_is_that_of_its_slope():
  slope = jnp.arange(12.).reshape(2, 2, 3) / 10
  real, fake = jax.random.normal(jax.random.key(0), (2, 5, 2, 2, 3))
  penalty = losses.gradient_penalty(
      lambda x: jnp.einsum('nijc,ijc->n', x, slope), real, fake, jnp.linspace(0, 1, 5))
  np.testing.assert_allclose(penalty, (np.linalg.norm(slope) - 1)**2, rtol=1e-6)


def test_penalty_is_taken_at_the_share_alpha_of_the_real():
  real, fake, alpha = jnp.full((2, 1, 1, 1), 5.), jnp.full((2, 1, 1, 1), 1.), jnp.array([0.25, 1.])
  penalty = losses.gradient_penalty(lambda x: x**2 / 2, real, fake, alpha)  # the slope is x
  np.testing.assert_allclose(penalty, ((2 - 1)**2 + (5 - 1)**2) / 2)


def test_penalty_where_the_gradient_vanishes_is_1_without_derivative():
  x = jnp.ones((2, 3, 3, 1))
  penalty, gradient = jax.value_and_grad(lambda w: losses.gradient_penalty(
      lambda x: w * jnp.sum(x, axis=(1, 2, 3)), x, x, jnp.zeros(2)))(0.)
  assert penalty == 1 and gradient == 0


def test_auxiliary_output_of_the_critic_is_passed_on():
  x = jnp.ones((2, 3, 3, 1))
  alone = losses.gradient_penalty(jnp.square, x, 3 * x, jnp.full(2, 0.5))
  penalty, aux = losses.gradient_penalty(
      lambda x: (x**2, x), x, 3 * x, jnp.full(2, 0.5), has_aux=True)
  assert penalty == alone
  np.testing.assert_array_equal(aux, 2 * x)


def mixing_critic(params, x):
  """Normalises over the batch, so that a score depends on every sample."""
  x = (x - jnp.mean(x, axis=(0, 1, 2))) / jnp.sqrt(jnp.var(x, axis=(0, 1, 2)) + 0.1)
  return jnp.sum(jnp.sin(x @ params['w']) @ params['v'], axis=(1, 2))


def test_second_derivative_equals_finite_differences():
  with jax.enable_x64(True):
    keys = jax.random.split(jax.random.key(0), 5)
    real, fake = (jax.random.normal(key, (3, 2, 2, 2)) for key in keys[:2])
    alpha = jax.random.uniform(keys[2], (3,))
    params = {'w': jax.random.normal(keys[3], (2, 4)), 'v': jax.random.normal(keys[4], (4,))}

    def penalty_by_differences(params):
      x = alpha[:, None, None, None] * real + (1 - alpha)[:, None, None, None] * fake
      score = jax.jit(lambda x: jnp.sum(mixing_critic(params, x)))
      gradient = np.array([
          score(x.ravel().at[i].add(1e-5).reshape(x.shape))
          - score(x.ravel().at[i].add(-1e-5).reshape(x.shape)) for i in range(x.size)]) / 2e-5
      return np.mean((np.linalg.norm(gradient.reshape(3, -1), axis=1) - 1)**2)

    penalty = jax.jit(lambda params: losses.gradient_penalty(
        lambda x: mixing_critic(params, x), real, fake, alpha))
    np.testing.assert_allclose(penalty(params), penalty_by_differences(params), rtol=1e-8)
    gradient = jax.jit(jax.grad(penalty))(params)
    for name, value in params.items():
      for i in range(value.size):
        ends = [penalty(params | {name: value.ravel().at[i].add(step).reshape(value.shape)})
                for step in (1e-5, -1e-5)]
        np.testing.assert_allclose(
            jnp.ravel(gradient[name])[i], (ends[0] - ends[1]) / 2e-5, rtol=1e-6, atol=1e-8)


def test_no_gradient_flows_into_real_and_fake():
  x = jnp.ones((2, 3, 3, 1))
  penalty = lambda real, fake: losses.gradient_penalty(jnp.square, real, fake, jnp.full(2, 0.5))
  for gradient in jax.grad(penalty, (0, 1))(x, 3 * x):
    assert not np.any(gradient)


@pytest.mark.parametrize('dtype', [jnp.bfloat16, jnp.float32])
def test_results_are_float32(dtype):
  scores = jnp.full((2, 3), 100.3, dtype)
  x = jnp.ones((2, 3, 3, 1), dtype)
  for value in (losses.wasserstein_critic(scores, -scores), losses.wasserstein_generator(scores),
                losses.hinge_critic(-scores, scores),
                losses.gradient_penalty(jnp.square, x, x, jnp.ones(2, dtype))):
    assert value.dtype == jnp.float32 and value.shape == () and np.isfinite(value)


@pytest.mark.parametrize('fake,alpha', [((2, 3, 4, 1), (2,)), ((2, 3, 3, 1), (2, 1, 1, 1)),
                                        ((2, 3, 3, 1), (3,))])
def test_shapes_that_do_not_fit_are_refused(fake, alpha):
  with pytest.raises(ValueError, match=r'real and fake of the same shape .* alpha \(N,\), got'):
    losses.gradient_penalty(jnp.square, jnp.ones((2, 3, 3, 1)), jnp.ones(fake), jnp.ones(alpha))


def test_under_vmap_over_critics_each_has_its_own_penalty():
  x = jax.random.normal(jax.random.key(0), (3, 2, 2, 1))
  penalty = lambda scale: losses.gradient_penalty(
      lambda x: scale * jnp.sum(x, axis=(1, 2, 3)), x, -x, jnp.full(3, 0.3))
  scales = jnp.array([0., 0.5, 2.])
  np.testing.assert_allclose(jax.jit(jax.vmap(penalty))(scales), (2 * scales - 1)**2, rtol=1e-6)
