"""What a study found: means, paired differences and their intervals, costs; JSON and Markdown."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import scipy.stats

from kdseg_jax.errors import UserError
from kdseg_jax.report import tables
from kdseg_jax.tasks import MainMetric

LEVEL = 0.95  # of every interval
POWER = 0.8  # with which the needed seeds would show a difference
_MOST_SEEDS = 10_000


def mean_interval(values: Sequence[float]) -> list[float] | None:
  """The t-interval of the mean, `[low, high]`; None for fewer than two values."""
  values = np.asarray(values, np.float64)
  if len(values) < 2:
    return None
  half = _half_width(values.std(ddof=1), len(values))
  return [float(values.mean() - half), float(values.mean() + half)]


def paired(values: Sequence[float], baseline: Sequence[float]) -> dict[str, Any]:
  """The mean of `values - baseline`, seed by seed, its interval and the paired t-test.

  Args:
    values: of the method, one a seed.
    baseline: of the student alone, for the same seeds.

  Returns:
    `difference`, `interval` and `p_value` (None for fewer than two seeds), and `seeds_needed`, see
    there (None if no number up to 10,000 would do).
  """
  difference = np.subtract(values, baseline)
  result = {'difference': float(difference.mean()), 'interval': mean_interval(difference),
            'p_value': None, 'seeds_needed': None}
  if len(difference) > 1:
    spread = difference.std(ddof=1)
    # Without any spread the statistic is 0 / 0 or infinite.
    result['p_value'] = float(scipy.stats.ttest_rel(values, baseline).pvalue) if spread else (
        1.0 if not difference.any() else 0.0)
    result['seeds_needed'] = seeds_needed(difference.mean(), spread)
  return result


def seeds_needed(difference: float, spread: float) -> int | None:
  """The least number of seeds with which four studies of five would find the difference.

  That is, the paired t-test at the level of the intervals has a power of at least 80%, were mean
  and standard deviation of the difference those given. None if no number up to 10,000 would do.
  """
  low, high = 1, 2  # power grows with the number of seeds: too few, and perhaps enough
  while power(difference, spread, high) < POWER:
    if high >= _MOST_SEEDS:
      return None
    low, high = high, min(2 * high, _MOST_SEEDS)
  while high - low > 1:
    middle = (low + high) // 2
    low, high = (low, middle) if power(difference, spread, middle) >= POWER else (middle, high)
  return high


def power(difference: float, spread: float, seeds: int) -> float:
  """The probability that the paired t-test of so many seeds finds a difference, in [0, 1].

  Args:
    difference: true mean of the difference.
    spread: its true standard deviation over seeds.
    seeds: two or more.
  """
  if not spread:
    return float(difference != 0)
  shift = abs(difference) / spread * math.sqrt(seeds)  # of the statistic's distribution
  critical = scipy.stats.t.ppf((1 + LEVEL) / 2, seeds - 1)
  return float(scipy.stats.nct.sf(critical, seeds - 1, shift)
               + scipy.stats.nct.cdf(-critical, seeds - 1, shift))


def corrected(p_values: Sequence[float]) -> list[float]:
  """Holm's correction: p-values that hold for all of several comparisons with one baseline.

  The k-th smallest of n is multiplied by n - k + 1, and is no smaller than the one before.
  """
  order = np.argsort(p_values, kind='stable')
  scaled = np.asarray(p_values, np.float64)[order] * np.arange(len(order), 0, -1)
  result = np.empty(len(order))
  result[order] = np.minimum(np.maximum.accumulate(scaled), 1)
  return result.tolist()


def build(students: Mapping[str, Mapping[str, Any]], *, baseline: str, metric: MainMetric,
          classes: Sequence[str], seeds: Sequence[int], teacher: Mapping[str, Any] | None,
          shared: Mapping[str, Any]) -> dict[str, Any]:
  """The report of a study as plain dicts, lists and numbers.

  Args:
    students: name -> `evaluations`, for each seed the metrics of every evaluation in order of
      steps; `training` and `inference`, their costs.
    baseline: name of the student alone.
    metric: what is compared.
    classes: names of the classes of `metric.per_class`.
    seeds: in the order of `evaluations`.
    teacher: metrics and inference cost of the teacher, or None.
    shared: what is the same for all, put into the report as it is: `steps` of training, ...

  Returns:
    `shared`, with `teacher`, `baseline`, `seeds` and `students`: name -> `<metric>` (mean over the
    seeds, after the last step), `interval`, `<metric>_of_seeds`, `best_of_many` (mean of each run's
    best evaluation: optimistic), `paired` (see `paired`; the baseline's, with itself, is 0),
    `p_value_corrected` (see `corrected`) and, where the metric has values for each class,
    `per_class_difference` (not for the baseline), `training`, `inference`.
  """
  for name, entry in students.items():
    steps = [run[-1]['step'] if run else None for run in entry['evaluations']]
    if steps != [shared['steps']] * len(seeds):
      raise UserError(f'{name}: evaluated last after step {steps}; expected {shared["steps"]} for '
                      'every seed. Run the study again: it evaluates what is missing.')
  last = {name: [runs[-1] for runs in entry['evaluations']] for name, entry in students.items()}
  key = metric.name
  values = {name: [row[key] for row in rows] for name, rows in last.items()}
  report = {**shared, 'metric': key, 'baseline': baseline, 'seeds': list(seeds),
            'teacher': teacher, 'students': {}}
  for name in sorted(students, key=lambda name: name != baseline):  # the baseline first
    entry = students[name]
    best = [metric.best(row[key] for row in run) for run in entry['evaluations']]
    result = {key: float(np.mean(values[name])), 'interval': mean_interval(values[name]),
              f'{key}_of_seeds': values[name], 'best_of_many': float(np.mean(best)),
              'paired': paired(values[name], values[baseline])}
    if name != baseline and metric.per_class:
      result['per_class_difference'] = _per_class(
          last[name], last[baseline], metric.per_class, classes)
    report['students'][name] = result | {
        'training': entry['training'], 'inference': entry['inference']}
  compared = [entry for name, entry in report['students'].items() if name != baseline]
  if len(seeds) > 1:
    p_values = corrected([entry['paired']['p_value'] for entry in compared])
    for entry, p_value in zip(compared, p_values, strict=True):
      entry['p_value_corrected'] = p_value
  return report


def markdown(report: Mapping[str, Any], *, metric: MainMetric, title: str, command: str) -> str:
  """The report as Markdown: results, classes, costs."""
  baseline, in_unit = report['baseline'], f' in {metric.unit}' if metric.unit else ''
  lines = [f'# {title}', '', f'Command: `{command}`', '', report['description'], '']
  if report['teacher']:
    lines += [f'Teacher: {metric.text(report["teacher"][metric.name])}.', '']
  others = {n: e for n, e in report['students'].items() if n != baseline}
  lines += [
      f'{metric.name}{in_unit}, after the last of {report["steps"]} steps. Intervals are 95% '
      f't-intervals over {len(report["seeds"])} seed(s) of initialisation and draws; they hold for '
      'this one teacher, this one training set and one order of its batches. Differences are '
      f'paired by seed with *{baseline}*. *Seeds for 80%*: how many would find a difference of '
      "this size and spread in four studies of five. *Best of many* takes the best of each run's "
      'evaluations, as many papers do: optimistic where there are several.'
      + (f' Each interval stands for itself; *p (Holm)* is corrected for {len(others)} comparisons.'
         if len(others) > 1 else ''), '',
      tables.table(
          ['student', metric.name, '95% interval', 'difference', '95% interval',
           'p (Holm)' if len(others) > 1 else 'p', 'seeds for 80%', 'best of many'],
          [_result_row(name, entry, metric, is_baseline=name == baseline)
           for name, entry in report['students'].items()]),
      '']
  if report.get('tuning'):
    lines += _tuning(report['tuning'], metric)
  if others and metric.per_class:
    lines += ['## Differences by class', '', tables.table(
        ['class', *others],
        [(label, *(_signed(e['per_class_difference'][label], metric) for e in others.values()))
         for label in next(iter(others.values()))['per_class_difference']]), '']
  lines += ['## Cost', '', *_costs(report), '', '## Each seed', '']
  for name, entry in report['students'].items():
    lines.append(f'- {name}: ' + ', '.join(map(metric.text, entry[f'{metric.name}_of_seeds'])))
  return '\n'.join(lines) + '\n'


def _half_width(spread, count):
  return float(scipy.stats.t.ppf((1 + LEVEL) / 2, count - 1) * spread / math.sqrt(count))


def _per_class(rows, baseline_rows, key, classes):
  """Mean paired difference of each class over the seeds in which both have it; None for none."""
  table = lambda rows: np.array([row[key] for row in rows], np.float64)
  difference = table(rows) - table(baseline_rows)  # None becomes NaN
  return {name: float(np.nanmean(column)) if np.isfinite(column).any() else None
          for name, column in zip(classes, difference.T, strict=True)}


def _result_row(name, entry, metric, *, is_baseline):
  own = [name, metric.text(entry[metric.name]), _range(entry['interval'], metric)]
  if is_baseline:
    return [*own, '', '', '', '', metric.text(entry['best_of_many'])]
  result = entry['paired']
  p_value = _number(entry.get('p_value_corrected'), '.2g')
  return [*own, _signed(result['difference'], metric), _range(result['interval'], metric), p_value,
          str(result['seeds_needed'] or '-'), metric.text(entry['best_of_many'])]


def _tuning(tuning, metric):
  """What was tried for each student, a column a value; the chosen one in bold."""
  fields = sorted({entry['field'] for entry in tuning.values()})
  values = sorted({value for entry in tuning.values() for value in entry['results']}, key=float)

  def cell(entry, value):
    if value not in entry['results']:
      return ''
    result = entry['results'][value]
    text = 'diverged' if result is None else metric.text(result)
    return f'**{text}**' if value == f'{entry["chosen"]:g}' else text

  return ['## Tuning', '', f'{", ".join(fields)} of every student, on other seeds, batches and '
          'another split; the best (bold) lies inside the values that were tried.', '',
          tables.table(['student', *values], [
              (name, *(cell(entry, value) for value in values))
              for name, entry in tuning.items()]), '']


def _costs(report):
  """Training and inference, a row a student."""
  rows = []
  teacher = report['teacher'] or {}
  for name, entry in ([('teacher', teacher)] if teacher else []) + list(
      report['students'].items()):
    training, inference = entry.get('training') or {}, entry.get('inference') or {}
    rows.append([
        name, _number(training.get('steps_per_second'), '.1f'),
        _number(training.get('peak_megabytes'), '.0f'),
        _number(training.get('extra_params'), ',d'), _number(inference.get('params'), ',d'),
        _number(inference.get('macs'), ',d'), _number(inference.get('images_per_second'), '.0f')])
  return [
      'Steps/s and memory of a student are those of its own compiled step, the teacher\'s of its '
      'pass alone (`training`); inference is of one whole image on one device.', '', tables.table(
          ['', 'steps/s', 'peak MB', 'extra parameters', 'parameters', 'MACs', 'images/s'], rows)]


def _signed(value, metric):
  return '-' if value is None else metric.text(value, sign=True)


def _range(interval, metric):
  return '-' if interval is None else ' to '.join(map(metric.text, interval))


def _number(value, form):
  return '-' if value is None else format(value, form)
