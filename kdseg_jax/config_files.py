"""Configs of runs as they are saved: numbered formats, older ones migrated step by step.

Reading one never looks at its methods, models or data: a run whose method was renamed, or is not
installed here, can still be evaluated.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from typing import Any

from ml_collections import ConfigDict

import kdseg_jax
from kdseg_jax import default_config
from kdseg_jax.errors import NotFoundError, UserError

FILE = 'config.json'
_KEYS = ('format', 'version')  # beside the fields of the config
_KINDS = ((dict,), (bool,), (str,), (float, int), (tuple, list))  # in JSON 1.0 may be 1


def to_dict(config: ConfigDict) -> dict[str, Any]:
  """A config as it is saved: its fields, `format` and the `version` of kdseg_jax."""
  return {'format': FORMAT, 'version': kdseg_jax.__version__} | json.loads(config.to_json())


def from_dict(saved: dict[str, Any], *, where: str) -> ConfigDict:
  """The config of `to_dict`, of this format or an older one; fields it lacks have their defaults.

  Args:
    saved: what `to_dict` returned, through JSON or not.
    where: what it is, for errors.

  Raises:
    UserError: a newer kdseg_jax wrote it, or it is no config.
  """
  if not isinstance(saved, dict):
    raise UserError(f'{where}: holds no config; it is damaged or was edited.')
  number = saved.get('format', 0)  # there were no numbers at first
  if not isinstance(number, int) or not 0 <= number <= FORMAT:
    raise UserError(
        f'{where}: is of format {number}, written by kdseg_jax {saved.get("version", "?")}; this '
        f'one is {kdseg_jax.__version__} and reads formats up to {FORMAT}. Update kdseg_jax.')
  fields = {name: value for name, value in saved.items() if name not in _KEYS}
  defaults = default_config.run().to_dict()
  _require_kinds(fields, {name: kind for name, kind in defaults.items() if isinstance(kind, dict)},
                 where)  # migrations look into sections
  for migrate in _MIGRATIONS[number:]:
    fields = migrate(fields)
  _require_kinds(fields, defaults, where)
  return default_config.fill(ConfigDict(_tuples(fields)))


def read(workdir: str) -> ConfigDict:
  """The config that the run of a work directory was trained with.

  Raises:
    UserError: there is none, the file is damaged, or a newer kdseg_jax wrote it.
  """
  path = os.path.join(workdir, FILE)
  try:
    with open(path) as file:
      saved = json.load(file)
  except FileNotFoundError:
    raise NotFoundError(f'{path}: no such file; expected the work directory of a run.') from None
  except (json.JSONDecodeError, UnicodeDecodeError) as error:
    raise UserError(f'{path}: is no JSON ({error}); it is damaged or was edited.') from None
  return from_dict(saved, where=path)


def require_run(workdir: str, option: str) -> None:
  """Raises NotFoundError if no run was started in a directory that an option names."""
  path = os.path.join(workdir, FILE)
  if not os.path.exists(path):
    raise NotFoundError(
        f'{path} is missing: --{option} must be the work directory of a run of `train`.')


def changes(before: dict, now: dict, prefix: str = 'config.') -> list[str]:
  """'config.<field> is ... now and was ...' for every field that differs.

  A whole section that only one of them has, as a term, is one line.
  """
  found = []
  for name in sorted(before.keys() | now.keys()):
    field, old, new = f'{prefix}{name}', before.get(name), now.get(name)
    if isinstance(old, dict) and isinstance(new, dict):
      found += changes(old, new, f'{field}.')
    elif isinstance(new, dict) and old is None:
      found.append(f'{field} is there now and was not')
    elif isinstance(old, dict) and new is None:
      found.append(f'{field} is not there now and was')
    elif old != new:
      found.append(f'{field} is {new!r} now and was {old!r}')
  return found


def _require_kinds(fields, defaults, where, prefix='config.'):
  """Refuses fields of another kind than their defaults; the options of a task are its own."""
  for name, default in defaults.items():
    value = fields.get(name, default)
    kinds = next((kinds for kinds in _KINDS if isinstance(default, kinds)), None)
    if kinds is None or value is None:  # of no kind by default, or not set
      continue
    if not isinstance(value, kinds):
      raise UserError(f'{where}: {prefix}{name} is {value!r}, no {kinds[0].__name__} as when it '
                      'was saved; it is damaged or was edited.')
    if isinstance(value, dict) and name != 'task':
      _require_kinds(value, default, where, f'{prefix}{name}.')


def _from_0(fields):
  """Before numbers, teachers drew from the same stream as students."""
  return {'role': 'student'} | fields


def _from_1(fields):
  """`train.init_from` became `student.init`, which leaves out what does not fit; teachers too."""
  train, student = dict(fields.get('train', {})), dict(fields.get('student', {}))
  other = train.pop('init_from', '')
  student['init'] = student.get('init') or other
  fields = fields | {'train': train, 'student': student}
  study = fields.get('study') or {}
  if study.get('teacher'):
    fields['study'] = study | {'teacher': _from_1(study['teacher'])}
  return fields


def _from_2(fields):
  """Terms had no `warmup_steps`, which all have but 'context', the one that wraps others."""
  warmed = lambda distill: {
      term: options if term == 'context' else {'warmup_steps': 0} | options
      for term, options in distill.items()}
  fields = fields | {'distill': warmed(fields.get('distill', {}))}
  study = fields.get('study') or {}
  if 'students' in study:
    students = {name: own | {'distill': warmed(own['distill'])} if 'distill' in own else own
                for name, own in study['students'].items()}
    fields['study'] = study | {'students': students}
  return fields


def _from_3(fields):
  """What segmentation alone has moved into the section `task`; in teachers of studies too."""
  fields = dict(fields)
  supervised = dict(fields.pop('supervised', {}))
  if 'loss' in supervised:
    supervised['supervised_loss'] = supervised.pop('loss')
  if 'eval' in fields:
    fields['eval'] = dict(fields['eval'])
  moved = [(fields, 'align_corners'), (fields, 'auxiliary_weight'),
           (fields.get('eval', {}), 'absent_as_zero')]
  fields['task'] = {'name': 'segmentation'} | fields.get('task', {}) | supervised | {
      name: section.pop(name) for section, name in moved if name in section}
  study = fields.get('study') or {}
  if study.get('teacher'):
    fields['study'] = study | {'teacher': _from_3(study['teacher'])}
  return fields


# What the terms of format 4 were made by; what is not here was no term of ours.
_FACTORIES_OF_4 = {
    name: name for name in (
        'pixelwise', 'pairwise', 'holistic', 'decoupled', 'fitnets', 'attention_transfer',
        'channel_wise_features', 'channel_wise_logits', 'intra_class_variation',
        'double_similarity_pixel', 'double_similarity_category', 'cross_image', 'memory',
        'channels', 'review')
} | {'adversarial': 'holistic', 'kd': 'pixelwise', 'context': 'with_context'}


def _from_4(fields):
  """Every term names its factory, and no method stands beside them; `kd` is made by `pixelwise`."""
  def migrated(distill):
    found = {}
    for term, options in distill.items():
      factory = _FACTORIES_OF_4.get(term)
      found[term] = ({'factory': f'kdseg_jax.distillers:{factory}'} if factory else {}) | (
          {'form': 'kl', 'reduction': 'mean'} if term == 'kd' else {}) | options
    return found

  def without_method(section):
    section = {name: value for name, value in section.items() if name != 'method'}
    return section | ({'distill': migrated(section['distill'])} if 'distill' in section else {})

  fields = without_method(fields)
  study = fields.get('study') or {}
  if 'students' in study:
    study = study | {'students': {
        name: without_method(own) for name, own in study['students'].items()}}
  if study.get('teacher'):
    study = study | {'teacher': _from_4(study['teacher'])}
  return fields | ({'study': study} if study else {})


# Function i takes the fields of format i to format i + 1. Add more; never change one that stands.
_MIGRATIONS: tuple[Callable[[dict], dict], ...] = (
    _from_0, _from_1, _from_2, _from_3, _from_4)
FORMAT = len(_MIGRATIONS)


def _tuples(value):
  """JSON has lists only; in a config they are tuples."""
  if isinstance(value, dict):
    return {k: _tuples(v) for k, v in value.items()}
  return tuple(map(_tuples, value)) if isinstance(value, list) else value
