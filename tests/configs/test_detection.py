"""The recipes of detectors: what they say of models, and that each trains and is evaluated."""

import pytest

from kdseg_jax import models, recipes
from kdseg_jax.errors import UserError
from kdseg_jax.inference.model import create_module
from kdseg_jax.training import loop
from tests import runs
from tests.data import boxed_sets

NAMES = ('scenes_detection', 'bccd')


@pytest.mark.parametrize('name', NAMES)
@pytest.mark.parametrize('role', ['teacher', 'student'])
def test_models_have_the_head_and_the_widths_of_the_recipe(name, role):
  for head in ('gfl', 'retinanet', 'fcos', 'atss'):
    config = recipes.load(name)(f'role={role},head={head}')
    module = create_module(config.student, 3)
    assert module.head_kind == head and config.student.name in models.DETECTORS
    assert module.head.channels == module.fpn.channels == config.student.head_channels
    assert module.head.stacked_convs == 2
  with pytest.raises(UserError, match="head of this recipe: 'yolo'"):
    recipes.load(name)('head=yolo')


def test_statistics_are_frozen_where_weights_are_loaded():
  frozen = lambda arg: create_module(recipes.load('bccd')(arg).student, 3).frozen_statistics
  assert frozen('role=teacher,init=imagenet') and not frozen('role=teacher')


@pytest.mark.slow
@pytest.mark.parametrize('name', NAMES)
@pytest.mark.parametrize('arg', ['role=teacher', 'head=fcos'])
def test_every_recipe_trains_two_steps_and_evaluates(name, arg, tmp_path):
  config = recipes.load(name)(f'{arg},runlocal')
  if name == 'bccd':
    boxed_sets.voc(tmp_path / 'data')
    config.data.root = str(tmp_path / 'data')
  metrics = loop.train(config, str(tmp_path / 'run'))
  assert metrics['images'] > 0 and -1 <= metrics['AP'] <= 1
  rows = [(row['phase'], row['step']) for row in runs.rows(tmp_path / 'run')]
  assert rows == [('train', 1), ('train', 2), ('evaluation', 2)]


@pytest.mark.slow
def test_a_student_learns_from_a_teacher_by_the_methods_of_detectors(tmp_path):
  load = recipes.load('scenes_detection')
  loop.train(load('role=teacher,runlocal'), str(tmp_path / 'teacher'))
  terms = ('crosskd', 'review', 'localization_distillation', 'prediction_mimicking')
  config = load(f'method={"+".join(terms)},runlocal')
  assert config.distill.review.student_taps == ('p3', 'p4', 'p5', 'p6', 'p7')
  assert config.distill.crosskd.layer == 1 and not config.distill.crosskd.projection
  config.teacher.checkpoint = str(tmp_path / 'teacher')
  config.augmentation.crop = (96, 96)  # so that boxes are in it
  assert loop.train(config, str(tmp_path / 'student'))['images'] == 8
  first = runs.rows(tmp_path / 'student')[0]
  assert first['task/positives'] > 0
  assert all(first[f'distill/{term}/raw'] > 0 for term in terms), first
