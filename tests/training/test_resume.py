"""Real processes, killed, stopped and resumed: a run ends as if nothing had happened."""

import signal

import numpy as np
import pytest

from tests import runs

# Models of the library in a killed run: tests/test_classifier_processes.py.
SMALL_MODELS = runs.toy_models('BodyAndHead')

pytestmark = pytest.mark.slow

STEPS = 12
STUDENT = (
    '--config=configs/quickstart.py:method=tests.toy_methods:everything@0.1+holistic,runlocal',
    f'--config.train.steps={STEPS}', '--config.prepare.steps=4',
    '--config.critic.optimizer.momentum=0.9',  # of the toy's critic; the other has an Adam
    '--config.distill.holistic.critic_learning_rate=4e-4',
    '--config.eval.every_steps=0', '--config.checkpoint.every_steps=3')


@pytest.fixture(scope='module')
def teacher(cache, tmp_path_factory):
  workdir = tmp_path_factory.mktemp('teacher')
  runs.run('train', '--config=configs/quickstart.py:role=teacher,runlocal', f'--workdir={workdir}',
           cache=cache, prelude=SMALL_MODELS)
  return f'--config.teacher.checkpoint={workdir}'


@pytest.fixture(scope='module')
def uninterrupted(teacher, cache, tmp_path_factory):
  workdir = tmp_path_factory.mktemp('uninterrupted')
  runs.run('train', *STUDENT, teacher, f'--workdir={workdir}', cache=cache, prelude=SMALL_MODELS)
  return workdir


def assert_same_end(workdir, uninterrupted):
  got, want = runs.saved(workdir), runs.saved(uninterrupted)
  assert got.keys() == want.keys()
  # Of the toy's critic and of that of `holistic`, with the vectors that it carries along.
  for part, leaf in (('opt_state/critic/everything', 'trace'), ('opt_state/critic/holistic', 'mu'),
                     ('opt_state/critic/holistic', 'conv4'),
                     ('distiller/memory/holistic/spectral', 'conv4')):
    assert any(part in name and leaf in name and np.any(want[name]) for name in want), part
  for name in want:
    np.testing.assert_array_equal(got[name], want[name], err_msg=name)
  losses = lambda path: [(r['phase'], r['step'], r.get('loss')) for r in runs.rows(path)]
  assert losses(workdir) == losses(uninterrupted)


# In the other phases: tests/test_adaptation_run.py.
def test_a_killed_run_ends_bit_identical_to_an_uninterrupted_one(
    teacher, uninterrupted, cache, tmp_path):
  arguments = ('train', *STUDENT, teacher, f'--workdir={tmp_path}')
  process = runs.start(*arguments, cache=cache, prelude=SMALL_MODELS)
  runs.wait_for_step(process, tmp_path, 10)
  process.kill()  # SIGKILL: nothing can be tidied up
  process.communicate()
  assert process.returncode == -signal.SIGKILL
  runs.run(*arguments, cache=cache, prelude=SMALL_MODELS)
  assert_same_end(tmp_path, uninterrupted)


@pytest.mark.parametrize('number', [signal.SIGTERM, signal.SIGINT])
def test_a_signal_saves_and_exits_with_0_and_the_run_goes_on(
    number, teacher, uninterrupted, cache, tmp_path):
  arguments = ('train', *STUDENT, teacher, f'--workdir={tmp_path}',
               '--config.checkpoint.every_steps=0')
  process = runs.start(*arguments, cache=cache, prelude=SMALL_MODELS)
  runs.wait_for_step(process, tmp_path, 2)
  process.send_signal(number)
  output, _ = process.communicate(timeout=120)
  assert process.returncode == 0 and 'Stopped; the same command goes on' in output, output
  assert 'Ctrl-C again ends at once' in output
  stopped = runs.saved(tmp_path)
  assert 2 <= stopped['training/step'] < STEPS
  output = runs.run(*arguments, cache=cache, prelude=SMALL_MODELS)
  assert 'mean IoU' in output
  assert_same_end(tmp_path, uninterrupted)


def test_a_finished_run_is_only_evaluated_again(teacher, uninterrupted, cache):
  before = runs.saved(uninterrupted)
  output = runs.run('train', *STUDENT, teacher, f'--workdir={uninterrupted}', cache=cache,
                    prelude=SMALL_MODELS)
  assert 'mean IoU' in output
  for name, value in runs.saved(uninterrupted).items():
    np.testing.assert_array_equal(value, before[name], err_msg=name)


def test_the_teacher_is_not_in_the_checkpoint(uninterrupted):
  assert not any('teacher' in name for name in runs.saved(uninterrupted))
