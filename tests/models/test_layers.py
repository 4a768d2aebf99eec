"""Widths and dilation."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kdseg_jax.models import layers


@pytest.mark.parametrize('channels, width, expected', [
    (64, 1, 64), (64, 0.5, 32), (64, 0.01, 8), (32, 0.35, 16), (24, 0.75, 24), (320, 1.4, 448),
    (96, 0.35, 32), (16, 0.75, 16), (44.8, 1, 48), (52, 1, 56)])
def test_scale_channels(channels, width, expected):
  assert layers.scale_channels(channels, width) == expected


@pytest.mark.parametrize('output_stride, expected', [
    (32, [(2, 1), (2, 1), (2, 1)]),
    (16, [(2, 1), (2, 1), (1, 2)]),
    (8, [(2, 1), (1, 2), (1, 4)]),
    (4, [(1, 2), (1, 4), (1, 8)])])
def test_late_strides(output_stride, expected):
  assert layers.late_strides(output_stride) == expected


def test_first_dilation():
  assert [layers.first_dilation(d) for d in (1, 2, 4)] == [1, 1, 2]


def test_rectifier():
  x = jnp.array([-2.0, 0.0, 3.0])
  assert layers.rectifier(0.0) is jax.nn.relu
  np.testing.assert_allclose(layers.rectifier(0.1)(x), [-0.2, 0, 3])


def test_unknown_output_stride():
  with pytest.raises(ValueError, match=r'output_stride=2 .* \(4, 8, 16, 32\)'):
    layers.late_strides(2)


@pytest.mark.parametrize('activation', [jax.nn.relu, None])
def test_conv_norm(activation):
  layer = layers.ConvNorm(8, 3, 2, activation=activation)
  x = jax.random.normal(jax.random.key(0), (2, 5, 6, 4))
  y, variables = layer.init_with_output(jax.random.key(1), x, False)
  assert y.shape == (2, 3, 3, 8)
  assert (np.min(y) >= 0) == (activation is not None)
  assert 'bias' not in variables['params']['conv']
  _, biased = layer.clone(use_bias=True).init_with_output(jax.random.key(1), x, False)
  assert biased['params']['conv']['bias'].shape == (8,)
  assert variables['params']['norm']['norm']['scale'].dtype == jnp.float32


def test_conv_norm_passes_on_padding_and_epsilon():
  layer = layers.ConvNorm(1, 1, padding=1, epsilon=3.0, activation=None)
  variables = {
      'params': {'conv': {'kernel': jnp.ones((1, 1, 1, 1))},
                 'norm': {'norm': {'scale': jnp.ones(1), 'bias': jnp.zeros(1)}}},
      'batch_stats': {'norm': {'norm': {'mean': jnp.zeros(1), 'var': jnp.ones(1)}}}}
  y = layer.apply(variables, jnp.ones((1, 1, 1, 1)), False)
  np.testing.assert_allclose(y[0, ..., 0], [[0, 0, 0], [0, 0.5, 0], [0, 0, 0]])  # 1 / sqrt(1 + 3)


@pytest.mark.parametrize('depthwise_activation, activation', [
    (jax.nn.relu, jax.nn.relu), (None, None), (jax.nn.relu, None)])
def test_separable_conv_norm(depthwise_activation, activation):
  layer = layers.SeparableConvNorm(
      8, 2, 3, depthwise_activation=depthwise_activation, activation=activation)
  depthwise = layers.ConvNorm(4, 3, 2, 3, groups=4, activation=depthwise_activation)
  pointwise = layers.ConvNorm(8, 1, activation=activation)

  @jax.jit
  def run(x):
    y, variables = layer.init_with_output(jax.random.key(1), x, False)
    part = lambda name: {kind: tree[name] for kind, tree in variables.items()}
    return y, pointwise.apply(
        part('pointwise'), depthwise.apply(part('depthwise'), x, False), False)

  y, expected = run(jax.random.normal(jax.random.key(0), (2, 7, 6, 4)))
  assert y.shape == (2, 4, 3, 8)
  np.testing.assert_allclose(y, expected, rtol=1e-5, atol=1e-6)
