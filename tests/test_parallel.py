"""One device and eight must give the same gradients: the four cases of the design."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from kdseg_jax import losses, parallel

AXIS = parallel.AXIS


def batch_of(n=16, seed=0):
  """Images with very unequal numbers of valid pixels an image, hence a device."""
  rng = np.random.default_rng(seed)
  image = rng.normal(size=(n, 4, 4, 3)).astype(np.float32)
  valid = rng.uniform(size=(n, 4, 4)) < np.linspace(0, 1, n)[:, None, None]
  return {'image': image, 'target': rng.normal(size=(n, 4, 4)).astype(np.float32),
          'valid': valid, 'alpha': rng.uniform(size=n).astype(np.float32)}


def params_of():
  keys = jax.random.split(jax.random.key(1), 2)
  return {'w': jax.random.normal(keys[0], (3, 5)), 'v': jax.random.normal(keys[1], (5,))}


def predict(params, image):
  return jnp.tanh(image @ params['w']) @ params['v']


def masked(params, batch, axis_name):
  """(a) a mean over valid pixels, normalised by psum, with unequal counts."""
  error = jnp.where(batch['valid'], (predict(params, batch['image']) - batch['target']) ** 2, 0)
  total, count = jnp.sum(error), jnp.sum(batch['valid'])
  if axis_name:
    total, count = lax.psum((total, count), axis_name)
  return total / jnp.maximum(count, 1)


def gathered(params, batch, axis_name):
  """(b) a relation between all pairs of images, rows local and columns gathered."""
  rows = jnp.mean(jnp.tanh(batch['image'] @ params['w']), axis=(1, 2))
  columns = lax.all_gather(rows, axis_name, tiled=True) if axis_name else rows
  loss = jnp.mean((rows @ columns.T - 0.3) ** 2)
  return lax.pmean(loss, axis_name) if axis_name else loss


def summed(params, batch, axis_name):
  """(c) both."""
  return masked(params, batch, axis_name) + 0.5 * gathered(params, batch, axis_name)


class Critic(nn.Module):
  """Scores of images, with BatchNorm synchronised over the devices."""

  axis_name: str | None

  @nn.compact
  def __call__(self, x):
    x = nn.BatchNorm(use_running_average=False, axis_name=self.axis_name)(x)
    x = nn.Conv(4, (3, 3))(x)
    return jnp.sum(jnp.sin(x), axis=(1, 2, 3))


def penalty(params, batch, axis_name):
  """(d) a gradient penalty through synchronised BatchNorm."""
  critic = Critic(axis_name)
  score = lambda x: critic.apply({'params': params}, x, mutable=['batch_stats'])[0]
  return losses.gradient_penalty(
      score, batch['image'], batch['image'][..., ::-1], batch['alpha'], axis_name=axis_name)


def critic_params():
  params = Critic(None).init(jax.random.key(0), jnp.zeros((2, 4, 4, 3)))['params']
  return jax.tree.map(lambda x: x + 0.1, params)


CASES = {'masked': (masked, params_of), 'gathered': (gathered, params_of),
         'summed': (summed, params_of), 'penalty': (penalty, critic_params)}


def loss_and_grads(name, devices, mode):
  loss_fn, make_params = CASES[name]

  def step(_, params, batch):
    (loss, _), grads = parallel.value_and_grad(
        lambda p: (loss_fn(p, batch, AXIS), {}), axis_name=AXIS)(params)
    return loss, grads
  mesh = parallel.create_mesh(jax.devices()[:devices])
  params = parallel.replicate(make_params(), mesh)
  return jax.device_get(parallel.data_parallel(step, mesh, mode=mode)({}, params, batch_of()))


@pytest.mark.parametrize('mode', parallel.MODES)
@pytest.mark.parametrize('name', CASES)
def test_gradient_on_eight_devices_equals_the_one_without_a_map(name, mode):
  loss_fn, make_params = CASES[name]
  loss, grads = jax.value_and_grad(loss_fn)(make_params(), batch_of(), None)
  for devices in (1, 8):
    mapped_loss, mapped_grads = loss_and_grads(name, devices, mode)
    np.testing.assert_allclose(mapped_loss, loss, rtol=1e-5)
    for got, want in zip(jax.tree.leaves(mapped_grads), jax.tree.leaves(grads), strict=True):
      np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-5 * np.abs(want).max())


def test_without_an_axis_it_is_value_and_grad():
  (loss, aux), grads = parallel.value_and_grad(
      lambda x: (x ** 2, 'aux'), axis_name=None)(jnp.float32(3))
  assert loss == 9 and aux == 'aux' and grads == 6


@pytest.mark.parametrize('mode', parallel.MODES)
def test_batches_reach_the_devices_in_order(mode):
  mesh = parallel.create_mesh()
  gather = lambda _, __, batch: lax.all_gather(batch, AXIS, tiled=True)
  if mode == 'shard_map':  # all_gather's result counts as varying unless it is asked for
    gather = lambda _, __, batch: lax.all_gather(batch, AXIS, tiled=True, to='invarying')
  run = parallel.data_parallel(gather, mesh, mode=mode)
  np.testing.assert_array_equal(run({}, {}, np.arange(16)), np.arange(16))


@pytest.mark.parametrize('mode', parallel.MODES)
@pytest.mark.parametrize('donate', [False, True])
def test_a_state_is_given_up_only_where_that_is_said(mode, donate):
  mesh = parallel.create_mesh()
  run = parallel.data_parallel(
      lambda _, state, batch: state + lax.psum(jnp.sum(batch), AXIS), mesh, mode=mode,
      donate_state=donate)
  state = parallel.replicate(jnp.ones(4), mesh)
  np.testing.assert_array_equal(run({}, state, np.arange(16.0)), [121] * 4)
  assert state.is_deleted() == donate


@pytest.mark.parametrize('level, options', [(0, {'xla_backend_optimization_level': 0}), (3, None)])
def test_the_compile_level_reaches_the_compiler(level, options, monkeypatch):
  taken, jit = [], jax.jit

  def spy(*args, **kwargs):
    taken.append(kwargs['compiler_options'])
    return jit(*args, **kwargs)
  monkeypatch.setattr(jax, 'jit', spy)
  run = parallel.data_parallel(
      lambda _, state, batch: lax.psum(state * jnp.sum(batch), AXIS), parallel.create_mesh(),
      compile_level=level)
  assert run({}, jnp.int32(2), np.arange(16)) == 240 and taken == [options]


def test_a_result_that_differs_between_devices_is_an_error():
  run = parallel.data_parallel(lambda _, __, batch: jnp.sum(batch), parallel.create_mesh())
  with pytest.raises(ValueError, match='replicat'):
    run({}, {}, np.arange(16))


@pytest.mark.parametrize('mode', parallel.MODES)
def test_outputs_are_of_the_whole_batch_or_the_same_everywhere_each_as_asked(mode):
  batch = np.arange(32.0).reshape(16, 2)
  run = parallel.data_parallel(
      lambda _, state, batch: (state * batch, lax.psum(jnp.sum(batch), AXIS)),
      parallel.create_mesh(), mode=mode, sharded=(True, False))
  rows, total = run({}, jnp.float32(3), batch)
  np.testing.assert_array_equal(parallel.local_part(rows, 2), 3 * batch)
  assert total == batch.sum()


def test_a_program_costs_what_its_latest_shapes_cost_and_needs_memory_for_its_largest():
  run = parallel.data_parallel(
      lambda _, state, batch: lax.psum(jnp.sum(jnp.tanh(batch @ state)), AXIS),
      parallel.create_mesh())
  state, rows, found = np.ones((64, 32), np.float32), {}, {}
  for count in (80, 8):
    run({}, state, np.ones((count, 64), np.float32))
    rows[count], found[count] = count // 8, run.costs()
  for count, costs in found.items():
    assert 2 * rows[count] * 64 * 32 <= costs.flops < 2 * (rows[count] + 2) * 64 * 32
  assert found[8].bytes < found[80].bytes
  arguments = 4 * (64 * 32 + rows[80] * 64)
  assert run.peak_bytes() == found[8].peak_bytes == found[80].peak_bytes
  assert arguments < run.peak_bytes() < 2 * arguments
  assert f'f32[{rows[8]},64]' in run.hlo() and f'f32[{rows[80]},64]' not in run.hlo()


@pytest.mark.parametrize('donate, held', [(False, 2), (True, 1)])
def test_a_state_that_is_given_up_needs_memory_once(donate, held):
  mesh = parallel.create_mesh()
  run = parallel.data_parallel(
      lambda _, state, batch: state + lax.psum(jnp.sum(batch), AXIS), mesh, donate_state=donate)
  state = parallel.replicate(jnp.ones(100_000), mesh)
  run({}, state, np.arange(16.0))
  assert run.peak_bytes() == pytest.approx(held * 400_000, rel=0.1)


def test_unknown_mode_and_uneven_batches_are_refused():
  with pytest.raises(ValueError, match="config.parallel='pjit'"):
    parallel.data_parallel(lambda *_: None, parallel.create_mesh(), mode='pjit')
  mesh = parallel.create_mesh()
  for size in (12, 4, 0, -8):
    with pytest.raises(ValueError, match=f'config.train.batch_size={size} .* multiple of 8'):
      parallel.check_batch_size(size, mesh, 'train.batch_size')
  parallel.check_batch_size(8, mesh, 'train.batch_size')
