"""Image normalisation and synchronised BatchNorm."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kdseg_jax import parallel
from kdseg_jax.models import adapters, critic, fusion
from kdseg_jax.models.normalization import BatchNorm, normalize_image

SCALE = {'mean': (100., 110., 120.), 'std': (50., 51., 52.)}


def test_normalize_image():
  image = np.full((1, 2, 2, 3), 151, np.uint8)
  mask = np.array([[[True, True], [True, False]]])
  x = normalize_image(image, mask, **SCALE)
  assert x.dtype == jnp.float32
  np.testing.assert_allclose(x[0, 0, 0], [51 / 50, 41 / 51, 31 / 52], rtol=1e-6)
  np.testing.assert_array_equal(x[0, 1, 1], 0)
  np.testing.assert_array_equal(x[:, :1], normalize_image(image, None, **SCALE)[:, :1])


def test_padding_may_hold_anything():
  image = jnp.full((1, 2, 2, 3), jnp.nan)
  np.testing.assert_array_equal(
      normalize_image(image, jnp.zeros((1, 2, 2), bool), **SCALE), jnp.zeros((1, 2, 2, 3)))


@pytest.mark.parametrize('image, mask, message', [
    ((2, 4, 4, 1), None, r'\(N, H, W, 3\), got shape \(2, 4, 4, 1\)'),
    ((4, 4, 3), None, 'got shape'),
    ((2, 4, 4, 3), (2, 4, 5), r'expected \(2, 4, 4\)'),
])
def test_shapes_are_checked(image, mask, message):
  with pytest.raises(ValueError, match=message):
    normalize_image(jnp.zeros(image), None if mask is None else jnp.ones(mask, bool), **SCALE)


def _data():
  rng = np.random.default_rng(0)
  # Devices with unlike statistics, so that local ones differ from the global ones.
  return jnp.asarray(rng.standard_normal((8, 3, 5, 4)) * 2 + np.arange(8)[:, None, None, None],
                     jnp.float32)


def test_batch_norm_by_hand():
  x = _data()
  model = BatchNorm()
  variables = model.init(jax.random.key(0), x, False)
  y, updated = model.apply(variables, x, True, mutable=['batch_stats'])
  mean, variance = np.mean(x, (0, 1, 2)), np.var(x, (0, 1, 2))
  np.testing.assert_allclose(y, (x - mean) / np.sqrt(variance + 1e-5), rtol=1e-4, atol=1e-5)
  stats = updated['batch_stats']['norm']
  np.testing.assert_allclose(stats['mean'], 0.1 * mean, rtol=1e-5)
  np.testing.assert_allclose(stats['var'], 0.9 + 0.1 * variance, rtol=1e-5)


def test_epsilon():
  x = jnp.full((1, 2, 2, 1), 3.)
  model = BatchNorm(epsilon=8.)
  y = model.apply(model.init(jax.random.key(0), x, False), x, False)
  np.testing.assert_allclose(y, 1, rtol=1e-6)


def _losses_gradient(model, variables, x):
  """Global mean of sin(y), its gradient, and the new statistics."""
  def loss(params):
    y, updated = model.apply(
        {**variables, 'params': params}, x, True, mutable=['batch_stats'])
    return jnp.mean(jnp.sin(y)), updated['batch_stats']
  (value, stats), gradient = parallel.value_and_grad(loss, axis_name=model.axis_name)(
      variables['params'])
  return value, stats, gradient


@pytest.mark.parametrize('mode', parallel.MODES)
def test_batch_norm_is_synchronised(mode):
  x = _data()
  variables = BatchNorm().init(jax.random.key(0), x, False)
  variables['params']['norm']['scale'] = jnp.arange(1., 5)
  expected = _losses_gradient(BatchNorm(), variables, x)
  step = parallel.data_parallel(
      lambda _, variables, x: _losses_gradient(BatchNorm(parallel.AXIS), variables, x),
      parallel.create_mesh(), mode=mode)
  actual = step({}, variables, np.asarray(x))
  for ours, theirs in zip(jax.tree.leaves(actual), jax.tree.leaves(expected), strict=True):
    np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-6)


MAPS = [jnp.ones((2, 8, 8, 6)), jnp.ones((2, 4, 4, 6))]


@pytest.mark.parametrize('module, arguments, count', [
    (adapters.Autoencoder(4, axis_name='somewhere'), (MAPS[0], True), 5),
    (adapters.FeatureAdapter(4, axis_name='somewhere'), (MAPS[0], True), 1),
    (critic.Critic(0.125, input_norm=True, axis_name='somewhere'), (MAPS[0], True), 1),
    *((fusion.Review((3, 5), ((8, 8), (4, 4)), 4, form, axis_name='somewhere'), (MAPS,), count)
      for form, count in (('single_stage', 2), ('multi_stage', 4), ('all_pairs', 6),
                          ('fused', 5), ('residual', 4)))])
def test_what_methods_train_is_synchronised(module, arguments, count):
  found = []

  def note(call, args, kwargs, context):
    if isinstance(context.module, BatchNorm):
      found.append(context.module.axis_name)
    return call(*args, **kwargs)

  options = {'train': True} if isinstance(module, fusion.Review) else {}
  with nn.intercept_methods(note):
    jax.eval_shape(lambda: module.init(jax.random.key(0), *arguments, **options))
  assert found == ['somewhere'] * count


def test_evaluation_and_init_need_no_map():
  model = BatchNorm('data')
  x = _data()
  variables = model.init(jax.random.key(0), x, True)
  np.testing.assert_allclose(model.apply(variables, x, False), x / np.sqrt(1 + 1e-5), rtol=1e-6)


def test_statistics_of_half_precision_are_float32():
  model = BatchNorm(dtype=jnp.bfloat16)
  x = _data().astype(jnp.bfloat16) + 200  # squares of which bfloat16 could not tell apart
  y, updated = model.apply(
      model.init(jax.random.key(0), x, False), x, True, mutable=['batch_stats'])
  stats = updated['batch_stats']['norm']
  assert y.dtype == jnp.bfloat16 and stats['var'].dtype == jnp.float32
  np.testing.assert_allclose(
      stats['var'], 0.9 + 0.1 * np.var(np.asarray(x, np.float64), (0, 1, 2)), rtol=1e-3)


def test_statistics_of_half_precision_over_many_pixels():
  x = jax.random.normal(jax.random.key(0), (2, 128, 128, 3)) + 1
  x = x.astype(jnp.bfloat16)  # a sum in bfloat16 would end at a few hundred
  model = BatchNorm(dtype=jnp.bfloat16)
  _, updated = model.apply(
      model.init(jax.random.key(0), x, False), x, True, mutable=['batch_stats'])
  stats, exact = updated['batch_stats']['norm'], np.asarray(x, np.float64)
  np.testing.assert_allclose(stats['mean'], 0.1 * np.mean(exact, (0, 1, 2)), rtol=1e-5)
  np.testing.assert_allclose(stats['var'] - 0.9, 0.1 * np.var(exact, (0, 1, 2)), rtol=1e-5)
