"""Masks belong to examples."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec as P

from kdseg_jax import models, parallel
from kdseg_jax.models.dropout import Dropout

X = jnp.ones((8, 4, 4, 16))
INDEX = jnp.array([3, 1, 4, 100, 5, 9, 2, 6])


def _drop(x, index, rate=0.3, seed=0, train=True):
  return Dropout(rate).apply({}, x, index, train, rngs={'dropout': jax.random.key(seed)})


def test_mask_follows_the_example():
  whole = _drop(X, INDEX)
  order = np.array([5, 0, 3])
  np.testing.assert_array_equal(_drop(X[order], INDEX[order]), whole[order])
  assert not np.array_equal(_drop(X, INDEX + 1), whole)
  assert not np.array_equal(_drop(X, INDEX, seed=1), whole)
  assert len({np.asarray(y).tobytes() for y in whole}) == 8  # no two examples alike


@pytest.mark.parametrize('mode', parallel.MODES)
def test_mask_does_not_depend_on_devices(mode):
  if mode == 'shard_map':
    mapped = jax.shard_map(_drop, mesh=parallel.create_mesh(),
                           in_specs=P(parallel.AXIS), out_specs=P(parallel.AXIS))
    actual = mapped(X, INDEX)
  else:
    actual = jax.pmap(_drop)(X[:, None], INDEX[:, None])[:, 0]
  np.testing.assert_array_equal(actual, _drop(X, INDEX))


def test_rate_and_scale():
  y = _drop(jnp.ones((64, 32, 32)), jnp.arange(64))
  np.testing.assert_allclose(np.unique(y), [0, 1 / 0.7], rtol=1e-6)
  assert np.mean(y) == pytest.approx(1, abs=0.01)  # 6 standard deviations


def test_every_pixel_and_channel_is_dropped_by_itself():
  kept = np.asarray(_drop(jnp.ones((1, 32, 32, 32)), jnp.arange(1)))[0] > 0
  for axis in range(3):
    shares = kept.mean(axis=axis)
    assert 0.2 < shares.min() < shares.max() < 1  # 0.7 within some standard deviations of 0.08


@pytest.mark.parametrize('name, layers', [
    ('deeplabv3_mobilenetv2', 3), ('deeplabv3plus_mobilenetv2', 3), ('pspnet_mobilenetv2', 2),
    ('plain_mobilenetv2', 2), ('mobilenetv2', 1)])  # with that of the auxiliary head
def test_all_dropout_of_a_model_is_of_the_numbers_of_its_images(name, layers):
  model = models.create(name, 3, width=1 / 16, dropout=0.5, aux='_' in name)
  keys, seen = {name: jax.random.key(0) for name in ('params', 'dropout')}, []
  taps = {f'stage{i}': jnp.zeros((8, 2, 2, 4)) for i in range(1, 5)}

  def note(call, arguments, options, context):
    if isinstance(context.module, Dropout) and context.method_name == '__call__':
      seen.append(arguments[1])
    return call(*arguments, **options)

  def run(index):
    with nn.intercept_methods(note):
      model.init_with_output(keys, taps, index, True, method='heads')
    assert len(seen) == layers and all(given is index for given in seen)
  jax.eval_shape(run, INDEX)


def test_nothing_to_drop():
  np.testing.assert_array_equal(Dropout(0.5).apply({}, X, INDEX, False), X)
  np.testing.assert_array_equal(Dropout(0.0).apply({}, X, INDEX, True), X)
  assert _drop(X.astype(jnp.bfloat16), INDEX).dtype == jnp.bfloat16


def test_two_layers_draw_differently():
  class Two(nn.Module):

    @nn.compact
    def __call__(self, x):
      return Dropout(0.5)(x, INDEX, True), Dropout(0.5)(x, INDEX, True)

  first, second = Two().apply({}, X, rngs={'dropout': jax.random.key(0)})
  assert not np.array_equal(first, second)


@pytest.mark.parametrize('rate', [-0.1, 1.0])
def test_rate_is_checked(rate):
  with pytest.raises(ValueError, match='expected 0 <= rate < 1'):
    _drop(X, INDEX, rate)
