"""Processes that distil a classifier by review: killed, resumed, evaluated."""

import json
import signal

import numpy as np
import pytest

from kdseg_jax.data import files
from tests import runs
from tests.data import classified_sets

pytestmark = pytest.mark.slow

STEPS = 12
RECIPE = '--config=configs/cifar.py:data=npz,images=16,runlocal'


@pytest.fixture(scope='module')
def root(tmp_path_factory):
  folder = tmp_path_factory.mktemp('data')
  return classified_sets.npz(folder / 'a.npz', classes=6, counts=(16, 9), size=16)


@pytest.fixture(scope='module')
def student(root, cache, tmp_path_factory):
  """The command of a ResNet-8 that learns from a ResNet-20."""
  workdir = tmp_path_factory.mktemp('teacher')
  runs.run('train', f'{RECIPE},role=teacher', '--config.student.name=cifar_resnet20',
           f'--config.data.root={root}', f'--workdir={workdir}', cache=cache)
  return ('train', f'{RECIPE},method=review', f'--config.teacher.checkpoint={workdir}',
          f'--config.data.root={root}', f'--config.train.steps={STEPS}',
          '--config.eval.every_steps=0', '--config.checkpoint.every_steps=3')


@pytest.fixture(scope='module')
def uninterrupted(student, cache, tmp_path_factory):
  workdir = tmp_path_factory.mktemp('uninterrupted')
  runs.run(*student, f'--workdir={workdir}', cache=cache)
  return workdir


def assert_same_state(got, want):
  assert got.keys() == want.keys() and got['training/step'] == STEPS
  for name in want:
    np.testing.assert_array_equal(got[name], want[name], err_msg=name)


def kill_at_step(step, workdir, *arguments, cache):
  """Starts a program and kills it once its run has logged a step."""
  process = runs.start(*arguments, f'--workdir={workdir}', cache=cache)
  runs.wait_for_step(process, workdir, step)
  process.kill()  # SIGKILL: nothing can be tidied up
  process.communicate()
  assert process.returncode == -signal.SIGKILL


def test_a_killed_run_ends_bit_identical_to_an_uninterrupted_one(
    student, uninterrupted, cache, tmp_path):
  kill_at_step(8, tmp_path, *student, cache=cache)
  runs.run(*student, f'--workdir={tmp_path}', cache=cache)
  got, want = runs.saved(tmp_path), runs.saved(uninterrupted)
  fusion = 'training/distiller/params/review/stage2/attention/kernel'
  assert np.any(want[fusion]) and np.any(want[fusion.replace('params', 'memory').replace(
      'review/', 'review/batch_stats/').replace('attention/kernel', 'reduce/norm/norm/mean')])
  assert_same_state(got, want)
  losses = lambda path: [(r['phase'], r['step'], r.get('loss')) for r in runs.rows(path)]
  assert losses(tmp_path) == losses(uninterrupted)


def test_it_is_evaluated_and_predicts(uninterrupted, root, cache, tmp_path):
  output = runs.run('evaluate', f'--workdir={uninterrupted}', f'--json={tmp_path / "a.json"}',
                    '--config.eval.limit=0', cache=cache)
  metrics = json.loads((tmp_path / 'a.json').read_text())
  assert metrics['images'] == 9 and f'{metrics["top1"]:.4f}' in output
  with np.load(root) as arrays:
    files.write_png(tmp_path / 'photo.png', arrays['test_image'][0])
  runs.run('predict', f'--workdir={uninterrupted}', f'--output={tmp_path}', tmp_path / 'photo.png',
           cache=cache)
  (rows,) = json.loads((tmp_path / 'predictions.json').read_text()).values()
  probabilities = [row['probability'] for row in rows]
  assert probabilities == sorted(probabilities, reverse=True) and sum(probabilities) <= 1
  assert files.read_image(tmp_path / 'pictures' / 'photo.png').shape[1] > 16  # with its classes
