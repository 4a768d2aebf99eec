"""Fields of several values: one where several are expected, too many, of another kind."""

import pytest
from flax import traverse_util

from configs import common, quickstart
from kdseg_jax import config_fields, default_config
from kdseg_jax.errors import UserError

NAN, INFINITE = float('nan'), float('inf')


def checked(field, value):
  config = quickstart.get_config('runlocal')
  common.study(config.unlock(), title='', description='', students={'alone': {}})
  section, _, name = field.rpartition('.')
  owner = config[section] if section else config
  with owner.ignore_type():
    owner[name] = value
  config_fields.check(config)


@pytest.mark.parametrize('field', ['data.size', 'augmentation.crop', 'eval.window', 'eval.crop'])
def test_sizes_are_two_whole_numbers_of_pixels(field):
  checked(field, (32, 48))
  for wrong in (32, (32,), (32, 48, 3), (32, -1), (0, 32), (32.5, 32), ('a', 'b'), (True, 32)):
    with pytest.raises(UserError, match=f'config.{field}=.*expected a height and a width'):
      checked(field, wrong)
  if field == 'augmentation.crop':
    with pytest.raises(UserError, match='as in --config.augmentation.crop='):
      checked(field, ())
  else:
    checked(field, ())


@pytest.mark.parametrize('field, right, wrong', [
    ('augmentation.scale', [(), (0.5, 2.0), (1, 1)], [0.5, (0.5,), (2, 1), (0, 1), ('a', 'b')]),
    ('augmentation.resized_crop', [(), (0.5, 1.0)], [(1.0, 0.5), (1.0,), 0.5, (0.5, 2.0)]),
    ('augmentation.resize', [(), ((800, 1333),), ((320, 320), (240, 320))],
     [(800, 1333), ((1333, 800),), ((800,),), ((0, 5),), 800]),
    ('optimizer.milestones', [(), (0.5,)], [0.5, (1.0,), (0,), ('a',)]),
    ('eval.scales', [(1.0,), (1, 1.5)], [(), 1.5, (0.0,), (-1.0,), ('a',), (float('inf'),)]),
    ('student.mean', [(0.0, -1.5, 3)], [(), 1.0, (1.0, 2.0), ('a',) * 3]),
    ('student.std', [(1.0, 2, 3.0)], [(), (0.0, 1.0, 1.0), (1.0, 2.0)]),
    ('train.freeze', [(), ('backbone/*',)], ['backbone/*', (3,), ('',)]),
    ('study.seeds', [(0,), (3, 1)], [(), 3, (1.5,), (-1,), (1, 1), (2**32,)]),
    ('seed', [0, 2**32 - 1], [-1, 2**32]),
    ('data.seed', [None, 5], [-1, 2**32]),
    ('augmentation.flip', [0.0, 1.0], [-0.1, 2.0, NAN]),
    ('optimizer.learning_rate', [0.0, 1e9], [NAN, INFINITE]),
    ('prepare.optimizer.weight_decay', [0.0], [NAN, INFINITE]),
    ('critic.optimizer.momentum', [0.0, 0.99], [-0.9, 1.0, NAN]),
    ('optimizer.b2', [0.999], [1.0, -0.1]),
    ('optimizer.power', [0.0, 2.0], [-1.0]),
    ('student.width', [0.5], [NAN, INFINITE]),
    ('teacher.min_metric', [0.0, -1.0], [NAN]),
    ('task.auxiliary_weight', [0.0], [-1.0, NAN]),
    ('memory_limit_gb', [0.0, 8.0], [-1.0, NAN]),
    ('eval.limit', [0, 5], [-5]), ('eval.pad_multiple', [1], [0, -8]),
    ('eval.pictures', [0], [-1]), ('log.every_steps', [0], [-5]),
    *[(field, [1], [0]) for field in (
        'train.steps', 'train.accumulate', 'eval.batch_size', 'checkpoint.keep')],
    *[(field, [0], [-1]) for field in (
        'prepare.steps', 'critic.steps', 'data.train_limit', 'augmentation.pad')],
    ('train.ema_decay', [0.0, 0.999], [1.0, -0.1]),
    *[(f'{section}optimizer.{name}', [0.0, 0.99], [1.0, -0.1])
      for section in ('', 'critic.', 'prepare.') for name in ('momentum', 'b1', 'b2')],
    *[(f'{section}.optimizer.milestones', [(), (0.25, 0.5)], [(1.0,), (0.0,), 0.5])
      for section in ('critic', 'prepare')],
    ('critic.optimizer.power', [0.0], [-1.0]), ('prepare.optimizer.power', [0.0], [-1.0]),
    ('eval.canvas', [(), (640, 480)], [(640,), 640, (0, 5), (1.5, 2)]),
    ('eval.sides', [(), (800, 1333)], [(800,), 800, (0, 5), (1.5, 2)]),
    ('augmentation.resized_crop', [(0.5, 0.5)], [(0.0, 0.5), (0.5, 1.01)]),
    ('student.mean', [[1.0, 2.0, 3.0]], [(INFINITE, 0.0, 0.0), (True, 0.0, 0.0)]),
    ('eval.every_steps', [0], [-5]), ('checkpoint.every_steps', [0], [-5]),
])
def test_what_a_field_may_hold(field, right, wrong):
  for value in right:
    checked(field, value)
  for value in wrong:
    with pytest.raises(UserError, match=f'config.{field}='):
      checked(field, value)


def test_infinity_may_be_meant_where_a_factory_knows():
  config = quickstart.get_config('method=kd,runlocal').unlock()
  config.distill.kd.limit = config.student.options.limit = INFINITE
  config_fields.check(config)


def test_a_single_value_is_shown_as_it_was_typed():
  with pytest.raises(
      UserError, match=r"^config.augmentation.crop=32: expected .*='\(512,512\)'\.$"):
    checked('augmentation.crop', (32,))


def test_one_field_chooses_the_size():
  config = quickstart.get_config()
  config.augmentation.update(scale=(0.5, 2.0), resized_crop=(0.5, 1.0))
  with pytest.raises(UserError, match='resized_crop=.*both choose a size'):
    config_fields.check(config)


@pytest.mark.parametrize('section, field', [('augmentation', 'crop'), ('eval', 'canvas')])
def test_what_is_turned_for_upright_images_is_written_for_others(section, field):
  config = default_config.detection()
  config.augmentation.crop = (64, 64)
  config[section][field] = (96, 64)
  config_fields.check(config)
  config.data.by_orientation = True
  with pytest.raises(UserError, match=rf'{section}.{field}=\(96, 64\): .* not upright, \(64,96\)'):
    config_fields.check(config)
  config[section][field] = (64, 96)
  config_fields.check(config)


# Whole numbers that others check: optimisers, models, the mesh, sources, tasks, views.
ELSEWHERE = {
    'optimizer.warmup_steps', 'critic.optimizer.warmup_steps', 'prepare.optimizer.warmup_steps',
    'student.output_stride', 'train.batch_size', 'train.compile_level', 'data.tfds.num_classes',
    'task.ohem_min_kept', 'eval.short_side'}


def test_no_other_whole_number_may_be_negative():
  fields = traverse_util.flatten_dict(default_config.segmentation().to_dict(), sep='.')
  counts = {field for field, value in fields.items() if type(value) is int} - ELSEWHERE
  assert len(counts) > 12
  for field in counts:
    with pytest.raises(UserError, match=f'config.{field}=-1'):
      checked(field, -1)
