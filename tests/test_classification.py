"""A classifier from images in a file to predictions: trained, distilled, resumed, evaluated."""

import json
import shutil

import numpy as np
import pytest

import kdseg_jax
from configs import cifar
from kdseg_jax import evaluate, predict
from kdseg_jax.data import files
from kdseg_jax.distillers import methods
from kdseg_jax.errors import UserError
from kdseg_jax.training import experiment, loop, shapes
from tests import runs
from tests.data import classified_sets

pytestmark = pytest.mark.usefixtures('one_device')


@pytest.fixture(scope='module')
def file(tmp_path_factory):
  folder = tmp_path_factory.mktemp('data')
  return classified_sets.npz(folder / 'a.npz', classes=6, counts=(16, 9), size=16)


def config_of(file, arg='', **fields):
  config = cifar.get_config(f'data=npz,images=16,runlocal,{arg}')
  config.data.root = str(file)
  config.augmentation.crop = (16, 16)
  config.checkpoint.every_steps = 1
  config.update_from_flattened_dict(fields)
  return config


@pytest.fixture(scope='module')
def trained(file, tmp_path_factory):
  """The work directory of two steps, and the metrics at their end."""
  workdir = tmp_path_factory.mktemp('teacher')
  return workdir, loop.train(config_of(file, 'role=teacher'), str(workdir))


def test_evaluate_writes_metrics_and_the_confusion_matrix(trained, tmp_path, capsys):
  workdir, metrics = trained
  assert metrics['images'] == 8 and 0 <= metrics['top1'] <= metrics['top5'] <= 1
  status, text = runs.run_here(
      capsys, evaluate.PROGRAM, f'--workdir={workdir}', f'--json={tmp_path / "a.json"}',
      f'--confusion={tmp_path / "a.png"}', '--config.eval.limit=0')
  assert not status and 'top-5' in text and '| class 5 |' in text and (tmp_path / 'a.png').exists()
  assert json.loads((tmp_path / 'a.json').read_text())['images'] == 9


def test_evaluate_shows_the_model_the_centres_that_the_config_says(trained, capsys, monkeypatch):
  seen = []
  accumulate = evaluate.Evaluator.accumulate
  monkeypatch.setattr(evaluate.Evaluator, 'accumulate', lambda self, variables, source: (
      seen.append(source[0]['image'].shape), accumulate(self, variables, source))[1])
  for options in ([], ['--config.eval.short_side=14', '--config.eval.crop=(12,8)']):
    status, text = runs.run_here(
        capsys, evaluate.PROGRAM, f'--workdir={trained[0]}', *options)
    assert not status, text
  assert seen == [(16, 16, 3), (12, 8, 3)]


def test_evaluate_writes_the_confusion_matrix_alone(trained, tmp_path, capsys):
  status, text = runs.run_here(
      capsys, evaluate.PROGRAM, f'--workdir={trained[0]}', f'--confusion={tmp_path / "a.png"}')
  assert not status and '8 images' in text and files.read_image(tmp_path / 'a.png').std() > 10


def test_evaluate_refuses_mirror_images(trained, capsys):
  status, text = runs.run_here(
      capsys, evaluate.PROGRAM, f'--workdir={trained[0]}', '--config.eval.flip=True')
  assert status == 2 and 'whole images only, or their centre, not flip' in text


def test_predict_shows_a_split(trained, tmp_path, capsys):
  status, text = runs.run_here(
      capsys, predict.PROGRAM, f'--workdir={trained[0]}', '--split=test', f'--output={tmp_path}',
      '--config.eval.limit=2')
  assert not status and '2 images. Predictions: ' in text
  assert sorted(path.name for path in (tmp_path / 'pictures').iterdir()) == [
      'test_00000.png', 'test_00001.png']
  written = json.loads((tmp_path / 'predictions.json').read_text())
  assert list(written) == ['test_00000', 'test_00001'] and len(written['test_00000']) == 5


def test_a_run_that_goes_on_from_a_checkpoint_ends_bit_identical(trained, file, tmp_path):
  workdir = tmp_path / 'run'
  shutil.copytree(trained[0], workdir)
  shutil.rmtree(workdir / 'checkpoints' / '2')
  metrics = loop.train(config_of(file, 'role=teacher'), str(workdir))
  np.testing.assert_equal(metrics, trained[1])
  got, want = runs.saved(workdir), runs.saved(trained[0])
  assert got.keys() == want.keys() and got['training/step'] == 2
  for name in want:
    np.testing.assert_array_equal(got[name], want[name], err_msg=name)


@pytest.fixture(scope='module')
def teacher(trained):
  return kdseg_jax.load(trained[0])


def check(file, teacher, method, **fields):
  config = config_of(file, f'method={method}', **{'teacher.checkpoint': 'given'} | fields)
  shapes.check_step(experiment.create_experiment(config, teacher=teacher))


OF_CLASSIFIERS = (
    'none', 'kd', 'decoupled', 'pixelwise', 'fitnets', 'attention_transfer',
    'channel_wise_features', 'review')


@pytest.mark.parametrize('method', sorted(methods.METHODS))
def test_a_method_works_or_says_before_compiling_that_it_does_not(file, teacher, method):
  if method in OF_CLASSIFIERS:
    check(file, teacher, method)
  else:
    with pytest.raises(UserError, match=r'needs maps \(N, H, W, C\)|has no tap'):
      check(file, teacher, method)


def test_the_tap_that_would_do_is_named(file, teacher):
  with pytest.raises(UserError, match=(
      r"attention_transfer: needs maps.*'embedding' of the student is vectors \(8, 8\).*stage3")):
    check(file, teacher, 'attention_transfer', **{
        'distill.attention_transfer.student_tap': 'embedding'})


@pytest.mark.slow
@pytest.mark.parametrize('several', [
    ('fitnets', 'decoupled', 'pixelwise'), ('attention_transfer', 'review', 'kd')], ids='+'.join)
def test_a_student_is_distilled(several, trained, file, tmp_path):
  """By all methods of classifiers, a few at once: to compile takes the time."""
  config = config_of(file, f'method={"+".join(several)}', **{
      'teacher.checkpoint': str(trained[0])})
  metrics = loop.train(config, str(tmp_path))
  assert metrics['images'] == 8 and 0 <= metrics['top1'] <= 1
  (last,) = [row for row in runs.rows(tmp_path) if row['phase'] == 'train' and row['step'] == 2]
  assert all(last[f'distill/{term}/raw'] > 0 for term in several)


@pytest.mark.parametrize('fields,message', [
    ({'student.name': 'deeplabv3_resnet18'}, 'gives every pixel a class.*needs a classifier'),
    ({'data.name': 'scenes', 'data.root': ''},
     r'data.name=scenes: an example has label \(64, 64\), and the task classification needs')])
def test_what_is_of_another_task_is_refused(file, fields, message):
  with pytest.raises(UserError, match=message):
    experiment.create_experiment(config_of(file, **fields))
