"""Checkpoints: what is kept, what comes back, what is refused."""

import json
import logging
import math
import os
import zlib
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from kdseg_jax import checkpoint, parallel
from kdseg_jax.checkpoint import Checkpointer, CheckpointError, describe_differences
from kdseg_jax.distillers import DistillerState
from kdseg_jax.training.state import Optimizers, TrainState


def state_of(step=0, width=4):
  tx = optax.chain(optax.clip_by_global_norm(1.0), optax.sgd(optax.constant_schedule(0.1), 0.9))
  params = {'conv': {'kernel': jnp.full((3, width), 0.5 + step)}}
  return TrainState(
      step=jnp.int32(step), params=params,
      batch_stats={'bn': {'mean': jnp.ones(width)}},
      opt_state=Optimizers(tx.init({'student': params, 'distiller': {'x': {}}}),
                           tx.init({})),
      distiller=DistillerState({'x': {}}, {}, {}, {'x': {'queue': jnp.arange(6.0)}}),
      rng=jax.random.key(5))


def steps_of(workdir):
  return sorted(int(name) for name in os.listdir(workdir / 'checkpoints') if name.isdigit())


def test_everything_comes_back_with_its_types(tmp_path):
  checkpointer = Checkpointer(tmp_path, metric='mean_iou')
  checkpointer.save(7, state_of(7), {'config': {'a': [1, 2]}})
  checkpointer.close()
  checkpointer = Checkpointer(tmp_path)
  restored = checkpointer.restore(7, state_of())
  assert jax.tree.structure(restored) == jax.tree.structure(state_of())
  for got, want in zip(jax.tree.leaves(restored._replace(rng=0)),
                       jax.tree.leaves(state_of(7)._replace(rng=0)), strict=True):
    np.testing.assert_array_equal(got, want)
  assert jax.random.normal(restored.rng) == jax.random.normal(jax.random.key(5))
  meta = checkpointer.read_meta(7)
  checksums = meta.pop('checksums')
  assert meta == {'config': {'a': [1, 2]}, 'metric': 'mean_iou', 'maximize': True}
  kernel = np.asarray(state_of(7).params['conv']['kernel']).tobytes()
  assert checksums['model']['params/conv/kernel'] == zlib.crc32(kernel)
  assert {'step', 'rng'} < {*checksums['training']}


@pytest.mark.parametrize('item', ['model', 'training'])
def test_one_bit_that_has_changed_on_disk_is_found(item, tmp_path):
  """The library has checksums of its index alone, and gives other weights without a word."""
  state, rng = state_of(7, width=4096), np.random.default_rng(0)  # small ones lie in its index
  noise = jnp.asarray(rng.normal(size=(3, 4096)), jnp.float32)
  state = state._replace(params={'conv': {'kernel': noise}}, distiller=state.distiller._replace(
      memory={'x': {'queue': noise}}))
  checkpointer = Checkpointer(tmp_path, metric='mean_iou')
  checkpointer.save(7, state, {})
  checkpointer.close()
  files = {path: path.read_bytes() for path in (tmp_path / 'checkpoints' / '7' / item).rglob('*')
           if path.is_file()}
  size = max(map(len, files.values()))
  refused = 0
  for place in rng.integers(0, size, 8):
    for path, content in files.items():
      if len(content) == size:  # the arrays, of which there may be a copy that is not read
        damaged = bytearray(content)
        damaged[place] ^= 1 << 4
        path.write_bytes(damaged)
    try:
      restored = Checkpointer(tmp_path).restore(7, state)
    except CheckpointError as error:
      assert 'it is damaged or incomplete' in str(error)
      refused += 1
    else:  # a byte that nothing is read from
      assert describe_differences(restored._asdict(), state._asdict()) == ''
      np.testing.assert_array_equal(restored.params['conv']['kernel'], noise)
      np.testing.assert_array_equal(restored.distiller.memory['x']['queue'], noise)
  assert refused


@pytest.mark.parametrize('read', ['restore', 'restore_model'])
def test_arrays_are_compared_with_their_checksums_whoever_reads_them(read, tmp_path, monkeypatch):
  checkpointer = Checkpointer(tmp_path, metric='mean_iou')
  checkpointer.save(7, state_of(7), {})
  checkpointer.close()
  like = state_of() if read == 'restore' else {
      'params': state_of().params, 'batch_stats': state_of().batch_stats}
  getattr(Checkpointer(tmp_path), read)(7, like)
  monkeypatch.setattr(checkpoint, '_checksums', lambda tree: {'params/conv/kernel': -1})
  with pytest.raises(CheckpointError, match='1 arrays have another checksum .*conv/kernel'):
    getattr(Checkpointer(tmp_path), read)(7, like)


def test_a_model_that_was_not_trained_here_has_checksums_too(tmp_path):
  state = state_of(7)
  variables = {'params': state.params, 'batch_stats': state.batch_stats}
  checkpointer = Checkpointer(tmp_path, metric='mean_iou')
  checkpointer.save(1, state, {})
  checkpointer.save_model(variables, {})
  checkpointer.close()
  checksums = [Checkpointer(tmp_path).read_meta(step)['checksums'] for step in (0, 1)]
  assert checksums[0] == {'model': checksums[1]['model']}


def test_checkpoints_from_before_checksums_are_read(tmp_path, monkeypatch):
  checkpointer = Checkpointer(tmp_path, metric='mean_iou')
  monkeypatch.setattr(
      checkpointer, '_own_meta', lambda **_: {'metric': 'mean_iou', 'maximize': True})
  checkpointer.save(7, state_of(7), {})
  checkpointer.close()
  assert Checkpointer(tmp_path).restore(7, state_of()).step == 7


def test_a_run_from_before_critics_had_optimisers_of_their_own_goes_on(tmp_path):
  old = state_of(7)  # it has counters of a critic that it does not have
  checkpointer = Checkpointer(tmp_path, metric='mean_iou')
  checkpointer.save(7, old, {})
  checkpointer.close()
  checkpointer = Checkpointer(tmp_path)
  like = state_of()._replace(opt_state=state_of().opt_state._replace(critic={}))
  restored = checkpointer.restore(7, like)
  assert jax.tree.structure(restored) == jax.tree.structure(like)
  np.testing.assert_array_equal(
      restored.params['conv']['kernel'], old.params['conv']['kernel'])
  jax.tree.map(np.testing.assert_array_equal, restored.opt_state.trained, old.opt_state.trained)


def test_a_run_from_before_preparations_were_runs_of_their_own_goes_on(tmp_path):
  """Its checkpoints hold a counter, and one of an optimiser, of a phase that it did not have."""
  class OldOptimizers(NamedTuple):
    trained: Any
    critic: Any
    prepared: Any
  new = state_of(7)
  model, training = checkpoint._split(new)
  counters = optax.scale_by_schedule(lambda step: 0.1).init({})
  training |= {'prepare_step': jnp.int32(0),
               'opt_state': OldOptimizers(*new.opt_state, prepared=counters)}
  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(checkpoint, '_split', lambda state: (model, training))
    checkpointer = Checkpointer(tmp_path, metric='mean_iou')
    checkpointer.save(7, new, {})
    checkpointer.close()
  restored = Checkpointer(tmp_path).restore(7, state_of())
  assert jax.tree.structure(restored) == jax.tree.structure(new) and restored.step == 7
  jax.tree.map(np.testing.assert_array_equal, restored.opt_state, new.opt_state)


def test_the_latest_and_the_best_are_kept_and_nan_is_never_the_best(tmp_path):
  checkpointer = Checkpointer(tmp_path, metric='mean_iou', keep=1)
  for step, value in [(1, 0.4), (2, 0.9), (3, math.nan), (4, 0.5), (5, None)]:
    metrics = None if value is None else {'mean_iou': value}
    checkpointer.save(step, state_of(step), {}, metrics)
  checkpointer.close()
  assert steps_of(tmp_path) == [2, 5]
  reopened = Checkpointer(tmp_path)
  assert reopened.best_step() == 2 and reopened.latest_step() == 5


@pytest.mark.parametrize('metric, maximize', [
    ('mean_iou', True), ('accuracy', True), ('error', False)])
def test_the_best_is_known_to_a_reader_that_does_not_name_the_metric(metric, maximize, tmp_path):
  checkpointer = Checkpointer(tmp_path, metric=metric, maximize=maximize)
  sign = 1 if maximize else -1
  for step, value in [(1, 0.9), (2, 0.1), (3, 0.2), (4, math.nan)]:
    checkpointer.save(step, state_of(step), {}, {metric: sign * value, 'images': 10 * step})
  checkpointer.close()
  assert steps_of(tmp_path) == [1, 3, 4]
  assert Checkpointer(tmp_path).best_step() == 1


def test_checkpoints_from_before_the_name_was_saved_are_read(tmp_path):
  checkpointer = Checkpointer(tmp_path, metric='mean_iou')
  for step, value in [(1, 0.9), (2, 0.1)]:
    checkpointer.save(step, state_of(step), {'classes': []}, {'mean_iou': value})
  checkpointer.close()
  for path in (tmp_path / 'checkpoints').glob('*/meta/metadata'):
    assert json.loads(path.read_text()).pop('metric') == 'mean_iou'
    path.write_text('{"classes": []}')
  assert Checkpointer(tmp_path).best_step() == 1


def test_a_step_that_is_saved_again_is_replaced_and_may_be_the_best(tmp_path):
  checkpointer = Checkpointer(tmp_path, metric='mean_iou', keep=1)
  checkpointer.save(1, state_of(1), {}, {'mean_iou': 0.5})
  checkpointer.save(2, state_of(2), {})
  checkpointer.close()
  checkpointer = Checkpointer(tmp_path, metric='mean_iou', keep=1)
  assert [checkpointer.has_metrics(step) for step in (1, 2)] == [True, False]
  checkpointer.save(2, state_of(2), {}, {'mean_iou': 0.7})
  checkpointer.save(3, state_of(3), {}, {'mean_iou': 0.6})
  checkpointer.close()
  assert steps_of(tmp_path) == [2, 3]
  assert Checkpointer(tmp_path).best_step() == 2 and Checkpointer(tmp_path).has_metrics(2)


def test_without_metrics_the_best_is_the_latest(tmp_path):
  checkpointer = Checkpointer(tmp_path, metric='mean_iou')
  checkpointer.save(3, state_of(3), {})
  checkpointer.close()
  assert Checkpointer(tmp_path).best_step() == 3


def test_a_missing_checkpoint_is_a_clear_error(tmp_path):
  with pytest.raises(CheckpointError, match='has no checkpoint'):
    Checkpointer(tmp_path / 'nowhere')
  assert not (tmp_path / 'nowhere').exists()
  (tmp_path / 'empty' / 'checkpoints').mkdir(parents=True)
  with pytest.raises(CheckpointError, match='has no checkpoint'):
    Checkpointer(tmp_path / 'empty')


@pytest.mark.parametrize('pattern', ['*/training/manifest.ocdbt', '*/training/_METADATA',
                                     '*/training/**/d/*', '*/meta/metadata'])
@pytest.mark.parametrize('damage', ['cut', 'gone'])
def test_a_damaged_checkpoint_is_one_message_that_names_it(pattern, damage, tmp_path):
  checkpointer = Checkpointer(tmp_path, metric='mean_iou')
  checkpointer.save(1, state_of(1), {'classes': [], 'data': {'next_batch': 1}})
  checkpointer.close()
  found = list((tmp_path / 'checkpoints').glob(pattern))
  assert found
  for path in found:
    path.write_bytes(path.read_bytes()[:3]) if damage == 'cut' else path.unlink()
  with pytest.raises(CheckpointError, match='checkpoints/1: cannot be read: it is damaged'):
    reader = Checkpointer(tmp_path)
    reader.restore(1, state_of())


def test_a_checkpoint_that_cannot_be_written_is_one_message(tmp_path, monkeypatch):
  (tmp_path / 'file').write_text('')
  with pytest.raises(CheckpointError, match='file/checkpoints: cannot be opened'):
    Checkpointer(tmp_path / 'file', metric='mean_iou')
  checkpointer = Checkpointer(tmp_path, metric='mean_iou')

  def full(*_, **__):
    raise OSError(28, 'No space left on device')
  monkeypatch.setattr(checkpointer._manager, 'save', full)
  with pytest.raises(CheckpointError, match='checkpoints/1: cannot be written: .*No space left'):
    checkpointer.save(1, state_of(1), {})


@pytest.mark.parametrize('error', [MemoryError, jax.errors.JaxRuntimeError])
def test_what_the_devices_refuse_is_no_error_of_a_file(error, tmp_path, monkeypatch):
  checkpointer = Checkpointer(tmp_path, metric='mean_iou')

  def failing(*_, **__):
    raise error('RESOURCE_EXHAUSTED')
  monkeypatch.setattr(checkpointer._manager, 'save', failing)
  with pytest.raises(error, match='^RESOURCE_EXHAUSTED'):
    checkpointer.save(1, state_of(1), {})


def test_saved_steps_are_whole_checkpoints_in_the_order_of_their_numbers(tmp_path):
  assert checkpoint.saved_steps(str(tmp_path)) == []
  folder = tmp_path / checkpoint.FOLDER
  (folder / '5.orbax-checkpoint-tmp').mkdir(parents=True)  # cut short
  assert not checkpoint.has_checkpoint(str(tmp_path))
  for step in (10, 9, 100):
    (folder / str(step)).mkdir()
  assert checkpoint.saved_steps(str(tmp_path)) == [9, 10, 100]
  assert checkpoint.has_checkpoint(str(tmp_path))


@pytest.mark.parametrize('averaged', [False, True])
def test_an_average_is_neither_dropped_nor_begun_when_going_on(averaged, tmp_path):
  plain = state_of(1)
  average = plain._replace(average={'params': plain.params, 'batch_stats': plain.batch_stats})
  saved, like = (average, plain) if averaged else (plain, average)
  checkpointer = Checkpointer(tmp_path, metric='mean_iou')
  checkpointer.save(1, saved, {})
  checkpointer.close()
  message = 'with a moving .* be above 0' if averaged else 'without a moving .* be 0 to'
  with pytest.raises(CheckpointError, match=message):
    Checkpointer(tmp_path).restore(1, like)


def test_a_mismatch_names_the_leaves(tmp_path):
  checkpointer = Checkpointer(tmp_path, metric='mean_iou')
  checkpointer.save(1, state_of(1), {})
  checkpointer.close()
  reader = Checkpointer(tmp_path)
  with pytest.raises(CheckpointError, match=r'params/conv/kernel: expected \(3, 5\) float32, the '
                                            r'checkpoint has \(3, 4\) float32'):
    reader.restore(1, state_of(0, width=5))
  like = {'params': {'head': {'bias': jnp.ones(2)}}, 'batch_stats': {}}
  with pytest.raises(CheckpointError) as error:
    reader.restore_model(1, like)
  assert 'params/head/bias: expected (2,) float32, not in the checkpoint' in str(error.value)
  assert 'params/conv/kernel: not expected' in str(error.value)


def test_restore_model_gives_the_model_alone(tmp_path):
  checkpointer = Checkpointer(tmp_path, metric='mean_iou')
  checkpointer.save(1, state_of(1), {})
  checkpointer.close()
  like = {'params': state_of().params, 'batch_stats': state_of().batch_stats}
  variables = Checkpointer(tmp_path).restore_model(1, like)
  np.testing.assert_array_equal(variables['params']['conv']['kernel'], np.full((3, 4), 1.5))
  assert set(variables) == {'params', 'batch_stats'}


def test_reading_says_nothing_and_changes_nothing(tmp_path, caplog):
  checkpointer = Checkpointer(tmp_path, metric='mean_iou')
  checkpointer.save(1, state_of(1), {}, {'mean_iou': 0.5})
  checkpointer.close()
  (tmp_path / 'checkpoints' / '2.orbax-checkpoint-tmp').mkdir()  # cut short, or being written
  files = lambda: {path: path.stat().st_mtime_ns for path in tmp_path.rglob('*')}
  before = files()
  caplog.clear()
  reader = Checkpointer(tmp_path)
  reader.restore_model(
      reader.best_step(), {'params': state_of().params, 'batch_stats': state_of().batch_stats})
  reader.close()
  assert [r.getMessage() for r in caplog.records if r.levelno >= logging.WARNING] == []
  assert files() == before


def test_a_long_list_of_differences_is_cut_and_counted():
  saved = {f'w{i:02d}': jnp.ones(2) for i in range(20)}
  text = describe_differences(saved, {}, limit=3)
  assert text.count('not expected') == 3 and text.endswith('... and 17 more')
  assert describe_differences(saved, saved) == ''


def test_what_all_devices_hold_is_saved_without_compiling_and_comes_back_to_all(tmp_path, caplog):
  """Orbax would slice it, one slice a device, and compile each."""
  state = parallel.replicate(state_of(7, width=104), parallel.create_mesh())
  checkpointer = Checkpointer(tmp_path, metric='mean_iou')
  with jax.log_compiles(), caplog.at_level(logging.DEBUG, 'jax'):
    checkpointer.save(7, state, {})
    checkpointer.close()
  assert not [r.getMessage() for r in caplog.records if 'ompil' in r.getMessage()]
  restored = Checkpointer(tmp_path).restore(7, state)
  bits = lambda state: state._replace(rng=jax.random.key_data(state.rng))
  for got, want in zip(*(jax.tree.leaves(bits(x)) for x in (restored, state)), strict=True):
    assert got.sharding.is_equivalent_to(want.sharding, want.ndim)
    np.testing.assert_array_equal(got, want)


@pytest.mark.parametrize('on_all_devices', [False, True])
def test_values_are_those_of_the_time_of_saving(on_all_devices, tmp_path):
  """Saving is asynchronous; the buffers that the next step is given must not be read late."""
  add = jax.jit(lambda state: state._replace(params=jax.tree.map(lambda x: x + 1, state.params)),
                donate_argnums=0)
  state = state_of(0, width=100_000)
  if on_all_devices:
    state = parallel.replicate(state, parallel.create_mesh())
  checkpointer = Checkpointer(tmp_path, metric='mean_iou')
  checkpointer.save(1, state, {})
  for _ in range(20):
    state = add(state)
  checkpointer.close()
  reader = Checkpointer(tmp_path)
  restored = reader.restore(1, state_of(0, width=100_000))
  np.testing.assert_array_equal(restored.params['conv']['kernel'], np.full((3, 100_000), 0.5))
