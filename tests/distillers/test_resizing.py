"""Student and teacher of different sizes: the smaller map is resized up."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from configs import voc
from kdseg_jax import distillers, losses
from kdseg_jax.distillers import resizing

TERMS = ('pixelwise', 'kd', 'fitnets', 'holistic', 'adversarial')


def inputs_of(student=(16, 24), teacher=(4, 6)):
  rng = np.random.default_rng(0)
  taps = lambda size: {name: rng.normal(size=(1, *size, 5)).astype(np.float32)
                       for name in ('logits', 'embedding', 'stage3')}
  batch = {'image': rng.integers(0, 256, (1, 16, 24, 3)).astype(np.uint8),
           'index': np.zeros(1, np.int32)}
  return distillers.DistillInputs(
      taps(student), taps(teacher), batch, rng=jax.random.key(0), step=jnp.int32(0))


def create(term, **options):
  options = {'width': 1 / 8, **options} if term in ('holistic', 'adversarial') else options
  return distillers.create({term: {**distillers.terms_of(f'{term}@1')[term], **options}})


def state_of(method, inputs):
  """A state by numpy: to compile an initialisation takes seconds."""
  rng = np.random.default_rng(0)
  return jax.tree.map(lambda s: rng.uniform(-0.6, 0.6, s.shape).astype(np.float32),
                      jax.eval_shape(method.init, jax.random.key(0), inputs))


def value_and_gradient(method, inputs):
  state = state_of(method, inputs)
  loss = lambda student: method.loss(state, dataclasses.replace(inputs, student=student))[0]
  value, gradient = jax.jit(jax.value_and_grad(loss))(inputs.student)
  return value, gradient[method.requires.student[0]]


@pytest.mark.parametrize('student, teacher, common', [
    ((16, 24), (4, 6), (16, 24)), ((4, 6), (16, 24), (16, 24)), ((4, 24), (16, 6), (16, 24)),
    ((5, 7), (5, 7), (5, 7))])
def test_both_maps_get_the_larger_size(student, teacher, common):
  taps = inputs_of(student, teacher)
  maps = taps.student['logits'], taps.teacher['logits']
  assert resizing.common_size(*maps, resize=True) == common
  resized = resizing.to_common_size(*maps, resize=True, align_corners=True)
  for ours, original in zip(resized, maps):
    np.testing.assert_array_equal(
        ours, losses.resize_bilinear(original, common, align_corners=True))
    if original.shape[1:3] == common:
      assert ours is original


@pytest.mark.parametrize('term', TERMS)
def test_every_pixel_of_a_larger_student_has_a_gradient(term):
  _, gradient = value_and_gradient(create(term, resize=True), inputs_of())
  assert gradient.shape[1:3] == (16, 24)
  assert np.all(np.any(gradient != 0, axis=-1))


@pytest.mark.parametrize('term', ['pixelwise', 'kd', 'fitnets'])
def test_a_smaller_map_is_resized_whichever_model_has_it(term):
  for sizes in (((16, 24), (4, 6)), ((4, 6), (16, 24))):
    inputs = inputs_of(*sizes)
    tap = create(term).requires.student[0]
    up = lambda taps, t=tap: {
        t: losses.resize_bilinear(taps[t], (16, 24), align_corners=False)}
    resized = dataclasses.replace(
        inputs, student=up(inputs.student), teacher=up(inputs.teacher))
    got, _ = value_and_gradient(create(term, resize=True, align_corners=False), inputs)
    expected, _ = value_and_gradient(create(term), resized)
    np.testing.assert_allclose(got, expected, rtol=1e-6)


@pytest.mark.parametrize('term', TERMS)
def test_without_resize_the_error_names_sizes_and_field(term):
  with pytest.raises(ValueError, match=r'\(16, 24\) and \(4, 6\) pixels.*`resize`'):
    value_and_gradient(create(term), inputs_of())


def test_the_critic_is_made_for_and_sees_the_larger_maps():
  """Its last kernel follows the size; conditional or not, real and fake are of one size."""
  for term in ('holistic', 'adversarial'):
    method = create(term, resize=True)
    shapes = lambda *sizes, m=method: jax.eval_shape(
        m.init, jax.random.key(0), inputs_of(*sizes)).critic
    larger = shapes((16, 24), (16, 24))
    assert shapes((16, 24), (4, 6)) == shapes((4, 6), (16, 24)) == larger
    assert shapes((4, 6), (4, 6)) != larger
    value, _ = jax.eval_shape(method.critic.loss, state_of(method, inputs_of()), inputs_of())
    assert value.shape == ()


def test_the_recipe_of_espnet_resizes_its_logits_and_reads_its_map_at_an_eighth():
  distill = voc.get_config('model=espnet,method=skd+fitnets').distill
  assert distill.pixelwise.resize and distill.holistic.resize and distill.fitnets.resize
  assert distill.pairwise.student_tap == distill.fitnets.student_tap == 'stage3'
  assert distill.pairwise.teacher_tap == 'embedding'


@pytest.mark.parametrize('term', ['kd', 'pixelwise', 'decoupled', 'fitnets'])
def test_vectors_are_maps_of_one_pixel(term):
  """A batch of 4 vectors and one of 4 maps of one pixel have the same loss and gradient."""
  rng = np.random.default_rng(0)
  vectors = {owner: {tap: rng.normal(size=(4, width)).astype(np.float32)
                     for tap, width in (('logits', 3), ('embedding', 5))}
             for owner in ('student', 'teacher')}
  label = np.array([0, 2, 1, 0], np.int32)
  distiller = distillers.create(distillers.terms_of(f'none+{term}@1'))

  def value_and_grad(shape, label):
    inputs = distillers.DistillInputs(
        **{owner: {tap: x.reshape(4, *shape, -1) for tap, x in taps.items()}
           for owner, taps in vectors.items()}, batch={'label': label})
    state = distiller.init(jax.random.key(0), inputs)
    loss = lambda taps: distiller.loss(
        state, dataclasses.replace(inputs, student=taps))[0]
    value, gradient = jax.value_and_grad(loss)(inputs.student)
    return value, {tap: x.reshape(4, -1) for tap, x in gradient.items()}

  flat = value_and_grad((), label)
  maps = value_and_grad((1, 1), label[:, None, None].astype(np.uint8))
  assert flat[0] > 0
  jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-7), flat, maps)
