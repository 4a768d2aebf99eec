"""A preparation is run, logged and saved as the config of its run says."""

import jax.numpy as jnp
import pytest

from kdseg_jax import default_config, parallel
from kdseg_jax.training import experiment as experiments
from kdseg_jax.training import preparations
from tests import toys

pytestmark = pytest.mark.usefixtures('one_device')

# Fields that its run has as the run that needs it has them.
SHARED = {
    'parallel': 'pmap', 'train.compile_level': 1, 'train.batch_size': 24,
    'task.align_corners': False, 'data.train_limit': 300, 'data.train_split': 'val',
    'data.size': (40, 48), 'augmentation.crop': (24, 16), 'augmentation.flip': 0.25,
    'augmentation.scale': (0.75, 1.5), 'prepare.optimizer.momentum': 0.5, 'log.every_steps': 3,
    'checkpoint.every_steps': 4, 'checkpoint.keep': 5, 'teacher.checkpoint': 'teacher'}
# Fields that are of the student alone.
OWN = {'train.steps': 77, 'optimizer.learning_rate': 9.0, 'optimizer.momentum': 0.3,
       'train.accumulate': 4, 'train.ema_decay': 0.9, 'student.width': 0.5, 'eval.batch_size': 3}


class Begun(Exception):
  """Ends a preparation where its run begins."""


@pytest.fixture
def begun(monkeypatch, tmp_path):
  """What a preparation's run begins with."""
  def begin(**fields):
    config = default_config.segmentation('tests.toy_methods:fitting')
    config.update_from_flattened_dict(SHARED | OWN | {
        'prepare.steps': 6, 'prepare.optimizer.learning_rate': 0.5, 'prepare.optimizer.power': 1.0,
        'prepare.optimizer.warmup_steps': 0} | fields)
    model = toys.Model(11, parallel.AXIS)
    teacher = toys.loaded(model, toys.variables(model, jnp.zeros((1, 16, 16, 3), jnp.uint8)))
    with pytest.raises(Begun) as error:
      preparations.prepare(
          experiments.create_experiment(config, teacher=teacher), str(tmp_path), lambda: False)
    return error.value.args

  def run(experiment, path, state, **options):
    raise Begun(experiment, options)
  monkeypatch.setattr(preparations, 'Run', run)
  monkeypatch.setattr(experiments, 'compiled_once', lambda create, mesh: lambda key: 'state')
  monkeypatch.setattr(experiments, 'create_model', lambda *_: toys.Model(11, parallel.AXIS))
  return begin


def at(config, field):
  for name in field.split('.'):
    config = config[name]
  return config


def test_it_is_run_as_the_config_says_and_not_as_the_student(begun):
  experiment, options = begun()
  for field, value in SHARED.items():
    assert at(experiment.config, field) == value, field
  for field, value in OWN.items():
    assert at(experiment.config, field) != value, field
  assert options['phase'] == 'prepare' and options['evaluator'] is None


@pytest.mark.parametrize('fields, seed', [
    ({'seed': 4}, 4), ({'data.seed': 5}, 5), ({'seed': 4, 'data.seed': 5}, 5)])
def test_it_is_of_the_seed_of_the_data(fields, seed, begun):
  experiment, _ = begun(**fields)
  assert (experiment.config.seed, experiment.config.data.seed) == (seed, seed)


def test_the_log_has_the_rate_of_its_optimiser_over_its_steps(begun):
  experiment, _ = begun()
  assert [float(experiment.schedule(step)) for step in (0, 3, 6)] == [0.5, 0.25, 0.0]
