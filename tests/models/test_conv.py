"""Every lowering against `lax.conv_general_dilated`, and the choice between them."""

import functools

import jax
import jax.export
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec as P

from kdseg_jax import parallel
from kdseg_jax.models import conv

# Lowering, image, kernel, strides, dilation, padding, groups.
CASES = {
    '1x1': (conv.lower_pointwise, (2, 5, 4, 3), (1, 1, 3, 6), (1, 1), (1, 1), (0, 0), 1),
    '1x1 stride, odd': (
        conv.lower_pointwise, (2, 7, 5, 3), (1, 1, 3, 6), (2, 2), (1, 1), (0, 0), 1),
    '1x1 uneven stride': (
        conv.lower_pointwise, (2, 7, 8, 3), (1, 1, 3, 6), (3, 2), (1, 1), (0, 0), 1),
    'depthwise': (conv.lower_depthwise, (2, 5, 6, 4), (3, 3, 1, 4), (1, 1), (1, 1), (1, 1), 4),
    'depthwise stride, odd': (
        conv.lower_depthwise, (2, 7, 9, 4), (3, 3, 1, 4), (2, 2), (1, 1), (1, 1), 4),
    'depthwise stride, even': (
        conv.lower_depthwise, (2, 8, 6, 4), (3, 3, 1, 4), (2, 2), (1, 1), (1, 1), 4),
    'depthwise dilated': (
        conv.lower_depthwise, (2, 7, 5, 4), (3, 3, 1, 4), (1, 1), (4, 4), (4, 4), 4),
    'depthwise dilated stride': (
        conv.lower_depthwise, (2, 9, 8, 4), (3, 3, 1, 4), (2, 2), (2, 3), (2, 3), 4),
    'depthwise 4x2': (conv.lower_depthwise, (2, 7, 6, 4), (4, 2, 1, 4), (1, 1), (1, 1), (1, 1), 4),
    'depthwise 4x2 stride': (
        conv.lower_depthwise, (2, 7, 6, 4), (4, 2, 1, 4), (2, 1), (1, 1), (1, 1), 4),
    'depthwise without padding': (
        conv.lower_depthwise, (2, 7, 6, 4), (3, 3, 1, 4), (1, 1), (2, 1), (0, 0), 4),
    'depthwise much padding': (
        conv.lower_depthwise, (2, 3, 4, 4), (2, 3, 1, 4), (1, 1), (1, 2), (4, 5), 4),
    'depthwise much padding, stride': (
        conv.lower_depthwise, (2, 3, 4, 4), (2, 3, 1, 4), (3, 2), (1, 1), (4, 5), 4),
    'taps': (conv.lower_taps, (2, 5, 6, 3), (3, 3, 3, 4), (1, 1), (1, 1), (1, 1), 1),
    'taps aspp': (conv.lower_taps, (2, 14, 9, 3), (3, 3, 3, 4), (1, 1), (12, 12), (12, 12), 1),
    'taps, all but one outside': (
        conv.lower_taps, (2, 5, 6, 3), (3, 3, 3, 4), (1, 1), (24, 24), (24, 24), 1),
    'taps stride, odd': (conv.lower_taps, (2, 9, 7, 3), (3, 3, 3, 4), (2, 2), (4, 3), (4, 3), 1),
    'taps stride, uneven padding': (
        conv.lower_taps, (2, 8, 9, 3), (3, 3, 3, 4), (3, 2), (2, 5), (1, 6), 1),
    'taps 4x2': (conv.lower_taps, (2, 8, 7, 3), (4, 2, 3, 4), (2, 2), (2, 3), (3, 2), 1),
}


def _operands(x_shape, kernel_shape, dtype=np.float64):
  rng = np.random.default_rng(0)
  return (jnp.asarray(rng.standard_normal(x_shape), dtype),
          jnp.asarray(rng.standard_normal(kernel_shape), dtype))


@functools.partial(jax.jit, static_argnums=(0, 3))
def _value_and_gradients(lowering, x, kernel, geometry):
  value, backward = jax.vjp(lambda *args: lowering(*args, geometry), x, kernel)
  return value, *backward(jnp.cos(value))


@pytest.mark.parametrize('case', CASES.values(), ids=CASES)
def test_lowering_equals_xla(case):
  lowering, x_shape, kernel_shape, *geometry = case
  geometry = conv.Geometry(*geometry)
  with jax.enable_x64(True):
    x, kernel = _operands(x_shape, kernel_shape)
    actual = _value_and_gradients(lowering, x, kernel, geometry)
    expected = _value_and_gradients(conv.lower_general, x, kernel, geometry)
  for ours, theirs in zip(actual, expected, strict=True):
    assert ours.shape == theirs.shape and ours.dtype == np.float64
    np.testing.assert_allclose(ours, theirs, rtol=1e-12, atol=1e-12)


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


@pytest.mark.parametrize('shape, kernel, geometry, chosen', [
    ((8, 16, 16, 32), (1, 1, 32, 64), ((2, 2), (1, 1), (0, 0), 1), conv.lower_pointwise),
    ((8, 16, 16, 32), (1, 1, 32, 64), ((1, 1), (1, 1), (1, 1), 1), conv.lower_general),
    ((8, 16, 16, 32), (3, 3, 1, 32), ((2, 2), (1, 1), (1, 1), 32), conv.lower_depthwise),
    ((8, 16, 16, 32), (3, 3, 1, 64), ((1, 1), (1, 1), (1, 1), 32), conv.lower_general),
    ((8, 16, 16, 32), (3, 3, 8, 32), ((1, 1), (1, 1), (1, 1), 4), conv.lower_general),
    ((8, 16, 16, 1), (3, 3, 1, 1), ((1, 1), (1, 1), (1, 1), 1), conv.lower_general),
    ((8, 16, 16, 32), (3, 3, 32, 32), ((1, 1), (2, 2), (2, 2), 1), conv.lower_general),
    ((8, 8, 8, 32), (3, 3, 32, 32), ((1, 1), (12, 12), (12, 12), 1), conv.lower_taps),
    ((8, 23, 30, 32), (3, 3, 32, 32), ((1, 1), (12, 12), (12, 12), 1), conv.lower_taps),
    ((8, 90, 160, 32), (3, 3, 32, 32), ((1, 1), (12, 12), (12, 12), 1), conv.lower_general),
])
def test_choice(shape, kernel, geometry, chosen):
  geometry = conv.Geometry(*geometry)
  assert conv.choose_lowering(shape, kernel, geometry, 'cpu') is chosen
  assert conv.choose_lowering(shape, kernel, geometry, 'tpu') is conv.lower_general
  assert conv.choose_lowering(shape, kernel, geometry, 'gpu') is conv.lower_general


def test_valid_share():
  geometry = conv.Geometry((1, 1), (12, 12), (12, 12), 1)
  assert conv.valid_share((1, 8, 8, 1), (3, 3, 1, 1), geometry) == pytest.approx(1 / 9)
  assert conv.valid_share((1, 24, 8, 1), (3, 3, 1, 1), geometry) == pytest.approx(2 / 3 / 3)


@pytest.mark.parametrize('lowering, kernel_shape, groups', [
    (conv.lower_pointwise, (1, 1, 8, 8), 1),
    (conv.lower_depthwise, (3, 3, 1, 8), 8),
    (conv.lower_taps, (3, 3, 8, 8), 1),
])
def test_bfloat16_is_rounded_once(lowering, kernel_shape, groups):
  x, kernel = _operands((2, 6, 6, 8), kernel_shape, jnp.bfloat16)
  pad = kernel_shape[0] // 2
  geometry = conv.Geometry((1, 1), (1, 1), (pad, pad), groups)
  actual = _value_and_gradients(lowering, x, kernel, geometry)
  exact = conv.lower_general(x.astype(jnp.float32), kernel.astype(jnp.float32), geometry)
  assert all(a.dtype == jnp.bfloat16 for a in actual)
  np.testing.assert_allclose(actual[0].astype(np.float32), exact, rtol=2**-8, atol=1e-4)


def test_depthwise_has_second_derivatives():
  geometry = conv.Geometry((1, 1), (1, 1), (1, 1), 4)
  with jax.enable_x64(True):
    x, kernel = _operands((2, 6, 5, 4), (3, 3, 1, 4))

    @functools.partial(jax.jit, static_argnums=0)
    def penalty(lowering, x, kernel):
      slope = jax.grad(lambda x: jnp.sum(lowering(x, kernel, geometry) ** 3))(x)
      return jnp.sum(slope ** 2)

    ours = jax.grad(penalty, (1, 2))(conv.lower_depthwise, x, kernel)
    theirs = jax.grad(penalty, (1, 2))(conv.lower_general, x, kernel)
  for a, b in zip(ours, theirs):
    np.testing.assert_allclose(a, b, rtol=1e-10, atol=1e-10)


def test_depthwise_of_a_replicated_kernel_under_shard_map():
  geometry = conv.Geometry((1, 1), (1, 1), (1, 1), 3)
  x, kernel = _operands((8, 5, 5, 3), (3, 3, 1, 3), np.float32)
  loss = lambda lowering: lambda x, kernel: jnp.sum(jnp.sin(lowering(x, kernel, geometry)))
  gradient = jax.jit(jax.shard_map(
      jax.grad(loss(conv.lower_depthwise), 1), mesh=parallel.create_mesh(),
      in_specs=(P(parallel.AXIS), P()), out_specs=P()))  # summed over the devices by shard_map
  np.testing.assert_allclose(
      gradient(x, kernel), jax.grad(loss(conv.lower_general), 1)(x, kernel), rtol=1e-5, atol=1e-5)


def test_depthwise_of_a_replicated_image_under_shard_map():
  geometry = conv.Geometry((1, 1), (1, 1), (1, 1), 3)
  x, kernel = _operands((1, 5, 5, 3), (8, 3, 3, 1, 3), np.float32)
  loss = lambda lowering: lambda x, kernel: jnp.sum(jnp.sin(lowering(x, kernel, geometry)))
  gradient = jax.jit(jax.shard_map(
      lambda x, kernel: jax.grad(loss(conv.lower_depthwise))(x, kernel[0]),
      mesh=parallel.create_mesh(), in_specs=(P(), P(parallel.AXIS)), out_specs=P()))
  expected = sum(jax.grad(loss(conv.lower_general))(x, k) for k in kernel)
  np.testing.assert_allclose(gradient(x, kernel), expected, rtol=1e-5, atol=1e-5)


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
  with conv.lowered_for(platform):
    exported = jax.export.export(
        jax.jit(lambda x: conv.conv2d(x, kernel)), platforms=[platform])(
            jax.ShapeDtypeStruct((2, 8, 8, 3), jnp.float32))
  text = exported.mlir_module()
  assert has in text and lacks not in text
  with pytest.raises(RuntimeError), conv.lowered_for('cuda'):
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
