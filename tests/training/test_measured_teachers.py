"""A teacher is measured once for its students, and again where anything of the measure changed."""

import types

import pytest
from ml_collections import ConfigDict

from kdseg_jax.training import experiment, run
from tests.training.test_wiring import config_of

# Fields that say nothing of how a teacher scores; a new field of eval or data is to be in
# `measure_teacher`'s key or here.
NOT_MEASURED = {'eval.every_steps', 'eval.batch_size', 'data.train_split', 'data.train_limit',
                'data.seed', 'data.unlabelled', 'data.unlabelled_share', 'eval.pictures'}
MEASURED_TOO = ('task.align_corners', 'task.absent_as_zero', 'teacher.step', 'teacher.workdir')


def leaves(config, prefix):
  for name, value in config.items():
    if isinstance(value, ConfigDict) and value:
      yield from leaves(value, f'{prefix}{name}.')
    else:
      yield prefix + name


def measure(config, folder, **teacher):
  """Measures a teacher, of a step and a work directory, for a run of a config."""
  return run.measure_teacher(types.SimpleNamespace(
      teacher=types.SimpleNamespace(**teacher, module=None, variables=None), config=config,
      inference=experiment.create_inference(config), evaluation_source=None,
      task=experiment.create_task(config, 3)), str(folder))


def test_a_teacher_is_measured_again_where_the_data_are_elsewhere(tmp_path, monkeypatch):
  scores = iter((0.5, 0.25, 0.75))
  monkeypatch.setattr(run, 'create_evaluator', lambda *_: lambda *_, **__: {
      'mean_iou': next(scores)})
  config, found = config_of(), []
  for folder in ('a', 'b'):
    (tmp_path / folder).mkdir()
    monkeypatch.setenv('KDSEG_DATA', str(tmp_path / folder))
    found += [measure(config, tmp_path, step=3, workdir='/a')['mean_iou'] for _ in range(2)]
  monkeypatch.delenv('KDSEG_DATA')
  (tmp_path / 'link').symlink_to(tmp_path / 'b')
  config.data.root = str(tmp_path / 'link')  # the same
  found.append(measure(config, tmp_path, step=3, workdir='/a')['mean_iou'])
  assert found == [0.5, 0.5, 0.25, 0.25, 0.25]


def test_a_teacher_that_scores_what_is_asked_for_is_strong_enough(tmp_path, monkeypatch):
  monkeypatch.setattr(run, 'create_evaluator', lambda *_: lambda *_, **__: {'mean_iou': 0.5})
  teacher = {'step': 3, 'workdir': '/a'}
  for least in (0.0, 0.5):
    config = config_of(teacher={'min_metric': least})
    assert measure(config, tmp_path, **teacher) == {'mean_iou': 0.5}
  config.teacher.min_metric = 0.5001
  with pytest.raises(run.TeacherTooWeak, match='scores mean_iou 0.5000 on test, below'):
    measure(config, tmp_path, **teacher)


def test_a_teacher_is_measured_again_where_anything_of_the_measurement_changed(
    tmp_path, monkeypatch):
  calls = []
  monkeypatch.setattr(run, 'create_evaluator', lambda *_: lambda *_, **__: (
      calls.append(1), {'mean_iou': 0.5})[1])
  other = {'split': 'val', 'window': (16, 16), 'scales': (0.5, 1.0), 'size': (40, 40),
           'name': 'folder', 'root': 'x', 'crop': (7, 7), 'options': {'x': 1},
           'canvas': (32, 32), 'sides': (4, 6)}
  cut, fitted = {'crop': (8, 8), 'short_side': 9}, {'canvas': (16, 16), 'sides': (8, 8)}

  def measured(field, views=cut):  # a view is cut or fitted
    config = config_of(eval={'window': (8, 8), 'every_steps': 1} | views)
    teacher = {'step': 3, 'workdir': '/a'}
    if field:
      section, _, name = field.rpartition('.')
      if section == 'teacher':
        teacher[name] = teacher[name] * 2
      else:
        place = config
        for part in filter(None, section.split('.')):
          place = place[part]
        value = place[name]
        with config.unlocked():
          place[name] = other.get(name) or (
              not value if isinstance(value, bool) else f'{value}x' if isinstance(value, str)
              else (value or 0) * 2 + 1 if name != 'overlap' else 0.7)
    before = len(calls)
    measure(config, tmp_path, **teacher)
    return len(calls) > before
  assert measured(None) and not measured(None)
  config = config_of()
  for field in (*leaves(config.eval, 'eval.'), *leaves(config.data, 'data.'), *MEASURED_TOO):
    views = fitted if field in (
        'eval.canvas', 'eval.sides', 'data.by_orientation') else cut
    measured(None, views)
    assert measured(field, views) == (field not in NOT_MEASURED), field
    measured(None)
