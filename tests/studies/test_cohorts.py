"""Runs that take a step together: whose state it is, and whose time."""

import collections
import itertools
import json
import types

import numpy as np
import pytest

from configs import common, quickstart
from kdseg_jax import distillers, parallel
from kdseg_jax.distillers import DistillerState
from kdseg_jax.studies import plan as study_plan
from kdseg_jax.studies import side_by_side
from kdseg_jax.training.run import Due
from kdseg_jax.training.state import TrainState
from kdseg_jax.training.step import TEACHER_TAPS
from tests import toys

BATCH = {'image': np.zeros((1, 2, 2, 3))}


def run_of(params, saves=False, stops=False):
  """In place of a `Run` at its start; `recorded` has its params and metrics after each step.

  It reads its state where it `saves`, and where it stops.
  """
  run = types.SimpleNamespace(
      state=TrainState(0, params, {}, {}, DistillerState(), 0), done=0, recorded=[],
      due=lambda step, *, stopping: Due(False, False, saves or stopping),
      experiment=types.SimpleNamespace(
          config=types.SimpleNamespace(
              train=types.SimpleNamespace(steps=3, split_teacher=True),
              optimizer=types.SimpleNamespace(learning_rate=0.1)),
          distiller=toys.projected(), mesh=parallel.create_mesh(), teacher=object()))
  run.record = lambda step, metrics, *, stopping: (
      run.recorded.append((run.state and run.state.params, metrics)), stops)[1]
  return run


def test_runs_in_one_program_have_states_of_their_own_and_one_that_stops_stops_all(tmp_path):
  runs_of_two = [run_of({'w': np.float32(seed)}, saves=True, stops=seed == 4) for seed in (3, 4)]
  clocks = [side_by_side.Stopwatch() for _ in runs_of_two]

  def program(constants, state, batch):
    params = {'w': state.params['w'] + batch['image'].size}
    return state._replace(params=params), {'loss': 10 * state.params['w']}
  cohort = side_by_side._Cohort(runs_of_two, clocks, program, str(tmp_path), '')
  assert cohort.advance(BATCH, {'x': 0}, stopping=False)
  assert [run.recorded for run in runs_of_two] == [
      [({'w': 15}, {'loss': 30})], [({'w': 16}, {'loss': 40})]]
  alone = run_of({'w': np.float32(3)})
  cohort = side_by_side._Cohort([alone], clocks[:1], program, str(tmp_path), '')
  cohort._cost_written = True  # of a program that is none
  assert not cohort.advance(BATCH, {'x': 0}, stopping=False)
  assert alone.recorded == [({'w': 15}, {'loss': 30})]


def counting(constants, state, batch):
  """A program whose params are the number of its steps."""
  return state._replace(params=state.params + 1), {'loss': state.params}


def test_runs_in_one_program_that_are_stopped_have_the_state_of_that_step(tmp_path):
  two = [run_of(np.float32(start)) for start in (0, 10)]
  cohort = side_by_side._Cohort(
      two, [side_by_side.Stopwatch() for _ in two], counting, str(tmp_path), '')
  for stopping in (False, True):
    assert not cohort.advance(BATCH, {'x': 0}, stopping=stopping)
  assert cohort.done == 2
  assert [run.recorded for run in two] == [[(None, {'loss': 0}), (2, {'loss': 1})],
                                           [(None, {'loss': 10}), (12, {'loss': 11})]]


@pytest.mark.parametrize('number, peak', [(1, 7), (2, None)])
def test_the_cost_of_a_student_is_written_once_without_the_memory_of_several_runs(
    number, peak, tmp_path):
  class Program:
    peaks = 0

    def __call__(self, constants, state, batch):
      return counting(constants, state, batch)

    def peak_bytes(self):
      self.peaks += 1
      return 7
  several, program = [run_of(np.float32(0)) for _ in range(number)], Program()
  for run in several:
    run.state = run.state._replace(distiller=DistillerState({'x': np.ones(5)}))
  cohort = side_by_side._Cohort(
      several, [side_by_side.Stopwatch() for _ in several], program, str(tmp_path), '')
  for _ in range(2):
    cohort.advance(BATCH, {'x': 0}, stopping=False)
  assert json.loads((tmp_path / 'cost.json').read_text()) == {'peak_bytes': peak, 'extra_params': 5}
  assert program.peaks == (1 if peak else 0)


def test_a_student_is_given_the_taps_that_it_reads_alone(tmp_path):
  given = []
  program = lambda constants, state, batch: (given.append(batch[TEACHER_TAPS]), counting(
      constants, state, batch))[1]
  run = run_of(np.float32(0))
  cohort = side_by_side._Cohort([run], [side_by_side.Stopwatch()], program, str(tmp_path), '')
  cohort._cost_written = True
  cohort.advance(BATCH, {'x': 3, 'y': 4}, stopping=False)
  assert given == [{'x': 3}] and set(BATCH) == {'image'}


class Advancing:
  """In place of a `_Cohort`: `seen` has the batches, taps and stops of its steps."""

  def __init__(self, done, taps=(), stops_after=None):
    self.done, self.taps, self.seen, self._stops_after = done, taps, [], stops_after
    self.runs = [types.SimpleNamespace(checkpointer=types.SimpleNamespace(
        reached_preemption=None))]
    self.experiment = types.SimpleNamespace(config=types.SimpleNamespace(
        train=types.SimpleNamespace(steps=6), log=types.SimpleNamespace(every_steps=0)))
    self.program = types.SimpleNamespace(place=lambda batch: batch)

  def advance(self, batch, taps, *, stopping):
    self.seen.append((batch, taps, stopping))
    self.done += 1
    return stopping or self.done == self._stops_after


@pytest.fixture
def advance(monkeypatch, tmp_path):
  """Advances cohorts, told to stop after a step; batches are numbers, taps their negatives."""
  teacher = types.SimpleNamespace(asked=[], write_cost=lambda: teacher.asked.append('cost'))
  class Teacher:
    def __init__(self, cohorts, names, workdir):
      teacher.names = names

    def __call__(self, batch):
      teacher.asked.append(batch)
      return -batch

    def write_cost(self):
      teacher.asked.append('cost')
  monkeypatch.setattr(side_by_side, '_TeacherPass', Teacher)
  monkeypatch.setattr(side_by_side, 'training_batches', lambda experiment, phase, start: (
      itertools.count(start)))

  def run(cohorts, stop_at=None):
    stop = types.SimpleNamespace(agree=lambda reached, step: step == stop_at)
    side_by_side._advance(cohorts, str(tmp_path), stop)
    return teacher
  return run


def test_students_ahead_wait_and_the_teacher_is_asked_where_one_reads_it(advance):
  ahead, behind = Advancing(4, taps=('a', 'b')), Advancing(2)
  teacher = advance([ahead, behind])
  assert behind.seen == [(2, {}, False), (3, {}, False), (4, -4, False), (5, -5, False)]
  assert ahead.seen == [(4, -4, False), (5, -5, False)]
  assert teacher.asked == [4, 5, 'cost'] and teacher.names == ('a', 'b')


def test_all_students_end_with_the_step_at_which_one_stops(advance):
  cohorts = [Advancing(0, taps=('b', 'a')), Advancing(0, taps=('a', 'c'))]
  teacher = advance(cohorts, stop_at=2)
  assert [cohort.seen for cohort in cohorts] == [[(0, 0, False), (1, -1, True)]] * 2
  assert teacher.asked == [0, 1, 'cost'] and teacher.names == ('b', 'a', 'c')
  cohorts = [Advancing(0, stops_after=3), Advancing(0)]  # in its evaluation
  advance(cohorts)
  assert [cohort.done for cohort in cohorts] == [3, 3]


@pytest.mark.parametrize('begun, expected', [(False, ['alone', 'more']), (True, [])])
def test_data_are_checked_once_each_before_anything_is_trained(
    begun, expected, tmp_path, monkeypatch):
  study = quickstart.get_config('role=student')
  common.study(study, title='', description='', seeds=(0, 1), students={
      'alone': {}, 'kd': {'method': 'kd'}, 'more': {'data': {'train_limit': 40}}})
  configs = {name: {seed: study_plan.student_config(study, name, seed) for seed in (0, 1)}
             for name in study_plan.student_names(study)}
  of = {config.to_json(): name for name, seeds in configs.items() for config in seeds.values()}
  checked, created = [], []

  def create(config, teacher, **options):
    created.append((of[config.to_json()], teacher, options))
    return types.SimpleNamespace(config=config, teacher=types.SimpleNamespace(
        step=7, workdir='there', of=of[config.to_json()]))
  monkeypatch.setattr(side_by_side.experiments, 'create_experiment', create)
  monkeypatch.setattr(side_by_side.shapes, 'check_step', lambda *_: None)
  monkeypatch.setattr(side_by_side.programs, 'student_program', lambda *_, **__: None)
  monkeypatch.setattr(side_by_side, 'check_data', lambda experiment, workdir, stop: (
      checked.append(experiment.config.data.train_limit)))
  monkeypatch.setattr(side_by_side, 'has_checkpoint', lambda folder: begun and folder == (
      study_plan.student_workdir(str(tmp_path), 'more', 1)))
  side_by_side._Shared(configs, str(tmp_path), None, None, allow_imports=('mylab',))
  limits = {name: seeds[0].data.train_limit for name, seeds in configs.items()}
  assert checked == [limits[name] for name in expected]
  # The teacher is loaded once.
  assert [name for name, _, _ in created] == ['alone', 'kd', 'more']
  assert [teacher and teacher.of for _, teacher, _ in created] == [None, 'alone', 'alone']
  assert all(options == {'allow_imports': ('mylab',)} for _, _, options in created)


def test_what_is_left_of_a_study_is_in_the_order_in_which_it_was_written(tmp_path, monkeypatch):
  study = quickstart.get_config('role=student')
  common.study(study, title='', description='', baseline='zebra', seeds=(3, 1), students={
      'zebra': {}, 'kd': {'method': 'kd'}, 'alike': {}})
  assert study_plan.student_names(study) == ['zebra', 'kd', 'alike']
  finished = {('zebra', 3), ('kd', 3), ('kd', 1)}
  monkeypatch.setattr(study_plan, 'is_finished', lambda run, folder: folder in {
      study_plan.student_workdir(str(tmp_path), *one) for one in finished})
  left = study_plan.unfinished(study, str(tmp_path))
  assert [(name, list(seeds)) for name, seeds in left.items()] == [
      ('zebra', [1]), ('alike', [3, 1])]
  assert left['alike'][3] == study_plan.student_config(study, 'alike', 3)


def test_a_student_that_teaches_itself_nothing_has_no_term_of_the_recipe():
  study = quickstart.get_config('role=student')
  study.distill = distillers.terms_of('kd')
  common.study(study, title='', description='', students={'alone': {}, 'pkd': {'method': 'pkd'}})
  terms = lambda name: list(study_plan.student_config(study, name, 0).distill)
  assert terms('alone') == [] and terms('pkd') == ['pkd']


def test_runs_in_one_program_share_its_seconds(tmp_path, monkeypatch):
  seconds = iter((10.0, 16.0))
  monkeypatch.setattr(side_by_side.time, 'perf_counter', lambda: next(seconds))
  monkeypatch.setattr(side_by_side.compiling, 'announced', lambda what, call, *arguments: (
      call(*arguments)))
  clocks = [side_by_side.Stopwatch() for _ in range(3)]
  program = lambda constants, state, batch: (state, {'loss': np.zeros(3)})
  cohort = side_by_side._Cohort(
      [run_of({}) for _ in clocks], clocks, program, str(tmp_path), '')
  assert not cohort.advance(BATCH, {'x': 0}, stopping=False)
  assert [clock() for clock in clocks] == [2.0] * 3


@pytest.mark.parametrize('vmap_seeds, groups', [(False, [[4], [2], [9]]), (True, [[4, 9], [2]])])
def test_runs_of_a_student_have_clocks_of_their_own_and_step_with_those_at_their_step(
    vmap_seeds, groups, monkeypatch, tmp_path):
  study = quickstart.get_config('role=student')
  common.study(study, title='', description='', seeds=(4, 2, 9), students={'alone': {}})
  study.study.vmap_seeds = vmap_seeds
  configs = {seed: study_plan.student_config(study, 'alone', seed) for seed in study.study.seeds}
  made, given, caught_up = {}, [], []

  def make(experiment, folder, state, *, clock, label, **options):
    run = run_of({'w': np.float32(0)})
    run.config, run.clock, run.folder = experiment.config, clock, folder
    run.close, run.catch_up = (lambda: None), (lambda: caught_up.append(run.config.seed))
    run.done = 1 if experiment.config.seed == 2 else 2
    assert label == f'alone seed {run.config.seed}' and state == (run.config.seed, 'zeros')
    assert options == {'evaluator': 'evaluator', 'should_stop': 'stop'}
    made[run.config.seed] = run
    return run
  monkeypatch.setattr(side_by_side, 'Run', make)
  monkeypatch.setattr(side_by_side, 'measure_teacher', lambda experiment, workdir, stop: workdir)
  monkeypatch.setattr(side_by_side.experiments, 'make_initial_state', lambda _: (
      lambda key, prepared: (key, prepared)))
  monkeypatch.setattr(side_by_side.experiments, 'run_key', lambda config: config.seed)
  monkeypatch.setattr(side_by_side.preparations, 'placeholders', lambda _: 'zeros')
  monkeypatch.setattr(side_by_side.preparations, 'give', lambda run, workdir, create, stop: (
      given.append((run.config.seed, workdir, create('prepared')))))
  shared = types.SimpleNamespace(
      experiments={'alone': collections.namedtuple('Built', 'config')(configs[4])},
      evaluator=lambda _: 'evaluator', runs=types.SimpleNamespace(callback=lambda _: None),
      program=lambda _, *, stacked: stacked)
  found = side_by_side._cohorts(study, str(tmp_path), 'alone', configs, shared, 'stop')
  assert [[run.config.seed for run in cohort.runs] for cohort in found] == groups
  assert [cohort.program for cohort in found] == [len(group) > 1 for group in groups]
  assert len({id(run.clock) for run in made.values()}) == 3 and caught_up == [4, 2, 9]
  for cohort in found:
    assert cohort._clocks == [run.clock for run in cohort.runs]
  for seed, run in made.items():
    assert run.folder == study_plan.student_workdir(str(tmp_path), 'alone', seed)
    assert run.teacher_metrics == str(tmp_path)
  assert given == [(seed, str(tmp_path), (seed, 'prepared')) for seed in (4, 2, 9)]


def test_the_seconds_of_the_teacher_end_when_its_taps_are_there(tmp_path, monkeypatch):
  clock = [3.0]
  monkeypatch.setattr(side_by_side.time, 'perf_counter', lambda: clock[0])
  monkeypatch.setattr(side_by_side.jax, 'block_until_ready', lambda taps: (
      clock.append(clock.pop() + 5), taps)[1])
  teacher = side_by_side._TeacherPass([], (), str(tmp_path))
  teacher._call = lambda size, program, variables, state, batch: {'x': size}
  teacher._program = teacher._variables = None
  assert teacher({'image': np.zeros((2, 4, 6, 3))}) == {'x': (4, 6)} and teacher._seconds == [5]


def test_the_teachers_cost_leaves_out_the_step_that_compiles(tmp_path):
  teacher = side_by_side._TeacherPass([], (), str(tmp_path))
  teacher._seconds, teacher._program = [90.0, 1.0, 2.0, 6.0], types.SimpleNamespace(
      peak_bytes=lambda: 7)
  teacher.write_cost()
  assert json.loads((tmp_path / 'teacher_cost.json').read_text()) == {
      'step_seconds': 2.0, 'peak_bytes': 7}
  del teacher._seconds[1:]  # of a study that goes on for one step
  teacher.write_cost()
  assert json.loads((tmp_path / 'teacher_cost.json').read_text())['step_seconds'] == 2.0


def test_extra_parameters_are_all_that_is_trained_beside_the_student():
  parts = (np.ones(1), np.ones((2, 5)), np.ones(100), np.ones(1000))  # the last is memory
  assert side_by_side.extra_params(DistillerState(*({'x': part} for part in parts))) == 111
