"""What a study and its user ask for reaches every run of its students."""

import types

import jax
import numpy as np
import pytest

from configs import common, quickstart
from kdseg_jax.distillers import DistillerState
from kdseg_jax.studies import plan as study_plan
from kdseg_jax.studies import side_by_side
from kdseg_jax.training import experiment as experiments
from kdseg_jax.training.state import TrainState
from tests import toys


class Seen(Exception):
  """Ends a study where what it was to show has been seen."""


def study_of():
  config = quickstart.get_config('role=student')
  common.study(config, title='', description='', seeds=(5, 2), students={
      'alone': {}, 'kd': {'method': 'kd'}})
  return config


@pytest.mark.parametrize('allowed, wanted', [
    ({}, {'allow_class_names': False, 'allow_imports': ('mylab.parts:Tiny',)}),
    ({'allow_class_names': True, 'allow_imports': ('ours',)},
     {'allow_class_names': True, 'allow_imports': ('ours', 'mylab.parts:Tiny')})])
def test_what_the_user_allows_and_the_config_names_holds_for_all_students(
    allowed, wanted, tmp_path, monkeypatch):
  config, shared = study_of(), []
  config.student.name, config.distill = 'mylab.parts:Tiny', {}
  config.study.students = {'alone': {}}

  def share(configs, workdir, runs, stop, **given):
    shared.append((list(configs), workdir, given))
    raise Seen
  monkeypatch.setattr(side_by_side, '_Shared', share)
  with pytest.raises(Seen):
    side_by_side.train(config, str(tmp_path), **allowed)
  assert shared == [(['alone'], str(tmp_path), wanted)]


@pytest.mark.parametrize('vmap_seeds', [False, True])
def test_the_runs_of_a_student_are_of_its_seeds_and_apart_unless_asked_otherwise(
    vmap_seeds, tmp_path, monkeypatch):
  config, begun, given = study_of(), [], []
  config.study.vmap_seeds = vmap_seeds

  def run(experiment, workdir, state, **options):
    begun.append((experiment.config.seed, workdir, state, options))
    return types.SimpleNamespace(experiment=experiment, config=experiment.config, state=state,
                                 done=0, close=lambda: None, catch_up=lambda: None)
  monkeypatch.setattr(side_by_side, 'Run', run)
  monkeypatch.setattr(side_by_side, 'measure_teacher', lambda *_: {'mean_iou': 0.5})
  monkeypatch.setattr(side_by_side.preparations, 'placeholders', lambda experiment: 'zeros')
  monkeypatch.setattr(side_by_side.preparations, 'give', lambda run, workdir, fresh, stop: (
      given.append((run.config.seed, workdir, fresh('prepared').params['key'].tolist()))))
  monkeypatch.setattr(experiments, 'make_initial_state', lambda experiment: lambda key, prepared: (
      TrainState(0, {'key': jax.random.key_data(key), 'prepared': np.int32(prepared == 'zeros')},
                 {}, {}, DistillerState(), 0)))
  configs = study_plan.unfinished(config, str(tmp_path))['kd']
  experiment = experiments.Experiment(
      *[None] * 11)._replace(config=configs[5], distiller=toys.projected(), mesh='mesh')
  monkeypatch.setattr(side_by_side.programs, 'Constants', types.SimpleNamespace(
      of=lambda *_: None))
  monkeypatch.setattr(side_by_side.programs, 'head_variables', lambda experiment: {})
  shared = types.SimpleNamespace(
      experiments={'kd': experiment}, runs=types.SimpleNamespace(callback=lambda close: None),
      evaluator=lambda experiment: 'evaluator',
      program=lambda experiment, stacked: f'stacked {stacked}')
  cohorts = side_by_side._cohorts(config, str(tmp_path), 'kd', configs, shared, 'stop')
  groups = [[5, 2]] if vmap_seeds else [[5], [2]]
  assert [[run.config.seed for run in cohort.runs] for cohort in cohorts] == groups
  assert [cohort.program for cohort in cohorts] == [f'stacked {vmap_seeds}'] * len(groups)
  key = lambda seed: jax.random.key_data(jax.random.key(seed)).tolist()
  assert given == [(seed, str(tmp_path), key(seed)) for seed in (5, 2)]
  clocks = [options.pop('clock') for *_, options in begun]
  assert all(isinstance(clock, side_by_side.Stopwatch) for clock in clocks)
  assert clocks[0] is not clocks[1]
  for seed, (found, workdir, state, options) in zip((5, 2), begun, strict=True):
    assert (found, workdir) == (seed, study_plan.student_workdir(str(tmp_path), 'kd', seed))
    assert state.params['key'].tolist() == key(seed) and state.params['prepared'] == 1
    assert options == {'evaluator': 'evaluator', 'should_stop': 'stop', 'label': f'kd seed {seed}'}


@pytest.mark.parametrize('every', [0, 3])
def test_progress_is_said_as_often_as_runs_are_logged(every, tmp_path, monkeypatch):
  config, told = study_of(), []
  config.log.every_steps, config.train.steps = every, 7
  monkeypatch.setattr(side_by_side, '_Progress', lambda *given: (
      told.append(given), lambda step: None)[1])
  monkeypatch.setattr(side_by_side, '_TeacherPass', lambda *_: types.SimpleNamespace(
      write_cost=lambda: None))
  monkeypatch.setattr(side_by_side, 'training_batches', lambda *_, **__: iter(range(9)))
  cohort = types.SimpleNamespace(
      done=2, taps=(), runs=[types.SimpleNamespace(
          checkpointer=types.SimpleNamespace(reached_preemption=None))] * 3,
      experiment=types.SimpleNamespace(config=config),
      program=types.SimpleNamespace(place=lambda batch: batch), advance=lambda *_, **__: True)
  side_by_side._advance([cohort], str(tmp_path), types.SimpleNamespace(agree=lambda *_: False))
  assert told == [(3, 2, 7, every)]
