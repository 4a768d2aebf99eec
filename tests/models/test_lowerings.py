"""Every lowering against `lax.conv_general_dilated`, and the choice between them."""

import functools

import jax
import jax.export
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec as P

from kdseg_jax import parallel, target_platform
from kdseg_jax.models import conv, lowerings

# Lowering, image, kernel, strides, dilation, padding, groups.
CASES = {
    '1x1': (lowerings.lower_pointwise, (2, 5, 4, 3), (1, 1, 3, 6), (1, 1), (1, 1), (0, 0), 1),
    '1x1 stride, odd': (
        lowerings.lower_pointwise, (2, 7, 5, 3), (1, 1, 3, 6), (2, 2), (1, 1), (0, 0), 1),
    '1x1 uneven stride': (
        lowerings.lower_pointwise, (2, 7, 8, 3), (1, 1, 3, 6), (3, 2), (1, 1), (0, 0), 1),
    'depthwise': (lowerings.lower_depthwise, (2, 5, 6, 4), (3, 3, 1, 4), (1, 1), (1, 1), (1, 1), 4),
    'depthwise stride, odd': (
        lowerings.lower_depthwise, (2, 7, 9, 4), (3, 3, 1, 4), (2, 2), (1, 1), (1, 1), 4),
    'depthwise stride, even': (
        lowerings.lower_depthwise, (2, 8, 6, 4), (3, 3, 1, 4), (2, 2), (1, 1), (1, 1), 4),
    'depthwise dilated': (
        lowerings.lower_depthwise, (2, 7, 5, 4), (3, 3, 1, 4), (1, 1), (4, 4), (4, 4), 4),
    'depthwise dilated stride': (
        lowerings.lower_depthwise, (2, 9, 8, 4), (3, 3, 1, 4), (2, 2), (2, 3), (2, 3), 4),
    'depthwise 4x2': (
        lowerings.lower_depthwise, (2, 7, 6, 4), (4, 2, 1, 4), (1, 1), (1, 1), (1, 1), 4),
    'depthwise 4x2 stride': (
        lowerings.lower_depthwise, (2, 7, 6, 4), (4, 2, 1, 4), (2, 1), (1, 1), (1, 1), 4),
    'depthwise without padding': (
        lowerings.lower_depthwise, (2, 7, 6, 4), (3, 3, 1, 4), (1, 1), (2, 1), (0, 0), 4),
    'depthwise much padding': (
        lowerings.lower_depthwise, (2, 3, 4, 4), (2, 3, 1, 4), (1, 1), (1, 2), (4, 5), 4),
    'depthwise much padding, stride': (
        lowerings.lower_depthwise, (2, 3, 4, 4), (2, 3, 1, 4), (3, 2), (1, 1), (4, 5), 4),
    'taps': (lowerings.lower_taps, (2, 5, 6, 3), (3, 3, 3, 4), (1, 1), (1, 1), (1, 1), 1),
    'taps aspp': (lowerings.lower_taps, (2, 14, 9, 3), (3, 3, 3, 4), (1, 1), (12, 12), (12, 12), 1),
    'taps, all but one outside': (
        lowerings.lower_taps, (2, 5, 6, 3), (3, 3, 3, 4), (1, 1), (24, 24), (24, 24), 1),
    'taps stride, odd': (
        lowerings.lower_taps, (2, 9, 7, 3), (3, 3, 3, 4), (2, 2), (4, 3), (4, 3), 1),
    'taps stride, uneven padding': (
        lowerings.lower_taps, (2, 8, 9, 3), (3, 3, 3, 4), (3, 2), (2, 5), (1, 6), 1),
    'winograd': (lowerings.lower_winograd, (2, 8, 6, 3), (3, 3, 3, 4), (1, 1), (1, 1), (1, 1), 1),
    'winograd, odd': (
        lowerings.lower_winograd, (2, 7, 5, 3), (3, 3, 3, 4), (1, 1), (1, 1), (1, 1), 1),
    'winograd dilated': (
        lowerings.lower_winograd, (2, 8, 12, 3), (3, 3, 3, 4), (1, 1), (2, 2), (2, 2), 1),
    'winograd dilated unevenly, odd': (
        lowerings.lower_winograd, (2, 11, 9, 3), (3, 3, 3, 4), (1, 1), (2, 3), (2, 3), 1),
    'winograd dilated beyond the map': (
        lowerings.lower_winograd, (2, 5, 6, 3), (3, 3, 3, 4), (1, 1), (7, 9), (7, 9), 1),
    'winograd without padding': (
        lowerings.lower_winograd, (2, 7, 8, 3), (3, 3, 3, 4), (1, 1), (2, 1), (0, 0), 1),
    'winograd much padding': (
        lowerings.lower_winograd, (1, 3, 2, 3), (3, 3, 3, 4), (1, 1), (1, 2), (4, 5), 1),
    'strided, odd': (
        lowerings.lower_strided, (2, 7, 9, 3), (3, 3, 3, 4), (2, 2), (1, 1), (1, 1), 1),
    'strided, even': (
        lowerings.lower_strided, (2, 8, 6, 3), (3, 3, 3, 4), (2, 2), (1, 1), (1, 1), 1),
    'strided 4x4': (
        lowerings.lower_strided, (2, 8, 9, 3), (4, 4, 3, 4), (2, 2), (1, 1), (1, 1), 1),
    'strided 7x2, uneven, without padding': (
        lowerings.lower_strided, (2, 12, 9, 3), (7, 2, 3, 4), (2, 3), (1, 1), (0, 0), 1),
    'strided beyond the kernel': (
        lowerings.lower_strided, (2, 9, 8, 3), (2, 3, 3, 4), (5, 1), (1, 1), (0, 1), 1),
    'strided, much padding': (
        lowerings.lower_strided, (2, 3, 4, 3), (2, 3, 3, 4), (2, 3), (1, 1), (4, 5), 1),
    'taps 4x2': (lowerings.lower_taps, (2, 8, 7, 3), (4, 2, 3, 4), (2, 2), (2, 3), (3, 2), 1),
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
  geometry = lowerings.Geometry(*geometry)
  with jax.enable_x64(True):
    x, kernel = _operands(x_shape, kernel_shape)
    actual = _value_and_gradients(lowering, x, kernel, geometry)
    expected = _value_and_gradients(lowerings.lower_general, x, kernel, geometry)
  for ours, theirs in zip(actual, expected, strict=True):
    assert ours.shape == theirs.shape and ours.dtype == np.float64
    np.testing.assert_allclose(ours, theirs, rtol=1e-12, atol=1e-12)


STRIDED = [name for name, case in CASES.items() if case[0] is lowerings.lower_strided]


@pytest.mark.parametrize('name', STRIDED)
def test_second_derivatives_of_strided_equal_xla(name):
  """As a gradient penalty takes them: of the norm of the image's gradient."""
  _, x_shape, kernel_shape, *geometry = CASES[name]
  geometry = lowerings.Geometry(*geometry)

  def penalty(lowering):
    score = lambda x, kernel: jnp.sum(jnp.sin(lowering(x, kernel, geometry)))
    return jax.jit(jax.grad(
        lambda x, kernel: jnp.sum(jax.grad(score)(x, kernel)**2), argnums=(0, 1)))
  with jax.enable_x64(True):
    x, kernel = _operands(x_shape, kernel_shape)
    actual, expected = (penalty(lowering)(x, kernel)
                        for lowering in (lowerings.lower_strided, lowerings.lower_general))
  for ours, theirs in zip(actual, expected, strict=True):
    np.testing.assert_allclose(ours, theirs, rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize('differentiated', [
    lambda x, kernel: jnp.sum(jax.grad(lambda x: jnp.sum(jnp.sin(conv.conv2d(
        x, kernel, strides=2, padding=1))))(x)**2),
    lambda x, kernel: jnp.sum(jnp.sin(conv.conv2d_transpose(
        x, kernel, strides=2, padding=1))),
], ids=['penalty', 'transposed'])
def test_no_kernel_is_read_backwards(differentiated):
  """What XLA's CPU backend has no fast convolution for."""
  compiled = lambda: jax.jit(jax.grad(differentiated, argnums=1)).lower(
      jnp.zeros((2, 16, 16, 8)), jnp.zeros((3, 3, 8, 8))).compile().as_text()
  with target_platform.lowered_for('tpu'):  # that this test could fail
    assert 'rhs_reversal' in compiled()
  assert 'rhs_reversal' not in compiled()


@pytest.mark.parametrize('shape, kernel, geometry, chosen', [
    ((8, 16, 16, 32), (1, 1, 32, 64), ((2, 2), (1, 1), (0, 0), 1), lowerings.lower_pointwise),
    ((8, 16, 16, 32), (1, 1, 32, 64), ((1, 1), (1, 1), (1, 1), 1), lowerings.lower_general),
    ((8, 16, 16, 32), (3, 3, 1, 32), ((2, 2), (1, 1), (1, 1), 32), lowerings.lower_depthwise),
    ((8, 16, 16, 32), (3, 3, 1, 64), ((1, 1), (1, 1), (1, 1), 32), lowerings.lower_general),
    ((8, 16, 16, 32), (3, 3, 8, 32), ((1, 1), (1, 1), (1, 1), 4), lowerings.lower_general),
    ((8, 16, 16, 1), (3, 3, 1, 1), ((1, 1), (1, 1), (1, 1), 1), lowerings.lower_general),
    ((8, 16, 16, 32), (3, 3, 32, 32), ((1, 1), (2, 2), (2, 2), 1), lowerings.lower_general),
    ((4, 16, 16, 64), (3, 3, 64, 80), ((1, 1), (2, 2), (2, 2), 1), lowerings.lower_winograd),
    ((4, 32, 32, 64), (3, 3, 64, 64), ((1, 1), (1, 1), (1, 1), 1), lowerings.lower_winograd),
    ((4, 16, 16, 64), (3, 3, 64, 80), ((2, 2), (1, 1), (1, 1), 1), lowerings.lower_strided),
    ((4, 16, 16, 64), (3, 3, 64, 80), ((2, 2), (2, 2), (2, 2), 1), lowerings.lower_general),
    ((4, 16, 16, 64), (3, 3, 32, 80), ((2, 2), (1, 1), (1, 1), 2), lowerings.lower_general),
    ((4, 16, 16, 128), (3, 3, 64, 128), ((1, 1), (1, 1), (1, 1), 2), lowerings.lower_general),
    ((4, 16, 16, 64), (3, 3, 64, 48), ((1, 1), (2, 2), (2, 2), 1), lowerings.lower_general),
    ((4, 64, 64, 64), (3, 3, 64, 64), ((1, 1), (1, 1), (1, 1), 1), lowerings.lower_general),
    ((1, 64, 64, 512), (3, 3, 512, 256), ((1, 1), (1, 1), (1, 1), 1), lowerings.lower_winograd),
    ((1, 128, 128, 256), (3, 3, 256, 256), ((1, 1), (1, 1), (1, 1), 1), lowerings.lower_winograd),
    ((1, 64, 64, 255), (3, 3, 255, 512), ((1, 1), (1, 1), (1, 1), 1), lowerings.lower_general),
    ((1, 130, 128, 256), (3, 3, 256, 256), ((1, 1), (1, 1), (1, 1), 1), lowerings.lower_general),
    ((4, 17, 17, 64), (3, 3, 64, 64), ((1, 1), (4, 4), (4, 4), 1), lowerings.lower_general),
    ((1, 8, 8, 64), (3, 3, 64, 64), ((1, 1), (1, 1), (1, 1), 1), lowerings.lower_general),
    ((8, 8, 8, 32), (3, 3, 32, 32), ((1, 1), (12, 12), (12, 12), 1), lowerings.lower_taps),
    ((8, 23, 30, 32), (3, 3, 32, 32), ((1, 1), (12, 12), (12, 12), 1), lowerings.lower_taps),
    ((8, 90, 160, 32), (3, 3, 32, 32), ((1, 1), (12, 12), (12, 12), 1), lowerings.lower_general),
])
def test_choice(shape, kernel, geometry, chosen):
  geometry = lowerings.Geometry(*geometry)
  assert lowerings.choose_lowering(shape, kernel, geometry, 'cpu') is chosen
  assert lowerings.choose_lowering(shape, kernel, geometry, 'tpu') is lowerings.lower_general
  assert lowerings.choose_lowering(shape, kernel, geometry, 'gpu') is lowerings.lower_general


def test_half_precision_keeps_the_plain_convolution():
  shapes = (4, 16, 16, 64), (3, 3, 64, 64), lowerings.Geometry((1, 1), (2, 2), (2, 2), 1), 'cpu'
  for dtype in (jnp.bfloat16, jnp.float16):
    assert lowerings.choose_lowering(*shapes, dtype) is lowerings.lower_general
  for dtype in (jnp.float32, jnp.float64):
    assert lowerings.choose_lowering(*shapes, dtype) is lowerings.lower_winograd


def test_winograd_rounds_little():
  """Of the largest value: about the machine's precision, as of the plain sum of 576 products."""
  geometry = lowerings.Geometry((1, 1), (2, 2), (2, 2), 1)
  x, kernel = _operands((2, 16, 16, 64), (3, 3, 64, 64), np.float32)
  ours = _value_and_gradients(lowerings.lower_winograd, x, kernel, geometry)
  plain = _value_and_gradients(lowerings.lower_general, x, kernel, geometry)
  assert float(jnp.max(jnp.abs(ours[0] - plain[0]))) < 2e-6 * float(jnp.max(jnp.abs(plain[0])))


def test_winograd_keeps_the_image_not_its_transform():
  geometry = lowerings.Geometry((1, 1), (1, 1), (1, 1), 1)
  x, kernel = _operands((2, 8, 8, 4), (3, 3, 4, 6), np.float32)
  _, backward = jax.vjp(lambda *args: lowerings.lower_winograd(*args, geometry), x, kernel)
  kept = sum(leaf.size for leaf in jax.tree.leaves(backward))
  assert kept <= x.size + kernel.size


def test_winograd_of_any_number_of_images():
  kernel = _operands((1,), (3, 3, 64, 64), np.float32)[1]
  geometry = lowerings.Geometry((1, 1), (2, 2), (2, 2), 1)
  shape = jax.export.symbolic_shape('n, 16, 16, 64')
  assert lowerings.choose_lowering(
      shape, kernel.shape, geometry, 'cpu') is lowerings.lower_winograd
  convolve = jax.jit(lambda x: lowerings.lower_winograd(x, kernel, geometry))
  exported = jax.export.export(convolve)(jax.ShapeDtypeStruct(shape, jnp.float32))
  x = _operands((3, 16, 16, 64), (1,), np.float32)[0]
  np.testing.assert_allclose(exported.call(x), convolve(x), rtol=1e-4, atol=1e-4)


def test_winograd_of_a_replicated_kernel_under_shard_map():
  geometry = lowerings.Geometry((1, 1), (1, 1), (1, 1), 1)
  x, kernel = _operands((8, 5, 5, 3), (3, 3, 3, 4), np.float32)
  loss = lambda lowering: lambda x, kernel: jnp.sum(jnp.sin(lowering(x, kernel, geometry)))
  gradient = jax.jit(jax.shard_map(
      jax.grad(loss(lowerings.lower_winograd), 1), mesh=parallel.create_mesh(),
      in_specs=(P(parallel.AXIS), P()), out_specs=P()))
  np.testing.assert_allclose(
      gradient(x, kernel), jax.grad(loss(lowerings.lower_general), 1)(x, kernel),
      rtol=1e-4, atol=1e-4)


def test_valid_share():
  geometry = lowerings.Geometry((1, 1), (12, 12), (12, 12), 1)
  assert lowerings.valid_share((1, 8, 8, 1), (3, 3, 1, 1), geometry) == pytest.approx(1 / 9)
  assert lowerings.valid_share((1, 24, 8, 1), (3, 3, 1, 1), geometry) == pytest.approx(2 / 3 / 3)


@pytest.mark.parametrize('lowering, kernel_shape, groups', [
    (lowerings.lower_pointwise, (1, 1, 8, 8), 1),
    (lowerings.lower_depthwise, (3, 3, 1, 8), 8),
    (lowerings.lower_taps, (3, 3, 8, 8), 1),
])
def test_bfloat16_is_rounded_once(lowering, kernel_shape, groups):
  x, kernel = _operands((2, 6, 6, 8), kernel_shape, jnp.bfloat16)
  pad = kernel_shape[0] // 2
  geometry = lowerings.Geometry((1, 1), (1, 1), (pad, pad), groups)
  actual = _value_and_gradients(lowering, x, kernel, geometry)
  exact = lowerings.lower_general(x.astype(jnp.float32), kernel.astype(jnp.float32), geometry)
  assert all(a.dtype == jnp.bfloat16 for a in actual)
  np.testing.assert_allclose(actual[0].astype(np.float32), exact, rtol=2**-8, atol=1e-4)


@pytest.mark.parametrize('stride', [1, 2])
def test_bfloat16_gradients_of_depthwise_kernels_are_summed_in_float32(stride):
  x, kernel = _operands((4, 24, 24, 8), (3, 3, 1, 8), jnp.bfloat16)
  geometry = lowerings.Geometry((stride, stride), (1, 1), (1, 1), 8)
  gradient = lambda lowering, x, kernel: jax.grad(
      lambda kernel: jnp.sum(lowering(x, kernel, geometry)))(kernel)
  exact = gradient(lowerings.lower_general, x.astype(jnp.float32), kernel.astype(jnp.float32))
  actual = gradient(lowerings.lower_depthwise, x, kernel)
  np.testing.assert_allclose(actual.astype(np.float32), exact, rtol=2**-8)


@pytest.mark.parametrize('stride', [1, 2])
def test_depthwise_gradients_of_several_models_at_once_are_those_of_each(stride):
  geometry = lowerings.Geometry((stride, stride), (1, 1), (1, 1), 3)
  x, kernels = _operands((2, 5, 6, 3), (4, 3, 3, 1, 3), np.float32)
  gradient = jax.grad(lambda kernel, x: jnp.sum(
      jnp.sin(lowerings.lower_depthwise(x, kernel, geometry))), (0, 1))
  together = jax.vmap(gradient, (0, None))(kernels, x)
  for i, kernel in enumerate(kernels):
    jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-5),
                 [found[i] for found in together], list(gradient(kernel, x)))


@pytest.mark.parametrize('stride', [1, 2])
def test_depthwise_has_second_derivatives(stride):
  geometry = lowerings.Geometry((stride, stride), (1, 1), (1, 1), 4)
  with jax.enable_x64(True):
    x, kernel = _operands((2, 6, 5, 4), (3, 3, 1, 4))

    @functools.partial(jax.jit, static_argnums=0)
    def penalty(lowering, x, kernel):
      slope = jax.grad(lambda x: jnp.sum(lowering(x, kernel, geometry) ** 3))(x)
      return jnp.sum(slope ** 2)

    ours = jax.grad(penalty, (1, 2))(lowerings.lower_depthwise, x, kernel)
    theirs = jax.grad(penalty, (1, 2))(lowerings.lower_general, x, kernel)
  for a, b in zip(ours, theirs):
    np.testing.assert_allclose(a, b, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize('stride', [1, 2])
def test_depthwise_of_a_replicated_kernel_under_shard_map(stride):
  geometry = lowerings.Geometry((stride, stride), (1, 1), (1, 1), 3)
  x, kernel = _operands((8, 5, 5, 3), (3, 3, 1, 3), np.float32)
  loss = lambda lowering: lambda x, kernel: jnp.sum(jnp.sin(lowering(x, kernel, geometry)))
  gradient = jax.jit(jax.shard_map(
      jax.grad(loss(lowerings.lower_depthwise), 1), mesh=parallel.create_mesh(),
      in_specs=(P(parallel.AXIS), P()), out_specs=P()))  # summed over the devices by shard_map
  np.testing.assert_allclose(
      gradient(x, kernel), jax.grad(loss(lowerings.lower_general), 1)(x, kernel),
      rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize('stride', [1, 2])
def test_depthwise_of_a_replicated_image_under_shard_map(stride):
  geometry = lowerings.Geometry((stride, stride), (1, 1), (1, 1), 3)
  x, kernel = _operands((1, 5, 5, 3), (8, 3, 3, 1, 3), np.float32)
  loss = lambda lowering: lambda x, kernel: jnp.sum(jnp.sin(lowering(x, kernel, geometry)))
  gradient = jax.jit(jax.shard_map(
      lambda x, kernel: jax.grad(loss(lowerings.lower_depthwise))(x, kernel[0]),
      mesh=parallel.create_mesh(), in_specs=(P(), P(parallel.AXIS)), out_specs=P()))
  expected = sum(jax.grad(loss(lowerings.lower_general))(x, k) for k in kernel)
  np.testing.assert_allclose(gradient(x, kernel), expected, rtol=1e-5, atol=1e-5)
