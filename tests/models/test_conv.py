"""The convolution, its transpose and their modules."""

import zlib

import flax.linen as nn
import jax
import jax.export
import jax.numpy as jnp
import numpy as np
import pytest

from kdseg_jax import target_platform
from kdseg_jax.models import conv


def _operands(x_shape, kernel_shape, dtype=np.float64):
  rng = np.random.default_rng(0)
  return (jnp.asarray(rng.standard_normal(x_shape), dtype),
          jnp.asarray(rng.standard_normal(kernel_shape), dtype))


def test_conv_transpose_by_hand():
  x = jnp.array([[[1., 2.], [3., 0.]]])[:, None]  # one row of two pixels of two channels
  kernel = jnp.arange(8.).reshape(2, 2, 2, 1)     # 4 a + 2 b + c
  y = conv.ConvTranspose(1).apply({'params': {'kernel': kernel}}, x)
  np.testing.assert_array_equal(y[0, ..., 0], [[2, 8, 0, 6], [14, 20, 12, 18]])


def test_conv2d_by_hand():
  x = jnp.arange(1., 10).reshape(1, 3, 3, 1)
  kernel = jnp.array([[1., 2.], [3., 4.]]).reshape(2, 2, 1, 1)  # not flipped
  y = conv.conv2d(x, kernel, strides=2, padding=1)
  np.testing.assert_array_equal(y[0, :, :, 0], [[4, 18], [36, 77]])


@pytest.mark.parametrize('x, kernel, options, message', [
    ((5, 5, 3), (3, 3, 3, 4), {}, r'image \(N, H, W, C\)'),
    ((1, 5, 5, 3), (3, 3, 4, 4), {}, 'image of 3 channels in 1 group'),
    ((1, 5, 5, 4), (3, 3, 2, 3), {'groups': 2}, 'a multiple of 2'),
    ((1, 5, 5, 3), (3, 3, 3, 4), {'dilation': 3}, 'Use a larger image'),
])
def test_errors(x, kernel, options, message):
  with pytest.raises(ValueError, match=message):
    conv.conv2d(jnp.zeros(x), jnp.zeros(kernel), **options)


def test_conv_module_keeps_size_and_is_he_normal():
  layer = conv.Conv(256, dilation=2)
  variables = layer.init(jax.random.key(0), jnp.zeros((1, 9, 8, 16)))
  kernel = variables['params']['kernel']
  assert list(variables['params']) == ['kernel'] and kernel.shape == (3, 3, 16, 256)
  assert np.std(kernel) == pytest.approx(np.sqrt(2 / (9 * 256)), rel=0.02)
  assert layer.apply(variables, jnp.zeros((1, 9, 8, 16))).shape == (1, 9, 8, 256)


def test_kernels_are_of_the_key_and_of_the_place_of_a_layer():
  layers = [conv.Conv(4, 3), conv.Conv(4, 1, kernel_init=conv.uniform_fan_in),
            conv.ConvTranspose(4)]
  model = nn.Sequential([layer.clone() for layer in layers for _ in range(2)])
  init = jax.jit(lambda key: model.init(key, jnp.zeros((1, 3, 3, 4))))
  kernels = [np.asarray(x) for seed in (0, 1) for x in jax.tree.leaves(init(jax.random.key(seed)))]
  assert len({zlib.crc32(x) for x in kernels}) == len(kernels) == 2 * 6
  assert all(len(np.unique(x)) == x.size for x in kernels)


@pytest.mark.parametrize('kernel_size, stride, dilation, groups', [
    (3, 2, 1, 1), (5, 2, 1, 4), (5, 1, 2, 4), (3, 3, 2, 1), (2, 1, 1, 1), (1, 2, 1, 1)])
@pytest.mark.parametrize('size', [(8, 7), (1, 6)])
def test_conv_module_pads_as_tensorflow(size, kernel_size, stride, dilation, groups):
  """`lax` has TensorFlow's rule by its name."""
  layer = conv.Conv(4, kernel_size, stride, dilation, 'same', groups)
  x, kernel = _operands(
      (2, *size, 4), (kernel_size, kernel_size, 4 // groups, 4), np.float32)
  expected = jax.lax.conv_general_dilated(
      x, kernel, (stride, stride), 'SAME', rhs_dilation=(dilation, dilation),
      feature_group_count=groups, dimension_numbers=('NHWC', 'HWIO', 'NHWC'))
  actual = layer.apply({'params': {'kernel': kernel}}, x)
  np.testing.assert_allclose(actual, expected, rtol=1e-5, atol=1e-5)


def test_conv_module_computes_in_its_dtype():
  layer = conv.Conv(8, 1, use_bias=True, dtype=jnp.bfloat16)
  y, variables = layer.init_with_output(jax.random.key(0), jnp.ones((1, 2, 2, 3)))
  assert y.dtype == jnp.bfloat16
  assert {x.dtype for x in jax.tree.leaves(variables)} == {jnp.dtype('float32')}


@pytest.mark.parametrize('platform,has,lacks', [
    ('cuda', 'stablehlo.convolution', 'stablehlo.dot_general'),
    ('cpu', 'stablehlo.dot_general', 'stablehlo.convolution')])
def test_what_is_compiled_for_another_platform_is_lowered_for_it(platform, has, lacks):
  kernel = np.ones((1, 1, 3, 4), np.float32)
  with target_platform.lowered_for(platform):
    exported = jax.export.export(
        jax.jit(lambda x: conv.conv2d(x, kernel)), platforms=[platform])(
            jax.ShapeDtypeStruct((2, 8, 8, 3), jnp.float32))
  text = exported.mlir_module()
  assert has in text and lacks not in text
  with pytest.raises(RuntimeError), target_platform.lowered_for('cuda'):
    raise RuntimeError
  assert 'dot_general' in str(jax.make_jaxpr(lambda x: conv.conv2d(x, kernel))(
      jnp.ones((2, 8, 8, 3))))


@pytest.mark.parametrize('kernel_shape,strides,dilation,padding,groups', [
    ((1, 1, 4, 6), 2, 1, 0, 1), ((3, 3, 1, 4), 2, 1, 1, 4), ((3, 3, 1, 4), 1, 2, 2, 4),
    ((3, 3, 4, 6), 1, 12, 12, 1), ((7, 7, 4, 6), 2, 1, 3, 1)])
def test_sizes_may_be_symbolic(kernel_shape, strides, dilation, padding, groups):
  kernel = _operands((1,), kernel_shape, np.float32)[1]
  convolve = jax.jit(lambda x: conv.conv2d(
      x, kernel, strides=strides, dilation=dilation, padding=padding, groups=groups))
  shape = jax.export.symbolic_shape('n, h, w, 4')
  exported = jax.export.export(convolve)(jax.ShapeDtypeStruct(shape, jnp.float32))
  for size in ((1, 9, 8, 4), (3, 16, 13, 4)):
    x = _operands(size, (1,), np.float32)[0]
    np.testing.assert_allclose(exported.call(x), convolve(x), rtol=1e-4, atol=1e-4)
