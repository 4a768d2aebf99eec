"""The moving average of the weights: its values, and that it is what is evaluated and saved."""

import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import kdseg_jax
from configs import quickstart
from kdseg_jax.checkpoint import CheckpointError
from kdseg_jax.inference.evaluation import Evaluator
from kdseg_jax.training import loop
from kdseg_jax.training.state import move_average
from tests import runs

pytestmark = pytest.mark.usefixtures('toy_models')


def test_three_updates_by_hand():
  average = {'w': jnp.array([7.0, -7.0])}  # what it was before the first has no share
  latest = [np.array([1.0, 2.0]), np.array([2.0, 2.0]), np.array([4.0, 2.0])]
  expected = [latest[0], (0.75 * latest[0] + latest[1]) / 1.75,
              (0.5625 * latest[0] + 0.75 * latest[1] + latest[2]) / 2.3125]
  for k in range(3):
    average = move_average(average, {'w': jnp.float32(latest[k])}, jnp.int32(k + 1), 0.75)
    np.testing.assert_allclose(average['w'], expected[k], rtol=1e-5)
  again = move_average(average, average, jnp.int32(4), 0.75)
  np.testing.assert_array_equal(again['w'], average['w'])  # what stands still stays, to the bit


def test_long_averages_forget_the_start_and_keep_their_scale():
  average = {'w': jnp.float32(0)}
  update = jax.jit(lambda average, k: move_average(
      average, {'w': jnp.float32(0.1) + 0.01 * (k % 2)}, k, 0.999))
  for k in range(1, 200):
    average = update(average, jnp.int32(k))
  np.testing.assert_allclose(average['w'], 0.105, rtol=1e-3)


def config_of():
  config = quickstart.get_config('role=teacher,runlocal')
  config.train.update(steps=4, ema_decay=0.75)
  config.optimizer.update(schedule='constant', learning_rate=0.05)
  config.checkpoint.update(every_steps=1, keep=4)
  config.eval.every_steps = 0
  return config


@pytest.fixture(scope='module')
def run(tmp_path_factory):
  workdir = tmp_path_factory.mktemp('run')
  loop.train(config_of(), str(workdir))
  return workdir


def test_the_model_of_a_checkpoint_is_the_average_of_the_weights_that_were_trained(run):
  steps = [runs.saved(run, step) for step in (1, 2, 3, 4)]
  names = [name for name in steps[0] if name.startswith('model/')]
  assert {name.split('/')[1] for name in names} == {'params', 'batch_stats'}
  for name in names:
    raw = [step[name.replace('model', 'training')] for step in steps]
    weights = np.array([0.75**3, 0.75**2, 0.75, 1])
    expected = np.tensordot(weights / weights.sum(), np.stack(raw), 1)
    np.testing.assert_allclose(steps[3][name], expected, rtol=1e-3, atol=1e-6)
    assert not np.array_equal(steps[3][name], raw[3])


def test_a_resumed_run_evaluates_the_average_and_ends_bit_identical(run, tmp_path, monkeypatch):
  shutil.copytree(run / 'checkpoints' / '2', tmp_path / 'checkpoints' / '2')
  evaluated = []
  original = Evaluator.__call__
  monkeypatch.setattr(Evaluator, '__call__', lambda self, variables, source, **kwargs: (
      evaluated.append(variables), original(self, variables, source, **kwargs))[1])
  config = config_of()
  config.student.init = str(tmp_path / 'nowhere')  # of no concern to a run that goes on
  loop.train(config, str(tmp_path))
  got, want = runs.saved(tmp_path, 4), runs.saved(run, 4)
  assert got.keys() == want.keys()
  for name in want:
    np.testing.assert_array_equal(got[name], want[name], err_msg=name)
  loaded = kdseg_jax.load(run, checkpoint='latest')
  for variables in (*evaluated, loaded.variables):
    np.testing.assert_array_equal(
        variables['params']['Conv_0']['kernel'], want['model/params/Conv_0/kernel'])
  assert len(evaluated) == 1


def test_the_average_cannot_be_dropped_when_going_on(run):
  config = config_of()
  config.train.ema_decay = 0.0
  with pytest.raises(CheckpointError, match='was saved with a moving average .* above 0'):
    loop.train(config, str(run))
