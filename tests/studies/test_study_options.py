"""What a study and its user ask for reaches every run of its students."""

import types

import pytest

from configs import common, quickstart
from kdseg_jax.studies import side_by_side


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
