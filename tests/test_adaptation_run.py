"""Knowledge adaptation by one command: teacher, autoencoder, student; killed in each."""

import json
import os
import signal
import time

import numpy as np
import pytest

from tests import runs
from tests.data import archives

pytestmark = pytest.mark.slow

STEPS = 8
# The phases are asked about, and not the models: small ones compile fast.
SMALL_MODELS = runs.toy_models('BodyAndHead')
PHASES = {'teacher': 'teacher', 'prepare': 'prepared/*', 'train': '.'}  # and their folders


@pytest.fixture(scope='module')
def command(tmp_path_factory):
  root = tmp_path_factory.mktemp('camvid')
  archives.camvid(root, counts=[('train', 8), ('val', 3)])
  small = [f'{section}.{field}' for section in ('config', 'config.teacher.config') for field in (
      f'train.steps={STEPS}', 'checkpoint.every_steps=3', 'eval.every_steps=0')]
  return ('train', '--config=configs/camvid.py:method=adaptation,runlocal',
          f'--config.data.root={root}', '--config.data.size=(36,48)',
          f'--config.prepare.steps={STEPS}', *(f'--{field}' for field in small))


@pytest.fixture(scope='module')
def uninterrupted(command, cache, tmp_path_factory):
  workdir = tmp_path_factory.mktemp('uninterrupted')
  output = runs.run(*command, f'--workdir={workdir}', cache=cache, prelude=SMALL_MODELS)
  assert 'first a teacher is trained in' in output and 'Preparing in' in output
  return workdir


def folder_of(workdir, phase):
  """The folder of a phase, or None before it is made."""
  return next(workdir.glob(PHASES[phase]), None) if phase != 'train' else workdir


def assert_same_end(workdir, uninterrupted):
  for phase in PHASES:
    got, want = (runs.saved(folder_of(path, phase)) for path in (workdir, uninterrupted))
    assert got.keys() == want.keys()
    for name in want:
      np.testing.assert_array_equal(got[name], want[name], err_msg=f'{phase}: {name}')
    losses = [[(r['phase'], r['step'], r.get('loss')) for r in runs.rows(folder_of(path, phase))]
              for path in (workdir, uninterrupted)]
    assert losses[0] == losses[1]


def test_every_phase_has_its_folder_and_the_decoder_is_not_with_the_student(uninterrupted):
  prepared = runs.saved(folder_of(uninterrupted, 'prepare'))
  student = runs.saved(uninterrupted)
  assert len(list(uninterrupted.glob('prepared/*'))) == 1  # for both terms
  of = lambda saved, part: {name.partition(part)[2]: value for name, value in saved.items()
                            if part in name and 'opt_state' not in name}
  wanted = of(prepared, 'model/params/encoder/')
  assert any('decoder' in name for name in prepared)
  for term in ('feature_adaptation', 'affinity_adaptation'):
    found = of(student, f'distiller/prepared/{term}/params/')
    assert found.keys() == wanted.keys()
    for name in wanted:
      np.testing.assert_array_equal(found[name], wanted[name])
  assert not any('decoder' in name for name in student)
  assert [r['step'] for r in runs.rows(folder_of(uninterrupted, 'prepare'))] == [*range(1, 9)]
  config = json.loads((uninterrupted / 'config.json').read_text())
  assert config['teacher']['checkpoint'] == str(uninterrupted / 'teacher')


def test_killed_in_every_phase_it_ends_bit_identical(command, uninterrupted, cache, tmp_path):
  for phase in PHASES:
    process = runs.start(*command, f'--workdir={tmp_path}', cache=cache, prelude=SMALL_MODELS)
    deadline = time.time() + 300
    while folder_of(tmp_path, phase) is None:
      assert process.poll() is None and time.time() < deadline, process.communicate()[0]
      time.sleep(0.02)
    runs.wait_for_step(process, folder_of(tmp_path, phase), 5,
                       'train' if phase == 'teacher' else phase)
    process.kill()
    process.communicate()
    assert process.returncode == -signal.SIGKILL
  runs.run(*command, f'--workdir={tmp_path}', cache=cache, prelude=SMALL_MODELS)
  assert_same_end(tmp_path, uninterrupted)


def test_a_later_run_finds_teacher_and_autoencoder(command, uninterrupted, cache, tmp_path):
  before = {phase: os.stat(folder_of(uninterrupted, phase) / 'metrics.jsonl').st_mtime_ns
            for phase in ('teacher', 'prepare')}
  output = runs.run(
      *command, f'--workdir={tmp_path}', f'--config.teacher.checkpoint={uninterrupted / "teacher"}',
      f'--config.prepare.folder={uninterrupted / "prepared"}',
      '--config.seed=1', '--config.data.seed=0', cache=cache, prelude=SMALL_MODELS)
  assert 'Prepared before' in output and 'Compiling the prepare step' not in output
  assert not (tmp_path / 'teacher').exists() and not (tmp_path / 'prepared').exists()
  rows = runs.rows(folder_of(uninterrupted, 'prepare'))
  assert len(rows) == STEPS  # none was added
  assert before['teacher'] == os.stat(uninterrupted / 'teacher' / 'metrics.jsonl').st_mtime_ns
  encoder = lambda workdir: {
      name: value for name, value in runs.saved(workdir).items() if '/prepared/' in name}
  for name, value in encoder(uninterrupted).items():
    np.testing.assert_array_equal(value, encoder(tmp_path)[name])
