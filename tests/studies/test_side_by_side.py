"""Students side by side: each ends as its own run would, however the study was interrupted."""

import itertools
import json
import logging
import os
import shutil
import types

import jax
import numpy as np
import pytest
from absl import logging as absl_logging

from configs import common, quickstart
from kdseg_jax import distillers, parallel
from kdseg_jax.studies import plan as study_plan
from kdseg_jax.studies import side_by_side
from kdseg_jax.training import loop, preparations
from kdseg_jax.training.preemption import StopSignal
from tests import runs

pytestmark = pytest.mark.usefixtures('toy_models', 'one_device')

STEPS = 7


@pytest.fixture(scope='module')
def teacher(tmp_path_factory):
  workdir = tmp_path_factory.mktemp('teacher')
  loop.train(quickstart.get_config('role=teacher,runlocal'), str(workdir))
  return str(workdir)


STUDENTS = {
    'alone': {}, 'pairwise': {'method': 'pairwise'},  # reads another tap than the next
    'everything': {'method': 'tests.toy_methods:everything@0.1', 'critic': {'steps': 2},
                   'prepare': {'steps': 3}}}


def study_of(teacher, students=tuple(STUDENTS), seeds=(0, 1), **study):
  config = quickstart.get_config('role=student,runlocal')
  config.teacher.checkpoint = teacher
  config.optimizer.learning_rate = 1e-3
  config.train.steps = STEPS
  config.eval.every_steps = 0
  config.checkpoint.every_steps = 0  # at the end, and where a study is stopped
  common.study(config, title='', description='', seeds=seeds,
               students={name: STUDENTS[name] for name in students})
  config.study.update(study)
  return config


@pytest.fixture(scope='module')
def study(teacher, tmp_path_factory):
  workdir = tmp_path_factory.mktemp('study')
  assert side_by_side.train(study_of(teacher), str(workdir))
  return workdir


def last_evaluation(workdir, name, seed):
  row = runs.rows(study_plan.student_workdir(str(workdir), name, seed))[-1]
  assert row['phase'] == 'evaluation' and row['step'] == STEPS
  return row['mean_iou']


def saved(workdir, name, seed):
  return runs.saved(study_plan.student_workdir(str(workdir), name, seed))


def assert_same(got, want, rtol=0.0):
  assert got.keys() == want.keys()
  for name in want:
    np.testing.assert_allclose(got[name], want[name], rtol=rtol, atol=rtol, err_msg=name)


def assert_same_study(workdir, study, rtol=0.0, students=STUDENTS, seeds=(0, 1)):
  for name in students:
    for seed in seeds:
      assert_same(saved(workdir, name, seed), saved(study, name, seed), rtol)


@pytest.mark.parametrize('name', STUDENTS)
def test_a_student_equals_its_separate_run_to_the_bit(study, teacher, name, tmp_path):
  config = study_plan.student_config(study_of(teacher), name, seed=1)
  assert config.train.split_teacher and config.seed == 1 and config.data.seed == 0
  loop.train(config, str(tmp_path))
  assert_same(runs.saved(tmp_path), saved(study, name, 1))
  losses = lambda folder: [(r['phase'], r['step'], r.get('loss'), r.get('mean_iou'))
                           for r in runs.rows(folder)]
  assert losses(tmp_path) == losses(study_plan.student_workdir(str(study), name, 1))


def test_one_program_and_two_agree(study, teacher, tmp_path):
  config = study_plan.student_config(study_of(teacher), 'everything', seed=0).unlock()
  config.train.split_teacher = False
  loop.train(config, str(tmp_path))
  assert_same(runs.saved(tmp_path), saved(study, 'everything', 0), rtol=1e-5)


def test_students_of_a_seed_start_alike_and_seeds_do_not(study):
  first = lambda name, seed: [r for r in runs.rows(study_plan.student_workdir(
      str(study), name, seed)) if r['phase'] == 'train'][0]['task/cross_entropy']
  assert first('alone', 0) == first('pairwise', 0) == first('everything', 0)
  assert first('alone', 0) != first('alone', 1)


@pytest.mark.slow
def test_an_interrupted_study_ends_as_if_nothing_had_happened(
    study, teacher, tmp_path, monkeypatch):
  config = study_of(teacher)
  calls = []
  monkeypatch.setattr(StopSignal, 'agree', lambda self, reached, step: (
      calls.append(step), setattr(self, '_set', len(calls) == 4 + 3 * 2))[1] or self._set)
  assert not side_by_side.train(config, str(tmp_path))  # told to stop after some steps
  monkeypatch.undo()
  assert side_by_side.train(config, str(tmp_path))
  assert_same_study(tmp_path, study)


def test_a_study_stopped_in_its_last_evaluations_makes_them_up(
    study, teacher, tmp_path, monkeypatch):
  config = study_of(teacher, ('alone', 'pairwise'), (0,))
  monkeypatch.setattr(side_by_side.Run, 'evaluate', lambda self: self._should_stop._stop())
  assert not side_by_side.train(config, str(tmp_path))
  monkeypatch.undo()
  assert side_by_side.train(config, str(tmp_path))
  for name in ('alone', 'pairwise'):
    assert last_evaluation(tmp_path, name, 0) == last_evaluation(study, name, 0)


def test_a_study_stopped_in_an_evaluation_on_its_way_makes_it_up(teacher, tmp_path):
  config = study_of(teacher, ('alone',), (0,))
  config.eval.every_steps = 3
  evaluated = lambda: [row['step'] for row in runs.rows(study_plan.student_workdir(
      str(tmp_path), 'alone', 0)) if row['phase'] == 'evaluation']
  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(side_by_side.Run, 'evaluate', lambda self: self._should_stop._stop())
    assert not side_by_side.train(config, str(tmp_path)) and not evaluated()
  assert side_by_side.train(config, str(tmp_path))
  assert evaluated() == [3, 6, STEPS]


@pytest.mark.parametrize('vmap_seeds', [False, True])  # into one program, if at one step
def test_students_at_different_steps_wait_for_the_ones_behind(study, teacher, tmp_path, vmap_seeds):
  for seed, steps in ((0, 6), (1, 3)):  # as left behind by a killed study
    config = study_plan.student_config(study_of(teacher), 'alone', seed).unlock()
    folder = study_plan.student_workdir(str(tmp_path), 'alone', seed)
    with StopSignal() as stop:
      run, student = loop.start(config, folder, stop)
      loop.advance(run, loop.programs.train_step_of(run.experiment, student),
                   stop_after(stop, steps))
      run.close()
  assert side_by_side.train(study_of(teacher, ('alone',), vmap_seeds=vmap_seeds), str(tmp_path))
  assert_same_study(tmp_path, study, students=('alone',))


def stop_after(stop, steps):
  """The signal `stop`, given after a number of steps."""
  stop.agree = lambda reached, step: step == steps
  return stop


@pytest.mark.slow
def test_a_new_student_and_a_new_seed_are_trained_alone_and_equal_those_of_a_whole_study(
    study, teacher, tmp_path, monkeypatch):
  assert side_by_side.train(study_of(teacher, ('alone', 'pairwise'), (0,)), str(tmp_path))
  trained = []
  original = side_by_side._cohorts
  monkeypatch.setattr(side_by_side, '_cohorts', lambda config, workdir, name, configs, *rest: (
      trained.append((name, tuple(configs))), original(config, workdir, name, configs, *rest))[1])
  assert side_by_side.train(study_of(teacher), str(tmp_path))
  assert sorted(trained) == [('alone', (1,)), ('everything', (0, 1)), ('pairwise', (1,))]
  assert_same_study(tmp_path, study)
  trained.clear()
  assert side_by_side.train(study_of(teacher), str(tmp_path))
  assert not trained  # all are finished
  os.remove(os.path.join(study_plan.student_workdir(str(tmp_path), 'alone', 0), 'metrics.jsonl'))
  assert side_by_side.train(study_of(teacher), str(tmp_path))  # its evaluation was lost
  assert trained == [('alone', (0,))]
  assert last_evaluation(tmp_path, 'alone', 0) == last_evaluation(study, 'alone', 0)


@pytest.mark.slow
def test_seeds_in_one_program_give_the_same(study, teacher, tmp_path):
  students = ('pairwise', 'everything')
  assert side_by_side.train(study_of(teacher, students, vmap_seeds=True), str(tmp_path))
  assert_same_study(tmp_path, study, rtol=1e-5, students=students)
  peak = lambda workdir: json.loads(
      (workdir / 'students' / 'pairwise' / 'cost.json').read_text())['peak_bytes']
  assert peak(study) > 0 and peak(tmp_path) is None  # of two runs at once


@pytest.mark.slow
@pytest.mark.parametrize('mode', parallel.MODES)
def test_eight_devices_give_the_same(study, teacher, tmp_path, mode, monkeypatch):
  monkeypatch.setattr(parallel, 'create_mesh', lambda original=parallel.create_mesh: original(
      jax.devices()))
  students = ('pairwise', 'everything')
  config = study_of(teacher, students, seeds=(0,))
  config.parallel = mode
  assert side_by_side.train(config, str(tmp_path))
  assert_same_study(tmp_path, study, rtol=1e-4, students=students, seeds=(0,))


def test_one_preparation_serves_all_students_and_seeds(study, teacher, tmp_path, monkeypatch):
  config = study_of(teacher, ('everything',))
  with config.unlocked():
    config.study.students.heavier = config.study.students.everything.copy_and_resolve_references()
    config.study.students.heavier.distill.everything.weight = 0.7
  advanced = []
  original = preparations.advance
  monkeypatch.setattr(preparations, 'advance', lambda run, *rest: (
      advanced.append(run.workdir), original(run, *rest)))
  assert side_by_side.train(config, str(tmp_path))
  (folder,) = advanced  # of two students of two seeds
  assert os.path.dirname(folder) == str(tmp_path / 'prepared')
  assert [r['step'] for r in runs.rows(folder)] == [1, 2, 3]
  states = [saved(tmp_path, name, seed) for name in ('everything', 'heavier') for seed in (0, 1)]
  kept = runs.saved(folder)['model/params/mean']
  assert kept != 0
  for state in states:
    (name,) = (name for name in state if '/prepared/' in name)
    assert name.endswith('mean') and state[name] == kept  # not the decoder
  # Nothing is prepared for runs that have begun.
  shutil.rmtree(folder)
  os.remove(tmp_path / 'students/heavier/seed0/metrics.jsonl')
  assert side_by_side.train(config, str(tmp_path)) and len(advanced) == 1
  last_evaluation(tmp_path, 'heavier', 0)  # that was lost with the log


def test_students_of_unlike_models_are_not_evaluated_by_one_evaluator(tmp_path, monkeypatch):
  monkeypatch.setattr(side_by_side, 'create_evaluator', lambda experiment, student: student)
  shared = side_by_side._Shared({}, str(tmp_path), None, None)
  evaluators = []
  for width in (0.5, 1.0, 0.5):
    config = quickstart.get_config('role=student')
    config.student.width = width
    evaluators.append(shared.evaluator(types.SimpleNamespace(config=config, student=object())))
  assert evaluators[0] is evaluators[2] is not evaluators[1]


@pytest.mark.parametrize('measured, refused', [(7, False), (5, True), (None, False)])
def test_students_of_a_study_have_one_checkpoint_of_the_teacher(
    measured, refused, tmp_path, monkeypatch):
  config = quickstart.get_config('role=student')
  teacher = types.SimpleNamespace(step=7, workdir='there')
  monkeypatch.setattr(side_by_side.experiments, 'create_experiment', lambda *_, **__: (
      types.SimpleNamespace(config=config, teacher=teacher)))
  monkeypatch.setattr(side_by_side.shapes, 'check_step', lambda *_: None)
  monkeypatch.setattr(side_by_side.programs, 'student_program', lambda *_, **__: None)
  monkeypatch.setattr(side_by_side, 'check_data', lambda *_: None)
  if measured:
    (tmp_path / 'teacher.json').write_text(json.dumps({'key': {'step': measured}}))
  create = lambda: side_by_side._Shared({'kd': {0: config}}, str(tmp_path), None, None)
  if not refused:
    create()
    return
  with pytest.raises(ValueError, match='with checkpoint 5 of the teacher, and there has 7 now'):
    create()


def test_a_student_is_logged_beside_the_teacher_that_it_reads(study):
  metrics = json.loads((study / 'teacher.json').read_text())['metrics']
  for name in STUDENTS:
    row = runs.rows(study_plan.student_workdir(str(study), name, 1))[-1]
    expected = None if name == 'alone' else metrics['mean_iou']
    assert row['phase'] == 'evaluation' and row.get('teacher_mean_iou') == expected


def test_a_run_that_was_begun_with_another_config_is_refused(study, teacher):
  config = study_of(teacher)
  config.study.students.pairwise.distill.pairwise.weight = 3.0
  with pytest.raises(ValueError, match=r'config.distill.pairwise.weight is 3.0 now and was 10.0'):
    side_by_side.train(config, str(study))


@pytest.mark.parametrize('own, message', [
    ({'train': {'steps': 3}}, "Unknown section of the student 'alone': 'train'"),
    ({'optimizer': {'learning_rat': 1.0}}, "'learning_rat'. Did you mean 'learning_rate'"),
    ({'critic': {'optimizer': {'moment': 1.0}}}, "'moment'. Did you mean 'momentum'"),
    ({'data': {'name': 'camvid'}}, "Unknown data field of the student 'alone': 'name'"),
])
def test_a_student_may_differ_in_known_fields_only(own, message, teacher):
  config = study_of(teacher)
  with config.unlocked():
    config.study.students.alone = own
  with pytest.raises(ValueError, match=message):
    study_plan.student_config(config, 'alone', 0)


@pytest.mark.parametrize('seeds', [(), (0, 0, 1)])
def test_seeds_must_be_different_numbers(seeds, teacher):
  with pytest.raises(ValueError, match='expected one or more different'):
    study_plan.check_study(study_of(teacher, seeds=seeds))


@pytest.mark.parametrize('change, message', [
    ({'eval': {'split': 'tset'}}, "'tset'. Did you mean 'test'"),
    ({'eval': {'overlap': 1.0}}, 'config.eval.overlap=1.0'),
    ({'train': {'freeze': ('nope',)}}, "config.train.freeze: 'nope' matches no parameter"),
    ({'optimizer': {'name': 'lion'}}, 'lion'),
    ({'critic': {'optimizer': {'decay': 'none'}}}, "optimizer.decay='none' is unknown"),
    ({'prepare': {'optimizer': {'decay': 'none'}}}, "optimizer.decay='none' is unknown"),
    ({'study': {'students': {'pairwise': {'distill': {'pairwise': {'node_siz': 2}}}}}},
     "field of config.distill.pairwise: 'node_siz'. Did you mean 'node_size'"),
    ({'study': {'students': {'pairwise': {'data': {'unlabelled_share': 0.5}}}}},
     'unlabelled_share=0.5 has no effect without config.data.unlabelled'),
    ({'study': {'students': {'pairwise': {'student': {'name': 'resnet18'}}}}},
     'config.student.name=resnet18 is a classifier'),
    ({'study': {'students': {'pairwise': {'data': {'unlabelled': 'nowhere'}}}}}, 'nowhere'),
])
def test_what_cannot_work_is_refused_before_the_teacher_is_trained(change, message, teacher):
  config = study_of(teacher)
  with config.unlocked():
    config.update(change)
  with pytest.raises(ValueError, match=message):
    study_plan.check_study(config)


def test_students_whose_teacher_normalises_otherwise_are_refused(teacher):
  config = study_of(teacher, ('alone', 'pairwise'))
  with config.unlocked():
    config.study.students.reviewing = {'distill': distillers.terms_of('review')}
    study_plan.check_study(config)
    config.study.students.reviewing.distill.review.teacher_batch_statistics = True
  with pytest.raises(ValueError, match="True for 'reviewing' and False for 'pairwise'"):
    study_plan.check_study(config)


def test_another_teacher_is_refused_and_a_longer_log_is_not(study, teacher, tmp_path):
  config = study_of(teacher)
  config.log.every_steps = 2
  assert side_by_side.train(config, str(study))  # nothing is left to do
  config.teacher.checkpoint = str(tmp_path)
  with pytest.raises(ValueError, match='config.teacher is'):
    side_by_side.train(config, str(study))


def test_students_of_other_images_read_batches_of_their_own(study, teacher, tmp_path):
  config = study_of(teacher, ('alone', 'pairwise'), (0,))
  own = {'train_limit': 40, 'unlabelled': 'rest', 'unlabelled_share': 0.5}
  with config.unlocked():
    config.study.students.more = config.study.students.pairwise.copy_and_resolve_references()
    config.study.students.more.data = own
  assert side_by_side.train(config, str(tmp_path))
  assert_same_study(tmp_path, study, students=('alone', 'pairwise'), seeds=(0,))
  alone = study_plan.student_config(config, 'more', 0)
  assert alone.data.unlabelled == 'rest' and alone.data.train_limit == 40
  loop.train(alone, str(tmp_path / 'own'))
  assert_same(runs.saved(tmp_path / 'own'), saved(tmp_path, 'more', 0))
  differs = [name for name, value in saved(study, 'pairwise', 0).items()
             if not np.array_equal(value, saved(tmp_path, 'more', 0)[name])]
  assert any('params' in name for name in differs)


def test_the_log_says_how_far_the_runs_are(monkeypatch, caplog):
  before = absl_logging.get_verbosity()
  absl_logging.set_verbosity(absl_logging.INFO)
  caplog.set_level(logging.INFO, logger='absl')
  now = itertools.count(step=1.5)
  monkeypatch.setattr(side_by_side.time, 'perf_counter', lambda: 50 * next(now))
  progress = side_by_side._Progress(runs=6, start=2, steps=8, every=2)
  for step in range(3, 9):
    progress(step)
  absl_logging.set_verbosity(before)
  assert [record.getMessage() for record in caplog.records] == [
      'Study: step 4 of 8 of 6 runs side by side, 75.00 s for a step of all; about 5 min left.',
      'Study: step 6 of 8 of 6 runs side by side, 75.00 s for a step of all; about 2 min left.']


def test_a_line_of_the_log_says_which_student_and_seed(teacher, tmp_path, caplog):
  before = absl_logging.get_verbosity()
  absl_logging.set_verbosity(absl_logging.INFO)
  caplog.set_level(logging.INFO, logger='absl')
  side_by_side.train(study_of(teacher, ('pairwise',), seeds=(4,)), str(tmp_path))
  absl_logging.set_verbosity(before)
  said = [record.getMessage() for record in caplog.records]
  for start in ('pairwise seed 4: train 7  ', 'pairwise seed 4: evaluation 7  ',
                'Compiling the train step of pairwise seed 4;', "Compiling the teacher's pass;"):
    assert sum(line.startswith(start) for line in said) == 1, (start, said)
