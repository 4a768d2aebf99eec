"""Runs that take a step together: whose state it is, and whose time."""

import json
import types

import numpy as np

from kdseg_jax import parallel
from kdseg_jax.distillers import DistillerState
from kdseg_jax.studies import side_by_side
from kdseg_jax.training.run import Due
from kdseg_jax.training.state import TrainState
from tests import toys

BATCH = {'image': np.zeros((1, 2, 2, 3))}


def run_of(params, saves=False, stops=False):
  """In place of a `Run` at its start; `recorded` has its params and metrics after each step."""
  run = types.SimpleNamespace(
      state=TrainState(0, params, {}, {}, DistillerState(), 0), done=0, recorded=[],
      due=lambda *_, **__: Due(False, False, saves),
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
