"""What programs share: naming of work directories, their start, what they log and show."""

import logging
import os
import subprocess
import sys

import jax
import pytest
from absl import logging as absl_logging

from kdseg_jax import program
from kdseg_jax.errors import UserError
from tests import runs as programs


@pytest.fixture
def runs(tmp_path):
  for name in ('teacher', 'student', 'other/student', 'lr=0.1'):
    (tmp_path / name).mkdir(parents=True)
    (tmp_path / name / 'config.json').write_text('{}')
  return tmp_path


def test_the_main_work_directory_comes_first_and_folders_give_names(runs):
  named = program.named_workdirs(
      f'{runs}/student', [f'big={runs}/teacher', f'{runs}/lr=0.1'])
  assert list(named.items()) == [
      ('student', f'{runs}/student'), ('big', f'{runs}/teacher'), ('lr=0.1', f'{runs}/lr=0.1')]


def test_the_main_work_directory_may_be_given_a_name_and_place(runs):
  named = program.named_workdirs(
      f'{runs}/student', [f'{runs}/teacher', f'mine={runs}/other/../student'])
  assert list(named) == ['teacher', 'mine']


def test_one_name_for_two_and_a_folder_without_a_run_are_refused(runs):
  with pytest.raises(ValueError, match="other/student are called 'student'; name them by <name>="):
    program.named_workdirs(f'{runs}/student', [f'{runs}/other/student'])
  with pytest.raises(FileNotFoundError, match='nowhere/config.json is missing: --compare must be'):
    program.named_workdirs(f'{runs}/student', [f'{runs}/nowhere'])


def test_a_name_that_is_no_text_is_printed_all_the_same():
  code = r"""
from kdseg_jax import errors, program
def main(options, arguments):
  print('caf\udce9.png: no label')
  raise errors.UserError('caf\udce9.png: cannot be read.')
program.Program(main, lambda options: None, config=None, devices=False).run(['program'])
"""
  found = subprocess.run(
      [sys.executable, '-c', code], cwd=programs.ROOT, capture_output=True, check=False,
      env=os.environ | {'PYTHONIOENCODING': 'utf-8:strict'}, text=True)
  assert found.returncode == 2 and found.stdout == 'caf\\udce9.png: no label\n'
  assert 'ERROR: caf\\udce9.png: cannot be read.' in found.stderr


def of(main, **fields):
  """A program without a config."""
  return program.Program(main, lambda options: None, **{'config': None, 'devices': False} | fields)


@pytest.mark.parametrize('returned, status', [(None, None), (0, 0), (1, 1), (3, 3)])
def test_what_a_program_returns_is_its_exit_status(returned, status, capsys):
  given = []
  main = lambda options, arguments: (given.append(arguments), returned)[1]
  found, _ = programs.run_here(capsys, of(main), 'a', '--', '-b')
  assert (found, given) == (status, [['a', '-b']])


@pytest.mark.parametrize('option, shown', [
    ('--debug', True), ('-debug', True), ('--debug=true', True), ('--debug=1', True),
    ('--debug=T', True), ('--debug=false', False), ('--nodebug', False), ('--debug=0', False)])
def test_tracebacks_of_wrong_input_are_shown_on_demand(option, shown, capsys):
  def main(options, arguments):
    raise UserError('wrong')
  if shown:
    with pytest.raises(UserError, match='wrong'):
      of(main).run(['x', option])
  else:
    assert programs.run_here(capsys, of(main), option) == (2, 'ERROR: wrong\n')


def test_the_folder_of_data_sets_is_a_path_too(monkeypatch, capsys):
  monkeypatch.setenv('HOME', '/home/me')
  seen = of(lambda options, arguments: print(os.environ['KDSEG_DATA']))
  for given, found in (('~/data', (None, '/home/me/data\n')), ('', (None, '\n'))):
    monkeypatch.setenv('KDSEG_DATA', given)
    assert programs.run_here(capsys, seen) == found
  monkeypatch.setenv('KDSEG_DATA', 's3://bucket/data')
  status, text = programs.run_here(capsys, seen)
  assert status == 2 and text.startswith('ERROR: s3://bucket/data: is an address')


def test_versions_and_devices_come_first_unless_a_program_has_none(capsys):
  main = lambda options, arguments: print('done')
  status, text = programs.run_here(capsys, of(main, devices=True))
  first, second, *_ = text.splitlines()
  python = sys.version.split()[0]
  assert not status and first.startswith(f'Python {python}, jax {jax.__version__}, ')
  assert all(f' {name} ' in first for name in ('jaxlib', 'flax', 'optax', 'orbax-checkpoint'))
  assert second == '8 device(s): cpu cpu; process 0 of 1'
  assert '\ndone\n' in text
  assert programs.run_here(capsys, of(main)) == (None, 'done\n')


def test_a_program_that_needs_an_accelerator_does_nothing_without_one(capsys):
  main = lambda options, arguments: pytest.fail('it was run')
  status, text = programs.run_here(capsys, of(main, devices=True), '--require_accelerator')
  assert status == 2 and 'ERROR: --require_accelerator is set and jax found only the CPU.' in text


@pytest.mark.parametrize('options, devices, begun', [
    ([], True, ['main']), ([], False, ['main']),
    (['--distributed'], True, ['distributed', 'main'])])
def test_processes_find_each_other_before_anything_is_computed(
    options, devices, begun, monkeypatch, capsys):
  calls = []
  monkeypatch.setattr(jax.distributed, 'initialize', lambda: calls.append('distributed'))
  main = lambda options, arguments: calls.append('main')
  assert not programs.run_here(capsys, of(main, devices=devices), *options)[0]
  assert calls == begun


def test_what_libraries_log_is_shown_from_errors_on(tmp_path):
  ours = os.path.dirname(program.__file__)
  records = {
      (path, level): logging.LogRecord('absl', level, path, 1, 'x', (), None)
      for path in (f'{ours}/data/files.py', f'{ours}_other/files.py', '/lib/orbax/x.py')
      for level in (logging.INFO, logging.WARNING, logging.ERROR, logging.CRITICAL)}
  shown = {key for key, record in records.items() if program._is_ours(record)}
  assert shown == {key for key in records if key[0] == f'{ours}/data/files.py'
                   or key[1] >= logging.ERROR}
  assert absl_logging.converter.STANDARD_ERROR == logging.ERROR


@pytest.mark.parametrize('argv, message', [
    (['--print_config'], '--print_config: there is no config; give --config=<recipe>.'),
    (['--config.seed=1'], 'Give a recipe, e.g. --config=configs/quickstart.py.')])
def test_a_config_that_is_not_there_is_no_config(argv, message, capsys):
  status, text = programs.run_here(
      capsys, of(lambda options, arguments: None, config='recipe'), *argv)
  assert status == 2 and message in text
