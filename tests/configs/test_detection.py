"""The recipes of detectors: what they say of models, and that each trains and is evaluated."""

import pytest

from kdseg_jax import config_fields, models, recipes
from kdseg_jax.errors import UserError
from kdseg_jax.inference.model import create_module
from kdseg_jax.training import loop
from tests import runs
from tests.data import boxed_sets

pytestmark = pytest.mark.usefixtures('one_device', 'shallow_models')

NAMES = ('scenes_detection', 'bccd')
# As the docstrings say, and as the figures that they report were reached.
SETTINGS = {
    'scenes_detection': {
        'data.name': 'scenes_detection', 'data.size': (128, 128), 'augmentation.crop': (128, 128),
        'augmentation.scale': (), 'augmentation.flip': 0.0, 'student.head_channels': 48,
        'train.steps': 2_000, 'train.batch_size': 16, 'optimizer.name': 'sgd',
        'optimizer.learning_rate': 0.02, 'optimizer.warmup_steps': 100,
        'optimizer.clip_norm': 10.0, 'eval.canvas': ()},
    'bccd': {
        'data.name': 'voc_boxes', 'data.size': (), 'augmentation.crop': (256, 320),
        'augmentation.resize': ((256, 320),), 'augmentation.scale': (), 'augmentation.flip': 0.5,
        'student.head_channels': 64, 'train.steps': 800, 'train.batch_size': 8,
        'optimizer.name': 'adamw', 'optimizer.learning_rate': 5e-4, 'optimizer.warmup_steps': 50,
        'optimizer.clip_norm': 10.0, 'eval.canvas': (256, 320)}}
BACKBONES = {  # and their widths
    ('scenes_detection', 'teacher'): ('resnet18', 0.5),
    ('scenes_detection', 'student'): ('resnet18', 0.25),
    ('bccd', 'teacher'): ('mobilenetv2', 1.0), ('bccd', 'student'): ('resnet18', 0.25)}


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


@pytest.mark.parametrize('name, role', BACKBONES)
@pytest.mark.parametrize('head', ['gfl', 'retinanet'])
def test_settings_are_those_of_the_docstrings(name, role, head):
  config, expected = recipes.load(name)(f'role={role},head={head}'), dict(SETTINGS[name])
  if (name, head) == ('scenes_detection', 'retinanet'):  # without GroupNorm
    expected['optimizer.learning_rate'] = 0.01
  backbone, width = BACKBONES[name, role]
  expected |= {'student.name': f'{head}_{backbone}', 'student.width': width}
  assert {field: config_fields.value_of(config, field) for field in expected} == expected


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
