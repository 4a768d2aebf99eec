"""launch.sh: which Python it takes, what it installs, and that paths are those of the caller."""

import os
import shutil
import subprocess
import sys

import pytest

from tests import runs

# A Python that writes down how it was called; `-m venv` makes a copy of itself.
FAKE = '''#!/bin/bash
case "$*" in
  *'import ensurepip'*) exit {usable} ;;
  *'-m venv'*) mkdir -p "${{@: -1}}/bin"; cp "$0" "${{@: -1}}/bin/python" ;;
esac
echo "{name}|$PWD|$PYTHONPATH|$*" >> {log}
{then}
'''


class Checkout:
  """A checkout with launch.sh, where `python<version>` of a path of its own are fakes."""

  def __init__(self, base):
    self.root, self.bin, self.log = base / 'checkout', base / 'bin', base / 'log'
    for file in ('launch.sh', 'requirements.txt', 'requirements.lock', 'tests/requirements.txt'):
      (self.root / file).parent.mkdir(parents=True, exist_ok=True)
      shutil.copy(runs.ROOT / file, self.root / file)
    self.bin.mkdir()
    for tool in ('bash', 'cat', 'cksum', 'cp', 'dirname', 'mkdir', 'readlink', 'touch', 'tr'):
      (self.bin / tool).symlink_to(shutil.which(tool))

  def fake(self, path, usable=True, then=''):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(FAKE.format(usable=int(not usable), name=path.name, log=self.log, then=then))
    path.chmod(0o755)
    return path

  def launch(self, *arguments, cwd, status=0, **environment):
    done = subprocess.run(
        [self.root / 'launch.sh', *map(str, arguments)], cwd=cwd, text=True, capture_output=True,
        env={'PATH': str(self.bin), 'HOME': str(self.root.parent / 'home')} | environment)
    assert done.returncode == status, done.stderr
    return done.stdout + done.stderr

  def calls(self):
    """What every call of a fake was: its name, folder, PYTHONPATH and arguments."""
    return [line.split('|') for line in self.log.read_text().splitlines()]


@pytest.fixture
def checkout(tmp_path):
  return Checkout(tmp_path)


@pytest.fixture
def elsewhere(tmp_path):
  folder = tmp_path / 'else where'
  folder.mkdir()
  return folder


@pytest.mark.parametrize('unusable,environment,chosen', [
    ((), {}, 'python3.13'),
    (('python3.13',), {}, 'python3.12'),
    (('python3.13', 'python3.12', 'python3.11'), {}, 'python3'),
    ((), {'PYTHON': 'python3.11'}, 'python3.11'),
])
def test_the_newest_python_makes_the_environment_unless_one_is_named(
    unusable, environment, chosen, checkout, elsewhere):
  for name in ('python3', 'python3.11', 'python3.12', 'python3.13'):
    checkout.fake(checkout.bin / name, usable=name not in unusable)
  checkout.launch('predict', cwd=elsewhere, **environment)
  (maker, _, _, making), *_ = checkout.calls()
  assert maker == chosen and making == f'-m venv --clear {checkout.root}/.venv'


def test_pythons_of_pyenv_are_found_and_newer_than_those_of_the_path(checkout, elsewhere):
  checkout.fake(checkout.bin / 'python3.12')
  pyenv = checkout.fake(checkout.root.parent / 'home/.pyenv/versions/3.13.0/bin/python')
  checkout.launch('predict', cwd=elsewhere)
  assert checkout.calls()[0][0] == pyenv.name


@pytest.mark.parametrize('environment,message', [
    ({}, 'Python 3.11 or later with venv is needed and was not found'),
    ({'PYTHON': 'python3.13'}, 'PYTHON=python3.13 is no Python 3.11 or later'),
    ({'JAX_EXTRA': 'gpu'}, 'JAX_EXTRA=gpu is unknown; use tpu or cuda13'),
])
def test_what_cannot_be_installed_is_one_clear_error(environment, message, checkout, elsewhere):
  checkout.fake(checkout.bin / 'python3', usable=False)
  assert message in checkout.launch('predict', cwd=elsewhere, status=2, **environment)
  assert not (checkout.root / '.venv').exists()


def test_an_environment_is_kept_and_installed_into_once(checkout, elsewhere):
  checkout.fake(checkout.bin / 'python3.13')
  checkout.fake(checkout.root / '.venv/bin/python')
  checkout.launch('predict', cwd=elsewhere)
  checkout.launch('predict', cwd=elsewhere)
  calls = [arguments for _, _, _, arguments in checkout.calls()]
  assert [call.split()[2] for call in calls] == ['--version', 'install', 'kdseg_jax.predict',
                                                 'kdseg_jax.predict']
  assert f'--constraint {checkout.root}/requirements.lock' in calls[1]
  (checkout.root / 'requirements.lock').write_text('jax==0.10.1\n')
  checkout.launch('predict', cwd=elsewhere)
  assert 'install' in checkout.calls()[-2][3]


def test_the_environment_may_be_another_folder_of_the_caller(checkout, elsewhere):
  checkout.fake(checkout.bin / 'python3.13')
  checkout.launch('predict', cwd=elsewhere, VENV='mine')
  assert (elsewhere / 'mine/bin/python').exists() and not (checkout.root / '.venv').exists()


def test_programs_run_where_the_caller_is_and_import_from_the_checkout_first(checkout, elsewhere):
  checkout.fake(checkout.root / '.venv/bin/python')
  checkout.launch('train', '--workdir=runs/x', '~', 'a b', cwd=elsewhere, PYTHONPATH='/mine')
  _, folder, path, arguments = checkout.calls()[-1]
  assert folder == str(elsewhere)
  assert path == f'{checkout.root}:/mine:{elsewhere}'
  assert arguments == '-P -m kdseg_jax.train --workdir=runs/x ~ a b'


@pytest.mark.parametrize('written,mine,found', [
    (['--config=configs/camvid.py:role=teacher'], False,
     '--config={root}/configs/camvid.py:role=teacher'),
    (['--config', 'configs/camvid.py'], False, '--config {root}/configs/camvid.py'),
    (['--config=configs/camvid.py:role=teacher'], True, '--config=configs/camvid.py:role=teacher'),
    (['--config=configs/nowhere.py'], False, '--config=configs/nowhere.py'),
    (['--config.teacher.checkpoint=configs'], False, '--config.teacher.checkpoint=configs'),
])
def test_a_recipe_is_that_of_the_caller_else_that_of_the_checkout(
    written, mine, found, checkout, elsewhere):
  checkout.fake(checkout.root / '.venv/bin/python')
  for base in (checkout.root, elsewhere) if mine else (checkout.root,):
    (base / 'configs').mkdir()
    (base / 'configs/camvid.py').touch()
  checkout.launch('train', *written, cwd=elsewhere)
  assert checkout.calls()[-1][3] == '-P -m kdseg_jax.train ' + found.format(root=checkout.root)


def test_a_linked_launcher_still_knows_its_checkout(checkout, elsewhere):
  checkout.fake(checkout.root / '.venv/bin/python')
  (elsewhere / 'kd').symlink_to(checkout.root / 'launch.sh')
  subprocess.run([elsewhere / 'kd', 'predict'], cwd=elsewhere, check=True,
                 env={'PATH': str(checkout.bin)})
  assert checkout.calls()[-1][2].startswith(f'{checkout.root}:')


def test_tests_run_in_the_checkout_in_parallel_unless_told_otherwise(checkout):
  checkout.fake(checkout.root / '.venv/bin/python')
  tests = checkout.root / 'tests'
  (tests / 'losses').mkdir()
  checkout.launch('test', 'losses', '-k', 'losses', '-n', '0', '--junitxml=x.xml', cwd=tests)
  _, folder, _, arguments = checkout.calls()[-1]
  assert folder == str(checkout.root)
  assert arguments == ('-P -m pytest -n logical --maxprocesses 8 --dist worksteal '
                       f'{tests}/losses -k losses -n 0 --junitxml={tests}/x.xml')


RECIPE = '''
import beside
from configs import common
from experiments import scenes_core
from kdseg_jax import default_config
def get_config(arg=None):
  print(arg, beside.WORD, scenes_core.__file__, common.parse_arg('role=mine', role='').role)
  return default_config.segmentation('none', 'student')
'''


def test_a_recipe_outside_of_the_checkout_imports_ours_and_its_neighbours(checkout, elsewhere):
  checkout.fake(checkout.root / '.venv/bin/python', then=(
      f'case "$*" in *"-m pip"*) ;; *) exec {sys.executable} "$@" ;; esac'))
  for folder in ('configs', 'experiments', 'kdseg_jax'):
    (checkout.root / folder).symlink_to(runs.ROOT / folder)
  (elsewhere / 'own.py').write_text(RECIPE)
  (elsewhere / 'beside.py').write_text('WORD = "neighbour"')
  output = checkout.launch('train', '--config=own.py:x=1', cwd=elsewhere, status=2,
                           JAX_PLATFORMS='cpu')
  assert f'x=1 neighbour {os.path.join(checkout.root, "experiments")}' in output
  assert 'mine' in output and 'ERROR: --workdir is missing' in output
