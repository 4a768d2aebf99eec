"""Resizing and pooling against hand-computed values and jax.image."""

import re

import jax
import jax.export
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from jax.sharding import NamedSharding, PartitionSpec
from jax.test_util import check_grads

from kdseg_jax import resizing, target_platform

resize = jax.jit(resizing.resize_bilinear, static_argnums=1, static_argnames='align_corners')


def noise(shape, dtype=jnp.float32):
  return jnp.asarray(np.random.default_rng(0).normal(size=shape), dtype)


def row(values, size, align_corners):
  x = jnp.asarray(values, jnp.float32).reshape(1, 1, -1, 1)
  return resize(x, (1, size), align_corners=align_corners).ravel()


@pytest.mark.parametrize('values, size, align_corners, expected', [
    ([0, 3], 4, True, [0, 1, 2, 3]),
    ([0, 4], 4, False, [0, 1, 3, 4]),
    ([0, 1, 2, 3, 4], 3, True, [0, 2, 4]),
    ([0, 1, 2, 3], 2, False, [0.5, 2.5]),  # antialiasing would read all four for each
    ([5, 7], 1, True, [5]),
    ([5, 7], 1, False, [6]),
    ([2], 3, True, [2, 2, 2]),
    ([2], 3, False, [2, 2, 2]),
])
def test_values_by_hand(values, size, align_corners, expected):
  np.testing.assert_allclose(row(values, size, align_corners), expected, atol=1e-6)


@pytest.mark.parametrize('size', [(13, 20), (3, 4), (7, 4), (5, 6)])
def test_half_pixel_centres_equal_jax_image(size):
  x = noise((2, 5, 6, 3))
  ours = resize(x, size, align_corners=False)
  expected = jax.image.resize(x, (2, *size, 3), 'bilinear', antialias=False)
  np.testing.assert_allclose(ours, expected, atol=1e-5)


def test_axes_are_separate():
  x = jnp.arange(12.).reshape(1, 3, 4, 1)  # 4 * row + column
  y = resize(x, (5, 7), align_corners=True)
  expected = 4 * np.linspace(0, 2, 5)[:, None] + np.linspace(0, 3, 7)
  np.testing.assert_allclose(y[0, ..., 0], expected, atol=1e-5)


@pytest.mark.parametrize('align_corners', [True, False])
def test_gradient(align_corners):
  with jax.enable_x64(True):
    x = noise((1, 3, 4, 2), jnp.float64)
    check_grads(
        lambda x: resize(x, (5, 3), align_corners=align_corners), (x,), order=1)


def test_keeps_the_dtype_but_not_its_precision():
  x = noise((1, 9, 9, 4)).astype(jnp.bfloat16)
  y = resize(x, (50, 50), align_corners=True)
  exact = resize(x.astype(jnp.float32), (50, 50), align_corners=True)
  assert y.dtype == jnp.bfloat16
  np.testing.assert_array_equal(y, exact.astype(jnp.bfloat16))


@pytest.mark.parametrize('shape, size', [
    ((3, 4, 2), (5, 5)), ((1, 3, 4, 2), (0, 5)), ((1, 3, 4, 2), (5, 0)), ((1, 3, 4, 2), (5,))])
def test_refuses_what_is_no_image(shape, size):
  with pytest.raises(ValueError, match='size'):
    resizing.resize_bilinear(jnp.zeros(shape), size, align_corners=True)
  with pytest.raises(ValueError, match='size'):
    resizing.adaptive_average_pool(jnp.zeros(shape), size)


@pytest.mark.parametrize('values, bins, expected', [
    ([1, 2, 3, 6], 2, [1.5, 4.5]),
    ([1, 2, 3, 6], 1, [3]),
    ([1, 2, 3, 6], 3, [1.5, 2.5, 4.5]),      # bins overlap
    ([1, 2, 6], 2, [1.5, 4]),
    ([2, 4], 3, [2, 3, 4]),                  # more bins than pixels
    ([1, 2, 3, 4], 4, [1, 2, 3, 4]),
])
def test_adaptive_pooling_by_hand(values, bins, expected):
  x = jnp.asarray(values, jnp.float32)
  np.testing.assert_allclose(
      resizing.adaptive_average_pool(x.reshape(1, 1, -1, 1), (1, bins)).ravel(), expected)
  np.testing.assert_allclose(
      resizing.adaptive_average_pool(x.reshape(1, -1, 1, 1), (bins, 1)).ravel(), expected)


def test_adaptive_pooling_of_each_image_and_channel():
  x = noise((2, 5, 7, 3))
  y = resizing.adaptive_average_pool(x, (2, 3))
  assert y.shape == (2, 2, 3, 3)
  np.testing.assert_allclose(y[:, 1, 2], np.mean(x[:, 2:, 4:], (1, 2)), atol=1e-6)
  np.testing.assert_allclose(y[:, 0, 1], np.mean(x[:, :3, 2:5], (1, 2)), atol=1e-6)


def test_adaptive_pooling_in_half_precision_averages_in_float32():
  x = (noise((1, 64, 64, 2)) + 100).astype(jnp.bfloat16)
  y = resizing.adaptive_average_pool(x, (1, 1))
  assert y.dtype == jnp.bfloat16
  exact = np.mean(np.asarray(x, np.float64), (1, 2), keepdims=True)
  np.testing.assert_array_equal(y, jnp.asarray(exact, jnp.bfloat16))


@pytest.mark.parametrize('source, target, expected', [
    (6, 3, [0, 2, 4]), (5, 3, [0, 1, 3]), (2, 4, [0, 0, 1, 1]), (3, 5, [0, 0, 1, 1, 2]),
    (4, 4, [0, 1, 2, 3]), (1, 3, [0, 0, 0]), (7, 1, [0]),
    # Of the eighth 31 is exact, and 30 what torch's steps in float32 come to.
    (62, 14, [0, 4, 8, 13, 17, 22, 26, 30, 35, 39, 44, 48, 53, 57])])
def test_nearest_reads_the_pixel_below_the_exact_position(source, target, expected):
  labels = jnp.arange(source * 2, dtype=jnp.uint8).reshape(1, 2, source)
  resized = resizing.resize_nearest(labels, (1, target))
  np.testing.assert_array_equal(resized, [[expected]])
  assert resized.dtype == jnp.uint8


@pytest.mark.parametrize('size', [(5, 5), (6, 4), (2, 9), (3, 2)])
def test_nearest_of_maps_copies_the_pixels_that_it_copies_of_labels(size):
  x = noise((2, 3, 2, 4), jnp.bfloat16)
  index = resizing.resize_nearest(jnp.arange(6).reshape(1, 3, 2), size)[0]
  resized, gradient = jax.jit(jax.value_and_grad(
      lambda x: (lambda y: (y.sum(), y))(resizing.resize_nearest(x, size)), has_aux=True))(x)
  np.testing.assert_array_equal(resized[1], x.reshape(2, 6, 4)[:, index])
  counts = np.bincount(index.ravel(), minlength=6)
  np.testing.assert_array_equal(gradient, np.broadcast_to(
      counts.reshape(1, 3, 2, 1), x.shape).astype(x.dtype))


def test_nearest_refuses_other_shapes():
  for shape, size in (((2, 3), (1, 1)), ((2, 3, 4), (0, 1)), ((2, 3, 4), (1, 1, 1))):
    with pytest.raises(ValueError, match=rf'\(N, h, w\).*{re.escape(str(shape))}'):
      resizing.resize_nearest(jnp.zeros(shape, jnp.int32), size)


def on(platform, function, x):
  """The result, and the gradient of the sum of its squares, as traced for a platform, float64."""
  square = lambda x: (lambda y: ((y**2).sum(), y))(function(x))
  with jax.enable_x64(True), target_platform.lowered_for(platform):
    gradient, y = jax.jit(jax.grad(square, has_aux=True))(x)
  return y, gradient


@settings(max_examples=15, deadline=None)
@given(source=st.integers(1, 90), target=st.integers(1, 200), images=st.integers(1, 3),
       way=st.sampled_from(['corners', 'centres', 'nearest', 'bins']))
@example(source=65, target=513, images=1, way='corners')
@example(source=16, target=1055, images=2, way='centres')  # blocks that the rows do not fill
@example(source=90, target=31, images=2, way='corners')
def test_blocks_of_rows_are_the_plain_products(source, target, images, way):
  function = {
      'corners': lambda x: resizing.resize_bilinear(x, (target, 3), align_corners=True),
      'centres': lambda x: resizing.resize_bilinear(x, (target, 3), align_corners=False),
      'nearest': lambda x: resizing.resize_nearest(x, (target, 3)),
      'bins': lambda x: resizing.adaptive_average_pool(x, (target, 3))}[way]
  x = np.random.default_rng(0).normal(size=(images, source, 5, 2))
  for ours, plain in zip(on('cpu', function, x), on('tpu', function, x)):
    assert ours.dtype == np.float64
    np.testing.assert_allclose(ours, plain, rtol=1e-12, atol=1e-12)


def test_work_grows_with_the_rows_and_not_with_their_square():
  def operations(side, platform):
    with target_platform.lowered_for(platform):
      compiled = jax.jit(lambda x: resizing.resize_bilinear(
          x, (8 * side, 4), align_corners=True)).lower(jnp.zeros((1, side, 4, 32))).compile()
    return compiled.cost_analysis()['flops']

  assert operations(128, 'cpu') < 4.5 * operations(32, 'cpu')
  assert operations(128, 'tpu') > 10 * operations(32, 'tpu')  # that this test could fail


@pytest.mark.parametrize('axes, moves', [(('data',), False), ((None, 'data'), True)])
def test_only_what_is_spread_over_rows_moves_between_devices(axes, moves):
  sharding = NamedSharding(jax.make_mesh((8,), ('data',)), PartitionSpec(*axes))
  gradient = jax.jit(jax.grad(lambda x: (resizing.resize_bilinear(
      x, (100, 20), align_corners=True)**2).sum()), in_shardings=sharding, out_shardings=sharding)
  program = gradient.lower(jnp.ones((8, 32, 9, 3))).compile().as_text()
  assert bool(re.search('all-(gather|reduce|to-all)|collective-permute', program)) == moves


def symbolic(function):
  """A function of images whose batch, height and width were symbolic when it was traced."""
  shape = jax.export.symbolic_shape('n, h, w, 3')
  return jax.export.export(jax.jit(function))(jax.ShapeDtypeStruct(shape, jnp.float32)).call


@pytest.mark.parametrize('align_corners', [True, False])
def test_sizes_may_be_symbolic(align_corners):
  back_and_forth = lambda x: resizing.resize_bilinear(
      resizing.resize_bilinear(x, (3, 20), align_corners=align_corners),
      (2 * x.shape[1], x.shape[2]), align_corners=align_corners)
  call = symbolic(back_and_forth)
  for shape in ((1, 1, 5, 3), (2, 300, 7, 3)):
    np.testing.assert_allclose(call(noise(shape)), back_and_forth(noise(shape)), atol=1e-5)


def test_the_batch_alone_may_be_symbolic():
  double = lambda x: resizing.resize_bilinear(x, (100, 20), align_corners=True)
  shape = jax.export.symbolic_shape('n, 50, 9, 3')
  call = jax.export.export(jax.jit(double))(jax.ShapeDtypeStruct(shape, jnp.float32)).call
  x = noise((3, 50, 9, 3))
  np.testing.assert_allclose(call(x), double(x), atol=1e-5)


def test_bins_of_a_symbolic_size():
  pool = lambda x: resizing.adaptive_average_pool(x, (2, 6))
  call = symbolic(pool)
  for shape in ((1, 1, 5, 3), (2, 13, 12, 3)):
    np.testing.assert_allclose(call(noise(shape)), pool(noise(shape)), atol=1e-6)
