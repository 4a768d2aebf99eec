"""The argument of a recipe."""

from types import NoneType

import pytest
from ml_collections import ConfigDict

from configs import camvid, cifar, common, folder, quickstart
from kdseg_jax import command_line, config_fields
from tests import runs


def test_values_take_the_type_of_their_default_and_a_bare_name_is_true():
  values = common.parse_arg('n=3,flag,name=x', n=1, flag=False, name='', rate=0.5)
  assert values.to_dict() == {'n': 3, 'flag': True, 'name': 'x', 'rate': 0.5}
  assert common.parse_arg('name=runs/lr=0.1/a=b', name='').name == 'runs/lr=0.1/a=b'
  assert common.parse_arg(None, flag=True).flag
  assert not common.parse_arg('flag=false', flag=True).flag


@pytest.mark.parametrize('arg,message', [
    ('flg', "Did you mean 'flag'"), ('n=many', 'must be of type int'),
    ('flag=maybe', 'must be true or false')])
def test_wrong_arguments_are_refused(arg, message):
  with pytest.raises(ValueError, match=message):
    common.parse_arg(arg, n=1, flag=False)


@pytest.mark.parametrize('recipe', [quickstart, camvid, cifar, folder])
def test_roles_differ_and_an_unknown_one_is_refused(recipe):
  teacher, student = recipe.get_config('role=teacher'), recipe.get_config()
  assert teacher.student != student.student
  with pytest.raises(ValueError, match="Unknown role: 'techer'. Did you mean 'teacher'"):
    recipe.get_config('role=techer')


def test_a_method_brings_its_options_which_can_be_overridden():
  config = quickstart.get_config('method=pixelwise+pairwise')
  assert config.distill.pixelwise.weight == 10.0 and config.distill.pairwise.node_size == 1
  config.distill.pairwise.neighbourhood = 3  # None by default
  assert config.distill.pairwise.neighbourhood == 3


def test_the_critic_has_the_optimiser_of_skd():
  critic = common.segmentation('skd').critic
  assert critic.steps == 1
  wanted = {'name': 'sgd', 'learning_rate': 4e-4, 'momentum': 0.9, 'weight_decay': 1e-4,
            'schedule': 'poly', 'power': 0.9}
  assert wanted.items() <= critic.optimizer.to_dict().items()


def test_a_teacher_of_its_own_reads_what_the_student_reads():
  config = camvid.get_config('method=adaptation,teacher_init=imagenet')
  config.data.root, config.data.size = 'somewhere', (90, 120)
  own = config.teacher.config
  assert (own.data.root, own.data.size) == ('somewhere', (90, 120))
  assert (own.role, own.student.init, own.student.output_stride) == ('teacher', 'imagenet', 8)
  assert own.student.width == 1 and config.student.width == 0.5
  assert not camvid.get_config('role=teacher').teacher.config
  assert camvid.get_config('method=adaptation,runlocal').teacher.config.train.steps == 2


def test_nothing_but_folder_and_sizes_of_the_students_data_is_its_teachers():
  config, own = quickstart.get_config(), quickstart.get_config('role=teacher')
  common.own_teacher(config, own)
  before = own.data.to_dict()
  values = {str: 'other', int: 77, float: 0.7, bool: True, tuple: (30, 50), NoneType: 9}
  for field, value in config.data.items():
    if not isinstance(value, ConfigDict):
      kind = tuple if field == 'size' else int if field == 'seed' else type(value)
      config.data[field] = 0.5 if field == 'unlabelled_share' else values[kind]
  changed = {field for field, value in own.data.to_dict().items() if value != before[field]}
  assert changed == {'root', 'size'}


def test_runlocal_of_a_study_shrinks_its_students_and_the_teacher_that_it_trains():
  whole, small = (command_line.load_recipe(f'{runs.ROOT}/experiments/scenes_core.py{arg}')
                  for arg in ('', ':runlocal'))
  assert whole.study.teacher.train.steps == 5_000 and whole.study.tune
  for one in (small, small.study.teacher):
    assert (one.train.steps, one.student.width, one.eval.limit) == (2, 0.125, 8)
  assert len(small.study.seeds) == 2 and not small.study.tune
  assert small.study.students.keys() == whole.study.students.keys()


def study_of(config, **fields):
  return common.study(config, title='Title', description='Text', **fields).study


def test_a_study_has_its_students_in_their_order_and_these_defaults():
  config = quickstart.get_config()
  found = study_of(config, students={'b': {'optimizer': {'power': 2.0}}, 'a': {'method': 'kd@3'}})
  assert (found.title, found.description, found.baseline) == ('Title', 'Text', 'alone')
  assert (found.seeds, found.order, found.vmap_seeds) == ((0, 1, 2, 3, 4), ('b', 'a'), False)
  assert found.tune.to_dict() == found.teacher.to_dict() == {}
  assert found.students.b.to_dict() == {'distill': {}, 'optimizer': {'power': 2.0}}
  assert found.students.a.distill.kd.weight == 3


def test_students_of_a_study_take_options_of_the_terms_that_they_have():
  own = {'kd': {'temperature': 4.0}, 'fitnets': {'projection': False},
         'mine': {'factory': 'kdseg_jax.distillers:fitnets', 'weight': 2.0}}
  students = {'a': {'method': 'kd', 'distill': own}}
  found = study_of(quickstart.get_config(), students=students).students.a.distill
  assert (set(found), found.kd.temperature) == ({'kd', 'mine'}, 4.0)
  assert (found.mine.weight, found.mine.projection, found.mine.warmup_steps) == (2.0, True, 0)
  assert students['a']['method'] == 'kd'  # what was given is left as it is
  with pytest.raises(ValueError, match="term of the student 'a': 'kdd'. Did you mean 'kd'"):
    study_of(quickstart.get_config(), students={'a': {'distill': {'kdd': {'weight': 1.0}}}})


@pytest.mark.parametrize('shared, own, reads', [
    (False, {}, False), (True, {}, True), (True, {'aux': False}, False),
    (False, {'aux': True}, True)])
def test_terms_of_a_study_read_an_auxiliary_head_where_the_student_has_one(shared, own, reads):
  config = quickstart.get_config()
  config.student.aux = shared
  students = {'a': {'method': 'double_similarity', 'student': own}}
  found = study_of(config, students=students).students.a.distill
  assert ('aux_logits' in found.double_similarity_pixel.taps) == reads


def test_a_weight_of_the_method_string_goes_before_that_of_the_recipe():
  for method, weight in (('kd', 5.0), ('kd@2', 2.0), ('fitnets@2+kd', 5.0)):
    distill = common.segmentation(method).distill
    common.set_weight(distill, method, 'kd', 5.0)
    assert distill.kd.weight == weight
  common.set_weight(distill, method, 'review', 5.0)
  assert 'review' not in distill


def test_runlocal_shrinks_the_queues():
  memory = quickstart.get_config('method=cirkd,runlocal').distill.memory
  assert memory.pixel_slots < quickstart.get_config('method=cirkd').distill.memory.pixel_slots
  assert 'memory' not in quickstart.get_config('runlocal').distill


# The recipes that follow no script, as they were run: experiments/*.md and their docstrings.
CAMVID = {
    'data.name': 'camvid', 'data.size': (180, 240), 'augmentation.crop': (180, 180),
    'train.batch_size': 8, 'optimizer.warmup_steps': 100, 'student.name': 'deeplabv3_mobilenetv2'}
FOLDER = {
    'data.name': 'folder', 'augmentation.crop': (512, 512), 'train.steps': 20_000,
    'train.batch_size': 16, 'optimizer.learning_rate': 0.02, 'optimizer.warmup_steps': 500}
QUICKSTART = {
    'augmentation.scale': (), 'augmentation.flip': 0.0, 'train.batch_size': 8,
    'optimizer.name': 'adamw', 'optimizer.weight_decay': 1e-4, 'optimizer.warmup_steps': 50,
    'eval.split': 'test', 'student.name': 'deeplabv3_resnet18'}
SETTINGS = [
    (camvid, 'role=teacher', CAMVID | {
        'optimizer.learning_rate': 0.03, 'train.steps': 3_000, 'student.width': 1.0,
        'student.output_stride': 16}),
    (camvid, 'role=teacher,finetune', CAMVID | {
        'optimizer.learning_rate': 0.003, 'train.steps': 400, 'student.width': 1.0,
        'student.output_stride': 8}),
    (camvid, '', CAMVID | {
        'optimizer.learning_rate': 0.03, 'train.steps': 3_000, 'student.width': 0.5,
        'student.output_stride': 8}),
    (folder, 'role=teacher', FOLDER | {'student.name': 'deeplabv3_resnet50'}),
    (folder, '', FOLDER | {'student.name': 'deeplabv3_resnet18'}),
    (quickstart, 'role=teacher', QUICKSTART | {
        'optimizer.learning_rate': 8e-3, 'train.steps': 5_000, 'student.width': 0.25,
        'data.train_limit': 0, 'data.unlabelled': ''}),
    (quickstart, '', QUICKSTART | {
        'optimizer.learning_rate': 64e-3, 'train.steps': 3_000, 'student.width': 0.125,
        'data.train_limit': 300, 'data.unlabelled': ''}),
    (quickstart, 'unlabelled', QUICKSTART | {
        'optimizer.learning_rate': 32e-3, 'train.steps': 3_000, 'student.width': 0.125,
        'data.train_limit': 300, 'data.unlabelled': 'rest', 'data.unlabelled_share': 0.5})]


@pytest.mark.parametrize('recipe, arg, expected', SETTINGS)
def test_settings_are_those_with_which_recipes_were_run(recipe, arg, expected):
  config = recipe.get_config(arg)
  assert {field: config_fields.value_of(config, field) for field in expected} == expected
