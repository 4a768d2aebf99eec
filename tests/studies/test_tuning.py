"""Tuning before a study: one rule for all students, and no best at the edge of its grid."""

import json
import math

import numpy as np
import pytest

from configs import common, quickstart
from kdseg_jax import tasks
from kdseg_jax.studies import plan as study_plan
from kdseg_jax.studies import side_by_side, tuning
from kdseg_jax.training.run import Diverged

pytestmark = pytest.mark.usefixtures('toy_models')

METRIC = tasks.SegmentationTask.main_metric
TUNE = {'field': 'optimizer.learning_rate', 'grid': (0.1, 0.2, 0.4), 'extend': 2, 'split': 'val',
        'seeds': (10, 11), 'data_seed': 10}


def study(**changes):
  config = quickstart.get_config('role=student')
  common.study(config, title='', description='', seeds=(0, 1),
               students={'alone': {}, 'kd': {'method': 'kd', 'optimizer': {'momentum': 0.5}}},
               tune=TUNE | changes)
  return config


@pytest.fixture
def trained(monkeypatch):
  """In place of training: every run's metric is `metric(student, value, seed)`; lists the runs."""
  runs, rows = [], {}

  def install(metric):
    def train(config, workdir, **_):
      for name in study_plan.student_names(config):
        for seed in config.study.seeds:
          run = study_plan.student_config(config, name, seed)
          folder = study_plan.student_workdir(workdir, name, seed)
          if folder in rows:
            continue
          student, value = name.split('@')[0], run.optimizer.learning_rate
          result = metric(student, value, seed)
          if math.isnan(result):
            raise Diverged('not finite', folder)
          runs.append((student, value, seed, run))
          rows[folder] = [{'phase': 'evaluation', 'step': 1, 'mean_iou': 9.0},
                          {'phase': 'evaluation', 'step': 2, 'mean_iou': result}]
      return True
    monkeypatch.setattr(side_by_side, 'train', train)
    monkeypatch.setattr(tuning, 'read_rows', rows.get)
    return runs
  return install


def peak(best):
  return lambda student, value, seed: 1 - abs(math.log(value / best[student])) + 1e-3 * seed


def test_each_student_gets_its_own_best_and_its_other_fields_stay(trained, tmp_path):
  runs = trained(peak({'alone': 0.2, 'kd': 0.2}))
  config = study()
  tuned = tuning.tune(config, str(tmp_path), METRIC)
  assert {name: one.chosen for name, one in tuned.items()} == {'alone': 0.2, 'kd': 0.2}
  assert sorted(tuned['alone'].results) == [0.1, 0.2, 0.4]
  assert tuned['alone'].results[0.2] == pytest.approx(1 + 1e-3 * 10.5)  # the mean over both seeds
  for _, _, seed, run in runs:
    assert run.eval.split == 'val' and run.data.seed == 10 and seed in (10, 11)
    assert run.eval.every_steps == 0
  kd = study_plan.student_config(config, 'kd', 0)
  assert kd.optimizer.learning_rate == 0.2 and kd.optimizer.momentum == 0.5
  assert kd.eval.split == 'test' and kd.data.seed == 0
  saved = json.loads((tmp_path / 'tuning.json').read_text())
  assert saved['kd']['chosen'] == 0.2 and saved['kd']['field'] == 'optimizer.learning_rate'


@pytest.mark.parametrize('grid', [(0.1, 0.2, 0.4), (0.2, 0.4, 0.1)])
def test_a_grid_grows_until_the_best_lies_inside_for_that_student_alone(trained, tmp_path, grid):
  runs = trained(peak({'alone': 0.8, 'kd': 0.1}))
  tuned = tuning.tune(study(grid=grid), str(tmp_path), METRIC)
  assert tuned['alone'].chosen == 0.8 and sorted(tuned['alone'].results) == [
      0.1, 0.2, 0.4, 0.8, 1.6]
  assert tuned['kd'].chosen == 0.1 and sorted(tuned['kd'].results) == [0.05, 0.1, 0.2, 0.4]
  assert len(runs) == (5 + 4) * 2  # none twice


def test_of_equals_the_smallest_is_chosen(trained, tmp_path):
  trained(lambda student, value, seed: 0.5 if value in (0.2, 0.4) else 0.1)
  tuned = tuning.tune(study(grid=(0.1, 0.2, 0.4, 0.8)), str(tmp_path), METRIC)
  assert {one.chosen for one in tuned.values()} == {0.2}


def test_a_best_at_the_edge_is_refused(trained, tmp_path):
  trained(peak({'alone': 10.0, 'kd': 0.2}))
  with pytest.raises(tuning.UntunedError, match=r'edge of the grid.*\n  alone: .*1.6 -> ') as error:
    tuning.tune(study(), str(tmp_path), METRIC)
  assert '  kd:' not in str(error.value)
  assert not (tmp_path / 'tuning.json').exists()


def test_a_value_that_diverges_counts_as_the_worst(trained, tmp_path):
  def metric(student, value, seed):
    return math.nan if value > 0.3 else peak({'alone': 0.2, 'kd': 0.2})(student, value, seed)
  runs = trained(metric)
  tuned = tuning.tune(study(), str(tmp_path), METRIC)
  assert tuned['alone'].chosen == 0.2 and tuned['alone'].results[0.4] == -np.inf
  assert not any(value > 0.3 for _, value, _, _ in runs)
  assert json.loads((tmp_path / 'tuning.json').read_text())['kd']['results']['0.4'] is None


def test_a_tuning_that_goes_on_tries_nothing_again_that_diverged(trained, tmp_path):
  diverged = []

  def metric(student, value, seed):
    if value > 0.3:
      diverged.append((student, value))
      return math.nan
    return peak({'alone': 0.2, 'kd': 0.1})(student, value, seed)
  trained(metric)
  found = [tuning.tune(study(), str(tmp_path), METRIC) for _ in range(2)]
  assert diverged == [('alone', 0.4), ('kd', 0.4)] and found[0] == found[1]
  assert sorted(found[1]['kd'].results) == [0.05, 0.1, 0.2, 0.4]


def test_of_errors_the_least_is_chosen_and_one_that_diverges_is_the_worst_too(trained, tmp_path):
  trained(lambda student, value, seed: math.nan if value > 0.3 else abs(math.log(value / 0.2)))
  tuned = tuning.tune(study(), str(tmp_path), METRIC._replace(maximize=False))
  assert {one.chosen for one in tuned.values()} == {0.2}
  assert tuned['kd'].results[0.4] == np.inf


def test_a_teacher_that_diverges_is_no_value_that_diverges(monkeypatch, tmp_path):
  ends = iter([Diverged('not finite', str(tmp_path / 'teacher'))])

  def train(config, workdir, **_):
    for end in ends:
      raise end
    return False
  monkeypatch.setattr(side_by_side, 'train', train)
  with pytest.raises(Diverged, match='not finite'):
    tuning.tune(study(), str(tmp_path), METRIC)
  assert not (tmp_path / tuning.FOLDER).exists()


def test_being_told_to_stop_chooses_nothing(monkeypatch, tmp_path):
  monkeypatch.setattr(side_by_side, 'train', lambda config, workdir, **_: False)
  config = study()
  assert tuning.tune(config, str(tmp_path), METRIC) is None
  assert 'optimizer' not in config.study.students.alone


def test_what_may_be_run_is_passed_on_to_the_runs_of_a_folder_of_their_own(monkeypatch, tmp_path):
  given = []
  monkeypatch.setattr(side_by_side, 'train', lambda config, workdir, **options: given.append(
      (workdir, options)))
  allowed = {'allow_class_names': True, 'allow_imports': ('mylab',)}
  assert tuning.tune(study(), str(tmp_path), METRIC, **allowed) is None
  assert given == [(str(tmp_path / 'tuning'), allowed)]


@pytest.mark.parametrize('value, name', [
    (0.032, 'kd@32e-3'), (10.0, 'kd@1e1'), (2.5, 'kd@25e-1'), (1e-05, 'kd@1e-5')])
def test_a_run_is_named_after_its_student_and_value(value, name):
  config = tuning.plan(study(), {'kd': [value]})
  assert list(config.study.students) == [name] == list(config.study.order)
  assert config.study.baseline == name


def test_a_field_may_lie_deeper_than_one_section(trained, tmp_path):
  runs = trained(lambda student, value, seed: 0.5)
  config = study(field='critic.optimizer.learning_rate', extend=1)
  config.study.students.kd.critic = {'steps': 3}
  with pytest.raises(tuning.UntunedError):  # all are equal: the smallest
    tuning.tune(config, str(tmp_path), METRIC)
  tried = [run.critic.optimizer.learning_rate for *_, run in runs]
  assert sorted(set(tried)) == [0.05, 0.1, 0.2, 0.4]
  planned = tuning.plan(config, {'kd': [0.2]})
  own = study_plan.student_config(planned, 'kd@2e-1', 10)
  assert own.critic.steps == 3 and own.critic.optimizer.learning_rate == 0.2
  assert own.optimizer.momentum == 0.5


def test_factors_of_a_grid_may_differ_as_rounded_values_do():
  tuning.check(study(grid=(0.01, 0.1, 1.1)))  # of their logarithms by 4%


def test_a_section_without_one_of_its_fields_is_refused():
  config = study()
  with config.unlocked():
    del config.study.tune.extend
  with pytest.raises(ValueError, match="'extend'"):
    tuning.check(config)


@pytest.mark.parametrize('change, message', [
    ({'grid': (0.1, 0.2)}, 'three or more different numbers'),
    ({'grid': (0.1, 0.2, 0.2)}, 'three or more different numbers'),
    ({'grid': (0.0, 0.1, 0.2)}, 'different numbers above 0'),
    ({'grid': (0.2, 0.1, -0.1)}, 'different numbers above 0'),
    ({'grid': (0.1, 0.2, 0.9)}, 'times the same factor'),
    ({'grid': (0.1, 0.2, 0.415)}, 'times the same factor'),  # ln 2 and 5.3% more
    ({'seeds': (1, 2)}, 'seeds that the study itself does not use'),
    ({'seeds': ()}, 'expected one or more seeds'),
    ({'data_seed': 0}, 'data_seed=0 is that of the study too'),
    ({'split': 'test'}, 'split=test is config.eval.split too'),
    ({'field': 'train.steps'}, "Unknown section of config.study.tune.field: 'train'"),
    ({'field': 'student.name'}, "is 'deeplabv3_resnet18'; expected a field that is a number"),
    ({'field': 'critic.steps'}, 'is 1; expected a field that is a number with a fraction'),
    ({'extend': -1}, 'extend=-1 must be at least 0'), ({'split': 'vla'}, "Did you mean 'val'"),
    ({'field': 'optimizer.learning_rat'}, 'the config has no such field'),
])
def test_a_section_that_cannot_be_used_is_refused(change, message):
  with pytest.raises(ValueError, match=message):
    tuning.check(study(**change))


def test_batches_of_a_study_that_has_a_data_seed_are_others_too():
  config = study(data_seed=4)
  tuning.check(config)
  config.data.seed = 4
  with pytest.raises(ValueError, match='data_seed=4 is that of the study too'):
    tuning.check(config)
  config.study.tune.data_seed = config.seed
  tuning.check(config)
