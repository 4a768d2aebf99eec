"""Every study, written out: what differs from its recipe, and what its students are.

Results in experiments/*.md were reached with these; one that changes is to be changed here too.
"""

import importlib

import pytest
from flax import traverse_util

from kdseg_jax import config_fields, distillers, recipes
from tests.experiments.test_teachers import STUDIES

# (recipe, its argument for the students, for the teacher)
RECIPES = {
    'bccd': ('bccd', '', 'role=teacher,init=imagenet'),
    'scenes_detection': ('scenes_detection', '', 'role=teacher'),
    **dict.fromkeys(('adaptation_parts', 'adaptation_strides'), (
        'camvid', '', 'role=teacher,init=imagenet')),
    **dict.fromkeys(('scenes_core', 'scenes_cirkd', 'scenes_methods'), (
        'quickstart', '', 'role=teacher')),
    'cifar_review': ('cifar', 'data=npz,images=9000', 'data=npz,images=9000,role=teacher'),
    **dict.fromkeys(('cifar_review_forms', 'cifar_stages'), ('cifar', '', 'role=teacher'))}
_CAMVID = {'data.size': (120, 160), 'augmentation.crop': (120, 120), 'checkpoint.every_steps': 250,
           'train.steps': 1_000}
_ADAPTED = _CAMVID | {
    'student.name': 'plain_mobilenetv2', 'student.output_stride': 16, 'prepare.steps': 100,
    'eval.split': 'test', 'eval.every_steps': 1_000, 'teacher.config.data.size': (120, 160)}
_TAUGHT = _CAMVID | {'student.name': 'deeplabv3plus_mobilenetv2'}
_CIFAR = {'train.batch_size': 64, 'checkpoint.every_steps': 300}
# What differs from the recipe: in the students' config, in the teacher's.
DIFFERENCES = {
    'bccd': (
        {'train.steps': 400, 'eval.every_steps': 400, 'eval.split': 'test'},
        {'data.train_split': 'trainval', 'eval.every_steps': 800, 'eval.split': 'test'}),
    'scenes_detection': ({'train.steps': 600, 'eval.every_steps': 600, 'eval.split': 'test',
                          'data.train_limit': 300}, {}),
    'adaptation_parts': (_ADAPTED, _TAUGHT), 'adaptation_strides': (_ADAPTED, _TAUGHT),
    'scenes_core': ({'train.steps': 1_500}, {}), 'scenes_cirkd': ({'train.steps': 400}, {}),
    'scenes_methods': ({'train.steps': 400}, {}),
    'cifar_review': (_CIFAR | {'train.steps': 600, 'eval.every_steps': 600},
                     _CIFAR | {'train.steps': 1_500, 'eval.every_steps': 1_500,
                               'optimizer.learning_rate': 0.05}),
    'cifar_review_forms': ({}, {'eval.every_steps': 240 * 391}),
    'cifar_stages': ({}, {'eval.every_steps': 240 * 391})}
_TUNE = {'field': 'optimizer.learning_rate', 'extend': 4, 'split': 'val', 'seeds': (1_000,),
         'data_seed': 1_000}
# Of those that tune: the grid, and what differs from the others.
TUNES = {
    'bccd': {'grid': (0.004, 0.008, 0.016)}, 'scenes_detection': {'grid': (0.01, 0.02, 0.04)},
    'adaptation_parts': {'grid': (0.01, 0.03, 0.09)},
    'adaptation_strides': {'grid': (0.01, 0.03, 0.09)},
    'scenes_core': {'grid': (0.016, 0.032, 0.064), 'seeds': (1_000, 1_001)},
    'cifar_review': {'grid': (0.025, 0.05, 0.1)}}
SEEDS = dict.fromkeys(STUDIES, 3) | {'scenes_core': 5, 'scenes_cirkd': 1, 'scenes_methods': 1}
BASELINES = {'scenes_cirkd': 'kd', 'adaptation_strides': 'alone_16'}
_PIXEL, _REGION = {'memory': {'region_weight': 0.0}}, {'memory': {'pixel_weight': 0.0}}
_NODES = {'pairwise': {'node_size': 1}}
_RESIZED = {'resize': True}
_PYRAMID = ('p3', 'p4', 'p5', 'p6', 'p7')
# Of a study: student -> its method, options in which that differs, sections of its own.
STUDENTS = {
    'bccd': {
        'alone': ('none',), 'mimicking': ('prediction_mimicking',),
        'localization': ('localization_distillation',), 'pkd': ('pkd',),
        'crosskd': ('crosskd', {'crosskd': {'layer': 1}}),
        'review': ('review', {'review': {
            'channels': 64, 'student_taps': _PYRAMID, 'teacher_taps': _PYRAMID}})},
    'adaptation_parts': {
        'alone': ('none',), 'kd': ('kd', {'kd': {'temperature': 4.0} | _RESIZED}),
        'fitnets': ('fitnets', {'fitnets': _RESIZED}), 'features': ('feature_adaptation',),
        'affinity': ('affinity_adaptation', {'affinity_adaptation': {'autoencoder': False}}),
        'both': ('adaptation',), 'features_5': ('feature_adaptation@5',),
        'both_5': ('adaptation', {'feature_adaptation': {'weight': 5.0}})},
    'adaptation_strides': {
        f'{name}_{stride}': (method, {}, {'student': {'output_stride': stride}})
        for name, method in (('alone', 'none'), ('adapted', 'adaptation'))
        for stride in (4, 8, 16, 32)},
    'scenes_core': {
        'alone': ('none',), 'distilled': ('pixelwise+pairwise', _NODES),
        'distilled_unlabelled': ('pixelwise+pairwise', _NODES, {
            'data': {'unlabelled': 'rest', 'unlabelled_share': 0.5}})},
    'scenes_cirkd': {
        'kd': ('kd',), 'cross_image': ('kd+cross_image',), 'pixel': ('kd+memory', _PIXEL),
        'region': ('kd+memory', _REGION), 'pixel_region': ('kd+memory',),
        'cross_image_pixel': ('cirkd', _PIXEL), 'cross_image_region': ('cirkd', _REGION),
        'all': ('cirkd',)},
    'scenes_cirkd:queues': {'kd': ('kd',), **{
        f'pixels_{slots}': ('cirkd', {'memory': {'pixel_slots': slots}})
        for slots in (1_000, 3_000, 10_000, 20_000, 30_000)}},
    'adaptation_parts:temperatures': {'alone': ('none',), **{
        f'kd_{t}': ('kd', {'kd': {'temperature': float(t)} | _RESIZED}) for t in (2, 4, 6)}}}
STUDENTS['scenes_detection'] = STUDENTS['bccd']


def load(name):
  study, _, arg = name.partition(':')
  return importlib.import_module(f'experiments.{study}').get_config(arg)


def differences(config, other):
  """Fields of a config whose values another has not, but for the study."""
  flat = [traverse_util.flatten_dict(
      {name: value for name, value in one.to_dict().items() if name != 'study'}, sep='.',
      keep_empty_nodes=True) for one in (config, other)]
  assert flat[0].keys() == flat[1].keys()
  return {name: value for name, value in flat[0].items() if value != flat[1][name]}


@pytest.mark.parametrize('name', STUDIES)
def test_students_and_teacher_are_those_of_the_recipe_but_for_what_the_study_says(name):
  config = load(name)
  recipe, *arguments = RECIPES[name]
  own = [recipes.load(recipe)(arg) for arg in arguments]
  assert [one.role for one in own] == ['student', 'teacher']
  found = tuple(differences(*pair) for pair in zip((config, config.study.teacher), own))
  assert found == DIFFERENCES[name]


@pytest.mark.parametrize('name', STUDIES)
def test_how_a_study_tunes_and_compares(name):
  study = load(name).study
  assert study.tune.to_dict() == (_TUNE | TUNES[name] if name in TUNES else {})
  assert study.seeds == tuple(range(SEEDS[name]))
  assert study.baseline == BASELINES.get(name, 'alone') and not study.vmap_seeds


@pytest.mark.parametrize('name', STUDENTS)
def test_every_student_has_its_method_and_these_options(name):
  study = load(name).study
  assert study.order == tuple(STUDENTS[name])
  for student, (method, *rest) in STUDENTS[name].items():
    options, sections = (*rest, {}, {})[:2]
    terms = distillers.terms_of(method)
    assert options.keys() <= terms.keys()
    wanted = {term: fields | options.get(term, {}) for term, fields in terms.items()}
    assert study.students[student].to_dict() == {'distill': wanted, **sections}, student


def test_every_method_on_the_scenes_has_the_options_of_their_recipe():
  found = load('scenes_methods').study.students
  assert found.alone.to_dict() == {'distill': {}} and 'skd+channel_wise' in found
  for name in found:
    if name != 'alone':
      recipe = recipes.load('quickstart')(f'method={name}').distill
      assert found[name].to_dict() == {'distill': recipe.to_dict()}


# (study, argument) -> fields of its config that it sets, with those of the study and the teacher.
ARGUMENTS = [
    *[(name, 'steps=36', {'train.steps': 36}) for name in STUDIES],
    *[(name, 'steps=36', {'eval.every_steps': 36}) for name in STUDIES if name not in (
        'scenes_core', 'scenes_cirkd', 'scenes_methods', 'cifar_review_forms', 'cifar_stages')],
    *[(name, 'seeds=2', {'study.seeds': (0, 1)}) for name in (
        'bccd', 'scenes_detection', 'scenes_cirkd', 'adaptation_parts', 'adaptation_strides')],
    *[(name, 'teacher_steps=48', {'study.teacher.train.steps': 48, 'train.steps': steps})
      for name, steps in (
          ('cifar_review', 600), ('adaptation_parts', 1_000), ('adaptation_strides', 1_000))],
    *[(name, 'size=90', {f'{owner}{field}': value for owner in ('', 'study.teacher.') for
                         field, value in (('data.size', (90, 120)),
                                          ('augmentation.crop', (90, 90)))})
      for name in ('adaptation_parts', 'adaptation_strides')],
    *[(name, 'data=cifar10,images=256', {
        f'{owner}{field}': value for owner in ('', 'study.teacher.') for field, value in (
            ('data.name', 'cifar10'), ('train.steps', 240 * 2))})
      for name in ('cifar_review_forms', 'cifar_stages')],
    *[(name, 'runlocal', {'train.steps': 2, 'study.teacher.train.steps': 2}) for name in STUDIES]]


@pytest.mark.parametrize('name, argument, expected', ARGUMENTS)
def test_an_argument_of_a_study_reaches_its_fields(name, argument, expected):
  config = load(f'{name}:{argument}')
  assert {field: config_fields.value_of(config, field) for field in expected} == expected


@pytest.mark.parametrize('name', [name for name, argument, _ in ARGUMENTS if argument == 'seeds=2'])
def test_arguments_of_students_leave_the_teacher(name):
  assert load(f'{name}:steps=36,seeds=2').study.teacher == load(name).study.teacher
