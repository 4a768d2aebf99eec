"""A work directory whose run goes on with another config: what can, does; the rest is named."""

import re
import zlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from configs import quickstart
from kdseg_jax import models
from kdseg_jax.checkpoint import Checkpointer, CheckpointError
from kdseg_jax.training import experiment as experiments
from kdseg_jax.training.run import Run
from kdseg_jax.training.state import create_state
from tests import toys


@pytest.fixture(autouse=True)
def toy_model(monkeypatch):
  monkeypatch.setattr(models, 'create', lambda name, num_classes, axis_name, **_: toys.BodyAndHead(
      num_classes=num_classes, axis_name=axis_name, width=8 if name.endswith('18') else 12))


def value_of(path):
  """A number of the leaf's own, whatever its place in the chain of an optimiser."""
  name = re.sub(r'\[\d+\]', '', jax.tree_util.keystr(path))
  return zlib.crc32(name.encode()) % 251


def open_run(workdir, method, changes=()):
  """A run before its first step, or where it goes on; nothing is compiled."""
  config = quickstart.get_config(f'method={method},runlocal')
  config.teacher.checkpoint = 'teacher'
  config.optimizer.update(name='sgd')
  config.update_from_flattened_dict(dict(changes))
  experiment = experiments.create_experiment(config, teacher=toys.loaded(
      toys.BodyAndHead(num_classes=11, axis_name='data'), workdir='teacher', step=1))
  inputs = experiments.abstract_inputs(experiment)
  state = jax.eval_shape(
      lambda rng: create_state(rng, experiment.student, experiment.distiller,
                               experiment.optimizers, inputs, average=config.train.ema_decay > 0),
      jax.random.key(0))
  fresh = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), state._replace(rng=jnp.int32(0)))
  return Run(experiment, str(workdir), fresh._replace(rng=jax.random.key(0)), evaluator=None,
             should_stop=lambda: False)


def save(run):
  """Saves the state with a number of its own in every leaf."""
  state = jax.tree_util.tree_map_with_path(
      lambda path, x: jnp.full(x.shape, value_of(path), x.dtype),
      run.state._replace(rng=jnp.int32(0)))
  run.state = state._replace(rng=run.state.rng, step=jnp.int32(2))
  run._save(None)
  run.close()


@pytest.mark.parametrize('before, after, changes', [
    ('kd', 'kd', {'optimizer.clip_norm': 1.0}),
    ('kd', 'kd', {'optimizer.decay': 'all', 'optimizer.weight_decay': 0.1}),
    ('kd', 'kd', {'optimizer.learning_rate': 0.1, 'optimizer.schedule': 'constant'}),
    ('kd', 'kd', {'optimizer.nesterov': True, 'train.steps': 9}),
    ('kd', 'kd', {'distill.kd.weight': 3.0, 'critic.optimizer.clip_norm': 1.0}),
    ('kd', 'kd+pairwise', {}),
    ('kd+pairwise', 'pairwise', {}),
    ('none', 'kd', {}),
    ('fitnets', 'fitnets+pairwise', {'optimizer.clip_norm': 1.0}),  # with params of its own
    ('holistic', 'kd+holistic', {'critic.optimizer.clip_norm': 1.0}),  # critic and memory
])
def test_what_changes_no_state_goes_on_with_every_value_in_its_place(
    before, after, changes, tmp_path, caplog):
  save(open_run(tmp_path, before))
  caplog.set_level('WARNING')
  run = open_run(tmp_path, after, changes)
  run.close()
  assert run.done == 2
  leaves = jax.tree_util.tree_leaves_with_path(run.state._replace(rng=0, step=0))
  assert sum('trace' in jax.tree_util.keystr(path) for path, _ in leaves) > 4
  for path, leaf in leaves:
    if np.ndim(leaf) or 'count' in jax.tree_util.keystr(path):
      assert np.all(np.asarray(leaf) == value_of(path)), path
  for field, value in changes.items():
    assert f'config.{field} is {value!r} now and was ' in caplog.text


@pytest.mark.parametrize('before, after, changes, named', [
    ('kd', 'kd', {'optimizer.name': 'adamw'}, "config.optimizer.name is 'adamw' now and was 'sgd'"),
    ('kd', 'kd', {'optimizer.momentum': 0.0}, 'config.optimizer.momentum is 0.0 now and was 0.9'),
    ('kd', 'fitnets', {}, "config.method is 'fitnets' now and was 'kd'"),
    ('kd', 'holistic', {}, "config.method is 'holistic' now and was 'kd'"),
    ('fitnets', 'kd', {}, "config.method is 'kd' now and was 'fitnets'"),
    ('kd', 'kd', {'student.name': 'deeplabv3_resnet50'}, 'config.student.name is '),
    ('kd', 'kd', {'train.freeze': ('body/*',)}, "config.train.freeze is ['body/*'] now and was []"),
    ('kd', 'kd', {'train.ema_decay': 0.9}, 'config.train.ema_decay is 0.9 now and was 0.0'),
])
def test_what_changes_the_state_is_one_message_with_the_fields(
    before, after, changes, named, tmp_path):
  save(open_run(tmp_path, before))
  config = (tmp_path / 'config.json').read_text()
  with pytest.raises(CheckpointError) as error:
    open_run(tmp_path, after, changes)
  message = str(error.value)
  assert named in message and 'take another --workdir' in message and len(message) < 2500
  assert Checkpointer(tmp_path).latest_step() == 2
  assert (tmp_path / 'config.json').read_text() == config
