"""What studies compare, how often and for how long: as their results were measured."""

import importlib

import pytest

from experiments import scenes_cirkd
from kdseg_jax import config_fields
from kdseg_jax.studies import plan as study_plan

TUNED = {
    'study.tune.field': 'optimizer.learning_rate', 'study.tune.extend': 4,
    'study.tune.split': 'val', 'study.tune.seeds': (1_000,), 'study.tune.data_seed': 1_000,
    'study.seeds': (0, 1, 2), 'study.baseline': 'alone', 'eval.split': 'test'}
ADAPTATION = TUNED | {
    'study.tune.grid': (0.01, 0.03, 0.09), 'train.steps': 1_000, 'train.batch_size': 8,
    'eval.every_steps': 1_000, 'checkpoint.every_steps': 250, 'prepare.steps': 100,
    'student.name': 'plain_mobilenetv2', 'student.width': 0.5, 'student.output_stride': 16,
    'student.init': '', 'data.size': (120, 160), 'augmentation.crop': (120, 120),
    'study.teacher.student.name': 'deeplabv3plus_mobilenetv2', 'study.teacher.train.steps': 1_000,
    'study.teacher.student.init': 'imagenet', 'study.teacher.data.size': (120, 160)}
SCENES = {
    'eval.split': 'test', 'data.train_limit': 300, 'study.teacher.train.steps': 5_000,
    'study.teacher.data.train_limit': 0, 'study.teacher.role': 'teacher'}
CIFAR = {
    'study.seeds': (0, 1, 2), 'study.baseline': 'alone', 'study.tune': {},
    'train.steps': 93_840, 'study.teacher.train.steps': 93_840,  # 240 epochs in batches of 128
    'student.name': 'cifar_resnet20', 'study.teacher.student.name': 'cifar_resnet56',
    'data.name': 'cifar100', 'study.teacher.data.name': 'cifar100'}
STUDIES = {
    'adaptation_parts': ADAPTATION,
    'adaptation_strides': ADAPTATION | {'study.baseline': 'alone_16'},
    'bccd': TUNED | {
        'study.tune.grid': (4e-3, 8e-3, 16e-3), 'train.steps': 400, 'eval.every_steps': 400,
        'study.teacher.train.steps': 800, 'study.teacher.data.train_split': 'trainval',
        'study.teacher.student.name': 'gfl_mobilenetv2', 'study.teacher.student.init': 'imagenet',
        'student.name': 'gfl_resnet18', 'student.width': 0.25, 'student.init': '',
        'study.students.review.distill.review.channels': 64},
    'cifar_review': TUNED | {
        'study.tune.grid': (0.025, 0.05, 0.1), 'train.steps': 600, 'train.batch_size': 64,
        'eval.every_steps': 600, 'checkpoint.every_steps': 300, 'student.name': 'cifar_resnet20',
        'data.name': 'npz', 'study.teacher.student.name': 'cifar_resnet56',
        'study.teacher.train.steps': 1_500, 'study.teacher.train.batch_size': 64,
        'study.teacher.optimizer.learning_rate': 0.05},
    'cifar_review_forms': CIFAR, 'cifar_stages': CIFAR,
    'scenes_cirkd': SCENES | {
        'study.seeds': (0,), 'study.baseline': 'kd', 'study.tune': {}, 'train.steps': 400},
    'scenes_core': SCENES | TUNED | {
        'study.tune.grid': (16e-3, 32e-3, 64e-3), 'study.tune.seeds': (1_000, 1_001),
        'study.seeds': (0, 1, 2, 3, 4), 'train.steps': 1_500,
        'study.students.distilled_unlabelled.data.unlabelled': 'rest',
        'study.students.distilled_unlabelled.data.unlabelled_share': 0.5},
    'scenes_detection': SCENES | TUNED | {
        'study.tune.grid': (0.01, 0.02, 0.04), 'train.steps': 600, 'eval.every_steps': 600,
        'study.teacher.train.steps': 2_000, 'student.width': 0.25,
        'study.teacher.student.width': 0.5},
    'scenes_methods': SCENES | {
        'study.seeds': (0,), 'study.baseline': 'alone', 'study.tune': {}, 'train.steps': 400}}


def load(name, arg=None):
  return importlib.import_module(f'experiments.{name}').get_config(arg)


@pytest.mark.parametrize('name', STUDIES)
def test_settings_are_those_with_which_studies_were_run(name):
  config = load(name)
  for field, expected in STUDIES[name].items():
    found = config_fields.value_of(config, field)
    assert (dict(found) if expected == {} else found) == expected, field


@pytest.mark.parametrize('name, arg, expected', [
    ('bccd', 'steps=7,seeds=2', (7, 2)), ('scenes_core', 'steps=7', (7, 5)),
    ('scenes_detection', 'steps=7,seeds=2', (7, 2)), ('scenes_methods', 'steps=7', (7, 1)),
    ('scenes_cirkd', 'steps=7,seeds=2', (7, 2)), ('scenes_cirkd', 'queues,steps=7', (7, 1)),
    ('cifar_stages', 'steps=7', (7, 3)), ('cifar_review_forms', 'steps=7', (7, 3))])
def test_arguments_of_studies_change_their_students_and_leave_the_teacher(name, arg, expected):
  config = load(name, arg)
  assert (config.train.steps, len(config.study.seeds)) == expected
  assert config.study.teacher == load(name).study.teacher


def test_the_terms_of_cirkd_are_compared_alone_and_together():
  def terms(config):
    return {name: {
        term: (options.pixel_weight > 0, options.region_weight > 0) if term == 'memory' else True
        for term, options in config.study.students[name].distill.items() if options.weight}
            for name in study_plan.student_names(config)}
  kd, cross = {'kd': True}, {'cross_image': True}
  pixel, region, both = ({'memory': parts} for parts in (
      (True, False), (False, True), (True, True)))
  assert terms(load('scenes_cirkd')) == {
      'kd': kd, 'cross_image': kd | cross, 'pixel': kd | pixel, 'region': kd | region,
      'pixel_region': kd | both, 'cross_image_pixel': kd | cross | pixel,
      'cross_image_region': kd | cross | region, 'all': kd | cross | both}
  queues = load('scenes_cirkd', 'queues')
  sizes = {name: student.distill.memory.pixel_slots
           for name, student in queues.study.students.items() if name != 'kd'}
  assert sizes == {f'pixels_{size}': size for size in scenes_cirkd.QUEUES}
  assert sorted(sizes.values()) == [1_000, 3_000, 10_000, 20_000, 30_000]
  assert {name: set(parts) for name, parts in terms(queues).items()} == {
      'kd': {'kd'}, **{name: {'kd', 'cross_image', 'memory'} for name in sizes}}
