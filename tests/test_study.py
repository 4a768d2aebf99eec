"""The study program as a user starts it: report, interruption, wrong input."""

import json
import signal

import numpy as np
import pytest

from experiments import scenes_core
from kdseg_jax import study
from kdseg_jax.studies.plan import student_workdir
from tests import runs

STEPS = 30
# A model of one layer in place of the recipe's: programs are what is tested here.
PRELUDE = '''
from kdseg_jax import models
from tests import toys
models.create = lambda name, num_classes, axis_name, **_: toys.Model(
    num_classes=num_classes, axis_name=axis_name)
'''
STUDY = ('study', '--config=experiments/scenes_core.py:runlocal', f'--config.train.steps={STEPS}',
         '--config.eval.every_steps=15', '--config.checkpoint.every_steps=4')


@pytest.fixture(scope='module')
def uninterrupted(cache, tmp_path_factory):
  workdir = tmp_path_factory.mktemp('study')
  output = runs.run(*STUDY, f'--workdir={workdir}', cache=cache, prelude=PRELUDE)
  return workdir, output


@pytest.mark.slow
def test_a_study_trains_its_teacher_and_reports_paired_differences(uninterrupted):
  workdir, output = uninterrupted
  report = json.loads((workdir / 'report.json').read_text())
  assert report['seeds'] == [0, 1] and report['baseline'] == 'alone'
  assert set(report['students']) == set(scenes_core.STUDENTS)
  for name, entry in report['students'].items():
    rows = [[row for row in runs.rows(student_workdir(str(workdir), name, seed))
             if row['phase'] == 'evaluation'] for seed in (0, 1)]
    assert [row['step'] for row in rows[0]] == [15, STEPS]
    last = [of_seed[-1]['mean_iou'] for of_seed in rows]
    assert entry['mean_iou'] == pytest.approx(np.mean(last))
    assert entry['best_of_many'] >= entry['mean_iou']
    assert entry['training']['steps_per_second'] > 0 and entry['training']['peak_megabytes'] > 0
    assert entry['inference']['params'] > 0 and entry['inference']['images_per_second'] > 0
    assert set(entry['paired']) == {'difference', 'interval', 'p_value', 'seeds_needed'}
    low, high = entry['paired']['interval']
    assert low <= entry['paired']['difference'] <= high
  assert 0 <= report['teacher']['mean_iou'] <= 1
  text = (workdir / 'report.md').read_text()
  assert text in output and '| distilled_unlabelled' in text


def test_a_report_names_recipes_of_the_checkout_by_their_path_there():
  assert study._as_typed(f'--config={runs.ROOT}/experiments/a.py:steps=3') == (
      '--config=experiments/a.py:steps=3')
  for other in (
      '--config=experiments/a.py', f'--config={runs.ROOT}s/a.py', f'--workdir={runs.ROOT}'):
    assert study._as_typed(other) == other


@pytest.mark.slow
def test_a_killed_study_ends_bit_identical_to_an_uninterrupted_one(
    uninterrupted, cache, tmp_path):
  process = runs.start(*STUDY, f'--workdir={tmp_path}', cache=cache, prelude=PRELUDE)
  runs.wait_for_step(process, student_workdir(str(tmp_path), 'distilled', 0), 10)
  process.kill()
  process.communicate()
  assert process.returncode == -signal.SIGKILL
  assert not (tmp_path / 'report.json').exists()
  runs.run(*STUDY, f'--workdir={tmp_path}', cache=cache, prelude=PRELUDE)
  for name in scenes_core.STUDENTS:
    for seed in (0, 1):
      got, want = (runs.saved(student_workdir(str(workdir), name, seed))
                   for workdir in (tmp_path, uninterrupted[0]))
      for leaf in want:
        np.testing.assert_array_equal(got[leaf], want[leaf], err_msg=leaf)
  results = lambda workdir: {
      name: entry['mean_iou_of_seeds'] for name, entry in json.loads(
          (workdir / 'report.json').read_text())['students'].items()}
  assert results(tmp_path) == results(uninterrupted[0])


@pytest.mark.slow
def test_another_config_of_the_teacher_is_refused(uninterrupted, cache):
  output = runs.run(*STUDY, '--config.study.teacher.optimizer.learning_rate=0.5',
                    f'--workdir={uninterrupted[0]}', cache=cache, prelude=PRELUDE, status=2)
  assert 'config.optimizer.learning_rate is 0.5 now and was' in output


def test_costs_are_those_of_the_median_step():
  cost = {'peak_bytes': 3_000_000, 'extra_params': 4}
  assert study._training_cost([0.1, 9.0, 0.2], cost) == {
      'steps_per_second': 5.0, 'peak_megabytes': 3.0, 'extra_params': 4}
  assert set(study._training_cost([], {}).values()) == {None}


def test_a_study_trains_its_teacher_in_its_folder_unless_one_is_given(monkeypatch):
  trained = []
  monkeypatch.setattr(study.loop, 'train_teacher', lambda own, folder, **allowed: (
      trained.append((own.role, folder, allowed)) or len(trained) > 1))
  config, allowed = scenes_core.get_config('runlocal'), {'allow_class_names': True}
  assert not study.train_teacher(config, 'work', **allowed)  # told to stop
  assert trained == [('teacher', 'work/teacher', allowed)]
  assert config.teacher.checkpoint == 'work/teacher'
  config.teacher.checkpoint = 'given'
  assert study.train_teacher(config, 'work', **allowed)
  assert len(trained) == 1 and config.teacher.checkpoint == 'given'


def test_the_teacher_of_a_report_has_the_scores_and_costs_of_its_own_files(monkeypatch, tmp_path):
  config = scenes_core.get_config('runlocal')
  config.teacher.checkpoint = 'the teacher'
  monkeypatch.setattr(study, 'inference_cost', lambda config, folder, allow_imports: folder)
  assert study.teacher_entry(config, str(tmp_path)) is None
  for name, content in (
      ('teacher.json', {'key': {}, 'metrics': {'mean_iou': 0.5}}),
      ('teacher_cost.json', {'step_seconds': 0.25, 'peak_bytes': 8_000_000})):
    (tmp_path / name).write_text(json.dumps(content))
  assert study.teacher_entry(config, str(tmp_path)) == {
      'mean_iou': 0.5, 'inference': 'the teacher',
      'training': {'steps_per_second': 4.0, 'peak_megabytes': 8.0, 'extra_params': None}}


def test_every_model_has_an_inference_cost_of_its_own_and_equal_ones_share_it(
    monkeypatch, tmp_path):
  config = scenes_core.get_config('runlocal')
  config.study.update(baseline='alone')
  config.study.students = {'alone': {}, 'same': {}, 'wide': {'student': {'width': 0.5}}}
  measured = []
  monkeypatch.setattr(study, 'inference_cost', lambda config, folder, allow_imports: (
      measured.append(folder) or config.student.width))
  monkeypatch.setattr(study, 'read_rows', lambda folder: [])
  monkeypatch.setattr(study.study_report, 'build', lambda students, **_: students)
  found = study.make_report(config, str(tmp_path))
  width = config.student.width
  assert width != 0.5 and {name: one['inference'] for name, one in found.items()} == {
      'alone': width, 'same': width, 'wide': 0.5}
  seed = config.study.seeds[0]
  assert measured == [student_workdir(str(tmp_path), name, seed) for name in ('alone', 'wide')]


@pytest.mark.parametrize('arguments,message', [
    (['--config=configs/quickstart.py'], '--config must be a study'),
    (['--config=experiments/scenes_core.py:runlocal', '--config.study.baseline=alne'],
     "Did you mean 'alone'"),
    (['--config=experiments/scenes_core.py:runlocal', '--config.study.teacher.eval.split=tset'],
     "Did you mean 'test'"),
])
def test_wrong_input_is_one_clear_error(
    arguments, message, capsys, monkeypatch, tmp_path):
  monkeypatch.chdir(runs.ROOT)
  status, output = runs.run_here(
      capsys, study.PROGRAM, *arguments, f'--workdir={tmp_path / "work"}')
  assert status == 2 and message in output.partition('ERROR: ')[2]
  assert not (tmp_path / 'work').exists()
