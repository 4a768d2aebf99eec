"""`predict`: which files and model, and of several work directories whose labels are written."""

import json
import types

import numpy as np
import pytest

from kdseg_jax import inference, predict
from kdseg_jax.data import files
from kdseg_jax.errors import UserError
from kdseg_jax.report import presenters
from tests import runs, workdirs
from tests.data import archives

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


def test_models_that_are_compared_see_the_images_as_the_options_say(
    tmp_path, monkeypatch, capsys):
  for name, multiple in (('mine', 1), ('other', 8)):
    workdirs.save(tmp_path / name, workdirs.config_of(**{'eval.pad_multiple': multiple}))
  files.write_png(tmp_path / 'photo.png', IMAGE)
  options = (f'--workdir={tmp_path / "mine"}', f'--output={tmp_path / "out"}',
             f'--compare={tmp_path / "other"}', tmp_path / 'photo.png')
  seen = []
  monkeypatch.setattr(predict, '_predicted', lambda model, example, predicted=predict._predicted: (
      seen.append(model.config.eval.pad_multiple), predicted(model, example))[1])
  for more, multiples in (([], [1, 1]), (['--config.eval.pad_multiple=32'], [32, 32])):
    status, text = runs.run_here(capsys, predict.PROGRAM, *options, *more)
    assert not status and seen == multiples, text
    seen.clear()


@pytest.mark.parametrize('option', ['--compare=other', '--split=val'])
def test_what_a_task_does_not_show_is_refused(option, tmp_path, monkeypatch, capsys):
  monkeypatch.setattr(presenters.find('segmentation'), 'compares', False)
  workdirs.save(tmp_path, workdirs.config_of())
  status, text = runs.run_here(capsys, predict.PROGRAM, f'--workdir={tmp_path}', option)
  assert status == 2 and 'its task is segmentation, of which --split and --compare show' in text


@pytest.fixture(scope='module')
def run(toy_models, tmp_path_factory):
  """A work directory, of whose checkpoints the first is the best."""
  folder = tmp_path_factory.mktemp('run')
  workdirs.save(folder, workdirs.config_of(), scores=(0.7, 0.5))
  return folder


def test_files_are_found_in_the_home_folder_and_addresses_are_explained(
    run, tmp_path, monkeypatch, capsys):
  monkeypatch.setenv('HOME', str(tmp_path))
  files.write_png(tmp_path / 'photos' / 'a.png', IMAGE)
  options = (f'--workdir={run}', f'--output={tmp_path / "out"}')
  status, text = runs.run_here(capsys, predict.PROGRAM, *options, '~/photos', '~/photos/a.png')
  assert not status, text
  assert sorted(path.name for path in (tmp_path / 'out' / 'labels').iterdir()) == [
      'a.png', 'a_2.png']
  status, text = runs.run_here(capsys, predict.PROGRAM, *options, 'gs://bucket/a.png')
  assert status == 2 and 'ERROR: gs://bucket/a.png: is an address' in text


@pytest.mark.parametrize('options, checkpoint, higher', [
    (['--best'], 'best', True), (['--nolegend'], 'latest', False)])
def test_results_are_beside_the_checkpoints_unless_told_otherwise(
    options, checkpoint, higher, run, tmp_path, capsys):
  said = {name: inference.load(run, checkpoint=name).predict(IMAGE)[0].labels
          for name in ('best', 'latest')}
  assert (said['best'] != said['latest']).any()
  files.write_png(tmp_path / 'a.png', IMAGE)
  status, text = runs.run_here(
      capsys, predict.PROGRAM, f'--workdir={run}', *options, tmp_path / 'a.png')
  assert not status, text
  folder = run / 'predictions'
  np.testing.assert_array_equal(files.read_label(folder / 'labels' / 'a.png'), said[checkpoint])
  assert (files.read_image(folder / 'overlays' / 'a.png').shape[0] > 36) == higher
  assert not (folder / 'strips').exists()  # of one model, and nothing known


@pytest.mark.parametrize('options, names', [
    (['--split=val'], ['0.png', '1.png', '2.png']),
    (['--split=val', '--config.eval.limit=2'], ['0.png', '1.png']),
    (['--split=test'], ['0.png', '1.png', '2.png', '3.png']),
    (['--compare=mine=run', 'data/images/val/0.png'], ['0.png'])])
def test_strips_show_what_is_known_and_what_is_compared(
    options, names, tmp_path, monkeypatch, capsys):
  monkeypatch.chdir(tmp_path)
  archives.folder(tmp_path / 'data', counts=[('val', 3), ('test', 4)])
  config = workdirs.config_of(**{'data.name': 'folder', 'data.root': 'data'})
  workdirs.save(tmp_path / 'run', config, classes=('name 0', 'name 1', 'name 2'))
  status, text = runs.run_here(
      capsys, predict.PROGRAM, '--workdir=run', '--output=out', *options)
  assert not status, text
  for folder in ('labels', 'overlays', 'strips'):
    assert sorted(path.name for path in (tmp_path / 'out' / folder).iterdir()) == names


@pytest.mark.parametrize('options, message', [
    ([], 'No images: name files or folders'), (['--split=val', 'a.png'], 'choose one of them'),
    (['nowhere.png'], 'nowhere.png'), (['--output=file/x', '--split=val'], 'file is no folder')])
def test_what_cannot_be_predicted_is_one_clear_error(
    options, message, run, tmp_path, monkeypatch, capsys):
  monkeypatch.chdir(tmp_path)
  (tmp_path / 'file').write_text('')
  status, text = runs.run_here(capsys, predict.PROGRAM, f'--workdir={run}', *options)
  assert status == 2 and message in text.partition('ERROR: ')[2]


@pytest.mark.parametrize('option', ['--compare=w', '--best'])
def test_options_of_work_directories_are_not_those_of_exports(option, tmp_path, capsys):
  status, text = runs.run_here(
      capsys, predict.PROGRAM, '--exported=nowhere', f'--output={tmp_path}', option, 'a.png')
  assert status == 2 and f'{option.partition("=")[0]} is for work directories' in text


@pytest.mark.parametrize('folder', ['labels', 'overlays', 'strips', 'pictures', 'affinities'])
def test_pictures_in_the_folders_of_results_are_not_replaced(folder, tmp_path):
  (tmp_path / 'link').symlink_to(tmp_path)
  with pytest.raises(UserError, match=f'{folder}/a.png could be replaced'):
    predict._check_output(str(tmp_path), [f'{tmp_path}/link/{folder}/a.png'])
  predict._check_output(str(tmp_path), [f'{tmp_path}/{folder}/deeper/a.png', f'{tmp_path}/a.png'])


@pytest.mark.parametrize('names, refused', [
    (('labels', 'images'), True), (('labels', 'classes.txt'), True), (('labels',), False),
    (('images', 'classes.txt'), False), (('labels', 'overlays'), False)])
def test_results_are_not_written_into_a_data_set(names, refused, tmp_path):
  for name in names:
    (tmp_path / name).mkdir()
  if refused:
    with pytest.raises(UserError, match='holds images and labels, as a data set does'):
      predict._check_output(str(tmp_path), [])
  else:
    predict._check_output(str(tmp_path), [])


def test_models_are_titled_by_what_they_reached_on_the_split(tmp_path):
  found = {}
  for name, score in (('teacher', 0.75), ('student', 0.5), ('unknown', None)):
    (tmp_path / name).mkdir()
    row = {'phase': 'evaluation', 'step': 4, 'mean_iou': score}
    (tmp_path / name / 'metrics.jsonl').write_text(json.dumps(row) + '\n')
    found[name] = inference.Model(None, {}, workdirs.CLASSES, workdirs.config_of(),
                                  workdir=str(tmp_path / name), train_step=4)
  titles = lambda split: predict._titles(
      types.SimpleNamespace(config=workdirs.config_of(), split=split), found)
  assert titles('val') == {
      'teacher': 'teacher 75.0', 'student': 'student 50.0', 'unknown': 'unknown'}
  assert titles('test') == {name: name for name in found}
