"""Micro-batches: a step with them is the step of the large batch, but for BatchNorm."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from kdseg_jax import distillers, parallel, tasks
from kdseg_jax.distillers import DistillerState, Requires
from kdseg_jax.models.dropout import Dropout
from kdseg_jax.training.state import create_state
from kdseg_jax.training.step import apply_train, make_train_step
from tests import toys
from tests.training import test_step

AXIS = parallel.AXIS
TASK = tasks.SegmentationTask(
    num_classes=3, supervised_loss='ohem_cross_entropy', ohem_threshold=0.3, ohem_min_kept=200)


class Plain(nn.Module):
  """A segmenter without BatchNorm, with Dropout."""

  @nn.compact
  def __call__(self, image, mask=None, index=None, train=False):
    x = nn.Conv(4, (3, 3), param_dtype=jnp.float64)(image / 255)
    x = Dropout(0.5)(nn.relu(x), index, train)
    x = nn.Conv(3, (1, 1), param_dtype=jnp.float64)(x)
    return x, {'x': x, 'logits': x}


def between_images(axis_name=None):
  """A term between all pairs of images, and a memory of how many images it has seen at once."""
  def loss(state, inputs):
    rows = jnp.mean(inputs.student['x'], axis=(1, 2))
    columns = lax.all_gather(rows, axis_name, tiled=True) if axis_name else rows
    value = jnp.mean((rows @ columns.T) ** 2)
    seen = {'images': jnp.int32(len(columns))}
    return lax.pmean(value, axis_name) if axis_name else value, (seen, {})
  return distillers.Distiller(
      requires=Requires(student=('x',)),
      init=lambda rng, inputs: DistillerState(memory={'images': jnp.int32(0)}), loss=loss)


def method(axis_name=None):
  return distillers.combine({'pairs': (0.5, between_images(axis_name)),
                             'all': (1.0, toys.everything(axis_name=axis_name))})


def two_steps(accumulate, devices=None):
  """State and metrics after two steps; counts of valid pixels are very unequal."""
  axis_name = AXIS if devices else None
  student, distiller = Plain(), method(axis_name)
  variables = student.init(jax.random.key(9), test_step.batch_of()['image'])
  taps = {'x': jax.ShapeDtypeStruct((16, 8, 8, 3), jnp.float64)}
  inputs = distillers.DistillInputs(
      student=taps, teacher=taps, batch=test_step.batch_of(), rng=jax.random.key(0), step=0)
  state = create_state(jax.random.key(3), student, distiller, test_step.OPTIMIZERS, inputs,
                       prepared=toys.unprepared(distiller, inputs))
  step = make_train_step(TASK, student, student, distiller, test_step.OPTIMIZERS, critic_steps=2,
                         accumulate=accumulate, axis_name=axis_name)
  if devices:
    mesh = parallel.create_mesh(jax.devices()[:devices])
    step = parallel.data_parallel(step, mesh)
    variables, state = parallel.replicate((variables, state), mesh)
  else:
    step = jax.jit(step)
  for k in range(2):
    state, metrics = step(variables, state, test_step.batch_of(k))
  return jax.device_get((state._replace(rng=0), metrics))


def assert_same(got, want, tolerance=1e-9):
  paths = jax.tree_util.tree_leaves_with_path(got)
  for (path, x), y in zip(paths, jax.tree.leaves(want), strict=True):
    y = np.asarray(y)
    limit = tolerance if y.dtype == np.float64 else 1e-5
    np.testing.assert_allclose(x, y, rtol=limit, atol=limit * np.abs(y).max(),
                               err_msg=jax.tree_util.keystr(path))


@pytest.mark.slow
def test_a_step_in_micro_batches_is_the_step_of_the_large_batch():
  """Unequal counts, hard pixels of the batch, pairs of images, memory, critic and Dropout."""
  with jax.enable_x64(True):
    large = two_steps(1)
    assert large[0].distiller.memory['pairs']['images'] == 16
    assert_same(two_steps(2, devices=4), large)


def test_batch_norm_normalises_by_each_part_and_its_statistics_move_with_each():
  model, batch = toys.Model(), test_step.batch_of()
  variables = model.init(jax.random.key(0), batch['image'])
  stats = variables['batch_stats']
  taps, got = jax.jit(lambda: apply_train(
      model, variables['params'], stats, batch, jax.random.key(1), micro_batches=4))()
  for part in range(4):
    (_, expected), updated = model.apply(
        {'params': variables['params'], 'batch_stats': stats}, batch['image'][part::4],
        train=True, mutable=['batch_stats'])
    stats = updated['batch_stats']
    np.testing.assert_allclose(taps['x'][part::4], expected['x'], atol=1e-5)
  jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-5), got, stats)


class Shown(nn.Module):
  """A model whose taps are what it was shown."""

  @nn.compact
  def __call__(self, image, mask=None, index=None, train=False):
    image = image * self.param('scale', nn.initializers.ones, ())
    return image, {'image': image, 'mask': mask, 'index': index}


@pytest.mark.parametrize('micro_batches', [1, 4])
def test_a_model_is_shown_the_mask_and_the_number_of_each_image(micro_batches):
  batch = test_step.batch_of(3, n=8)
  batch['mask'][np.arange(8), :, np.arange(8)] = False
  taps, _ = apply_train(Shown(), {'scale': jnp.float32(1)}, {}, batch, jax.random.key(0),
                        micro_batches=micro_batches)
  assert taps.keys() == {'image', 'mask', 'index'}
  for name, value in taps.items():
    np.testing.assert_array_equal(value, batch[name])


def test_the_parts_and_so_the_statistics_do_not_depend_on_the_device_count():
  results = []
  for devices in (1, 4):
    step, variables, state = test_step.train_step_of(AXIS, accumulate=2)
    mesh = parallel.create_mesh(jax.devices()[:devices])
    variables, state = parallel.replicate((variables, state), mesh)
    state, _ = parallel.data_parallel(step, mesh)(variables, state, test_step.batch_of())
    results.append(jax.device_get((state.params, state.batch_stats)))
  jax.tree.map(
      lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-5, atol=1e-6), *results)


def test_activations_are_kept_for_one_part_at_a_time():
  class Deep(nn.Module):
    @nn.compact
    def __call__(self, image, mask=None, index=None, train=False):
      x = image / 255
      for _ in range(6):
        x = jnp.tanh(nn.Conv(32, (3, 3))(x))
      x = nn.Conv(3, (1, 1))(x)
      return x, {'x': x, 'logits': x}

  model, batch = Deep(), test_step.batch_of(n=32)
  params = model.init(jax.random.key(0), batch['image'])['params']

  def temporary(micro_batches):
    loss = lambda params: jnp.sum(apply_train(
        model, params, {}, batch, jax.random.key(1), micro_batches=micro_batches)[0]['x'] ** 2)
    compiled = jax.jit(jax.grad(loss)).lower(params).compile()
    return compiled.memory_analysis().temp_size_in_bytes
  assert temporary(8) < temporary(1) / 3
