"""Starting from another run's weights: all that fits, nothing that does not, and saying so."""

import logging
import types

import flax.linen as nn
import jax
import numpy as np
import pytest

from configs import quickstart
from kdseg_jax import config_files, models
from kdseg_jax.checkpoint import Checkpointer, CheckpointError
from kdseg_jax.distillers import DistillerState
from kdseg_jax.errors import UserError
from kdseg_jax.models.normalization import Preprocessing
from kdseg_jax.training import experiment, initialization, loop
from kdseg_jax.training.initialization import load_initial_weights
from kdseg_jax.training.state import TrainState
from tests import toys

real_create = models.create  # the others have toys
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
      step=np.int32(0), **variables, opt_state=(),
      distiller=DistillerState(), rng=np.int32(0),
      average=variables if config.train.ema_decay else {})


def save(workdir, classes, **student):
  """Saves a run of seed 5 on these classes; returns its weights."""
  config = config_of(seed=5)
  _, state = build(config, classes)
  config.student.update(student)
  checkpointer = Checkpointer(str(workdir), metric='mean_iou')
  checkpointer.save(7, state, {'classes': classes, 'config': config_files.to_dict(config)})
  checkpointer.close()
  return state.deployed


def test_of_several_checkpoints_the_best_is_taken(tmp_path):
  saved, classes = config_of(), ['a', 'b', 'c']
  checkpointer = Checkpointer(str(tmp_path), metric='mean_iou')
  for step, mean_iou in ((3, 0.5), (7, 0.4)):
    saved.seed = step
    _, state = build(saved, classes)
    meta = {'classes': classes, 'config': config_files.to_dict(saved)}
    checkpointer.save(step, state, meta, metrics={'mean_iou': mean_iou})
    if step == 3:
      best = state.params
  checkpointer.close()
  config = config_of()
  config.student.init = str(tmp_path)
  state = load_initial_weights(*build(config, classes))
  jax.tree.map(np.testing.assert_array_equal, state.params, best)


@pytest.fixture(scope='module')
def source(tmp_path_factory):
  """A work directory of another run, with 3 classes, and its weights."""
  workdir = tmp_path_factory.mktemp('source')
  return str(workdir), save(workdir, ['a', 'b', 'c'])


def leaves(tree):
  return {jax.tree_util.keystr(path, simple=True, separator='/'): np.asarray(leaf)
          for path, leaf in jax.tree_util.tree_leaves_with_path(tree)}


@pytest.mark.parametrize('ema_decay', [0.0, 0.9])
def test_the_same_classes_take_everything(source, ema_decay):
  config = config_of()
  config.student.init, config.train.ema_decay = source[0], ema_decay
  state = load_initial_weights(*build(config, ['a', 'b', 'c']))
  for variables in (state.deployed, {'params': state.params, 'batch_stats': state.batch_stats}):
    jax.tree.map(np.testing.assert_array_equal, variables, source[1])
  assert bool(state.average) == bool(ema_decay) and state.step == 0


def test_a_name_is_the_same_however_its_accents_are_written(tmp_path, caplog):
  weights = save(tmp_path, ['caf\u00e9', 'b'])
  config = config_of()
  config.student.init = str(tmp_path)
  state = load_initial_weights(*build(config, ['cafe\u0301', 'b']))
  jax.tree.map(np.testing.assert_array_equal, state.deployed, weights)


class Backboned(nn.Module):
  """A model with a backbone, as classifiers and segmenters share it."""

  num_classes: int = 3

  @nn.compact
  def __call__(self, image, mask=None, index=None, train=False):
    x = toys.ConvNorm(4, name='backbone')(image / 255, train)
    x = nn.Conv(self.num_classes, (1, 1), name='head')(x)
    return x, {'logits': x}


@pytest.mark.parametrize('published', [False, True])
def test_of_a_classifier_a_segmenter_takes_the_backbone_alone(
    published, tmp_path, monkeypatch, caplog):
  monkeypatch.setattr(models, 'create', lambda name, num_classes, **_: Backboned(num_classes))
  weights = save(tmp_path, ['a', 'b', 'c'], name='resnet18')
  config = config_of()
  config.student.update(name='deeplabv3_resnet18', init=str(tmp_path), width=1.0)
  if published:
    config.student.init = 'imagenet'
    student = config.student
    found = types.SimpleNamespace(
        variables=leaves(weights) | {'params/fc/kernel': np.ones(4)}, where='a hub',
        preprocessing=Preprocessing(tuple(student.mean), tuple(student.std), 'rgb'))
    monkeypatch.setattr(initialization.pretrained, 'load', lambda init, backbone: (
        {('imagenet', 'resnet18'): found}[init, backbone]))
  built, fresh = build(config, ['a', 'b', 'c'])
  state = load_initial_weights(built, fresh)
  got, saved, before = (leaves({'params': x['params'], 'batch_stats': x['batch_stats']}) for x in (
      state._asdict(), weights, fresh._asdict()))
  for name in got:
    wanted = saved if name.split('/')[1] == 'backbone' else before
    np.testing.assert_array_equal(got[name], wanted[name], name)
  assert 'only the backbone is in a classifier: params/head/bias, params/head/k' in caplog.text


def test_as_many_classes_of_other_names_leave_the_heads_out(source, caplog):
  config = config_of()
  config.student.init = source[0]
  built, fresh = build(config, ['a', 'b', 'z'])
  state = load_initial_weights(built._replace(allow_class_names=True), fresh)
  jax.tree.map(np.testing.assert_array_equal, state.params, source[1]['params'])
  assert 'Not taken' not in caplog.text
  state = load_initial_weights(built, fresh)
  got, saved, before = leaves(state.params), leaves(source[1]['params']), leaves(fresh.params)
  heads = {name for name in got if name.startswith('head/')}
  assert heads and '3 there, 3 here, of other names' in caplog.text
  for name in got:
    np.testing.assert_array_equal(got[name], (before if name in heads else saved)[name], name)


def test_heads_of_other_class_counts_are_left_out_and_named(source, caplog):
  config = config_of()
  config.student.init = source[0]
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
  config.student.init, config.student.output_stride = source[0], 16
  with pytest.raises(CheckpointError) as error:
    load_initial_weights(*build(config, ['a', 'b']))
  assert 'config.student.init: ' in str(error.value)
  assert ('params/body/conv/kernel: expected (3, 3, 3, 16) float32, the checkpoint has '
          '(3, 3, 3, 8) float32') in str(error.value)
  assert 'head' not in str(error.value)


@pytest.mark.parametrize('field, value, message', [
    ('mean', (0.0, 0.0, 0.0), r'mean=\(0\.0, 0\.0, 0\.0\), and config.student.mean=\(123'),
    ('std', (1.0, 1.0, 1.0), r'std=\(1\.0, .*Set --config.student.std="\(1\.0, 1\.0, 1\.0\)"'),
    ('channel_order', 'bgr', 'channel_order=bgr, and config.student.channel_order=rgb')])
def test_weights_for_images_that_are_normalised_otherwise_are_refused(
    field, value, message, tmp_path):
  save(tmp_path, ['a', 'b'], **{field: value})
  config = config_of()
  config.student.init = str(tmp_path)
  with pytest.raises(UserError, match=message):
    load_initial_weights(*build(config, ['a', 'b']))


def test_a_missing_run_is_an_error_before_anything_is_written(tmp_path):
  config = config_of()
  config.student.init = str(tmp_path / 'nowhere')
  with pytest.raises(CheckpointError, match='config.student.init: .* has no checkpoint'):
    loop.train(config, str(tmp_path / 'work'))
  assert not (tmp_path / 'work').exists()


def test_conventions_that_no_shape_shows_are_warned_of():
  there = real_create('pspnet_resnet18', 5, ceil_mode=True, output_stride=16, dropout=0.3)
  here = real_create('pspnet_resnet18', 5)
  assert list(initialization._other_conventions(there, here)) == [
      'backbone.ceil_mode=True, and here it is False']
  assert not list(initialization._other_conventions(here, here))
