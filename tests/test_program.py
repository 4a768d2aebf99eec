"""What programs share: naming of work directories, and configs of older runs."""

import os
import subprocess
import sys

import pytest

from kdseg_jax import program
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
