"""The train step and that of a preparation with made-up distillers for each group of the state."""

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from kdseg_jax import distillers, models, parallel, tasks
from kdseg_jax.inference.evaluation import make_evaluation_step
from kdseg_jax.models.dropout import Dropout
from kdseg_jax.models.layers import ConvNorm
from kdseg_jax.training.state import Optimizers, create_state
from kdseg_jax.training.step import make_prepare_step, make_teacher_step, make_train_step
from tests import toys

AXIS = parallel.AXIS
TASK = tasks.SegmentationTask(num_classes=3)
OPTIMIZERS = Optimizers(optax.sgd(0.02, momentum=0.9), optax.sgd(0.2, momentum=0.9))


def batch_of(step=0, n=16):
  rng = np.random.default_rng(step)
  label = rng.integers(0, 3, (n, 8, 8)).astype(np.uint8)
  # Very unequal numbers of valid pixels an image, hence a device.
  label[rng.uniform(size=label.shape) < np.linspace(0, 1, n)[:, None, None]] = 255
  return {'image': rng.integers(0, 256, (n, 8, 8, 3)).astype(np.uint8), 'label': label,
          'mask': np.ones((n, 8, 8), bool), 'index': np.arange(n, dtype=np.int32) + n * step}


def setup(axis_name=None, method=toys.everything, dtype=jnp.float32):
  student, teacher = (toys.Model(axis_name=axis_name, dtype=dtype) for _ in range(2))
  distiller = method(axis_name=axis_name)
  teacher_variables = teacher.init(jax.random.key(9), batch_of()['image'])
  taps = {'x': jax.ShapeDtypeStruct((16, 8, 8, 3), jnp.float32)}
  inputs = distillers.DistillInputs(
      student=taps, teacher=taps, batch=batch_of(), rng=jax.random.key(0), step=0)
  state = create_state(jax.random.key(3), student, distiller, OPTIMIZERS, inputs,
                       prepared=toys.unprepared(distiller, inputs))
  return student, teacher, distiller, teacher_variables, state


def train_step_of(axis_name=None, critic_steps=1, method=toys.everything, dtype=jnp.float32,
                  **options):
  student, teacher, distiller, variables, state = setup(axis_name, method, dtype)
  step = make_train_step(TASK, student, teacher, distiller, OPTIMIZERS,
                         critic_steps=critic_steps, axis_name=axis_name, **options)
  return step, variables, state


def test_each_group_is_trained_by_its_own_objective_and_the_rest_stays():
  step, variables, state = train_step_of()
  new, metrics = jax.jit(step)(variables, state, batch_of())
  assert new.step == 1
  changed = lambda a, b: not all(map(np.array_equal, jax.tree.leaves(a), jax.tree.leaves(b)))
  assert changed(new.params, state.params) and changed(new.batch_stats, state.batch_stats)
  assert changed(new.distiller.params, state.distiller.params)
  assert changed(new.distiller.critic, state.distiller.critic)
  assert not changed(new.distiller.prepared, state.distiller.prepared)
  np.testing.assert_allclose(
      metrics['loss'], metrics['task/cross_entropy']
      + sum(metrics[f'distill/{name}/weighted'] for name in 'abc'), rtol=1e-6)
  moved = jax.tree.map(  # by the first step of SGD at 0.02
      lambda a, b: (b - a) / 0.02, *((x.params, x.distiller.params) for x in (state, new)))
  np.testing.assert_allclose(metrics['gradient_norm'], optax.tree.norm(moved), rtol=1e-4)
  assert 'distill/b/critic' in metrics


class WithDropout(nn.Module):
  """A model whose training mode differs in more than its BatchNorm."""

  @nn.compact
  def __call__(self, image, mask=None, index=None, train=False):
    x = ConvNorm(4, name='body')(image / 255, train)
    return x, {'x': x, 'dropped': Dropout(0.5, name='dropout')(x, index, train)}


def test_the_teacher_normalises_by_the_batch_where_a_method_says_so():
  teacher, batch = WithDropout(), batch_of()
  variables = toys.variables(teacher, batch['image'])
  of = lambda **requires: jax.jit(make_teacher_step(teacher, distillers.Requires(
      teacher=('x', 'dropped'), **requires)))(variables, {}, batch)
  by_statistics, by_batch = of(), of(teacher_batch_statistics=True)
  expected = jax.jit(lambda: teacher.apply(
      variables, batch['image'], index=batch['index'], train=True, mutable=['batch_stats'],
      rngs={'dropout': jax.random.key(0)}))()[0][1]
  np.testing.assert_allclose(by_batch['x'], expected['x'], rtol=1e-5, atol=1e-6)
  assert not np.allclose(by_statistics['x'], expected['x'], atol=0.01)
  for taps in (by_statistics, by_batch):  # Dropout is off in either
    np.testing.assert_array_equal(taps['dropped'], taps['x'])


def test_the_teacher_is_run_to_the_deepest_tap_that_is_read_and_no_further():
  """What no method reads, the auxiliary head too, does not reach the compiler."""
  batch = {name: jax.ShapeDtypeStruct(x.shape, x.dtype) for name, x in batch_of(n=2).items()}

  def products(tap, **options):
    teacher = models.create('deeplabv3_resnet18', 3, width=0.125, **options)
    variables = jax.eval_shape(teacher.init, jax.random.key(0), batch['image'])
    step = make_teacher_step(teacher, distillers.Requires(teacher=(tap,)))
    text = jax.jit(step).lower(variables, {}, batch).as_text()
    return text.count('stablehlo.dot_general') + text.count('stablehlo.convolution')

  assert products('logits', aux=True) == products('logits')
  assert products('stage1') < products('stage2') < products('stage4') < products('logits')


class Dropped(nn.Module):
  """A linear segmenter whose features are dropped."""

  @nn.compact
  def __call__(self, image, mask=None, index=None, train=False):
    x = Dropout(0.5, name='dropout')(image / 255, index, train)
    x = nn.BatchNorm(use_running_average=not train, axis_name=AXIS, momentum=0.5)(x)
    x = nn.Dense(3)(x)
    return x, {'x': x, 'logits': x}


def stepped(devices, **options):
  """The state after a step of `Dropped` alone on so many devices."""
  student, batch = Dropped(), batch_of()
  none = distillers.combine({})
  taps = jax.eval_shape(student.init_with_output, jax.random.key(0), batch['image'])[0][1]
  inputs = distillers.DistillInputs(
      student=taps, teacher={}, batch=batch, rng=jax.random.key(0), step=0)
  state = create_state(jax.random.key(3), student, none, OPTIMIZERS, inputs)
  mesh = parallel.create_mesh(jax.devices()[:devices])
  run = parallel.data_parallel(make_train_step(
      TASK, student, None, none, OPTIMIZERS, axis_name=AXIS, **options), mesh)
  state, _ = run(*parallel.replicate(({}, state), mesh), batch)
  return jax.device_get(state._replace(rng=0))


def test_what_is_dropped_of_an_image_does_not_depend_on_its_device():
  for one, two in zip(*(jax.tree.leaves(stepped(devices)) for devices in (1, 2)), strict=True):
    np.testing.assert_allclose(two, one, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize('parts', [1, 4])
def test_a_student_runs_in_as_many_parts_as_the_step_is_told(parts):
  variance = 2 / 3 - 1 / 4  # of uniform numbers of which a half is 0, and a half twice as large
  found = stepped(1, accumulate=parts).batch_stats['BatchNorm_0']['var']
  np.testing.assert_allclose(found, variance + (1 - variance) / 2**parts, atol=0.05)


def test_memory_is_threaded_through_the_loss_and_then_every_critic_step():
  step, variables, state = train_step_of(critic_steps=3)
  state, _ = jax.jit(step)(variables, state, batch_of())
  assert state.distiller.memory['a']['calls'] == 1
  assert state.distiller.memory['b']['calls'] == 1 + 3 * 10
  step, variables, state = train_step_of(critic_steps=1)
  state, _ = jax.jit(step)(variables, state, batch_of())
  assert state.distiller.memory['b']['calls'] == 1 + 10


def test_the_loss_sees_the_old_critic_and_the_critic_the_taps_before_the_update():
  step, variables, state = train_step_of()
  student, _, _, _, _ = setup()
  batch = batch_of()
  (_, taps), _ = student.apply({'params': state.params, 'batch_stats': state.batch_stats},
                               batch['image'], train=True, mutable=['batch_stats'])
  teacher_taps = toys.Model().apply(variables, batch['image'])[1]
  new, metrics = jax.jit(step)(variables, state, batch)
  w = state.distiller.critic['b']['w']
  np.testing.assert_allclose(metrics['distill/b/raw'], -w * jnp.mean(taps['x']), atol=1e-6)
  gradient = jnp.mean(taps['x'] - teacher_taps['x'])  # of the critic's loss; SGD at 0.2
  np.testing.assert_allclose(new.distiller.critic['b']['w'], w - 0.2 * gradient, rtol=1e-5)


def test_critic_steps_move_the_critic_further():
  moved = []
  for critic_steps in (1, 2):
    step, variables, state = train_step_of(critic_steps=critic_steps)
    new, _ = jax.jit(step)(variables, state, batch_of())
    moved.append(abs(new.distiller.critic['b']['w'] - state.distiller.critic['b']['w']))
  assert moved[1] > 1.5 * moved[0]


def test_every_critic_has_its_own_optimiser_and_steps():
  """The toy's critic moves by the learning rate times a gradient that its own steps leave alone."""
  own = optax.sgd(optax.linear_schedule(0.1, 0.0, 4))

  def method(axis_name):
    nested = distillers.combine({'own': (1.0, toys.adversarial(axis_name, optimizer=own, steps=3)),
                                 'still': (1.0, toys.adversarial(axis_name, steps=0))})
    return distillers.combine(
        {'b': (1.0, toys.adversarial(axis_name)), 'nested': (1.0, nested)})
  step, variables, state = train_step_of(method=method)
  step = jax.jit(step)
  weights = lambda state: np.array(jax.tree.leaves(state.distiller.critic))  # b, own, still
  opt_state = state.opt_state.critic['nested']['own']
  assert jax.tree.structure(opt_state) == jax.tree.structure(own.init({'w': 0.0}))
  first, metrics = step(variables, state, batch_of())
  moved = weights(first) - weights(state)
  np.testing.assert_allclose(moved[1] / moved[0], (0.1 + 0.075 + 0.05) / 0.2, rtol=1e-4)
  assert moved[2] == 0 and 'distill/nested/own/critic' in metrics
  assert 'distill/nested/still/critic' not in metrics
  calls = first.distiller.memory
  assert calls['b']['calls'] == 11 and calls['nested']['own']['calls'] == 31
  second, _ = step(variables, first, batch_of())  # momentum of the one, 0.025 + 0 + 0 of the other
  moved = weights(second) - weights(first)
  student = setup()[0]
  (_, taps), _ = student.apply({'params': first.params, 'batch_stats': first.batch_stats},
                               batch_of()['image'], train=True, mutable=['batch_stats'])
  teacher_taps = toys.Model().apply(variables, batch_of()['image'])[1]
  gradient = np.mean(taps['x'] - teacher_taps['x'])
  np.testing.assert_allclose(moved[1], -0.025 * gradient, rtol=1e-4)


def test_no_two_draws_are_equal():
  """Of the loss, of two critics, of their steps and of two train steps."""
  def drawing(steps):
    def draw(state, inputs):
      draws = jnp.roll(state.memory['draws'], 1).at[0].set(jax.random.uniform(inputs.rng))
      return jnp.float32(0), ({'draws': draws}, {})
    return distillers.Distiller(
        requires=distillers.Requires(), loss=draw, critic=distillers.Critic(draw, steps=steps),
        init=lambda rng, inputs: distillers.DistillerState(memory={'draws': jnp.zeros(10)}))
  method = lambda axis_name: distillers.combine(
      {'a': (1.0, drawing(2)), 'b': (1.0, drawing(None)),
       'c': (1.0, distillers.combine({'b': (1.0, drawing(None))}))})
  step, variables, state = train_step_of(method=method, critic_steps=4)
  step = jax.jit(step)
  for k in range(2):
    state, _ = step(variables, state, batch_of(k))
  draws = np.concatenate(jax.tree.leaves(state.distiller.memory))
  drawn = draws[draws != 0]
  assert len(np.unique(drawn)) == len(drawn) == 2 * ((1 + 2) + 2 * (1 + 4))


def test_the_step_of_a_preparation_fits_it_on_teacher_taps():
  _, teacher, distiller, variables, _ = setup()
  preparation, optimizer = distiller.prepare.parts['c'], optax.adam(0.5)
  shapes = {'x': jax.ShapeDtypeStruct((16, 8, 8, 3), jnp.float32)}
  step = jax.jit(make_prepare_step(teacher, preparation, optimizer, shapes))
  state = toys.fresh_preparation(
      preparation, optimizer, distillers.DistillInputs(student=shapes, teacher=shapes))
  target = jnp.mean(teacher.apply(variables, batch_of()['image'])[0])
  for _ in range(60):
    state, metrics = step(variables, state, batch_of())
  assert state.step == 60 and state.distiller.memory['calls'] == 60
  np.testing.assert_allclose(state.params['mean'], target, atol=0.05)
  assert np.isfinite(metrics['loss']) and state.distiller.prepared == {}


def test_without_a_method_the_student_learns_the_labels():
  step, variables, state = train_step_of(method=lambda axis_name: distillers.combine({}))
  batch = batch_of()
  batch['label'] = (batch['image'][..., 0] > 127).astype(np.uint8)
  step = jax.jit(step)
  state, first = step(variables, state, batch)
  for _ in range(30):
    state, last = step(variables, state, batch)
  assert last['loss'] < 0.5 * first['loss']
  assert set(last) == {'loss', 'task/cross_entropy', 'gradient_norm'}


def test_the_start_of_the_student_does_not_depend_on_the_method():
  with_method = setup()[-1]
  without = setup(method=lambda axis_name: distillers.combine({}))[-1]
  jax.tree.map(np.testing.assert_array_equal, with_method.params, without.params)
  np.testing.assert_array_equal(jax.random.key_data(with_method.rng),
                                jax.random.key_data(without.rng))


def test_steps_draw_from_a_key_that_made_nothing_of_the_state():
  key = jax.random.key(3)
  used = [key]

  class Student:
    init = staticmethod(lambda rngs, image: (used.append(rngs['params']), {'params': {}})[1])
  method = distillers.Distiller(
      distillers.Requires(), loss=None,
      init=lambda rng, inputs: (used.append(rng), distillers.DistillerState())[1])
  state = create_state(key, Student, method, OPTIMIZERS,
                       distillers.DistillInputs({}, {}, batch=batch_of()))
  keys = {tuple(jax.random.key_data(one).tolist()) for one in (*used, state.rng)}
  assert len(used) == 3 and len(keys) == 4


@pytest.mark.parametrize('mode', parallel.MODES)
def test_a_step_is_traced_once_and_gives_back_the_shapes_and_types_it_took(mode):
  step, variables, state = train_step_of(AXIS)
  mesh = parallel.create_mesh()
  chex.clear_trace_counter()
  run = parallel.data_parallel(chex.assert_max_traces(step, 1), mesh, mode=mode, donate_state=True)
  variables, state = parallel.replicate((variables, state), mesh)
  before = jax.eval_shape(lambda: state)
  for k in range(3):
    state, _ = run(variables, state, batch_of(k))
  chex.assert_trees_all_equal_shapes_and_dtypes(before, jax.eval_shape(lambda: state))
  assert state.step == 3


@pytest.mark.parametrize('mode', parallel.MODES)
def test_ten_steps_on_eight_devices_equal_ten_on_one(mode):
  """In float64, where what is left of a difference is a fault and not rounding."""
  results = []
  with jax.enable_x64(True):
    for devices in (1, 8):
      step, variables, state = train_step_of(AXIS, critic_steps=2, dtype=jnp.float64)
      mesh = parallel.create_mesh(jax.devices()[:devices])
      run = parallel.data_parallel(step, mesh, mode=mode, donate_state=True)
      variables, state = parallel.replicate((variables, state), mesh)
      for k in range(10):
        state, metrics = run(variables, state, batch_of(k))
      results.append(jax.device_get((metrics, state._replace(rng=0))))
  for one, eight in zip(*map(jax.tree.leaves, results), strict=True):
    tolerance = 1e-10 if np.asarray(one).dtype == np.float64 else 1e-5
    np.testing.assert_allclose(eight, one, rtol=tolerance, atol=tolerance * np.abs(one).max())


def test_evaluation_counts_each_valid_pixel_once_on_any_number_of_devices():
  model = toys.Model(axis_name=AXIS)
  variables = toys.Model().init(jax.random.key(0), batch_of()['image'])
  batch = batch_of()
  for name, padding in (('index', -1), ('label', 255), ('image', 0), ('mask', False)):
    batch[name][11:] = padding  # a ragged last batch
  counts = []
  for devices in (1, 8):
    mesh = parallel.create_mesh(jax.devices()[:devices])
    run = parallel.data_parallel(make_evaluation_step(TASK, model, axis_name=AXIS), mesh)
    outputs = run(parallel.replicate(variables, mesh), {}, batch)
    counts.append(jax.device_get(outputs.sums))
    assert outputs.examples == {}
  np.testing.assert_array_equal(counts[0]['confusion_matrix'], counts[1]['confusion_matrix'])
  assert counts[0]['images'] == counts[1]['images'] == 11
  assert counts[0]['confusion_matrix'].sum() == np.sum(batch['label'] != 255)
