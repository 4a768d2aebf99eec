"""The modules of knowledge adaptation: sizes, widths, values; the transposed convolution."""

import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kdseg_jax import target_platform
from kdseg_jax.models import adapters, conv
from tests import toys

GOLDEN = pathlib.Path(__file__).parents[1] / 'golden' / 'adaptation.npz'


@pytest.mark.parametrize('case, strides, padding', [
    ('k3s1p1', 1, 1), ('k3s2p1op1', 2, 1), ('k4s2p1', 2, 1)])
def test_transposed_convolution_equals_torch(case, strides, padding):
  with np.load(GOLDEN) as golden:
    x, kernel, bias, wanted = (golden[f'torch_conv_transpose/{case}.{name}'] for name in 'xwby')
  got = conv.conv2d_transpose(
      np.moveaxis(x, 1, -1), kernel.transpose(2, 3, 0, 1), strides=strides, padding=padding,
      size=wanted.shape[2:]) + bias
  np.testing.assert_allclose(got, np.moveaxis(wanted, 1, -1), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize('k, stride, padding', [(3, 1, 1), (3, 2, 1), (5, 3, 2), (2, 2, 0)])
@pytest.mark.parametrize('size', [(6, 9), (7, 11), (8, 10)])
def test_transposed_convolution_is_the_adjoint_of_the_convolution(k, stride, padding, size):
  rng = np.random.default_rng(0)
  if (k, padding) == (stride, 0):
    size = tuple(side // k * k for side in size)
  with jax.enable_x64(True):
    kernel = rng.normal(size=(k, k, 4, 3))
    large, other = rng.normal(size=(2, *size, 4)), rng.normal(size=(2, *size, 3))
    small = conv.conv2d(large, kernel, strides=stride, padding=padding)
    y = rng.normal(size=small.shape)
    back = conv.conv2d_transpose(
        y, kernel.transpose(0, 1, 3, 2), strides=stride, padding=padding, size=size)
    assert back.shape == large.shape and other.shape[:3] == back.shape[:3]
    np.testing.assert_allclose(np.sum(small * y), np.sum(large * back), rtol=1e-10)


@pytest.mark.parametrize('k, stride, padding', [(3, 2, 1), (5, 3, 2), (4, 2, 1)])
def test_transposed_convolution_is_the_same_on_every_platform(k, stride, padding):
  rng = np.random.default_rng(0)

  def value_and_gradients(x, kernel):
    value, backward = jax.vjp(
        lambda *args: conv.conv2d_transpose(*args, strides=stride, padding=padding), x, kernel)
    return value, *backward(jnp.cos(value))
  with jax.enable_x64(True):
    x, kernel = jnp.asarray(rng.normal(size=(2, 4, 5, 3))), rng.normal(size=(k, k, 3, 4))
    ours = value_and_gradients(x, jnp.asarray(kernel))
    with target_platform.lowered_for('tpu'):
      plain = value_and_gradients(x, jnp.asarray(kernel))
  for got, wanted in zip(ours, plain, strict=True):
    np.testing.assert_allclose(got, wanted, rtol=1e-12, atol=1e-12)


def test_a_size_that_the_convolution_cannot_have_had_is_refused():
  x, kernel = jnp.zeros((1, 4, 4, 2)), jnp.zeros((3, 3, 2, 1))
  for size in ((6, 8), (7, 9)):
    with pytest.raises(ValueError, match=r'becomes one of \(7, 7\) to \(8, 8\), got size='):
      conv.conv2d_transpose(x, kernel, strides=2, padding=1, size=size)
  with pytest.raises(ValueError, match='an image .* and a kernel'):
    conv.conv2d_transpose(x, kernel[:, :, :1], strides=2, padding=1)


@pytest.mark.parametrize('size, target, strides', [
    ((64, 64), (32, 32), (2, 1, 1)), ((65, 65), (33, 33), (2, 1, 1)),
    ((128, 128), (32, 32), (2, 2, 1)), ((128, 96), (16, 12), (2, 2, 2)),
    ((45, 60), (12, 15), (2, 2, 1)), ((8, 8), (8, 8), (1, 1, 1)),
    ((8, 8), (16, 16), (1, 1, 1)), ((64, 64), (2, 2), (2, 2, 2))])
def test_the_code_comes_nearest_to_the_students_size(size, target, strides):
  assert adapters.strides_between(size, target) == strides


@pytest.mark.parametrize('strides', [(1, 1, 1), (2, 1, 1), (2, 2, 2), (1, 2, 1), (3, 1, 2)])
@pytest.mark.parametrize('size', [(8, 12), (9, 13), (11, 7)])
def test_a_reconstruction_has_exactly_the_size_of_the_features(strides, size):
  module = adapters.Autoencoder(5, strides)
  x = jnp.zeros((2, *size, 8))
  (reconstruction, code), variables = jax.eval_shape(
      lambda: module.init_with_output(jax.random.key(0), x, True))
  assert reconstruction.shape == x.shape
  assert code.shape == (2, *(-(-side // int(np.prod(strides))) for side in size), 5)
  params = variables['params']
  widths = lambda part: [params[part][f'layer{i}'] for i in range(3)]
  assert [layer['conv']['kernel'].shape for layer in widths('encoder')] == [
      (3, 3, 8, 8), (3, 3, 8, 5), (3, 3, 5, 5)]
  assert [layer['kernel'].shape for layer in widths('decoder')] == [
      (3, 3, 8, 8), (3, 3, 5, 8), (3, 3, 5, 5)]  # the mirror image


def test_the_code_is_rectified_and_the_reconstruction_is_not():
  module = adapters.Autoencoder(4, (2, 1, 1))
  x = jax.random.normal(jax.random.key(1), (2, 9, 8, 6))
  (reconstruction, code), variables = module.init_with_output(jax.random.key(0), x, True)
  assert np.min(code) == 0 < np.max(code) and np.min(reconstruction) < 0
  encoder = {group: variables[group]['encoder'] for group in variables}
  alone = adapters.Encoder(4, (2, 1, 1)).apply(encoder, x, False)
  np.testing.assert_array_equal(alone, module.apply(variables, x, False)[1])


def test_adapters_keep_the_size():
  x = jnp.ones((2, 5, 6, 3))
  feature = adapters.FeatureAdapter(7)
  variables = toys.variables(feature, x, True)
  assert variables['params']['layer']['conv']['kernel'].shape == (3, 3, 3, 7)
  adapted, _ = feature.apply(variables, x, True, mutable=['batch_stats'])
  assert adapted.shape == (2, 5, 6, 7) and np.min(adapted) >= 0
  affinity = adapters.AffinityAdapter(7)
  params = toys.variables(affinity, x)
  y = affinity.apply(params, x)
  assert y.shape == (2, 5, 6, 7) and np.min(y) < 0 and list(params) == ['params']
