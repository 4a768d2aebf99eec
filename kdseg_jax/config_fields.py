"""What fields of a config may hold: several values, of which kind; numbers, from where to where."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

from ml_collections import ConfigDict

from kdseg_jax.errors import UserError

_SEEDS = 2**32  # of the data's order
_ANY, _SOME = range(1000), range(1, 1000)


class _Values(NamedTuple):
  """What a field may hold.

  Attributes:
    kind: whether one of its values is of the right kind.
    lengths: how many there may be; `_ANY` is any number, `_SOME` one or more.
    expected: all that in words.
    example: as it is typed.
  """

  kind: Callable[[Any], bool]
  lengths: tuple[int, ...] | range
  expected: str
  example: str


def _is_size(value):
  return isinstance(value, int) and not isinstance(value, bool) and value >= 1


def _is_sides(value):
  return isinstance(value, (tuple, list)) and len(value) == 2 and all(map(_is_size, value)) and (
      value[0] <= value[1])


def _is_factor(value):
  return isinstance(value, (int, float)) and not isinstance(value, bool) and (
      0 < value < math.inf)


def _is_share(value):
  return _is_factor(value) and value < 1


def _is_seed(value):
  return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < _SEEDS


def _is_number(value):
  return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


_MILESTONES = _Values(
    _is_share, _ANY, 'shares of the steps, each above 0 and below 1, or () for none', '(0.5,0.75)')
_PIXELS = 'a height and a width in whole pixels'
_FIELDS = {
    'data.size': _Values(_is_size, (0, 2), f'{_PIXELS}, or () for the size of each image',
                         '(256,512)'),
    'augmentation.crop': _Values(_is_size, (2,), _PIXELS, '(512,512)'),
    'augmentation.scale': _Values(
        _is_factor, (0, 2), 'the lowest and the highest factor, both above 0, or () for none',
        '(0.5,2.0)'),
    'augmentation.resized_crop': _Values(
        lambda value: _is_factor(value) and value <= 1, (0, 2),
        'the lowest and the highest share of the area, above 0 and up to 1, or () for none',
        '(0.08,1.0)'),
    'augmentation.resize': _Values(
        _is_sides, _ANY, 'one or more pairs of the shorter and the longer side in whole pixels, or '
        '() for none', '((800,1333),)'),
    'eval.window': _Values(_is_size, (0, 2), f'{_PIXELS}, or () for whole images', '(512,512)'),
    'eval.crop': _Values(_is_size, (0, 2), f'{_PIXELS}, or () for whole images', '(224,224)'),
    'eval.canvas': _Values(_is_size, (0, 2), f'{_PIXELS}, or () for the size of each image',
                           '(640,640)'),
    'eval.sides': _Values(
        _is_size, (0, 2), 'the shorter and the longer side in whole pixels, or () for none',
        '(800,1333)'),
    'eval.scales': _Values(_is_factor, _SOME, 'one or more factors above 0', '(0.75,1.0,1.25)'),
    'student.mean': _Values(_is_number, (3,), 'three numbers, RGB in 0-255',
                            '(123.675,116.28,103.53)'),
    'student.std': _Values(_is_factor, (3,), 'three numbers above 0, RGB in 0-255',
                           '(58.395,57.12,57.375)'),
    'train.freeze': _Values(lambda value: isinstance(value, str) and bool(value),
                            _ANY, 'patterns of paths of parameters, or () for none',
                            '("backbone/stage1*",)'),
    'optimizer.milestones': _MILESTONES,
    'critic.optimizer.milestones': _MILESTONES,
    'prepare.optimizer.milestones': _MILESTONES,
    'study.seeds': _Values(_is_seed, _SOME, 'one or more different whole numbers from 0',
                           '(0,1,2)'),
}

_OPTIMIZERS = ('optimizer', 'critic.optimizer', 'prepare.optimizer')
_AT_LEAST = {
    'train.steps': 1, 'train.accumulate': 1, 'prepare.steps': 0, 'critic.steps': 0,
    'eval.batch_size': 1, 'eval.limit': 0, 'eval.pad_multiple': 1, 'eval.every_steps': 0,
    'eval.pictures': 0, 'data.train_limit': 0, 'augmentation.pad': 0, 'checkpoint.keep': 1,
    'checkpoint.every_steps': 0, 'log.every_steps': 0, 'memory_limit_gb': 0,
    'task.auxiliary_weight': 0} | {f'{section}.power': 0 for section in _OPTIMIZERS}
_DECAY_RATES = ('train.ema_decay',) + tuple(  # at least 0, less than 1
    f'{section}.{name}' for section in _OPTIMIZERS for name in ('momentum', 'b1', 'b2'))


def value_of(config: ConfigDict, field: str) -> Any:
  """The value of a field by its path, None where there is no such field."""
  found: Any = config
  for name in field.split('.'):
    found = None if found is None else found.get(name)
  return found


def check(config: ConfigDict) -> None:
  """Checks every field that holds several values, the ranges of numbers, and the seeds.

  Raises:
    UserError: one value where several are expected, another number of them, or one of another
      kind; a number that is not finite, or out of its range; names the field and shows what works.
  """
  _check_numbers(config)
  for field, values in _FIELDS.items():
    found = value_of(config, field)
    if found is None:  # no study
      continue
    if not _fits(found, values):
      raise UserError(f'config.{field}={_shown(found)}: expected {values.expected}, as in '
                      f"--config.{field}='{values.example}'.")
  for field in ('augmentation.crop', 'eval.canvas'):
    size = value_of(config, field)
    if value_of(config, 'data.by_orientation') and size and size[0] > size[1]:
      raise UserError(f'config.{field}={tuple(size)}: with config.data.by_orientation it is '
                      f'written for images that are not upright, ({size[1]},{size[0]}), and turned '
                      'for those that are.')
  if not 0 <= config.augmentation.flip <= 1:
    raise UserError(f'config.augmentation.flip={config.augmentation.flip}: expected a probability, '
                    '0 to 1.')
  scale = config.augmentation.scale
  if scale and scale[0] > scale[1]:
    raise UserError(f'config.augmentation.scale={tuple(scale)}: the lowest factor comes first, '
                    f'({scale[1]},{scale[0]}).')
  shares = config.augmentation.resized_crop
  if shares and (scale or shares[0] > shares[1]):
    raise UserError(f'config.augmentation.resized_crop={tuple(shares)}: expected the lowest share '
                    'first, and config.augmentation.scale=(), as both choose a size.')
  seeds = {'seed': config.seed} | (
      {} if config.data.seed is None else {'data.seed': config.data.seed})
  for field, seed in seeds.items():
    if not _is_seed(seed):
      raise UserError(f'config.{field}={seed}: expected a whole number from 0 to {_SEEDS - 1}.')
  if 'study' in config and len(set(config.study.seeds)) < len(config.study.seeds):
    raise UserError(f'config.study.seeds={tuple(config.study.seeds)}: expected one or more '
                    'different numbers.')


def _check_numbers(config):
  """Refuses numbers that are out of their range, and any that is not finite."""
  _refuse_not_finite(config.to_dict(), 'config')
  for field, least in _AT_LEAST.items():
    value = value_of(config, field)
    if value is not None and value < least:
      raise UserError(f'config.{field}={value} must be at least {least}.')
  for field in _DECAY_RATES:
    value = value_of(config, field)
    if value is not None and not 0 <= value < 1:
      raise UserError(f'config.{field}={value} must be at least 0 (off) and less than 1.')


def _refuse_not_finite(value, field):
  """Of terms and `options` their factories know better: infinity may be meant."""
  if isinstance(value, dict):
    for name, inner in value.items():
      if name not in ('distill', 'options'):
        _refuse_not_finite(inner, f'{field}.{name}')
  elif isinstance(value, float) and not math.isfinite(value):
    raise UserError(f'{field}={value}: expected a finite number.')


def _fits(found, values):
  if not isinstance(found, (tuple, list)):
    return False
  return len(found) in values.lengths and all(map(values.kind, found))


def _shown(found):
  """A single value as it was typed: the parser has made a tuple of it."""
  return repr(found[0]) if isinstance(found, tuple) and len(found) == 1 else repr(found)
