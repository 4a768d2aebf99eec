"""What the recipes share: the argument after the colon, studies, and how to shrink all of it.

Every field with its default is in `kdseg_jax/default_config.py`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

from ml_collections import ConfigDict

from kdseg_jax import distillers, models, names, references
from kdseg_jax.default_config import (
  classification,
  detection,
  optimizer,
  segmentation,
  with_placeholders,
)
from kdseg_jax.distillers import methods
from kdseg_jax.errors import UserError

_MAPS = ('attention_transfer', 'channel_wise_features')  # whose defaults are vectors

__all__ = ['classification', 'compare_maps', 'detection', 'fit_towers', 'optimizer', 'own_teacher',
           'parse_arg', 'parse_recipe_arg', 'runlocal', 'segmentation', 'set_student', 'set_weight',
           'study']


def parse_arg(arg: str | None, **defaults) -> ConfigDict:
  """Parses `key=value,flag,...` of `--config=<file>.py:<arg>`.

  Args:
    arg: the text after the colon. A bare name is True. A value takes the type of its default.
    **defaults: the keys that the recipe knows, with their defaults.

  Raises:
    ValueError: an unknown key (names the nearest), or a value of the wrong type.
  """
  values = ConfigDict(defaults)
  for item in filter(None, (arg or '').split(',')):
    key, _, text = item.partition('=')
    names.require(key, defaults, 'argument of the recipe')
    values[key] = _convert(key, text, defaults[key])
  return values


def parse_recipe_arg(arg: str | None, **defaults) -> ConfigDict:
  """The arguments that all recipes take, `role`, `method` and `runlocal`, and those of `defaults`.

  Raises:
    ValueError: as `parse_arg`, or the role is neither 'teacher' nor 'student'.
  """
  values = parse_arg(arg, role='student', method='none', runlocal=False, **defaults)
  names.require(values.role, ('teacher', 'student'), 'role')
  return values


def compare_maps(distill: ConfigDict, stage: str) -> None:
  """Methods of pixels compare the maps of a stage of classifiers, before the mean; in place."""
  for term in _MAPS:
    if term in distill:
      distill[term].update(student_tap=stage, teacher_tap=stage)


def fit_towers(distill: ConfigDict, layer: int) -> None:
  """Cross-head distillation at a layer of towers with fewer than the usual four; in place."""
  if 'crosskd' in distill:
    distill.crosskd.layer = layer


def set_weight(distill: ConfigDict, method: str, term: str, weight: float) -> None:
  """The weight of a term, if the method has it, unless the method string says one; in place."""
  said = any(item.name == term and item.weight is not None for item in methods.parse(method))
  if term in distill and not said:
    distill[term].weight = weight


def set_student(config: ConfigDict, **fields) -> None:
  """Sets fields of `config.student`; terms do without its auxiliary head where it has none."""
  config.student.update(fields)
  if not config.student.aux:
    methods.leave_out_auxiliary_head(config.distill)


def _convert(key, text, default):
  if isinstance(default, bool):
    if text.lower() not in ('', 'true', 'false'):
      raise UserError(f'The argument {key}={text!r} must be true or false.')
    return text.lower() != 'false'
  try:
    return type(default)(text)
  except ValueError:
    raise UserError(
        f'The argument {key}={text!r} must be of type {type(default).__name__}.') from None


def study(config: ConfigDict, *, title: str, description: str, students: dict[str, dict],
          baseline: str = 'alone', seeds: Iterable[int] = range(5),
          tune: dict | None = None, teacher: ConfigDict | None = None) -> ConfigDict:
  """Adds the section `study` to a config: students that are trained side by side; in place.

  Args:
    config: what all students share.
    title: of the report.
    description: what is compared, for the report.
    students: name -> `method` (default 'none') and, for any of the sections `student`,
      `optimizer`, `critic`, `prepare`, `data` and `distill`, the fields in which the student
      differs. `distill` may hold options of terms of ours that its method does not have, and terms
      of its own, with their `factory` and `weight`; `data` only `train_limit`, `unlabelled` and
      `unlabelled_share`.
    baseline: the student that the others are compared with.
    seeds: of initialisation and draws; the data's order is the same for all of them.
    tune: `field` and the `grid` from which that of every student is chosen before, and, for that,
      `seeds`, `data_seed`, `split` and `extend`, see `studies.tuning`; None chooses nothing.
    teacher: config of the teacher, trained first in `<workdir>/teacher` where
      `config.teacher.checkpoint` is empty.
  """
  entries = {}
  for name, own in students.items():
    own = dict(own)
    method = own.pop('method', 'none')
    distill = with_placeholders(distillers.terms_of(method))
    if not own.get('student', {}).get('aux', config.student.aux):
      methods.leave_out_auxiliary_head(distill)
    for term, options in own.pop('distill', {}).items():
      if term in distill:
        distill[term].update(options)
      elif 'factory' in options:
        distill[term] = with_placeholders(methods.completed({term: options})[term])
      else:
        names.require(term, methods.TERMS, f'term of the student {name!r}')
    entries[name] = {'distill': distill, **own}
  config.study = ConfigDict({
      'title': title, 'description': description, 'baseline': baseline,
      'seeds': tuple(seeds),
      'order': tuple(students),        # of the report; a ConfigDict forgets it
      'vmap_seeds': False,             # all seeds of a student in one program, by jax.vmap
      'students': entries, 'tune': tune or {}, 'teacher': teacher or {}})
  return config


def own_teacher(config: ConfigDict, teacher: ConfigDict) -> None:
  """Has `train` train a teacher first where none is given; it reads the same folder and sizes.

  Args:
    config: of the student; in place.
    teacher: of its teacher, whose `data.root` and `data.size` follow the student's from now on.
  """
  for field in ('root', 'size'):
    teacher.data[field] = config.data.get_ref(field)
  config.teacher.config = teacher


def runlocal(config: ConfigDict) -> ConfigDict:
  """Shrinks everything, to try a recipe on a laptop within a minute; in place."""
  config.student.width = min(config.student.width, 0.125)
  config.student.init = ''  # published weights are of width 1
  if not references.is_reference(config.student.name):
    config.student.name = re.sub(r'(?<!cifar_)resnet\d+', 'resnet18', config.student.name)
  config.augmentation.crop = (32, 32)
  config.train.update(steps=2, batch_size=8, compile_level=0)
  config.prepare.steps = 2
  config.eval.update(every_steps=2, batch_size=8, limit=8)
  if config.eval.crop:
    config.eval.update(short_side=36, crop=(32, 32))
  if config.eval.canvas:
    config.eval.update(canvas=(32, 32), sides=())
    config.augmentation.resize = ((32, 32),)
  if config.student.name in models.DETECTORS:
    config.student.update(head_channels=16, stacked_convs=1)
  config.checkpoint.every_steps = 2
  config.log.every_steps = 1
  config.optimizer.warmup_steps = 0
  methods.shrink(config.distill)
  if 'study' in config:
    config.study.seeds = config.study.seeds[:2]
    config.study.tune = {}  # two steps tell nothing
    for student in config.study.students.values():
      methods.shrink(student.distill)
    if config.study.teacher:
      runlocal(config.study.teacher)
  return config
