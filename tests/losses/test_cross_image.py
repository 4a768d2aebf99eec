"""Cross-image similarities: against the definition in numpy, gradients, masks, zero vectors."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jax.test_util import check_grads

from kdseg_jax import losses

# Compiled: op by op, the first call of each shape takes a second.
cross_image_pixel = jax.jit(losses.cross_image_pixel, static_argnames=('pool', 'block_size'))
memory_similarity = jax.jit(losses.memory_similarity, static_argnames='block_size')

SHAPE = (3, 4, 5, 6)


def features(seed=0, dtype=jnp.float32, shape=SHAPE):
  rng = np.random.default_rng(seed)
  student, teacher = rng.normal(size=shape), rng.normal(size=(*shape[:3], shape[3] + 2))
  return jnp.asarray(student, dtype), jnp.asarray(teacher, dtype)


def anchors(seed=0, dtype=jnp.float32):
  """Student, teacher, contrast, and masks of anchors and contrast."""
  rng = np.random.default_rng(seed)
  student, teacher, contrast = (
      jnp.asarray(rng.normal(size=shape), dtype) for shape in ((2, 7, 4), (2, 7, 4), (9, 4)))
  return student, teacher, contrast, rng.random((2, 7)) < 0.6, rng.random(9) < 0.6


def unit(x):
  x = np.asarray(x, np.float64)
  return x / np.linalg.norm(x, axis=-1, keepdims=True)


def divergence(student_logits, teacher_logits):
  """KL(teacher || student) of each row."""
  student, teacher = (
      x - np.log(np.exp(x).sum(-1, keepdims=True)) for x in (student_logits, teacher_logits))
  return (np.exp(teacher) * (teacher - student)).sum(-1)


def reference(student, teacher, temperature=0.1):
  """Image pair by image pair, in float64."""
  student, teacher = ([unit(image).reshape(-1, x.shape[-1]) for image in x]
                      for x in (student, teacher))
  return np.mean([
      divergence(student[i] @ student[j].T / temperature, teacher[i] @ teacher[j].T / temperature)
      for i in range(len(student)) for j in range(len(student))])


def memory_reference(student, teacher, contrast, where, contrast_where, temperature=0.1):
  student, teacher = (unit(x)[where] @ np.asarray(contrast)[contrast_where].T / temperature
                      for x in (student, teacher))
  return divergence(student, teacher).mean()


def test_value_by_hand():
  # One image of two pixels: cosines (1, 0) of the student's, (1, 1) of the teacher's.
  student = jnp.array([[1., 0.], [0., 5.]]).reshape(1, 1, 2, 2)
  teacher = jnp.array([[2., 0., 0.], [3., 0., 0.]]).reshape(1, 1, 2, 3)
  p = 1 / (1 + np.exp(-2))
  expected = np.log(0.5) - (np.log(p) + np.log(1 - p)) / 2
  loss = cross_image_pixel(student, teacher, temperature=0.5)
  np.testing.assert_allclose(loss, expected, rtol=1e-6)
  assert loss.shape == () and loss.dtype == jnp.float32


def test_memory_value_by_hand():
  # The second anchor is like the second embedding to the student, like the first to the teacher.
  student, teacher = jnp.array([[3., 0.], [0., 5.]]), jnp.array([[2., 0.], [1., 0.]])
  p = 1 / (1 + np.exp(-2))
  expected = (p * np.log(p / (1 - p)) + (1 - p) * np.log((1 - p) / p)) / 2
  loss = memory_similarity(student, teacher, jnp.eye(2), temperature=0.5)
  np.testing.assert_allclose(loss, expected, rtol=1e-6)


@pytest.mark.parametrize('block_size', [None, 7, 1000])
def test_equals_the_definition_in_any_block_size(block_size):
  student, teacher = features()
  loss = cross_image_pixel(student, teacher, block_size=block_size)
  np.testing.assert_allclose(loss, reference(student, teacher), rtol=1e-5)


def test_pool_is_a_mean_that_keeps_partial_windows():
  student, teacher = features()
  mean = lambda x: jnp.stack([
      jnp.stack([x[:, i:i + 3, j:j + 3].mean((1, 2)) for j in (0, 3)], axis=1) for i in (0, 3)],
      axis=1)
  np.testing.assert_allclose(
      cross_image_pixel(student, teacher, pool=3),
      reference(mean(student), mean(teacher)), rtol=1e-5)


def test_channels_equal_the_definition():
  student, teacher = features()
  teacher = teacher[..., :SHAPE[3]]
  channels = lambda x: np.moveaxis(x, -1, 1)[..., None]  # as if they were pixels
  maps = [channels(x).reshape(3, 6, 1, 20) for x in (student, teacher)]
  np.testing.assert_allclose(
      jax.jit(lambda s, t: losses.cross_image_channel(s, t, pool=None))(student, teacher),
      reference(*maps), rtol=1e-5)
  np.testing.assert_allclose(
      losses.channel_mse(student, teacher, pool=None),
      np.mean((unit(maps[0]) - unit(maps[1]))**2), rtol=1e-5)
  # One 4 x 4 window and a partial one of 4 x 1.
  np.testing.assert_allclose(
      losses.channel_vectors(student), unit(np.stack(
          [student[:, :, :4].mean((1, 2)), student[:, :, 4:].mean((1, 2))], axis=-1)), rtol=1e-5)
  with pytest.raises(ValueError, match='project the student'):
    losses.channel_mse(student, teacher[..., 1:])


@pytest.mark.parametrize('block_size', [None, 3])
@pytest.mark.parametrize('temperatures', [(0.1, 1.0), (0.2, 3.0)])
def test_memory_equals_the_definition(block_size, temperatures):
  *arrays, where, contrast_where = anchors()
  temperature, kd_temperature = temperatures
  loss = memory_similarity(
      *arrays, where=where, contrast_where=contrast_where, temperature=temperature,
      kd_temperature=kd_temperature, block_size=block_size)
  expected = kd_temperature**2 * memory_reference(
      *arrays, where, contrast_where, temperature * kd_temperature)
  np.testing.assert_allclose(loss, expected, rtol=1e-5)


@pytest.mark.parametrize('options', [{}, {'pool': 2, 'block_size': 4}])
def test_finite_differences(options):
  with jax.enable_x64(True):
    student, teacher = features(dtype=jnp.float64)
    loss = lambda x: cross_image_pixel(x, teacher, **options)
    assert loss(student).dtype == jnp.float64
    check_grads(jax.jit(loss), (student,), order=1, modes=['rev'])


def test_finite_differences_of_memory():
  with jax.enable_x64(True):
    student, *rest, where, contrast_where = anchors(dtype=jnp.float64)
    loss = lambda x: memory_similarity(x, *rest, where=where, contrast_where=contrast_where)
    assert loss(student).dtype == jnp.float64
    check_grads(jax.jit(loss), (student,), order=1, modes=['rev'])


def test_only_the_student_receives_a_gradient():
  student, teacher = features()
  np.testing.assert_array_equal(jax.grad(cross_image_pixel, argnums=1)(student, teacher), 0)
  for gradient in jax.grad(memory_similarity, argnums=(1, 2))(*anchors()[:3]):
    np.testing.assert_array_equal(gradient, 0)


def test_zero_vectors_have_no_gradient_and_the_others_a_bounded_one():
  student, teacher = features()
  for zeroed in (student.at[:, :2, :2].set(0), jnp.zeros_like(student)):
    value, gradient = jax.value_and_grad(cross_image_pixel)(zeroed, teacher)
    assert np.isfinite(value) and np.abs(gradient).max() < 10
    np.testing.assert_array_equal(gradient[zeroed == 0], 0)
  student, teacher, contrast, _, _ = anchors()
  value, gradient = jax.value_and_grad(memory_similarity)(
      student.at[0].set(0), teacher, contrast)
  assert np.isfinite(value) and 0 < np.abs(gradient).max() < 10
  np.testing.assert_array_equal(gradient[0], 0)


def test_masked_values_are_irrelevant_even_if_nan():
  *arrays, where, contrast_where = anchors()
  loss = jax.value_and_grad(
      lambda *x: memory_similarity(*x, where=where, contrast_where=contrast_where))
  masks = where, where, contrast_where
  broken = [jnp.where(mask[..., None], x, jnp.nan) for mask, x in zip(masks, arrays)]
  value, gradient = loss(*broken)
  expected, expected_gradient = loss(*arrays)
  np.testing.assert_allclose(value, expected, rtol=1e-6)
  np.testing.assert_allclose(gradient, expected_gradient, atol=1e-7)


@pytest.mark.parametrize('name', ['where', 'contrast_where'])
def test_all_masked_is_zero_with_zero_gradient(name):
  *arrays, where, contrast_where = anchors()
  mask = jnp.zeros_like(where if name == 'where' else contrast_where)
  value, gradient = jax.value_and_grad(memory_similarity)(*arrays, **{name: mask})
  assert value == 0
  np.testing.assert_array_equal(gradient, 0)


def test_bfloat16_is_reduced_in_float32():
  student, teacher = (x.astype(jnp.bfloat16) for x in features())
  value, gradient = jax.value_and_grad(cross_image_pixel)(student, teacher)
  assert value.dtype == jnp.float32 and gradient.dtype == jnp.bfloat16
  np.testing.assert_array_equal(
      value, cross_image_pixel(student.astype(jnp.float32), teacher.astype(jnp.float32)))
  arrays = [x.astype(jnp.bfloat16) for x in anchors()[:3]]
  assert memory_similarity(*arrays).dtype == jnp.float32


def test_vmap_and_remat():
  student, teacher = features()
  loss = lambda s, t: losses.cross_image_pixel(s, t, block_size=8)
  values, gradients = jax.jit(jax.vmap(jax.value_and_grad(jax.checkpoint(loss))))(
      student[:, None], teacher[:, None])
  for i in range(SHAPE[0]):
    value, gradient = jax.value_and_grad(cross_image_pixel)(student[i:i + 1], teacher[i:i + 1])
    np.testing.assert_allclose(values[i], value, rtol=1e-5)
    np.testing.assert_allclose(gradients[i], gradient, atol=1e-6)


def test_memory_grows_linearly_with_the_pixels():
  def scratch(height):
    x = jax.ShapeDtypeStruct((2, height, 64, 8), jnp.float32)
    program = jax.jit(jax.value_and_grad(losses.cross_image_pixel)).lower(x, x).compile()
    return program.memory_analysis().temp_size_in_bytes
  small, large = scratch(64), scratch(256)
  assert large < 4 * small < 4 * 200e6
  assert large < (2 * 64 * 256)**2  # a byte a pair of pixels


@settings(deadline=None, max_examples=15, database=None)
@given(st.integers(0, 10**6), st.floats(1e-3, 1e3))
def test_properties(seed, scale):
  student, teacher = features(seed)
  loss = cross_image_pixel(student, teacher)
  assert loss >= 0
  np.testing.assert_allclose(cross_image_pixel(scale * student, teacher), loss, rtol=1e-4)
  np.testing.assert_allclose(cross_image_pixel(teacher, teacher), 0, atol=1e-6)
  order = np.random.default_rng(seed).permutation(SHAPE[1] * SHAPE[2])
  mix = lambda x: x.reshape(SHAPE[0], -1, x.shape[-1])[::-1, order].reshape(x.shape)
  np.testing.assert_allclose(cross_image_pixel(mix(student), mix(teacher)), loss, rtol=1e-4)


def test_errors_say_what_to_do():
  student, teacher = features()
  with pytest.raises(ValueError, match=r'\(3, 4, 5, 6\) and teacher \(3, 3, 5, 8\).*resize'):
    losses.cross_image_pixel(student, teacher[:, 1:])
  with pytest.raises(ValueError, match='temperature'):
    losses.cross_image_pixel(student, teacher, temperature=0)
  with pytest.raises(ValueError, match='pool='):
    losses.cross_image_pixel(student, teacher, pool=0)
  with pytest.raises(ValueError, match='block_size='):
    losses.cross_image_pixel(student, teacher, block_size=0)
  student, teacher, contrast, where, _ = anchors()
  with pytest.raises(ValueError, match=r'\(9, 3\); project the student'):
    losses.memory_similarity(student, teacher, contrast[:, 1:])
  with pytest.raises(ValueError, match=r'where.*\(2, 7\)'):
    losses.memory_similarity(student, teacher, contrast, where=where[0])
  with pytest.raises(ValueError, match='kd_temperature'):
    losses.memory_similarity(student, teacher, contrast, kd_temperature=-1)
