"""A work directory whose run goes on with another config: what can, does; the rest is named."""

import json

import numpy as np
import pytest

from configs import quickstart
from kdseg_jax import models
from kdseg_jax.training import loop
from kdseg_jax.training.checkpoint import Checkpointer, CheckpointError
from tests import runs, toys


@pytest.fixture(scope='module', autouse=True)
def toy_model():
  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(models, 'create', lambda name, num_classes, axis_name, **_: toys.BodyAndHead(
        num_classes=num_classes, axis_name=axis_name, width=8 if name.endswith('18') else 12))
    yield


@pytest.fixture(scope='module')
def teacher(tmp_path_factory):
  workdir = tmp_path_factory.mktemp('teacher')
  loop.train(quickstart.get_config('role=teacher,runlocal'), str(workdir))
  return workdir


def train(workdir, teacher, method, steps, changes=()):
  config = quickstart.get_config(f'method={method},runlocal')
  config.teacher.checkpoint = str(teacher)
  config.optimizer.update(name='sgd', learning_rate=0.01)
  config.train.steps = steps
  config.eval.limit = 8
  for field, value in dict(changes).items():
    config.update_from_flattened_dict({field: value})
  loop.train(config, str(workdir))


@pytest.mark.parametrize('before, after, changes', [
    ('kd', 'kd', {'optimizer.clip_norm': 1.0}),
    ('kd', 'kd', {'optimizer.decay': 'all', 'optimizer.weight_decay': 0.1}),
    ('kd', 'kd', {'optimizer.learning_rate': 0.1, 'optimizer.schedule': 'constant'}),
    ('kd', 'kd', {'optimizer.nesterov': True}),
    ('kd', 'kd', {'distill.kd.weight': 3.0, 'critic.optimizer.clip_norm': 1.0}),
    ('kd', 'kd+pairwise', {}),
    ('kd+pairwise', 'pairwise', {}),
    ('none', 'kd', {}),
    ('fitnets', 'fitnets+pairwise', {'optimizer.clip_norm': 1.0}),  # with params of its own
    ('holistic', 'holistic+kd', {'critic.optimizer.clip_norm': 1.0}),  # critic and memory
])
def test_what_changes_no_state_goes_on(before, after, changes, teacher, tmp_path, caplog):
  train(tmp_path, teacher, before, steps=2)
  first = runs.saved(tmp_path, 2)
  train(tmp_path, teacher, after, steps=3, changes=changes)
  second = runs.saved(tmp_path, 3)
  assert second['training/step'] == 3
  momentum = [name for name in first if 'trace' in name and 'body' in name]
  assert momentum and np.any(first[momentum[0]])
  assert [row['step'] for row in runs.rows(tmp_path) if row['phase'] == 'train'] == [1, 2, 3]
  for field in changes:
    assert f'config.{field} is ' in caplog.text


def test_what_goes_on_is_what_was_saved_and_lands_on_its_own_leaf(teacher, tmp_path):
  """A link of a chain that comes first moves the numbers of those after it."""
  train(tmp_path, teacher, 'fitnets', steps=2)
  saved = runs.saved(tmp_path, 2)
  train(tmp_path, teacher, 'fitnets', steps=3, changes={
      'optimizer.clip_norm': 1e6, 'optimizer.learning_rate': 0.0, 'optimizer.weight_decay': 0.0})
  again = runs.saved(tmp_path, 3)
  for name in saved:
    if name.startswith('model/params') or 'distiller/params' in name and 'trace' not in name:
      np.testing.assert_array_equal(again[name], saved[name], err_msg=name)


@pytest.mark.parametrize('before, after, changes, named', [
    ('kd', 'kd', {'optimizer.name': 'adamw'}, "config.optimizer.name is 'adamw' now and was 'sgd'"),
    ('kd', 'kd', {'optimizer.momentum': 0.0}, 'config.optimizer.momentum is 0.0 now and was 0.9'),
    ('kd', 'fitnets+kd', {}, "config.method is 'fitnets+kd' now and was 'kd'"),
    ('kd', 'holistic', {}, "config.method is 'holistic' now and was 'kd'"),
    ('fitnets', 'kd', {}, "config.method is 'kd' now and was 'fitnets'"),
    ('kd', 'kd', {'student.name': 'deeplabv3_resnet50'}, 'config.student.name is '),
    ('kd', 'kd', {'train.freeze': ('body/*',)}, "config.train.freeze is ['body/*'] now and was []"),
    ('kd', 'kd', {'train.ema_decay': 0.9}, 'config.train.ema_decay is 0.9 now and was 0.0'),
])
def test_what_changes_the_state_is_one_message_with_the_fields(
    before, after, changes, named, teacher, tmp_path):
  train(tmp_path, teacher, before, steps=2)
  config = (tmp_path / 'config.json').read_text()
  with pytest.raises(CheckpointError) as error:
    train(tmp_path, teacher, after, steps=3, changes=changes)
  message = str(error.value)
  assert named in message and 'take another --workdir' in message and len(message) < 2000
  assert Checkpointer(tmp_path).latest_step() == 2
  assert json.loads((tmp_path / 'config.json').read_text()) == json.loads(config)
