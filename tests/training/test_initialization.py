"""Starting from another run's weights: all that fits, nothing that does not, and saying so."""

import logging
import types

import jax
import numpy as np
import pytest

from configs import quickstart
from kdseg_jax import models
from kdseg_jax.distillers import DistillerState
from kdseg_jax.errors import UserError
from kdseg_jax.training import experiment, loop
from kdseg_jax.training.checkpoint import Checkpointer, CheckpointError
from kdseg_jax.training.initialization import load_initial_weights
from kdseg_jax.training.state import TrainState
from tests import toys

HEAD = ['params/head/bias', 'params/head/kernel']


@pytest.fixture(scope='module', autouse=True)
def toy_model():
  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(models, 'create', lambda name, num_classes, axis_name, output_stride, **_: (
        toys.BodyAndHead(num_classes, axis_name, width=output_stride)))
    yield


def config_of(seed=0):
  config = quickstart.get_config('role=teacher,runlocal')
  config.seed = seed
  return config


def build(config, classes):
  """Experiment and fresh state, on data of these classes; made up, for nothing to compile."""
  built = experiment.create_experiment(config)
  built = built._replace(
      train_source=types.SimpleNamespace(classes=classes),
      student=experiment.create_model(config.student, len(classes)))
  rng = np.random.default_rng(config.seed)
  variables = jax.tree.map(lambda x: rng.normal(size=x.shape).astype(x.dtype),
                           experiment.abstract_variables(built.student))
  return built, TrainState(
      step=np.int32(0), prepare_step=np.int32(0), **variables, opt_state=(),
      distiller=DistillerState(), rng=np.int32(0),
      average=variables if config.train.ema_decay else {})


@pytest.fixture(scope='module')
def source(tmp_path_factory):
  """A work directory of another run, with 3 classes, and its weights."""
  workdir = tmp_path_factory.mktemp('source')
  _, state = build(config_of(seed=5), ['a', 'b', 'c'])
  checkpointer = Checkpointer(str(workdir), metric='mean_iou')
  checkpointer.save(7, state, {'classes': ['a', 'b', 'c']})
  checkpointer.close()
  return str(workdir), state.deployed


def leaves(tree):
  return {jax.tree_util.keystr(path, simple=True, separator='/'): np.asarray(leaf)
          for path, leaf in jax.tree_util.tree_leaves_with_path(tree)}


@pytest.mark.parametrize('field, ema_decay', [('student.init', 0.0), ('train.init_from', 0.9)])
def test_as_many_classes_take_everything(source, field, ema_decay):
  config = config_of()
  config.train.ema_decay = ema_decay
  section, name = field.split('.')
  config[section][name] = source[0]
  built, fresh = build(config, ['a', 'b', 'z'])
  state = load_initial_weights(built._replace(allow_class_names=True), fresh)
  for variables in (state.deployed, {'params': state.params, 'batch_stats': state.batch_stats}):
    jax.tree.map(np.testing.assert_array_equal, variables, source[1])
  assert bool(state.average) == bool(ema_decay) and state.step == 0


def test_as_many_classes_of_other_names_are_refused_or_their_heads_left_out(source, caplog):
  config = config_of()
  config.student.init = source[0]
  with pytest.raises(UserError, match=r'config\.student\.init.* and the data have different classes'
                                      r'(.|\n)*2 c\n(.|\n)*2 z\n(.|\n)*--allow_class_names'):
    load_initial_weights(*build(config, ['a', 'b', 'z']))
  config.student.init, config.train.init_from = '', source[0]
  built, fresh = build(config, ['a', 'b', 'z'])
  state = load_initial_weights(built, fresh)
  got, saved, before = leaves(state.params), leaves(source[1]['params']), leaves(fresh.params)
  heads = {name for name in got if name.startswith('head/')}
  assert heads and '3 there, 3 here, of other names' in caplog.text
  for name in got:
    np.testing.assert_array_equal(got[name], (before if name in heads else saved)[name], name)


def test_heads_of_other_class_counts_are_left_out_and_named(source, caplog):
  config = config_of()
  config.train.init_from = source[0]
  built, fresh = build(config, ['a', 'b', 'c', 'd', 'e'])
  with caplog.at_level(logging.INFO):
    state = load_initial_weights(built, fresh)
  fresh, got = (leaves({'params': x.params, 'batch_stats': x.batch_stats}) for x in (fresh, state))
  want = leaves(source[1])
  for name in got:
    np.testing.assert_array_equal(got[name], (fresh if name in HEAD else want)[name], name)
  assert '(3 there, 5 here): params/head/bias, params/head/kernel.' in caplog.text


def test_everything_else_must_fit(source):
  config = config_of()
  config.train.init_from, config.student.output_stride = source[0], 16
  with pytest.raises(CheckpointError) as error:
    load_initial_weights(*build(config, ['a', 'b']))
  assert 'config.train.init_from: ' in str(error.value)
  assert ('params/body/conv/kernel: expected (3, 3, 3, 16) float32, the checkpoint has '
          '(3, 3, 3, 8) float32') in str(error.value)
  assert 'head' not in str(error.value)


def test_student_init_wants_the_same_number_of_classes(source):
  config = config_of()
  config.student.init = source[0]
  with pytest.raises(CheckpointError, match='trained on 3 classes, and these data have 2, .*'
                                            'params/head/bias.*Set config.train.init_from'):
    load_initial_weights(*build(config, ['a', 'b']))


def test_a_missing_run_is_an_error_before_anything_is_written(tmp_path):
  config = config_of()
  config.student.init = str(tmp_path / 'nowhere')
  with pytest.raises(CheckpointError, match='config.student.init: .* has no checkpoint'):
    loop.train(config, str(tmp_path / 'work'))
  assert not (tmp_path / 'work').exists()
