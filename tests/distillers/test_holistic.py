"""The holistic distiller: what the critic sees, memory, exact gradients, devices, methods."""

import dataclasses
import importlib

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import PartitionSpec as P

from kdseg_jax import distillers, losses, parallel, tasks
from kdseg_jax.errors import UserError
from kdseg_jax.models import normalization
from kdseg_jax.models.critic import Critic
from kdseg_jax.training.state import Optimizers, create_state
from kdseg_jax.training.step import make_train_step
from tests import toys

AXIS = parallel.AXIS
TINY = 1 / 8


def inputs_of(dtype=np.float32):
  rng = np.random.default_rng(0)
  taps = lambda: {'logits': jnp.asarray(2 * rng.normal(size=(3, 4, 4, 5)), dtype)}
  mask = np.ones((3, 8, 8), bool)
  mask[1, :, 5:] = False
  return distillers.DistillInputs(
      student=taps(), teacher=taps(), rng=jax.random.key(0), step=jnp.int32(0),
      batch={'image': rng.integers(0, 256, (3, 8, 8, 3)).astype(np.uint8), 'mask': mask,
             'index': np.array([7, 3, 5], np.int32)})


def state_of(method, inputs, dtype=np.float32):
  """A state by numpy, without zeros: to compile an initialisation takes seconds."""
  rng = np.random.default_rng(0)
  shapes = jax.eval_shape(method.init, jax.random.key(0), inputs)
  state = jax.tree.map(lambda s: rng.uniform(-0.6, 0.6, s.shape).astype(dtype), shapes)
  spectral = jax.tree.map(lambda x: x / np.linalg.norm(x), state.memory['spectral'])
  return state._replace(memory=state.memory | {'spectral': spectral})


def assert_advanced(state, memory, times):
  """The vectors of the first layer are those of so many power iterations."""
  kernel = np.asarray(state.critic['conv1']['kernel'], np.float64)
  matrix = kernel.reshape(-1, kernel.shape[-1]).T
  u = np.asarray(state.memory['spectral']['conv1']['u'], np.float64)
  for _ in range(times):
    v = matrix.T @ u / np.linalg.norm(matrix.T @ u)
    u = matrix @ v / np.linalg.norm(matrix @ v)
  np.testing.assert_allclose(memory['spectral']['conv1']['u'], u, atol=1e-5)
  np.testing.assert_allclose(memory['spectral']['conv1']['v'], v, atol=1e-5)


def test_the_student_is_scored_with_its_image_and_the_vectors_advance_once():
  method, inputs = distillers.holistic(width=TINY), inputs_of()
  state = state_of(method, inputs)
  value, (memory, metrics) = jax.jit(method.loss)(state, inputs)
  image = normalization.normalize_image(
      inputs.batch['image'], inputs.batch['mask'], mean=normalization.IMAGENET_MEAN,
      std=normalization.IMAGENET_STD)
  seen = jnp.concatenate([losses.resize_bilinear(image, (4, 4), align_corners=True),
                          jax.nn.softmax(inputs.student['logits'])], axis=-1)
  scores = jax.jit(Critic(TINY).apply)({'params': state.critic, **memory}, seen)
  np.testing.assert_allclose(value, -jnp.mean(scores), rtol=1e-5)
  assert metrics == {}
  assert_advanced(state, memory, 1)


@pytest.fixture(scope='module')
def wasserstein():
  """The critic's objective in float64: method, state, inputs, and the function itself."""
  with jax.enable_x64(True):
    method, inputs = distillers.holistic(width=TINY), inputs_of(np.float64)
    objective = lambda critic, state, inputs: method.critic.loss(
        state._replace(critic=critic), inputs)
    value_and_grad = jax.jit(jax.value_and_grad(objective, has_aux=True))
    yield state_of(method, inputs, np.float64), inputs, value_and_grad


def test_the_critic_is_paid_for_the_gap_and_for_slope_one(wasserstein):
  state, inputs, objective = wasserstein
  (value, (memory, metrics)), _ = objective(state.critic, state, inputs)
  assert value.dtype == np.float64 and metrics['gradient_penalty'] > 0
  np.testing.assert_allclose(
      value, 0.1 * (-metrics['score_gap'] + 10 * metrics['gradient_penalty']), rtol=1e-9)
  assert_advanced(state, memory, 3)  # the teacher's maps, the student's, the interpolated ones


def test_gradient_of_the_critic_equals_finite_differences(wasserstein):
  """Through the penalty, that is a second derivative, attention and the singular values.

  At the singular vectors themselves the power iteration does not move, so that holding its
  vectors constant, as the gradient does, is exact.
  """
  state, inputs, objective = wasserstein
  spectral = {}
  for layer in state.memory['spectral']:
    kernel = state.critic[layer]['kernel']
    u, _, v = np.linalg.svd(kernel.reshape(-1, kernel.shape[-1]).T, full_matrices=False)
    spectral[layer] = {'u': u[:, 0], 'v': v[0]}
  state = state._replace(memory={'spectral': spectral})
  _, gradient = objective(state.critic, state, inputs)
  rng = np.random.default_rng(1)
  for _ in range(4):
    direction = jax.tree.map(lambda x: rng.normal(size=x.shape), state.critic)
    ends = [objective(optax.tree.add_scale(state.critic, step, direction), state, inputs)[0][0]
            for step in (1e-6, -1e-6)]
    along = sum(jax.tree.leaves(jax.tree.map(lambda g, d: np.sum(g * d), gradient, direction)))
    np.testing.assert_allclose(along, (ends[0] - ends[1]) / 2e-6, rtol=1e-6)


def test_the_interpolation_is_drawn_for_each_example(wasserstein):
  state, inputs, objective = wasserstein
  penalty = lambda inputs: objective(state.critic, state, inputs)[0][1][1]['gradient_penalty']
  assert penalty(inputs) != penalty(dataclasses.replace(inputs, rng=jax.random.key(1)))
  draw = importlib.import_module('kdseg_jax.distillers.holistic')._draw_alpha
  alpha = draw(inputs.rng, jnp.arange(8))
  assert len(np.unique(alpha)) == 8 and np.all((0 <= alpha) & (alpha < 1))
  np.testing.assert_array_equal(draw(inputs.rng, jnp.array([5, 2])), alpha[jnp.array([5, 2])])


def test_draws_stay_with_their_example_wherever_it_stands_in_the_batch(wasserstein):
  state, inputs, objective = wasserstein
  order = np.array([2, 0, 1])
  moved = dataclasses.replace(inputs, **{
      name: jax.tree.map(lambda x: x[order], getattr(inputs, name))
      for name in ('student', 'teacher', 'batch')})
  (expected, _), _ = objective(state.critic, state, inputs)
  (value, _), _ = objective(state.critic, state, moved)
  np.testing.assert_allclose(value, expected, rtol=1e-9)
  other = dataclasses.replace(inputs, batch=inputs.batch | {'index': np.array([1, 2, 4], np.int32)})
  assert abs(objective(state.critic, state, other)[0][0] / expected - 1) > 1e-6


def test_the_adversarial_baseline_is_a_hinge_without_image_and_penalty():
  terms = distillers.terms_of('adversarial')
  assert terms['adversarial']['weight'] == 0.001 and terms['adversarial']['critic_weight'] == 0.1
  terms['adversarial']['width'] = TINY
  method, inputs = distillers.create(terms), inputs_of(jnp.bfloat16)
  inputs = dataclasses.replace(inputs, batch={})
  one = distillers.holistic(width=TINY, conditional=False, input_norm=True)
  state = distillers.DistillerState(*({'adversarial': group} for group in state_of(one, inputs)))
  value, (memory, metrics) = jax.jit(method.critic.loss)(state, inputs)
  assert value.dtype == jnp.float32 and np.isfinite(value) and value > 0
  assert sorted(metrics) == ['adversarial/critic', 'adversarial/score_gap']
  part = distillers.DistillerState(*(group['adversarial'] for group in state))
  assert_advanced(part, memory['adversarial'], 2)
  # BatchNorm statistics: of the teacher's maps, then of the student's.
  mean = 0.9 * (0.9 * part.memory['batch_stats']['norm']['norm']['mean']
                + 0.1 * np.mean(inputs.teacher['logits'].astype(np.float32), (0, 1, 2)))
  mean += 0.1 * np.mean(inputs.student['logits'].astype(np.float32), (0, 1, 2))
  np.testing.assert_allclose(
      memory['adversarial']['batch_stats']['norm']['norm']['mean'], mean, rtol=1e-3, atol=1e-5)


def test_the_adversarial_baseline_brings_the_adam_of_its_script():
  """4e-4, betas 0.9 and 0.99, constant and without decay; holistic takes the trainer's."""
  terms = distillers.terms_of('adversarial')
  assert distillers.terms_of('holistic')['holistic']['critic_learning_rate'] is None
  assert distillers.holistic().critic.optimizer is None
  optimizer = distillers.create(terms).critic.parts['adversarial'].optimizer
  params, gradients = {'w': 3.0}, [1.0, -0.5, 2.0]
  state, mean, square = optimizer.init(params), 0.0, 0.0
  for t, gradient in enumerate(gradients, start=1):
    update, state = optimizer.update({'w': gradient}, state, params)
    mean, square = 0.9 * mean + 0.1 * gradient, 0.99 * square + 0.01 * gradient**2
    expected = mean / (1 - 0.9**t) / (np.sqrt(square / (1 - 0.99**t)) + 1e-8)
    np.testing.assert_allclose(update['w'], -4e-4 * expected, rtol=1e-5)


def test_skd_is_its_three_terms_with_the_weights_of_the_paper():
  inputs = inputs_of()
  taps = lambda x: x | {'embedding': x['logits']}
  inputs = dataclasses.replace(inputs, student=taps(inputs.student), teacher=taps(inputs.teacher))
  terms = distillers.terms_of('skd')
  assert {name: options['weight'] for name, options in terms.items()} == {
      'pixelwise': 10.0, 'pairwise': 10.0, 'holistic': 0.1}
  method, same = distillers.skd(), distillers.create(terms)
  shapes = jax.eval_shape(method.init, jax.random.key(0), inputs)
  assert shapes == jax.eval_shape(same.init, jax.random.key(0), inputs)
  state = jax.tree.map(lambda s: jnp.full(s.shape, 0.1), shapes)
  _, (_, metrics) = jax.jit(method.loss)(state, inputs)
  for name, options in terms.items():
    np.testing.assert_allclose(
        metrics[f'{name}/weighted'], options['weight'] * metrics[f'{name}/raw'], rtol=1e-6)
  assert method.requires == distillers.Requires(
      ('logits', 'embedding'), ('logits', 'embedding'))
  assert method.critic is not None and method.prepare is None


def test_wrong_options_and_a_batch_without_images_are_refused():
  with pytest.raises(ValueError, match="critic_loss='wgan' is unknown; expected one of"):
    distillers.holistic(critic_loss='wgan')
  for name in ('gradient_penalty_weight', 'critic_weight', 'critic_learning_rate', 'critic_steps'):
    with pytest.raises(ValueError, match=f'holistic: {name}=-1; expected 0 or more'):
      distillers.holistic(**{name: -1})
  for name, value, expected in (
      ('critic_weight', np.nan, '0 or more'), ('width', 0.0, 'more than 0'),
      ('width', -1.0, 'more than 0'), ('critic_b1', 1.0, '.*less than 1'),
      ('critic_b2', -0.1, '0 or more, and less')):
    with pytest.raises(UserError, match=f'holistic: {name}={value}; expected {expected}'):
      distillers.holistic(**{name: value})
  inputs = dataclasses.replace(inputs_of(), batch={'index': 0})
  with pytest.raises(ValueError, match=r"reads batch\['image'\]; the batch has \['index'\]"):
    distillers.holistic().init(jax.random.key(0), inputs)


def test_vectors_that_are_alike_on_all_devices_are_said_to_be_so_and_stay_as_they_are():
  replicated = importlib.import_module('kdseg_jax.distillers.holistic')._replicated
  memory = {'spectral': {'last': np.float32([0.6, -0.8])}, 'batch_stats': {'mean': np.float32(3)}}

  def step(memory):
    spectral = jax.lax.pcast(memory['spectral'], AXIS, to='varying')
    return replicated(memory | {'spectral': spectral}, AXIS)
  mapped = jax.jit(jax.shard_map(
      step, mesh=parallel.create_mesh(), in_specs=P(), out_specs=P()))
  jax.tree.map(np.testing.assert_array_equal, mapped(memory), memory)


def two_steps(devices, mode='shard_map'):
  """Metrics and state after two train steps on a number of devices, in float64."""
  rng = np.random.default_rng(0)
  brightness = np.linspace(30, 255, 8)[:, None, None, None]  # unlike statistics of the devices
  batch = {'image': (brightness * rng.uniform(size=(8, 8, 8, 3))).astype(np.uint8),
           'label': rng.integers(0, 3, (8, 8, 8)).astype(np.uint8),
           'mask': rng.uniform(size=(8, 8, 8)) < np.linspace(0.2, 1, 8)[:, None, None],
           'index': np.arange(8, dtype=np.int32)}
  batch['label'][~batch['mask']] = 255
  model = toys.Model(axis_name=AXIS, dtype=jnp.float64)
  method = distillers.holistic(width=TINY, input_norm=True, axis_name=AXIS)
  optimizers = Optimizers(*[optax.sgd(0.1, momentum=0.9)] * 2)
  taps = {'logits': jax.ShapeDtypeStruct((8, 8, 8, 3), jnp.float64)}
  inputs = distillers.DistillInputs(taps, taps, batch, rng=jax.random.key(0))
  mesh = parallel.create_mesh(jax.devices()[:devices])
  variables = model.init(jax.random.key(9), batch['image'])
  given = method._replace(init=lambda rng, inputs: state_of(method, inputs, np.float64))
  state = create_state(jax.random.key(3), model, given, optimizers, inputs)
  variables, state = parallel.replicate((variables, state), mesh)
  step = parallel.data_parallel(
      make_train_step(tasks.SegmentationTask(num_classes=3), model, model, method, optimizers,
                      axis_name=AXIS), mesh, mode=mode)
  for k in range(2):
    state, metrics = step(variables, state, batch | {'index': batch['index'] + 8 * k})
  return jax.device_get((metrics, state._replace(rng=0)))


@pytest.mark.slow
def test_eight_devices_equal_one():
  """Losses, gradients (as momentum), the critic and the memory; in float64, to spot any fault.

  In one mode only: the penalty itself is tested in both in test_parallel.py.
  """
  with jax.enable_x64(True):
    one, eight = two_steps(1), two_steps(8)
  assert set(one[1].distiller.memory) == {'spectral', 'batch_stats'}
  for (path, got), want in zip(jax.tree.leaves_with_path(eight), jax.tree.leaves(one), strict=True):
    tolerance = 1e-9 if np.asarray(want).dtype == np.float64 else 1e-5
    atol = 1e-12 + tolerance * np.abs(want).max()  # some gradients are 0 but for rounding
    np.testing.assert_allclose(got, want, rtol=tolerance, atol=atol,
                               err_msg=jax.tree_util.keystr(path))
  momentum = one[1].opt_state.critic[0].trace
  for layer in ('conv1', 'conv4', 'last'):
    assert np.abs(momentum[layer]['kernel']).max() > 1e-6
