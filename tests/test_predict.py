"""`predict` of several work directories: which of them is the one whose labels are written."""

import numpy as np
import pytest

from kdseg_jax import inference, predict
from kdseg_jax.data import files
from kdseg_jax.report import presenters
from tests import runs, workdirs

pytestmark = pytest.mark.usefixtures('toy_models')

IMAGE = np.random.default_rng(0).integers(0, 256, (36, 48, 3), np.uint8)


@pytest.mark.parametrize('order', [('other', 'mine'), ('mine', 'other')])
def test_labels_are_those_of_the_main_work_directory_wherever_it_is_listed(
    order, tmp_path, capsys):
  said = {}
  for name, factor in (('mine', 1), ('other', -1)):
    (tmp_path / name).mkdir()
    workdirs.save(tmp_path / name, workdirs.config_of(), factor=factor)
    [said[name]] = inference.load(tmp_path / name).predict(IMAGE)
  assert (said['mine'].labels != said['other'].labels).any()
  files.write_png(tmp_path / 'photo.png', IMAGE)
  compared = ','.join(f'{name}={tmp_path / name}' for name in order)
  status, text = runs.run_here(
      capsys, predict.PROGRAM, f'--workdir={tmp_path / "mine"}', f'--output={tmp_path / "out"}',
      f'--compare={compared}', tmp_path / 'photo.png')
  assert not status, text
  np.testing.assert_array_equal(
      files.read_label(tmp_path / 'out' / 'labels' / 'photo.png'), said['mine'].labels)


@pytest.mark.parametrize('option', ['--compare=other', '--split=val'])
def test_what_a_task_does_not_show_is_refused(option, tmp_path, monkeypatch, capsys):
  monkeypatch.setattr(presenters.find('segmentation'), 'compares', False)
  workdirs.save(tmp_path, workdirs.config_of())
  status, text = runs.run_here(capsys, predict.PROGRAM, f'--workdir={tmp_path}', option)
  assert status == 2 and 'its task is segmentation, of which --split and --compare show' in text
