"""What recipes have in common: weights to start from, how often they save, and being tried out."""

import pytest

from kdseg_jax import config_fields, recipes
from kdseg_jax.errors import UserError
from kdseg_jax.recipes import common, papers


def fields_of(config, names):
  return {name: config_fields.value_of(config, name) for name in names}


@pytest.mark.parametrize('role', ['teacher', 'student'])
@pytest.mark.parametrize('name, init', [
    ('folder', 'imagenet'), ('camvid', 'imagenet'), ('bccd', 'runs/a'), ('coco', 'runs/a'),
    ('voc', 'imagenet'), ('ade20k', 'runs/a')])
def test_either_role_starts_from_the_weights_that_are_given(name, init, role):
  start = lambda arg: recipes.load(name)(f'role={role},{arg}').student.init
  assert start(f'init={init}') == init
  assert start(f'init={init},runlocal') == ''  # they are of the whole width
  assert start('') == ('imagenet' if name == 'coco' else '')


@pytest.mark.parametrize('name', recipes.names())
def test_a_recipe_has_the_role_that_is_asked_for_and_no_seed_of_its_own(name):
  load = recipes.load(name)
  for config, role in ((load('role=teacher'), 'teacher'), (load('role=student'), 'student'),
                       (load(None), 'student'), (load(None).teacher.config, 'teacher')):
    if config:  # not all have a teacher of their own
      assert (config.role, config.seed, config.data.seed) == (role, 0, None)


def test_a_teacher_that_is_trained_first_starts_from_weights_of_its_own():
  load = recipes.load('camvid')
  config = load('method=kd,init=runs/a,teacher_init=imagenet')
  assert (config.student.init, config.teacher.config.student.init) == ('runs/a', 'imagenet')
  assert load('method=kd,init=runs/a').teacher.config.student.init == ''


@pytest.mark.parametrize('init, deep', [
    ('', True), ('runs/a', True), ('imagenet', False), ('imagenet:v2', False), ('hf:a/b', False)])
def test_the_stem_is_that_of_the_weights(init, deep):
  for role in ('teacher', 'student'):
    assert recipes.load('voc')(f'role={role},init={init}').student.deep_stem == deep


# Steps between evaluations and between checkpoints; images at once.
OFTEN = ('eval.every_steps', 'checkpoint.every_steps', 'eval.batch_size')


@pytest.mark.parametrize('name, arg, expected', [
    ('cifar', '', (5 * 391, 5 * 391, 500)), ('cifar', 'images=1000', (40, 40, 500)),
    ('imagenet', '', (5005, 5005, 256)), ('imagenet', 'images=1000', (4, 4, 256)),
    ('camvid', '', (500, 500, 8)), ('camvid', 'finetune', (200, 200, 8)),
    ('quickstart', '', (0, 0, 20)), ('folder', '', (2_000, 1_000, 8)),
    ('scenes_detection', '', (500, 500, 25)), ('bccd', '', (200, 100, 8))])
def test_how_often_a_run_is_evaluated_and_saved(name, arg, expected):
  assert fields_of(recipes.load(name)(arg), OFTEN) == dict(zip(OFTEN, expected, strict=True))


@pytest.mark.parametrize('settings', papers.SETTINGS)
def test_crops_of_camvid_are_of_its_size_at_all_settings(settings):
  load = recipes.load('camvid_papers')
  assert load(f'settings={settings}').augmentation.crop == (360, 360)


@pytest.mark.parametrize('name, arg, stage', [
    ('imagenet', '', 'stage4'), ('cifar', '', 'stage3'), ('cifar', 'model=cifar_vgg8', 'stage4')])
def test_classifiers_are_compared_by_the_maps_of_their_last_stage(name, arg, stage):
  distill = recipes.load(name)(
      f'{arg},method=attention_transfer+channel_wise_features+fitnets').distill
  for term in ('attention_transfer', 'channel_wise_features'):
    assert distill[term].student_tap == distill[term].teacher_tap == stage
  assert distill.fitnets.student_tap == 'embedding'


def test_espnet_is_distilled_at_the_sizes_of_its_own_maps():
  method = 'review+pairwise+channel_wise+skd'
  of = lambda model: recipes.load('voc')(f'settings=skd,method={method},model={model}').distill
  plain, adapted = of('pspnet_resnet18'), of('espnet')
  taps = lambda term: (term.student_taps, term.teacher_taps)
  assert taps(adapted.review) == (
      ('stage2', 'stage3'), ('stage1_preactivation', 'stage4_preactivation'))
  assert taps(plain.review) != taps(adapted.review)
  for term in ('pairwise', 'channel_wise_features'):
    assert (adapted[term].student_tap, adapted[term].teacher_tap) == ('stage3', 'embedding')
    assert plain[term].student_tap == 'embedding'
  for term in ('pixelwise', 'holistic'):
    assert adapted[term].resize and not plain[term].resize


# What makes any recipe small enough to be tried.
SMALL = {
    'augmentation.crop': (32, 32), 'train.steps': 2, 'train.batch_size': 8,
    'train.compile_level': 0, 'prepare.steps': 2, 'eval.every_steps': 2, 'eval.batch_size': 8,
    'eval.limit': 8, 'checkpoint.every_steps': 2, 'log.every_steps': 1,
    'optimizer.warmup_steps': 0, 'student.init': '', 'student.width': 0.125}


@pytest.mark.parametrize('name, arg, own', [
    ('quickstart', 'role=teacher', {'student.name': 'deeplabv3_resnet18', 'eval.crop': ()}),
    ('camvid', '', {'student.name': 'deeplabv3_mobilenetv2', 'eval.canvas': ()}),
    ('voc', 'role=teacher,settings=cirkd_v2', {'student.name': 'deeplabv3_resnet18'}),
    ('cifar', 'role=teacher', {'student.name': 'cifar_resnet8'}),
    ('imagenet', 'role=teacher', {
        'student.name': 'resnet18', 'eval.crop': (32, 32), 'eval.short_side': 36}),
    ('coco', 'role=teacher', {
        'student.name': 'gfl_resnet18', 'student.head_channels': 16, 'student.stacked_convs': 1,
        'eval.canvas': (32, 32), 'eval.sides': (), 'augmentation.resize': ((32, 32),)}),
    ('scenes_detection', 'role=teacher', {
        'student.head_channels': 16, 'student.stacked_convs': 1, 'eval.canvas': (),
        'augmentation.resize': ()})])
def test_a_recipe_that_is_tried_is_small(name, arg, own):
  config = recipes.load(name)(f'{arg},runlocal')
  expected = SMALL | own
  assert fields_of(config, expected) == expected
  if 'student.head_channels' not in own:
    assert config.student.get('head_channels') is None  # they would not shrink with the width


def test_names_of_cifars_networks_and_widths_that_are_small_already_stay():
  config = recipes.load('cifar')('role=teacher')
  config.student.width = 0.0625
  common.runlocal(config)
  assert (config.student.name, config.student.width) == ('cifar_resnet56', 0.0625)


def test_recipes_are_found_by_their_names():
  assert not {'common', 'papers'} & set(recipes.names())
  assert list(recipes.names()) == sorted(recipes.names())
  with pytest.raises(UserError, match="Unknown recipe: 'camvit'. Did you mean 'camvid'"):
    recipes.load('camvit')
