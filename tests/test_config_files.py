"""Saved configs: formats, and reading them whatever their methods are."""

import json

import pytest

import kdseg_jax
from configs import camvid, cifar, coco, common, quickstart
from kdseg_jax import config_files
from kdseg_jax.distillers import methods
from kdseg_jax.errors import UserError


def write(folder, saved):
  (folder / config_files.FILE).write_text(json.dumps(saved))


@pytest.mark.parametrize('recipe, arg', [
    (quickstart, 'method=pixelwise+pairwise,role=teacher'), (coco, 'role=teacher,method=crosskd'),
    (cifar, 'method=review'), (camvid, 'method=adaptation')])
def test_what_was_saved_is_read_back(recipe, arg, tmp_path):
  config = recipe.get_config(arg)
  saved = config_files.to_dict(config)
  assert saved['format'] == config_files.FORMAT and saved['version'] == kdseg_jax.__version__
  write(tmp_path, saved)
  assert config_files.read(str(tmp_path)).to_dict() == config.to_dict()


@pytest.mark.parametrize('number', [-1, config_files.FORMAT + 1, 2.0, '2', None])
def test_a_format_that_is_not_known_is_refused(number, tmp_path):
  write(tmp_path, config_files.to_dict(quickstart.get_config()) | {
      'format': number, 'version': '7.0'})
  with pytest.raises(UserError, match=f'format {number}, written by kdseg_jax 7.0; this'):
    config_files.read(str(tmp_path))


def test_a_config_without_a_number_is_a_students_and_gets_the_fields_that_came_later(tmp_path):
  saved = json.loads(quickstart.get_config('role=teacher').to_json())
  del saved['role'], saved['eval']['window'], saved['eval']['scales']
  write(tmp_path, saved)
  loaded = config_files.read(str(tmp_path))
  assert loaded.role == 'student'  # whatever the recipe's role was: there was one stream
  assert loaded.eval.batch_size == 20 and loaded.eval.split == 'test'
  assert loaded.eval.window == () and loaded.eval.scales == common.segmentation().eval.scales


@pytest.mark.parametrize('edit, field', [
    ({'task': 3}, 'task'), ({'student': 'x'}, 'student'), ({'eval': []}, 'eval'),
    ({'student': {'width': 'a'}}, 'student.width'), ({'student': {'aux': 3}}, 'student.aux'),
    ({'student': {'name': 4}}, 'student.name'),
    ({'augmentation': {'crop': 4}}, 'augmentation.crop'),
    ({'seed': 'x'}, 'seed')])
def test_an_edited_field_of_another_kind_is_named(edit, field, tmp_path):
  for number in (1, config_files.FORMAT):
    write(tmp_path, {'format': number} | edit)
    with pytest.raises(UserError, match=f'config.json: config.{field} is .* damaged or was edited'):
      config_files.read(str(tmp_path))


def test_a_method_that_is_not_known_any_more_is_no_obstacle(tmp_path):
  saved = config_files.to_dict(quickstart.get_config('method=kd'))
  gone = {'factory': 'gone.losses:gone_term', 'weight': 3.0, 'own': [1, 2]}
  saved |= {'distill': {'gone_term': gone}}
  write(tmp_path, saved)
  loaded = config_files.read(str(tmp_path))
  assert loaded.distill.gone_term.own == (1, 2)
  del saved['distill']['gone_term']['factory']
  write(tmp_path, saved | {'method': 'gone', 'format': 4})
  assert config_files.read(str(tmp_path)).distill.gone_term.weight == 3.0


def test_weights_of_other_data_and_of_the_same_became_one_field(tmp_path):
  saved = json.loads(quickstart.get_config().to_json()) | {'format': 1}
  del saved['student']['init']
  saved['train']['init_from'] = 'runs/a'
  saved['study'] = {'teacher': {'train': {'init_from': 'runs/b'}, 'student': {'init': ''}}}
  write(tmp_path, saved)
  loaded = config_files.read(str(tmp_path))
  assert loaded.student.init == 'runs/a' and 'init_from' not in loaded.train
  assert loaded.study.teacher.student.init == 'runs/b'
  assert 'init_from' not in loaded.study.teacher.train
  saved['student']['init'] = 'runs/c'
  write(tmp_path, saved)
  assert config_files.read(str(tmp_path)).student.init == 'runs/c'


def test_terms_of_before_warm_ups_have_none_as_they_are_made_today(tmp_path):
  config = quickstart.get_config('method=kd+fitnets+context')
  common.study(config, title='', description='', students={'alone': {}, 'kd': {'method': 'kd'}},
               seeds=(0,))
  saved = json.loads(config.to_json()) | {'format': 2}
  for distill in (saved['distill'], saved['study']['students']['kd']['distill']):
    for options in distill.values():
      options.pop('warmup_steps', None)
    distill |= of_format_4(distill)
  write(tmp_path, saved)
  assert config_files.read(str(tmp_path)).to_dict() == config.to_dict()


def test_what_segmentation_alone_has_moved_into_the_section_of_the_task(tmp_path):
  old = {'align_corners': False, 'auxiliary_weight': 0.2,
         'supervised': {'loss': 'ohem_cross_entropy', 'ohem_min_kept': 7},
         'eval': {'absent_as_zero': True, 'limit': 3}}
  write(tmp_path, old | {'format': 3, 'study': {'teacher': old | {'align_corners': True}}})
  loaded = config_files.read(str(tmp_path))
  assert loaded.task.to_dict() == {
      'name': 'segmentation', 'align_corners': False, 'auxiliary_weight': 0.2,
      'supervised_loss': 'ohem_cross_entropy', 'ohem_threshold': 0.7, 'ohem_min_kept': 7,
      'absent_as_zero': True}
  assert loaded.study.teacher.task.to_dict() == {
      'name': 'segmentation', 'align_corners': True, 'auxiliary_weight': 0.2,
      'supervised_loss': 'ohem_cross_entropy', 'ohem_min_kept': 7, 'absent_as_zero': True}
  for config in (loaded, loaded.study.teacher):
    assert not {'align_corners', 'auxiliary_weight', 'supervised'} & set(config)
    assert config.eval.limit == 3 and 'absent_as_zero' not in config.eval


def of_format_4(distill):
  """The terms as they were saved before they named their factories."""
  distill = {term: dict(options) for term, options in distill.items()}
  for term, options in distill.items():
    del options['factory']
    if term == 'kd':
      del options['form'], options['reduction']
  return distill


@pytest.mark.parametrize('before, now', [
    *[(name, name) for name, terms in methods.METHODS.items()
      if set(terms) <= set(config_files._FACTORIES_OF_4)], ('kd+fitnets', 'fitnets+kd'),
    ('kd:2+pairwise:3', 'kd@2+pairwise@3')])
def test_terms_of_before_they_named_their_factories_mean_the_same_training(before, now, tmp_path):
  config = quickstart.get_config(f'method={now}')
  common.study(config, title='', description='', students={'alone': {}, 'a': {'method': now}},
               seeds=(0,), teacher=quickstart.get_config(f'method={now}'))
  saved = json.loads(config.to_json())
  study = saved['study']
  for section, method in (
      (saved, before), (study['teacher'], before), (study['students']['a'], before),
      (study['students']['alone'], 'none')):
    section['method'], section['distill'] = method, of_format_4(section['distill'])
  write(tmp_path, saved | {'format': 4})
  loaded = config_files.read(str(tmp_path))
  assert loaded.to_dict() == config.to_dict()


@pytest.mark.parametrize('text, message', [
    ('{"format": 99, "version": "9.0"}', 'is of format 99, written by kdseg_jax 9.0'),
    ('{"format": "x"}', 'is of format x'), ('[1]', 'holds no config'),
    ('{"seed": ', 'is no JSON')])
def test_what_cannot_be_read_is_refused(text, message, tmp_path):
  (tmp_path / config_files.FILE).write_text(text)
  with pytest.raises(UserError, match=message):
    config_files.read(str(tmp_path))
  with pytest.raises(FileNotFoundError, match='expected the work directory of a run'):
    config_files.read(str(tmp_path / 'nowhere'))
