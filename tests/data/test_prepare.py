"""The program that prepares a data set: what it needs, what it says, and what it finds again."""

import logging

import pytest

from kdseg_jax import data
from kdseg_jax.data import prepare
from tests import runs
from tests.data import archives


@pytest.fixture
def manual_dir(tmp_path, monkeypatch):
  """The folders of CamVid with 3, 2 and 2 images."""
  monkeypatch.delenv('KDSEG_DATA', raising=False)
  archives.camvid(tmp_path / 'archives')
  return tmp_path / 'archives'


@pytest.mark.parametrize('by_environment', [False, True])
def test_the_program_prepares_and_prints_the_number_of_each_split(
    by_environment, manual_dir, tmp_path, monkeypatch, capsys):
  where = tmp_path / 'data'
  options = [] if by_environment else [f'--data_dir={where}']
  monkeypatch.setenv('KDSEG_DATA', str(where if by_environment else tmp_path / 'other'))
  status, output = runs.run_here(capsys, prepare.PROGRAM, 'camvid', f'--manual_dir={manual_dir}',
                                 '--allow_partial', *options)
  assert f'{where}/kdseg_camvid/1.0.0: train 3, val 2, test 2' in output and not status
  assert len(data.create('camvid', 'train', root=where)) == 3
  assert not (tmp_path / 'other').exists()


@pytest.mark.parametrize('arguments, message', [
    ([], 'Give one data set: camvid, cityscapes, '),
    (['camvid', 'voc', '--manual_dir=a', '--data_dir=b'], 'Give one data set: camvid, '),
    (['camvid', '--data_dir=b'], '--manual_dir (the folder of the archives) and --data_dir'),
    (['camvid', '--manual_dir={}'], '--manual_dir (the folder of the archives) and --data_dir'),
    (['camvit', '--manual_dir={}', '--data_dir=b'],
     "Unknown data set to prepare: 'camvit'. Did you mean 'camvid'?"),
    (['camvid', '--manual_dir={}', '--data_dir={}/file'], 'data_dir'),
    (['camvid', '--manual_dir={}/none', '--data_dir=b'], 'none: no such folder. Download SegNet-'),
    (['camvid', '--manual_dir={}', '--data_dir=b'],
     'train has 3 images instead of 367, val has 2 images instead of 101')])
def test_what_is_wrong_with_the_command_is_said(arguments, message, manual_dir, capsys, tmp_path,
                                                monkeypatch):
  monkeypatch.chdir(tmp_path)
  (manual_dir / 'file').write_text('no folder')
  status, output = runs.run_here(capsys, prepare.PROGRAM,
                                 *(one.format(manual_dir) for one in arguments))
  assert status == 2 and 'ERROR: ' in output and message in output
  assert not list(tmp_path.rglob('*.array_record*'))


def test_what_was_prepared_is_found_again_without_its_archives_and_counted(
    manual_dir, tmp_path, caplog):
  where = tmp_path / 'data'
  for folder in (manual_dir, tmp_path / 'gone'):
    caplog.clear()
    with caplog.at_level(logging.INFO):
      info = prepare.prepare('camvid', folder, where, allow_partial=True)
    assert {name: part.num_examples for name, part in info.splits.items()} == {
        'train': 3, 'val': 2, 'test': 2}
    assert ('is prepared already' in caplog.text) == (folder != manual_dir)
    warnings = [one.getMessage() for one in caplog.records if one.levelno == logging.WARNING]
    assert any('kdseg_camvid/1.0.0: train has 3 images instead of 367' in one for one in warnings)
