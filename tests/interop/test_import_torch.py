"""What `import` says of the weights that it took."""

import types

import numpy as np
import pytest

from kdseg_jax import config_files, default_config, inference
from kdseg_jax.interop import import_torch
from tests import runs
from tests.interop import states


@pytest.fixture
def source(tmp_path):
  """A file of a small classifier of 20 classes."""
  np.savez(tmp_path / 'a.npz', **states.state_dict('cifar_resnet8', 'cifar', 20))
  return str(tmp_path / 'a.npz')


def run(capsys, *arguments):
  return runs.run_here(capsys, import_torch.PROGRAM, '--model=cifar_resnet8', *arguments)


def test_what_is_given_is_in_the_work_directory(source, tmp_path, capsys):
  (tmp_path / 'classes.txt').write_text(''.join(f'kind {i}\n' for i in range(20)))
  status, text = run(
      capsys, f'--source={source}', f'--workdir={tmp_path / "run"}', '--mean=1,2,3.5',
      '--std=4,5,6.5', '--channel_order=bgr', '--scheme=cifar', '--num_classes=20',
      f'--data={tmp_path / "classes.txt"}')
  assert not status, text
  assert 'images            bgr, mean 1 2 3.5, deviation 4 5 6.5' in text
  assert 'not known' not in text
  student = config_files.read(str(tmp_path / 'run')).student
  assert (student.mean, student.std, student.channel_order) == (
      (1.0, 2.0, 3.5), (4.0, 5.0, 6.5), 'bgr')
  assert inference.load(str(tmp_path / 'run')).classes[19] == 'kind 19'


@pytest.mark.parametrize('options, message', [
    (['--workdir={tmp}/run'], '--source is missing'),
    (['--source={tmp}/a.npz'], '--workdir is missing'),
    (['--source={tmp}/a.npz', '--workdir={tmp}'], 'is not empty; give a new one'),
    (['--source={tmp}/a.npz', '--workdir={tmp}/run', '--mean=1,2'], '--mean=1,2: expected three'),
    (['--source={tmp}/a.npz', '--workdir={tmp}/run', '--std=1,2,x'], '--std=1,2,x: expected'),
    (['--source={tmp}/a.npz', '--workdir={tmp}/run', '--scheme=cirkd'],
     '--scheme=cirkd names no layers of cifar_resnet8'),
    (['--source={tmp}/a.npz', '--workdir={tmp}/run', '--num_classes=7'], 'has 20 classes, not 7'),
    (['--source={tmp}/a.npz', '--workdir={tmp}/run', '--num_classes=1'], 'num_classes'),
    (['--source={tmp}/a.npz', '--workdir={tmp}/run', '--data=camvid'],
     '--data=camvid has 11 classes, and the model 20'),
    (['--source={tmp}/a.npz', '--workdir={tmp}/run', 'x'], "Unexpected argument 'x'")])
def test_wrong_input_is_one_clear_error_and_leaves_nothing(
    options, message, source, tmp_path, capsys):
  status, text = run(capsys, *(option.format(tmp=tmp_path) for option in options))
  assert status == 2 and message in text
  assert [path.name for path in tmp_path.iterdir()] == ['a.npz']


@pytest.mark.parametrize('left_out', [[], ['fc.weight', 'fc.bias']])
@pytest.mark.parametrize('drawn_anew', [[], ['params/head/kernel']])
def test_what_was_not_taken_and_what_was_drawn_are_both_said(left_out, drawn_anew):
  imported = types.SimpleNamespace(
      config=default_config.segmentation(), classes=('class 0', 'class 1', 'class 2', 'class 3'),
      report={'file': 'a.pth', 'scheme': 'cirkd', 'left_out': left_out, 'drawn_anew': drawn_anew})
  imported.config.student.update(mean=(1.0, 2.0, 3.0), std=(4.0, 5.0, 6.0))
  text = import_torch._described(
      imported, types.SimpleNamespace(workdir='runs/a', data=None))
  assert text.startswith('runs/a: deeplabv3_resnet18, 4 classes (class 0, class 1, class 2, ...), ')
  assert ('not taken' in text) == ('fc.weight' in text) == bool(left_out)
  assert ('drawn anew' in text) == ('params/head/kernel' in text) == bool(drawn_anew)
  assert 'The names of the classes are not known' in text
