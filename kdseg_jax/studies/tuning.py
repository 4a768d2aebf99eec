"""One field of every student's config, chosen on a split of its own before the study begins.

Every student is tuned by the same rule: on the same values, seeds, batches and number of steps. The
best must lie inside the values that were tried, which are extended until it does; a best at the
edge is refused, for the next value might have been better.
"""

from __future__ import annotations

import decimal
import functools
import os
from typing import Any, NamedTuple

import numpy as np
from absl import logging
from ml_collections import ConfigDict

from kdseg_jax import names
from kdseg_jax.data.json_files import finite, read_json, read_rows, write_json
from kdseg_jax.errors import UserError
from kdseg_jax.studies import plan as study_plan
from kdseg_jax.studies import side_by_side
from kdseg_jax.tasks import MainMetric
from kdseg_jax.training.run import Diverged, data_seed

FOLDER = 'tuning'
DIVERGED = 'diverged.json'  # in it: the runs that need not be tried again
_SECTIONS = ('student', 'optimizer', 'critic', 'prepare')


class UntunedError(UserError):
  """The best of the values that were tried is the smallest or the largest of them."""


class Tuned(NamedTuple):
  """What was tried for one student: value -> mean of the main metric, infinite if it diverged."""

  results: dict[float, float]
  chosen: float


def tune(config: ConfigDict, workdir: str, metric: MainMetric, *,
         allow_class_names: bool = False) -> dict[str, Tuned] | None:
  """Chooses `config.study.tune.field` of every student; writes `tuning.json` and sets the field.

  Args:
    config: of a study whose section `study.tune` has `field`, of a section that students may have
      of their own; `grid`, three or more values, evenly spaced on a log scale; `seeds`,
      `data_seed` and `split`, all different from those of the study itself; and `extend`: by how
      many values, at most, the grid of a student may grow.
    workdir: of the study; the runs go into its folder `tuning`. What is finished there is read.
    metric: the task's main metric.
    allow_class_names: see `side_by_side.train`.

  Returns:
    name -> `Tuned`, in the order of the students; None if told to stop.

  Raises:
    UserError: the section cannot be used.
    UntunedError: a student's best is at an edge still.
  """
  options = config.study.tune
  check(config)
  grids = {name: sorted(map(float, options.grid)) for name in study_plan.student_names(config)}
  results: dict[str, dict[float, float]] = {name: {} for name in grids}
  for extension in range(options.extend + 1):
    train = functools.partial(
        side_by_side.train, workdir=os.path.join(workdir, FOLDER),
        allow_class_names=allow_class_names)
    if not _measure(config, os.path.join(workdir, FOLDER), metric, grids, results, train):
      return None
    grown = {name: _extended(grids[name], results[name], metric) for name in grids}
    if grown == grids:
      break
    if extension == options.extend:
      _refuse(options.field, grids, grown, results)
    grids = grown
  tuned = {name: Tuned(results[name], _best(results[name], metric)) for name in grids}
  _apply(config, tuned)
  write_json(os.path.join(workdir, 'tuning.json'), {
      name: {'field': options.field, 'chosen': one.chosen,
             'results': finite({f'{value:g}': x for value, x in one.results.items()})}
      for name, one in tuned.items()})
  for name, one in tuned.items():
    logging.info('%s: %s=%g.', name, options.field, one.chosen)
  return tuned


def check(config: ConfigDict) -> None:
  """Raises UserError if `config.study.tune` cannot be used."""
  options = config.study.tune
  for field in ('field', 'grid', 'seeds', 'data_seed', 'split', 'extend'):
    names.require(field, options, 'field of config.study.tune')
  if options.extend < 0:
    raise UserError(f'config.study.tune.extend={options.extend} must be at least 0.')
  values = sorted(map(float, options['grid']))
  if len(set(values)) < 3 or values[0] <= 0:
    raise UserError(f'config.study.tune.grid={tuple(options["grid"])}: expected three or more '
                    'different numbers above 0: the best must have one on either side.')
  ratios = np.diff(np.log(values))
  if not np.allclose(ratios, ratios[0], rtol=0.05):
    raise UserError(f'config.study.tune.grid={tuple(values)}: expected each to be the one before '
                    'times the same factor.')
  if not options.seeds or set(options.seeds) & set(config.study.seeds):
    raise UserError(f'config.study.tune.seeds={tuple(options.seeds)}: expected one or more seeds '
                    f'that the study itself does not use ({tuple(config.study.seeds)}).')
  if options.data_seed == data_seed(config):
    raise UserError(f'config.study.tune.data_seed={options.data_seed} is that of the study too. '
                    'Choose another, for other batches.')
  if options.split == config.eval.split:
    raise UserError(f'config.study.tune.split={options.split} is config.eval.split too: what is '
                    'chosen there would look better than it is. Choose another.')
  _check_field(config, options.field)
  grids = {name: values for name in study_plan.student_names(config)}
  study_plan.check_study(plan(config, grids))


def plan(config: ConfigDict, grids: dict[str, list[float]]) -> ConfigDict:
  """The config of a study of which every student is one value of one student."""
  options = config.study.tune
  study = config.copy_and_resolve_references().unlock()
  study.eval.split = options.split
  study.data.seed = options.data_seed
  study.eval.every_steps = 0  # only the end is read
  study.study.seeds = tuple(options.seeds)
  study.study.students = ConfigDict()
  for name, values in grids.items():
    for value in values:
      own = config.study.students[name].copy_and_resolve_references().unlock()
      own.update(_nested(options.field, value))
      study.study.students[_run_name(name, value)] = own
  study.study.order = tuple(study.study.students)
  study.study.baseline = study.study.order[0]
  return study.lock()


def _measure(config, folder, metric, grids, results, train):
  """Trains what has no result yet; False if told to stop. A value that diverges counts as worst."""
  path = os.path.join(folder, DIVERGED)
  while True:
    diverged = read_json(path)
    for name, values in grids.items():
      results[name] |= {v: metric.worst for v in values if _run_name(name, v) in diverged}
    open_values = {name: [v for v in grids[name] if v not in results[name]] for name in grids}
    if not any(open_values.values()):
      return True
    try:
      if not train(plan(config, open_values)):
        return False
    except Diverged as error:
      run = os.path.basename(os.path.dirname(error.workdir))
      if run not in [_run_name(name, v) for name, values in open_values.items() for v in values]:
        raise  # a teacher, say
      logging.warning('%s diverged; the others are trained again from their checkpoints.', run)
      write_json(path, diverged | {run: str(error)})
      continue
    for name, values in open_values.items():
      for value in values:
        rows = [read_rows(study_plan.student_workdir(folder, _run_name(name, value), seed))
                for seed in config.study.tune.seeds]
        results[name][value] = float(np.mean([run[-1][metric.name] for run in rows]))


def _extended(values, results, metric):
  """The grid with one value more where the best is at its edge."""
  factor = values[1] / values[0]
  best = _best(results, metric)
  if best == values[-1]:
    return [*values, _rounded(best * factor)]
  return [_rounded(best / factor), *values] if best == values[0] else values


def _best(results, metric):
  best = metric.best(results.values())
  return min(value for value, result in results.items() if result == best)  # large ones diverge


def _rounded(value):
  return float(f'{value:.4g}')


def _refuse(field, grids, grown, results):
  rows = [f'  {name}: ' + ', '.join(f'{value:g} -> {x:.4f}'
                                    for value, x in sorted(results[name].items()))
          for name in grids if grown[name] != grids[name]]
  raise UntunedError(
      f'The best {field} that was tried is at the edge of the grid, and the next might be better '
      'still:\n' + '\n'.join(rows) + '\nRaise config.study.tune.extend, or give another grid.')


def _apply(config, tuned):
  with config.unlocked():
    for name, one in tuned.items():
      config.study.students[name].update(_nested(config.study.tune.field, one.chosen))


def _run_name(name, value):
  """As 'alone@32e-3': a ConfigDict takes no dots in names."""
  number = decimal.Decimal(f'{value:g}').normalize().as_tuple()
  return f'{name}@{"".join(map(str, number.digits))}e{number.exponent}'


def _nested(field, value):
  *sections, name = field.split('.')
  nested: dict[str, Any] = {name: value}
  for section in reversed(sections):
    nested = {section: nested}
  return nested


def _check_field(config, field):
  """Raises UserError unless a field is a number with a fraction that students may differ in."""
  names.require(field.partition('.')[0], _SECTIONS, 'section of config.study.tune.field')
  value = config
  for name in field.split('.'):
    if not isinstance(value, ConfigDict) or name not in value:
      raise UserError(f'config.study.tune.field={field}: the config has no such field.')
    value = value[name]
  if not isinstance(value, float):
    raise UserError(f'config.study.tune.field={field}: is {value!r}; expected a field that is a '
                    'number with a fraction, as optimizer.learning_rate.')
