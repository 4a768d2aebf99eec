"""Students that differ in their learning rates alone are compiled once, and end as alone."""

import pytest

from configs import common, quickstart
from kdseg_jax.studies import plan as study_plan
from kdseg_jax.studies import side_by_side
from kdseg_jax.training import loop, programs
from tests import runs

STUDENTS = {
    'slow': {'optimizer': {'learning_rate': 1e-3}},
    'fast': {'optimizer': {'learning_rate': 0.1}},
    'other': {'optimizer': {'learning_rate': 0.1, 'momentum': 0.5}},
    'taught': {'method': 'pairwise', 'optimizer': {'learning_rate': 1e-3}},
    'taught_fast': {'method': 'pairwise', 'optimizer': {'learning_rate': 0.1}}}
UNTAUGHT = ('slow', 'fast', 'other')


def study_of(students=UNTAUGHT, seeds=(0,), **study):
  config = quickstart.get_config('role=student,runlocal')
  config.optimizer.update(name='sgd', schedule='poly', warmup_steps=1)
  config.train.steps = 4
  config.eval.every_steps = 0
  common.study(config, title='', description='', seeds=seeds,
               students={name: STUDENTS[name] for name in students})
  config.study.update(study)
  return config


@pytest.fixture
def traces(toy_models, one_device, monkeypatch):
  """Gets an entry for every trace of a train step."""
  del toy_models, one_device
  original, seen = programs.make_train_step, []

  def counted(*parts, **options):
    step = original(*parts, **options)
    return lambda *given: (seen.append(given), step(*given))[1]
  monkeypatch.setattr(programs, 'make_train_step', counted)
  return seen


def test_learning_rates_share_a_program_and_each_run_has_its_own(traces, tmp_path):
  config = study_of()
  assert side_by_side.train(config, str(tmp_path))
  assert len(traces) == 2  # of two and of the one with another momentum
  weights = {}
  for name in UNTAUGHT:
    alone = tmp_path / f'{name} alone'
    loop.train(study_plan.student_config(config, name, 0), str(alone))
    weights[name] = runs.saved(alone)
    beside = runs.saved(study_plan.student_workdir(str(tmp_path), name, 0))
    assert beside.keys() == weights[name].keys()
    for path, value in weights[name].items():
      assert (beside[path] == value).all(), (name, path)
  kernel = next(path for path in weights['slow'] if 'kernel' in str(path))
  assert len({float(found[kernel].ravel()[0]) for found in weights.values()}) == len(UNTAUGHT)


def test_seeds_that_step_together_share_it_too(traces, tmp_path):
  config = study_of(('slow', 'fast'), seeds=(0, 1), vmap_seeds=True)
  assert side_by_side.train(config, str(tmp_path))
  assert len(traces) == 2  # one by which shapes are checked, one of stacked states


def test_taps_of_a_teacher_are_part_of_what_is_checked(traces, tmp_path):
  loop.train(quickstart.get_config('role=teacher,runlocal'), str(tmp_path / 'teacher'))
  traces.clear()
  config = study_of(('taught', 'taught_fast'))
  config.teacher.checkpoint = str(tmp_path / 'teacher')
  assert side_by_side.train(config, str(tmp_path / 'study'))
  assert len(traces) == 1


@pytest.mark.parametrize('changed', ['seed', 'optimizer.learning_rate'])
def test_what_a_program_is_given_is_not_of_its_recipe(changed):
  config, other = study_of(), study_of()
  other.update_from_flattened_dict({changed: 3})
  assert programs.recipe(config) == programs.recipe(other)
  assert config.optimizer.learning_rate == study_of().optimizer.learning_rate


@pytest.mark.parametrize('changed', [
    {'optimizer.momentum': 0.3}, {'train.steps': 9}, {'student.width': 0.5}, {'data.seed': 5},
    {'critic.optimizer.learning_rate': 0.3}, {'prepare.optimizer.learning_rate': 0.3}])
def test_all_else_is_of_its_recipe(changed):
  other = study_of()
  other.update_from_flattened_dict(changed)
  assert programs.recipe(study_of()) != programs.recipe(other)
