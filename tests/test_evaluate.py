"""`evaluate` as a user starts it: what it evaluates, says and writes, what it refuses."""

import json

import numpy as np
import pytest

from kdseg_jax import evaluate
from kdseg_jax.data import files
from tests import runs, workdirs
from tests.data import archives

CLASSES = ('name 0', 'name 1', 'name 2')


@pytest.fixture(scope='module')
def root(toy_models, tmp_path_factory):
  """A work directory, of whose checkpoints the first is the best; two folders of images."""
  root = tmp_path_factory.mktemp('evaluate')
  archives.folder(root / 'its', counts=[('val', 2), ('test', 3)])
  archives.folder(root / 'other', counts=[('val', 4)])
  for path in (root / 'other' / 'labels' / 'val').iterdir():
    files.write_png(path, np.full(archives.SIZE, 255, np.uint8))  # nothing is known
  config = workdirs.config_of(**{'data.name': 'folder', 'data.root': str(root / 'its')})
  workdirs.save(root / 'run', config, scores=(0.7, 0.5), classes=CLASSES)
  return root


def start(capsys, root, *options):
  return runs.run_here(capsys, evaluate.PROGRAM, f'--workdir={root}/run', *options)


@pytest.mark.parametrize('options, said', [
    ([], 'val, 2 images, checkpoint 2 of'),
    (['--best', '--split=test'], 'test, 3 images, checkpoint 1 of'),
    (['--config.eval.split=test', '--config.eval.limit=2'], 'test, 2 images, checkpoint 2 of')])
def test_what_was_asked_for_is_evaluated(options, said, root, capsys):
  status, text = start(capsys, root, *options)
  assert not status and f'\n{said} {root}/run\n' in text
  assert 'seen as         whole images\n' in text
  assert all(f'\n| {name} ' in text for name in CLASSES)


def test_another_folder_is_evaluated_and_what_cannot_be_said_is_null(root, tmp_path, capsys):
  path = tmp_path / 'new' / 'result.json'
  status, text = start(capsys, root, f'--data_root={root}/other', f'--json={path}')
  assert not status and '\nval, 4 images, ' in text

  def refuse(constant):
    raise AssertionError(f'{constant} is no JSON')
  assert json.loads(path.read_text(), parse_constant=refuse) == {
      'mean_iou': None, 'per_class_iou': [None] * 3, 'pixel_accuracy': None, 'images': 4}


@pytest.mark.parametrize('options, message', [
    (['--json=TMP'], 'is a folder; expected the name of a file'),
    (['--json=TMP/a.json', '--confusion=TMP/a.jpg'], '--confusion=TMP/a.jpg'),
    (['--json=TMP/a.json', '--precision=TMP/a.png'], "figure of the task segmentation: 'precision"),
    (['stray'], "Unexpected argument 'stray'"),
    (['--split=tset'], 'tset'), (['--data_root=TMP/nowhere'], 'TMP/nowhere')])
def test_wrong_input_is_one_clear_error_and_leaves_nothing(
    options, message, root, tmp_path, capsys):
  options = [option.replace('TMP', str(tmp_path)) for option in options]
  status, text = start(capsys, root, *options)
  assert status == 2 and message.replace('TMP', str(tmp_path)) in text.partition('ERROR: ')[2]
  assert not list(tmp_path.iterdir())
