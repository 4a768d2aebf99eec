"""Knowledge review: its forms, shapes from taps, options, errors, and what does not matter."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jax.test_util import check_grads

from kdseg_jax import distillers, losses
from kdseg_jax.models.fusion import FORMS, AttentionFusion, Review
from tests import toys
from tests.precision import float64

TAPS = ('stage2', 'stage3', 'pooled')
STUDENT = {'stage2': (3, 5, 7, 4), 'stage3': (3, 3, 4, 6), 'pooled': (3, 8)}
TEACHER = {'stage2': (3, 9, 13, 5), 'stage3': (3, 9, 13, 7), 'pooled': (3, 10)}
review = functools.partial(distillers.review, student_taps=TAPS, teacher_taps=TAPS)
# Number of maps that three stages have compared.
COMPARED = {'single_stage': 1, 'multi_stage': 3, 'all_pairs': 6, 'fused': 3, 'residual': 3}


def taps_of(shapes, seed):
  rng = np.random.default_rng(seed)
  return {tap: rng.normal(size=shape).astype(np.float32) for tap, shape in shapes.items()}


def inputs_of(student=0, teacher=1):
  return distillers.DistillInputs(taps_of(STUDENT, student), taps_of(TEACHER, teacher))


def state_of(method, inputs):
  """Made-up values of a state: cheaper than compiling `init`."""
  return toys.filled(jax.eval_shape(method.init, jax.random.key(0), inputs))


def evaluated(method, state, inputs):
  """`((loss, memory), gradients of params and taps)`."""
  def loss(params, student):
    value, (memory, metrics) = method.loss(
        state._replace(params=params), distillers.DistillInputs(student, inputs.teacher))
    assert metrics == {}
    return value, memory
  return jax.jit(jax.value_and_grad(loss, (0, 1), has_aux=True))(state.params, inputs.student)


@pytest.mark.parametrize('form', FORMS)
def test_every_form_trains_what_it_has(form):
  method, inputs = review(form=form), inputs_of()
  state = state_of(method, inputs)
  (value, memory), (weights, student) = evaluated(method, state, inputs)
  assert value.dtype == jnp.float32 and np.isfinite(value) and value > 0
  assert all(map(np.any, jax.tree.leaves(weights)))
  read = {tap for tap, gradient in student.items() if np.any(gradient)}
  assert read == ({'pooled'} if form == 'single_stage' else set(TAPS))
  assert jax.tree.structure(memory) == jax.tree.structure(state.memory)
  assert not any(np.array_equal(*pair) for pair in zip(
      jax.tree.leaves(memory), jax.tree.leaves(state.memory)))
  fusion = sum('attention' in fusion for fusion in state.params.values())
  assert fusion == (2 if form in ('fused', 'residual') else 0)


@pytest.mark.parametrize('form', FORMS)
def test_maps_have_the_teachers_shapes_in_every_form(form):
  maps = [x if x.ndim == 4 else x[:, None, None] for x in taps_of(STUDENT, 0).values()]
  teacher = [(*shape[1:3], shape[-1]) if len(shape) == 4 else (1, 1, shape[-1])
             for shape in TEACHER.values()]
  module = Review(widths=tuple(shape[-1] for shape in teacher),
                  sizes=tuple(shape[:2] for shape in teacher), channels=6, form=form)
  compared, _ = jax.eval_shape(
      lambda: module.init_with_output(jax.random.key(0), maps, train=True))
  assert sum(map(len, compared)) == COMPARED[form]
  for shape, of_stage in zip(teacher, compared, strict=True):
    assert all(x.shape == (3, *shape) for x in of_stage)


def test_pairs_are_of_a_stage_and_the_deeper_ones():
  """A teacher's stage is reviewed by the student's stage and by all below it, never above."""
  maps = [x if x.ndim == 4 else x[:, None, None] for x in taps_of(STUDENT, 0).values()]
  module = Review(widths=(5, 5, 5), sizes=((2, 2),) * 3, channels=6, form='all_pairs')
  variables = jax.eval_shape(lambda: module.init(jax.random.key(0), maps, train=True))
  widths = {name: fusion['reduce']['conv']['kernel'].shape[2]
            for name, fusion in variables['params'].items()}
  assert widths == {'stage0_from0': 4, 'stage0_from1': 6, 'stage0_from2': 8, 'stage1_from1': 6,
                    'stage1_from2': 8, 'stage2_from2': 8}


def fusion_of(attention=True, **arguments):
  """`(map, fused)` of two maps, under the same parameters whatever the arguments."""
  rng = np.random.default_rng(0)
  x, y = (rng.normal(size=(2, *size)).astype(np.float32) for size in ((6, 4, 3), (3, 2, 5)))
  module = AttentionFusion(channels=5, features=4, attention=attention)
  variables = toys.filled(jax.eval_shape(lambda: AttentionFusion(5, 4).init(
      jax.random.key(0), x, [y], train=False)))
  apply = jax.jit(lambda deeper: module.apply(variables, x, deeper, train=False, **arguments))
  return apply, y


def test_without_attention_the_deeper_map_is_added():
  apply, y = fusion_of(attention=False)
  np.testing.assert_allclose(
      apply([y])[1] - apply([])[1], np.repeat(np.repeat(y, 2, 1), 2, 2), atol=1e-5)


def test_attention_is_one_number_between_0_and_1_a_pixel_and_map():
  apply, y = fusion_of()
  own, upsampled = apply([])[1], np.repeat(np.repeat(y, 2, 1), 2, 2)
  fused = apply([y])[1]
  for image, row, column in np.ndindex(fused.shape[:3]):
    pixel = np.s_[image, row, column]
    weights, residual, *_ = np.linalg.lstsq(
        np.stack([own[pixel], upsampled[pixel]], 1), fused[pixel], rcond=None)
    assert np.all((weights > 0) & (weights < 1)) and residual < 1e-8


def test_maps_are_resized_between_fusion_and_the_last_convolution():
  plain, y = fusion_of()
  larger, _ = fusion_of(size=(12, 8))
  fused = np.repeat(np.repeat(plain([y])[1], 2, 1), 2, 2)
  result, handed_on = larger([y])
  np.testing.assert_allclose(handed_on, fused, rtol=1e-5)
  assert result.shape == (2, 12, 8, 4)
  inner = lambda x: x[:, 1::2, 1::2]
  assert not np.allclose(inner(result), plain([y])[0], atol=0.01)  # it was convolved after


def test_without_levels_it_is_the_mean_squared_error_of_every_stage():
  method, inputs = review(levels=()), inputs_of()
  state = state_of(method, inputs)
  fusion = Review(widths=(5, 7, 10), sizes=((9, 13), (9, 13), (1, 1)), channels=8)
  as_map = lambda x: x if x.ndim == 4 else x[:, None, None]

  @jax.jit
  def expected():
    compared, _ = fusion.apply(
        {'params': state.params, **state.memory}, [*map(as_map, inputs.student.values())],
        train=True, mutable=['batch_stats'])
    return sum(losses.fitnets(x, as_map(inputs.teacher[tap])) for tap, [x] in zip(TAPS, compared))
  np.testing.assert_allclose(jax.jit(method.loss)(state, inputs)[0], expected(), rtol=1e-5)


@pytest.fixture(scope='module')
def compiled():
  """The method, with a state of it."""
  method = review()
  return jax.jit(method.loss), state_of(method, inputs_of())


@settings(deadline=None, max_examples=10, database=None)
@given(st.integers(0, 10**6))
def test_the_order_of_images_does_not_matter(compiled, seed):
  run, state = compiled
  inputs, order = inputs_of(seed, seed + 1), np.random.default_rng(seed).permutation(3)
  turned = distillers.DistillInputs(
      *({tap: x[order] for tap, x in taps.items()} for taps in (inputs.student, inputs.teacher)))
  (value, (memory, _)), (other, (other_memory, _)) = run(state, inputs), run(state, turned)
  assert value > 0
  np.testing.assert_allclose(other, value, rtol=1e-5)
  jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-4, atol=1e-6),
               other_memory, memory)


def test_the_images_of_all_devices_count():
  """In the means and in the statistics of the BatchNorms."""
  taps = [{tap: x[:2, :4, :4] if x.ndim == 4 else x[:2] for tap, x in own.items()}
          for own in (inputs_of().student, inputs_of().teacher)]
  method = functools.partial(review, form='multi_stage', levels=(2,), channels=3)
  state = state_of(method(), distillers.DistillInputs(*taps))
  of = lambda taps, **options: method(**options).loss(state, distillers.DistillInputs(*taps))

  @jax.jit
  def both(taps):
    parts = jax.tree.map(lambda x: x[:, None], taps)
    return of(taps), jax.vmap(functools.partial(of, axis_name='devices'),
                              axis_name='devices')(parts)
  whole, each = jax.device_get(both(taps))
  jax.tree.map(lambda x, y: np.testing.assert_allclose(y, np.stack([x] * 2), rtol=1e-4, atol=1e-6),
               whole, each)


def test_half_precision_is_compared_in_float32(compiled):
  run, state = compiled
  inputs = inputs_of()
  half = jax.tree.map(lambda x: jnp.asarray(x, jnp.bfloat16), inputs)
  value, (memory, _) = run(state, half)
  assert value.dtype == jnp.float32 and value.shape == ()
  assert all(x.dtype == jnp.float32 for x in jax.tree.leaves(memory))
  np.testing.assert_allclose(value, run(state, inputs)[0], rtol=0.02)


def test_finite_differences():
  """Of the fusion's weights and of the student's maps."""
  method, inputs = review(), inputs_of()
  state = state_of(method, inputs)
  with float64():
    wide = lambda tree: jax.tree.map(lambda x: np.asarray(x, np.float64), tree)
    teacher, memory = wide(inputs.teacher), wide(state.memory)

    def loss(params, student):
      return method.loss(state._replace(params=params, memory=memory),
                         distillers.DistillInputs(student, teacher))[0]
    check_grads(jax.jit(loss), (wide(state.params), wide(inputs.student)), order=1, modes=['rev'],
                eps=1e-6)


def test_a_teacher_equal_to_the_fused_maps_leaves_nothing_to_learn():
  method, inputs = review(), inputs_of()
  state = state_of(method, inputs)
  fusion = Review(widths=(5, 7, 10), sizes=((9, 13), (9, 13), (1, 1)), channels=8)
  compared, _ = jax.jit(lambda maps: fusion.apply(
      {'params': state.params, **state.memory}, maps, train=True, mutable=['batch_stats']))(
          [x if x.ndim == 4 else x[:, None, None] for x in inputs.student.values()])
  same = distillers.DistillInputs(inputs.student, dict(zip(TAPS, (x for [x] in compared))))
  (value, _), gradients = evaluated(method, state, same)
  assert value < 1e-10 and all(np.abs(x).max() < 1e-4 for x in jax.tree.leaves(gradients))


@pytest.mark.parametrize('width, given, channels', [(8, None, 8), (600, None, 512), (600, 9, 9)])
def test_channels_of_the_fused_maps(width, given, channels):
  student = {'stage1': jax.ShapeDtypeStruct((2, 4, 4, width), jnp.float32)}
  teacher = {'stage1': jax.ShapeDtypeStruct((2, 4, 4, 3), jnp.float32)}
  method = distillers.review(
      student_taps=('stage1',), teacher_taps=('stage1',), channels=given)
  state = jax.eval_shape(
      method.init, jax.random.key(0), distillers.DistillInputs(student, teacher))
  assert state.params['stage0']['reduce']['conv']['kernel'].shape == (1, 1, width, channels)


def test_the_teachers_mode_reaches_a_combination():
  of = lambda **options: distillers.combine({
      'kd': (1.0, distillers.kd()), 'review': (1.0, review(**options))}).requires
  assert not of().teacher_batch_statistics
  assert of(teacher_batch_statistics=True).teacher_batch_statistics


@pytest.mark.parametrize('options, message', [
    ({'form': 'residuel'}, "Unknown form of review: 'residuel'. Did you mean 'residual'"),
    ({'levels': (4, 0)}, r'levels=\(4, 0\)'), ({'channels': 0}, 'channels=0'),
    ({'student_taps': ('stage1',)}, 'as many of the one'),
    ({'student_taps': (), 'teacher_taps': ()}, 'at least one')])
def test_options_that_cannot_work_are_refused(options, message):
  with pytest.raises(ValueError, match=message):
    review(**options)
