"""Detectors through whole runs: trained, stopped, evaluated, used; that every head can learn."""

import json
import logging

import numpy as np
import PIL.Image
import pytest

from kdseg_jax import data, default_config, evaluate, inference, predict
from kdseg_jax.errors import UserError
from kdseg_jax.tasks.detection import task
from kdseg_jax.training import experiment, loop, programs, run
from kdseg_jax.training.preemption import StopSignal
from tests import runs
from tests.data import boxed_sets
from tests.tasks.tiny_detector import config_of

pytestmark = pytest.mark.usefixtures('one_device')


def stopped_after(steps, patch):
  """Has the next runs stop there, as by a signal."""
  patch.setattr(StopSignal, 'agree', lambda self, _, step: (
      self._stop() if step == steps else None, self())[1])


@pytest.mark.slow
def test_a_run_on_images_of_two_orientations_compiles_twice_and_goes_on(
    tmp_path, monkeypatch, caplog):
  boxed_sets.voc(
      tmp_path / 'data', splits={'train': 'abcd', 'val': 'bca'}, upright='bd',
      objects={name: [('dog', 2, 2, 9, 9), ('cat', 1, 5, 15, 19)] for name in 'abcd'})
  config = config_of(**{
      'data.name': 'voc_boxes', 'data.root': str(tmp_path / 'data'), 'data.by_orientation': True,
      'augmentation.crop': (32, 64), 'eval.canvas': (32, 64), 'eval.every_steps': 0})
  with caplog.at_level(logging.INFO):
    metrics = loop.train(config, str(tmp_path / 'whole'))
  assert metrics['images'] == 3
  assert [text.partition(';')[0] for text in caplog.messages if 'Compiling the train' in text] == [
      'Compiling the train step', 'Compiling the train step for images of 64x32']
  with monkeypatch.context() as patch:
    stopped_after(2, patch)
    assert loop.train(config, str(tmp_path / 'parts')) is None
  assert loop.train(config, str(tmp_path / 'parts')) == metrics
  arrays, again = runs.saved(tmp_path / 'whole'), runs.saved(tmp_path / 'parts')
  for name, value in arrays.items():
    np.testing.assert_array_equal(again[name], value, err_msg=name)


def test_data_that_do_not_tell_their_sizes_are_refused_before_anything_is_made(tmp_path):
  with pytest.raises(UserError, match='by_orientation=True: this source does not tell the sizes'):
    loop.train(config_of(**{'data.by_orientation': True}), str(tmp_path / 'run'))
  assert not (tmp_path / 'run').exists()


@pytest.mark.slow
def test_a_run_is_evaluated_predicts_and_goes_on_where_it_was_stopped(
    tmp_path, monkeypatch, capsys):
  whole, parts = tmp_path / 'whole', tmp_path / 'parts'
  metrics = loop.train(config_of(), str(whole))
  assert metrics['images'] == 11 and len(metrics['per_class_AP']) == 10
  with monkeypatch.context() as patch:
    stopped_after(3, patch)
    assert loop.train(config_of(), str(parts)) is None
  loop.train(config_of(), str(parts))
  arrays = runs.saved(whole), runs.saved(parts)
  assert arrays[0].keys() == arrays[1].keys()
  for name, value in arrays[0].items():
    np.testing.assert_array_equal(arrays[1][name], value, err_msg=name)
  allowed = '--allow_imports=tests.tasks'
  status, text = runs.run_here(
      capsys, evaluate.PROGRAM, f'--workdir={whole}', allowed, f'--json={tmp_path / "a.json"}',
      f'--precision={tmp_path / "a.png"}', '--config.eval.canvas=(96,96)')
  assert not status, text
  assert 'fitted into 96x96' in text and '| digit 3 |' in text and '| AR100 ' in text
  assert json.loads((tmp_path / 'a.json').read_text())['images'] == 11
  assert np.asarray(PIL.Image.open(tmp_path / 'a.png')).shape == (600, 750, 3)
  status, text = runs.run_here(
      capsys, predict.PROGRAM, f'--workdir={whole}', allowed, '--split=val',
      '--config.eval.limit=2', f'--output={tmp_path / "out"}')
  assert not status and '2 images' in text, text
  found = json.loads((tmp_path / 'out/predictions.json').read_text())
  assert list(found) == ['val_00000', 'val_00001']
  image = data.SceneBoxes('val')[0]['image']
  [said] = inference.load(whole, checkpoint='latest', allow_imports=['tests.tasks']).predict(image)
  assert [row['score'] for row in found['val_00000']] == pytest.approx(said.scores.tolist())
  assert np.asarray(PIL.Image.open(tmp_path / 'out/pictures/val_00000.png')).ndim == 3


@pytest.mark.slow
@pytest.mark.parametrize('head, learning_rate', [
    (head, 2e-3 if head == 'fcos' else 4e-3) for head in task.HEADS])
def test_every_head_overfits_four_scenes(shallow_models, head, learning_rate):
  config = default_config.detection()
  config.student.update(name=f'{head}_resnet18', width=0.25, head_channels=32, stacked_convs=1)
  config.augmentation.update(crop=(64, 64), flip=0.0)
  config.task.max_boxes = 4
  config.data.update(train_limit=4, size=(64, 64))
  config.train.update(steps=100, batch_size=4, compile_level=0)
  config.eval.update(split='train', limit=4, every_steps=0, batch_size=4, pictures=0)
  config.checkpoint.every_steps = 0
  config.optimizer.update(name='adamw', learning_rate=learning_rate, clip_norm=10.0)
  built = experiment.create_experiment(config)
  built = built._replace(evaluation_source=built.train_source)  # of the scenes that it learns
  step, state = programs.train_step_of(built), experiment.initial_state(built)
  batches = run.training_batches(built, 'train', start=0)
  for _ in range(config.train.steps):
    state, metrics = step(state, next(batches))
  found = run.create_evaluator(built, built.student)(state.deployed, built.evaluation_source)
  assert found['images'] == 4 and found['AP50'] >= 0.9, (metrics, found)
