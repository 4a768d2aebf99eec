"""The critic: spectral normalisation, small maps, modes."""

import itertools

import flax
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kdseg_jax.models.critic import Critic, SelfAttention, SpectralConv


@pytest.fixture(scope='module')
def critic():
  """A narrow critic with variables."""
  critic = Critic(1 / 8, input_norm=True)
  return critic, variables_of(critic, jnp.ones((1, 4, 4, 3)))


def variables_of(module, x):
  """Variables by numpy: to compile an initialisation takes longer than most tests."""
  rng = np.random.default_rng(0)
  shapes = jax.eval_shape(module.init, jax.random.key(0), x)
  return jax.tree.map(lambda s: rng.uniform(0.1, 1, s.shape).astype(np.float32), shapes)


def matrix_of(variables):
  kernel = np.asarray(variables['params']['kernel'])
  return kernel.reshape(-1, kernel.shape[-1]).T


def advance(module, variables, x, times):
  forward = jax.jit(lambda variables: module.apply(variables, x, True, mutable=['spectral'])[1])
  for _ in range(times):
    variables = {**variables, **forward(variables)}
  return variables


def test_the_vectors_are_of_unit_length_and_of_the_key_of_their_layer():
  init = jax.jit(lambda key: Critic(1 / 8).init(key, jnp.ones((1, 4, 4, 3)))['spectral'])
  found = [np.asarray(x) for seed in (0, 1) for x in jax.tree.leaves(init(jax.random.key(seed)))]
  assert len(found) == 2 * 4 * 2  # of four layers
  for one, other in itertools.combinations(found, 2):
    size = min(len(one), len(other))
    assert not np.allclose(one[:size] / np.linalg.norm(one[:size]),
                           other[:size] / np.linalg.norm(other[:size]), atol=0.01)
  np.testing.assert_allclose([np.linalg.norm(x) for x in found], 1, rtol=1e-5)


def test_singular_value_converges_to_the_largest():
  conv = SpectralConv(6, 3, 1, 1)
  x = jax.random.normal(jax.random.key(1), (1, 5, 5, 2))
  variables = advance(conv, conv.init(jax.random.key(0), x, False), x, 100)
  matrix, spectral = matrix_of(variables), variables['spectral']
  largest = np.linalg.svd(matrix, compute_uv=False)[0]
  np.testing.assert_allclose(spectral['u'] @ matrix @ spectral['v'], largest, rtol=1e-5)
  normalised = {**variables, 'params': {
      'kernel': variables['params']['kernel'] / largest, 'bias': jnp.zeros(6)}}
  np.testing.assert_allclose(
      conv.apply(variables, x, False), conv.apply(normalised, x, False), rtol=1e-4, atol=1e-5)


def test_a_training_forward_is_one_power_iteration_by_hand():
  conv = SpectralConv(6, 3, 1, 1)
  x = jnp.ones((1, 5, 5, 2))
  variables = conv.init(jax.random.key(0), x, False)
  matrix, unit = matrix_of(variables), lambda x: x / np.linalg.norm(x)
  v = unit(matrix.T @ np.asarray(variables['spectral']['u']))
  u = unit(matrix @ v)
  spectral = advance(conv, variables, x, 1)['spectral']
  np.testing.assert_allclose(spectral['v'], v, rtol=1e-5, atol=1e-6)
  np.testing.assert_allclose(spectral['u'], u, rtol=1e-5, atol=1e-6)


def test_initial_vectors_have_unit_length():
  variables = SpectralConv(6, 3, 1, 1).init(jax.random.key(0), jnp.ones((1, 5, 5, 2)), False)
  for vector in jax.tree.leaves(variables['spectral']):
    np.testing.assert_allclose(np.linalg.norm(vector), 1, rtol=1e-5)


def test_evaluation_changes_nothing_and_repeats(critic):
  critic, variables = critic
  x = jax.random.normal(jax.random.key(1), (2, 4, 4, 3))
  evaluate = jax.jit(
      lambda variables: critic.apply(variables, x, mutable=['spectral', 'batch_stats']))
  scores, updated = evaluate(variables)
  jax.tree.map(np.testing.assert_array_equal, updated,
               {name: variables[name] for name in ('spectral', 'batch_stats')})
  np.testing.assert_array_equal(scores, evaluate({**variables, **updated})[0])


def test_training_must_be_given_the_vectors_to_advance():
  conv = SpectralConv(6, 3, 1, 1)
  x = jnp.ones((1, 5, 5, 2))
  variables = conv.init(jax.random.key(0), x, False)
  with pytest.raises(flax.errors.ModifyScopeVariableError, match='spectral'):
    conv.apply(variables, x, True)


@pytest.mark.parametrize('size,scores', [
    ((4, 4), (1, 1)), ((5, 8), (2, 5)), ((8, 8), (1, 1)), ((12, 16), (3, 5)), ((32, 32), (1, 1)),
    ((64, 128), (1, 5)), ((65, 65), (1, 1)), ((63, 63), (4, 4))])
def test_maps_of_any_size(size, scores):
  critic = Critic(1 / 8)
  x = jax.ShapeDtypeStruct((2, *size, 5), jnp.float32)
  variables = jax.eval_shape(critic.init, jax.random.key(0), x)
  assert jax.eval_shape(critic.apply, variables, x).shape == (2, *scores)
  assert list(variables['params']['conv4']['kernel'].shape[2:]) == [32, 64]


def test_a_map_without_room_for_the_last_layer_is_refused():
  with pytest.raises(ValueError, match=r'at least 4x4, got shape \(1, 3, 9, 5\)\. Use larger crop'):
    Critic().init(jax.random.key(0), jnp.ones((1, 3, 9, 5)))


def test_parameters_are_those_of_the_paper():
  """3.192 million for 19 classes without an image."""
  variables = jax.eval_shape(
      Critic(input_norm=True).init, jax.random.key(0), jnp.ones((1, 65, 65, 19)))
  count = sum(x.size for x in jax.tree.leaves(variables['params']))
  assert round(count / 1e6, 3) == 3.192


def test_attention_by_hand():
  """Keys of 0 make all weights equal: every pixel adds gamma times the mean value."""
  x = jax.random.normal(jax.random.key(0), (2, 2, 3, 8))
  params = variables_of(SelfAttention(), x)['params'] | {'gamma': np.float32(0.5)}
  params['key'] = jax.tree.map(jnp.zeros_like, params['key'])
  values = x @ params['value']['kernel'][0, 0] + params['value']['bias']
  expected = x + 0.5 * jnp.mean(values, axis=(1, 2), keepdims=True)
  apply = jax.jit(SelfAttention().apply)
  np.testing.assert_allclose(apply({'params': params}, x), expected, rtol=1e-5, atol=1e-5)
  params['gamma'] = np.float32(0)  # as at first
  np.testing.assert_array_equal(apply({'params': params}, x), x)


def test_gradient_through_the_singular_value_equals_finite_differences():
  with jax.enable_x64(True):
    conv = SpectralConv(3, 3, 1, 1)
    x = jax.random.normal(jax.random.key(1), (1, 3, 3, 2))
    variables = conv.init(jax.random.key(0), x, False)

    @jax.jit
    def loss(kernel):
      params = {'kernel': kernel, 'bias': jnp.zeros(3)}
      return jnp.sum(jnp.sin(conv.apply({**variables, 'params': params}, x, False)))
    kernel = variables['params']['kernel']
    gradient = jax.grad(loss)(kernel)
    for i in range(kernel.size):
      ends = [loss(kernel.ravel().at[i].add(step).reshape(kernel.shape)) for step in (1e-6, -1e-6)]
      np.testing.assert_allclose(
          gradient.ravel()[i], (ends[0] - ends[1]) / 2e-6, rtol=1e-6, atol=1e-8)


def test_half_precision_maps_have_float32_scores(critic):
  critic, variables = critic
  x = 100 * jax.random.normal(jax.random.key(1), (2, 4, 4, 3), jnp.bfloat16)
  scores = jax.jit(critic.apply)(variables, x)
  assert scores.dtype == jnp.float32 and np.all(np.isfinite(scores))
