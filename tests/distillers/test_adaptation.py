"""Knowledge adaptation: its autoencoder, what of it is kept, sizes, weights, what is refused."""

import dataclasses
import zlib

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from kdseg_jax import distillers, losses
from kdseg_jax.distillers import core, methods
from kdseg_jax.models import adapters
from tests import toys

STUDENT, TEACHER = (2, 5, 7, 6), (2, 9, 13, 8)
TERMS = {'feature_adaptation': distillers.feature_adaptation,
         'affinity_adaptation': distillers.affinity_adaptation}


def inputs_of(student=STUDENT, teacher=TEACHER, seed=0):
  rng = np.random.default_rng(seed)
  maps = lambda shape: {'embedding': rng.normal(size=shape).astype(np.float32)}
  return distillers.DistillInputs(maps(student), maps(teacher), rng=jax.random.key(0))


def state_of(method, inputs):
  return core.create_state(method, jax.random.key(1), inputs, toys.unprepared(method, inputs))


def prepared_by(method, inputs, steps=30):
  """Trains a preparation as one would outside of our trainer."""
  preparation = method.prepare
  state = preparation.init(jax.random.key(0), inputs)
  optimizer = optax.sgd(0.1, momentum=0.9)
  opt_state = optimizer.init(state.prepared)

  @jax.jit
  def step(state, opt_state):
    (loss, (memory, _)), gradient = jax.value_and_grad(
        lambda x: preparation.loss(state._replace(prepared=x), inputs), has_aux=True)(
            state.prepared)
    updates, opt_state = optimizer.update(gradient, opt_state)
    prepared = optax.apply_updates(state.prepared, updates)
    return state._replace(prepared=prepared, memory=memory), opt_state, loss
  found = []
  for _ in range(steps):
    state, opt_state, loss = step(state, opt_state)
    found.append(float(loss))
  return state, found


def test_the_autoencoder_is_trained_and_the_encoder_alone_is_kept():
  method = distillers.feature_adaptation()
  state, found = prepared_by(method, inputs_of())
  assert found[-1] < 0.7 * found[0]
  kept = method.prepare.finish(state)
  assert set(kept) == {'params', 'batch_stats'}
  for group in kept:
    jax.tree.map(np.testing.assert_array_equal, kept[group], (
        state.prepared if group == 'params' else state.memory['batch_stats'])['encoder'])
  given = method.init(jax.random.key(1), inputs_of(), prepared=kept)
  jax.tree.map(np.testing.assert_array_equal, given.prepared, kept)
  widths = {x.shape[-1] for x in jax.tree.leaves(given.prepared)}
  assert widths == {8, 4}  # the teacher's, and half of it


def test_the_autoencoder_starts_as_its_key_says():
  preparation = distillers.feature_adaptation().prepare
  create = jax.jit(lambda key: preparation.init(key, inputs_of()).prepared)
  drawn = [np.asarray(x) for seed in (0, 1) for x in jax.tree.leaves(create(jax.random.key(seed)))
           if np.ptp(x)]
  # Three layers that encode, three that decode.
  assert len({zlib.crc32(x) for x in drawn}) == len(drawn) == 2 * 6


def test_feature_adaptation_is_its_definition():
  """The code, at the student's size, against the adapted features, both from the modules."""
  method, inputs = distillers.feature_adaptation(p=1, q=2), inputs_of()
  state = state_of(method, inputs)
  value, (memory, _) = method.loss(state, inputs)
  encoder = adapters.Encoder(4, (2, 1, 1))
  code = encoder.apply(state.prepared, inputs.teacher['embedding'], False)
  assert code.shape == STUDENT[:3] + (4,)  # as near as strides come
  adapted, updated = adapters.FeatureAdapter(4).apply(
      {'params': state.params, **state.memory}, inputs.student['embedding'], True,
      mutable=['batch_stats'])
  np.testing.assert_allclose(value, losses.feature_adaptation(adapted, code, p=1, q=2), rtol=1e-5)
  jax.tree.map(np.testing.assert_array_equal, memory, dict(updated))


def test_affinity_adaptation_is_its_definition():
  method, inputs = distillers.affinity_adaptation(strides=(2, 2, 1), channels=5), inputs_of()
  state = state_of(method, inputs)
  value, _ = method.loss(state, inputs)
  code = adapters.Encoder(5, (2, 2, 1)).apply(state.prepared, inputs.teacher['embedding'], False)
  assert code.shape == (2, 3, 4, 5)  # smaller than the student's map: resized
  code = losses.resize_bilinear(code, STUDENT[1:3], align_corners=True)
  adapted = adapters.AffinityAdapter(5).apply(
      {'params': state.params}, inputs.student['embedding'])
  np.testing.assert_allclose(value, losses.pairwise_affinity(adapted, code), rtol=1e-5)
  assert state.memory == {}


def test_affinity_of_the_features_themselves_needs_no_state_and_resizes_the_teachers():
  method, inputs = distillers.affinity_adaptation(autoencoder=False), inputs_of()
  assert method.prepare is None
  state = state_of(method, inputs)
  assert not jax.tree.leaves(state)
  teacher = losses.resize_bilinear(
      inputs.teacher['embedding'], STUDENT[1:3], align_corners=True)
  np.testing.assert_allclose(
      method.loss(state, inputs)[0],
      losses.pairwise_affinity(inputs.student['embedding'], teacher), rtol=1e-5)


@pytest.mark.parametrize('student, teacher, strides', [
    ((2, 8, 8, 6), (2, 8, 8, 4), (1, 1, 1)), ((2, 8, 8, 6), (2, 16, 16, 4), (2, 1, 1)),
    ((2, 8, 8, 6), (2, 32, 32, 4), (2, 2, 1)), ((2, 9, 9, 6), (2, 65, 65, 4), (2, 2, 2)),
    ((2, 16, 16, 6), (2, 8, 8, 4), (1, 1, 1))])
def test_strides_give_the_code_the_students_resolution(student, teacher, strides):
  method, inputs = distillers.feature_adaptation(), inputs_of(student, teacher)
  assert method.prepare.describe(inputs)['strides'] == strides
  (_, code), _ = jax.eval_shape(
      lambda: adapters.Autoencoder(2, strides).init_with_output(
          jax.random.key(0), inputs.teacher['embedding'], True))
  assert code.shape[1:3] == tuple(np.minimum(student[1:3], teacher[1:3]))
  value, _ = jax.eval_shape(lambda: method.loss(state_of(method, inputs), inputs))
  assert value.shape == ()


def test_what_is_prepared_is_described_by_what_decides_it_alone():
  of = lambda make=distillers.feature_adaptation, inputs=None, **options: (
      make(**options).prepare.describe(inputs or inputs_of()))
  first = of()
  assert first == of(distillers.affinity_adaptation) == of(p=1, q=3)
  assert first == of(strides=(2, 1, 1), channels=4)  # what the taps lead to, said
  assert first == of(inputs=inputs_of(student=(2, 5, 7, 99)))  # of students of any width
  for other in (of(alpha=1.0), of(channels=3), of(strides=(1, 2, 1)),
                of(inputs=inputs_of(student=(2, 9, 13, 6)))):
    assert other != first
  both = distillers.adaptation(alpha=0.5).prepare.describe(inputs_of())
  assert both['feature_adaptation'] == both['affinity_adaptation'] == of(alpha=0.5)


def test_the_method_has_both_terms_with_the_papers_weights():
  inputs, method = inputs_of(), distillers.adaptation()
  created = distillers.create(distillers.terms_of('adaptation'))
  for one in (method, created):
    state = state_of(one, inputs)
    value, (_, metrics) = one.loss(state, inputs)
    np.testing.assert_allclose(metrics['feature_adaptation/weighted'],
                               50 * metrics['feature_adaptation/raw'], rtol=1e-6)
    np.testing.assert_allclose(
        value, 50 * metrics['feature_adaptation/raw'] + metrics['affinity_adaptation/raw'],
        rtol=1e-6)
  assert methods.METHODS['adaptation'] == {'feature_adaptation': 50.0, 'affinity_adaptation': 1.0}
  only = distillers.adaptation(gamma=0.0)
  assert list(only.prepare.parts) == ['feature_adaptation']


@pytest.mark.parametrize('term', TERMS)
def test_gradients_reach_student_and_adapter_and_nothing_else(term):
  method, inputs = TERMS[term](), inputs_of()
  state = state_of(method, inputs)

  def loss(params, prepared, student, teacher):
    given = dataclasses.replace(
        inputs, student={'embedding': student}, teacher={'embedding': teacher})
    return method.loss(state._replace(params=params, prepared=prepared), given)[0]
  params, prepared, student, teacher = jax.grad(loss, (0, 1, 2, 3))(
      state.params, state.prepared, inputs.student['embedding'], inputs.teacher['embedding'])
  assert all(np.any(x) for x in jax.tree.leaves((params, student)))
  assert not any(np.any(x) for x in jax.tree.leaves((prepared, teacher)))


def test_a_preparation_reads_shapes_of_the_student_alone():
  method, inputs = distillers.feature_adaptation(), inputs_of()
  shapes = dataclasses.replace(inputs, student=jax.eval_shape(lambda: inputs.student))
  state = method.prepare.init(jax.random.key(0), shapes)
  np.testing.assert_array_equal(
      method.prepare.loss(state, shapes)[0], method.prepare.loss(state, inputs)[0])
  assert jax.tree.map(jnp.shape, method.prepare.init(
      jax.random.key(0), jax.eval_shape(inputs_of))) == jax.tree.map(jnp.shape, state)


@pytest.mark.parametrize('term', TERMS)
@pytest.mark.parametrize('options, message', [
    ({'strides': (2, 2)}, r'strides=\(2, 2\); expected three whole numbers'),
    ({'strides': (2, 0, 1)}, r'strides=\(2, 0, 1\); expected three'),
    ({'channels': 0}, 'channels=0; expected 1 or more'),
    ({'alpha': -0.1}, 'alpha=-0.1; expected 0 or more')])
def test_options_out_of_their_range_are_refused(term, options, message):
  with pytest.raises(ValueError, match=f'{term}: {message}'):
    TERMS[term](**options)


@pytest.mark.parametrize('term', TERMS)
def test_without_what_was_prepared_there_is_no_state(term):
  with pytest.raises(ValueError, match='init needs what was prepared'):
    TERMS[term]().init(jax.random.key(0), inputs_of())
