"""Pooling over windows that tile a map."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kdseg_jax.losses import pooling

pool_nodes = jax.jit(pooling.pool, static_argnums=(1, 2))


@pytest.mark.parametrize('pool, expected', [
    ('max', [[6, 8, 9], [16, 18, 19]]),
    ('mean', [[3, 5, 6.5], [13, 15, 16.5]]),
])
def test_pooling_keeps_partial_windows(pool, expected):
  x = jnp.arange(20.).reshape(1, 4, 5, 1)
  np.testing.assert_array_equal(pool_nodes(x, (2, 2), pool)[0, ..., 0], expected)
  # Windows at the edge divide by their own pixels, and padding never wins, even over negatives.
  edge = pool_nodes(-x, (3, 10), pool)[0, :, 0, 0]
  np.testing.assert_array_equal(edge, [0, -15] if pool == 'max' else [-7, -17])


def test_of_equal_maxima_the_first_takes_the_gradient():
  gradient = jax.grad(lambda x: jnp.sum(pool_nodes(x, (2, 2), 'max')))
  x = jnp.array([[1., 1., 3., 2.], [1., 1., 2., 3.]]).reshape(1, 2, 4, 1)
  np.testing.assert_array_equal(
      gradient(x)[0, ..., 0], [[1, 0, 1, 0], [0, 0, 0, 0]])


@pytest.mark.parametrize('seed', range(3))
def test_maxima_and_their_gradient_are_those_of_argmax(seed):
  x = np.random.default_rng(seed).integers(-2, 2, (2, 7, 5, 3)).astype(np.float32)  # many equal
  x[seed % 2, 2:] = -np.inf
  expected, values = np.zeros_like(x), []
  for n, i, j, c in np.ndindex(2, 3, 3, 3):
    tile = x[n, 3 * i:3 * i + 3, 2 * j:2 * j + 2, c]
    row, column = np.unravel_index(np.argmax(tile), tile.shape)
    expected[n, 3 * i + row, 2 * j + column, c] = len(values)
    values.append(tile.max())
  pooled, pullback = jax.vjp(lambda x: pooling.pool(x, (3, 2), 'max'), jnp.asarray(x))
  np.testing.assert_array_equal(pooled.ravel(), values)
  finite = np.isfinite(x)
  np.testing.assert_array_equal(
      np.where(finite, pullback(jnp.arange(54.).reshape(pooled.shape))[0], 0),
      np.where(finite, expected, 0))


def test_a_nan_is_the_maximum():
  x = jnp.array([[1., jnp.nan, 3., 2.]]).reshape(1, 1, 4, 1)
  np.testing.assert_array_equal(pool_nodes(x, (1, 2), 'max').ravel(), [np.nan, 3])


def test_window_is_a_side_or_two():
  assert pooling.window_of('pool', None) == (1, 1)
  assert pooling.window_of('pool', 3) == (3, 3)
  assert pooling.window_of('pool', [2, 4]) == (2, 4)
  for wrong in (0, (2, 0), (2, 2, 2)):
    with pytest.raises(ValueError, match='pool='):
      pooling.window_of('pool', wrong)
