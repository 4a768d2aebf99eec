"""Statistics of a study by hand, and what the report holds."""

import math

import numpy as np
import pytest
import scipy.stats

from kdseg_jax import tasks
from kdseg_jax.studies import report as study_report

METRIC = tasks.SegmentationTask.main_metric

ALONE = [0.50, 0.52, 0.49, 0.51, 0.48]
BETTER = [0.53, 0.54, 0.53, 0.53, 0.52]  # differences .03 .02 .04 .02 .04


def test_paired_difference_by_hand():
  result = study_report.paired(BETTER, ALONE)
  spread = math.sqrt(sum((d - 0.03) ** 2 for d in (0.03, 0.02, 0.04, 0.02, 0.04)) / 4)
  half = 2.7764451 * spread / math.sqrt(5)  # t(0.975, 4)
  assert result['difference'] == pytest.approx(0.03)
  assert result['interval'] == pytest.approx([0.03 - half, 0.03 + half])
  statistic = 0.03 / (spread / math.sqrt(5))
  assert result['p_value'] == pytest.approx(2 * scipy.stats.t.sf(statistic, 4))


def test_pairing_by_seed_is_what_makes_it_narrow():
  shuffled = study_report.paired(BETTER[::-1], ALONE)
  width = lambda r: r['interval'][1] - r['interval'][0]
  assert width(shuffled) > width(study_report.paired(BETTER, ALONE))
  assert shuffled['difference'] == pytest.approx(0.03)


@pytest.mark.parametrize('difference, spread, seeds', [
    # Least numbers of pairs for 80% at 5%, two-sided, by the tables of Cohen (1988) and G*Power.
    (0.5, 1.0, 34), (0.8, 1.0, 15), (0.2, 1.0, 199), (-0.8, 1.0, 15), (0.03, 0.01, 4)])
def test_seeds_needed_have_a_power_of_80_percent(difference, spread, seeds):
  assert study_report.seeds_needed(difference, spread) == seeds
  assert study_report.power(difference, spread, seeds) >= 0.8 > study_report.power(
      difference, spread, seeds - 1)


def test_power_is_the_share_of_studies_that_find_the_difference():
  rng = np.random.default_rng(0)
  samples = rng.normal(0.6, 1.0, (4000, 12))
  found = scipy.stats.ttest_1samp(samples, 0, axis=1).pvalue < 0.05
  assert study_report.power(0.6, 1.0, 12) == pytest.approx(found.mean(), abs=0.025)


def test_holms_correction_by_hand():
  assert study_report.corrected([0.04, 0.01, 0.03]) == pytest.approx([0.06, 0.03, 0.06])
  assert study_report.corrected([0.2]) == [0.2] and study_report.corrected([0.9, 0.8]) == [1.0, 1.0]


def test_no_number_of_seeds_shows_a_difference_that_is_not_there():
  assert study_report.seeds_needed(0.0, 0.01) is None


def test_one_seed_has_no_interval_and_equal_values_no_difference():
  one = study_report.paired([0.5], [0.4])
  assert one['difference'] == pytest.approx(0.1)
  assert one['interval'] is one['p_value'] is one['seeds_needed'] is None
  same = study_report.paired(ALONE, ALONE)
  assert same['difference'] == 0 and same['p_value'] == 1 and same['seeds_needed'] is None


def test_without_spread_a_difference_is_certain_and_two_seeds_show_it():
  result = study_report.paired([1.0, 2.0], [0.5, 1.5])
  assert result == {
      'difference': 0.5, 'interval': [0.5, 0.5], 'p_value': 0.0, 'seeds_needed': 2}


def test_seeds_are_looked_for_up_to_ten_thousand():
  # (z(0.975) + z(0.8))^2 / d^2 of the normal distribution, and about 2 more for that of t.
  assert study_report.seeds_needed(0.03, 1.0) == pytest.approx(7.8489 / 0.03**2 + 2, abs=2)
  assert study_report.seeds_needed(0.027, 1.0) is None  # 10,768
  assert study_report.seeds_needed(0.0281, 1.0) == pytest.approx(9_942, abs=2)


def test_what_is_not_there_is_found_in_one_study_of_twenty():
  assert study_report.power(0.0, 1.0, 12) == pytest.approx(0.05)
  assert study_report.power(-0.6, 1.0, 12) == study_report.power(0.6, 1.0, 12)


def report_of(teacher=None, steps=10, students=(('kd', BETTER), ('alone', ALONE)), **shared):
  rows = lambda values: [
      # Better before the last step.
      [{'step': 5, 'mean_iou': value + 0.1, 'per_class_iou': [0.9, None]},
       {'step': 10, 'mean_iou': value, 'per_class_iou': [value, None]}] for value in values]
  costs = {'training': {'steps_per_second': 2.0, 'peak_megabytes': 10.0, 'extra_params': 3},
           'inference': {'params': 1000, 'macs': 5_000_000, 'images_per_second': 7.0}}
  return study_report.build(
      {name: {'evaluations': rows(values), **costs}
       for name, values in students},
      baseline='alone', metric=METRIC, classes=['road', 'sky'], seeds=range(5),
      teacher=teacher, shared={'description': 'What is compared.', 'steps': steps, **shared})


def test_report_takes_the_last_evaluation_and_marks_the_best():
  kd = report_of()['students']['kd']
  assert kd['mean_iou'] == pytest.approx(np.mean(BETTER))
  assert kd['best_of_many'] == pytest.approx(np.mean(BETTER) + 0.1)
  assert kd['paired'] == study_report.paired(BETTER, ALONE)
  assert kd['interval'] == study_report.mean_interval(BETTER)
  assert kd['per_class_difference'] == {'road': pytest.approx(0.03), 'sky': None}

  alone = report_of()['students']['alone']
  assert alone['paired'] == study_report.paired(ALONE, ALONE) and alone['paired']['difference'] == 0
  assert 'per_class_difference' not in alone


def test_a_class_that_some_seeds_lack_is_compared_over_the_others():
  rows = lambda values: [{'per_class_iou': [value, 0.5]} for value in values]
  found = study_report._per_class(
      rows([0.4, None, 0.7]), rows([0.3, 0.2, 0.5]), 'per_class_iou', ['road', 'sky'])
  assert found == {'road': pytest.approx(0.15), 'sky': 0}


def test_a_run_without_its_last_evaluation_is_not_reported():
  with pytest.raises(ValueError, match=r'evaluated last after step \[10, .*expected 20'):
    report_of(steps=20)
  with pytest.raises(ValueError, match=r'alone: evaluated last after step \[None\]'):
    study_report.build({'alone': {'evaluations': [[]]}}, baseline='alone', metric=METRIC,
                  classes=['road'], seeds=[0], teacher=None, shared={'steps': 10})


def test_markdown_shows_the_baseline_first_and_every_figure():
  teacher = {'mean_iou': 0.7, 'training': {'steps_per_second': 4.0, 'peak_megabytes': 99.0},
             'inference': {'params': 9999}}
  text = study_report.markdown(
      report_of(teacher), metric=METRIC, title='Title', command='the command')
  lines = text.splitlines()
  assert lines[0] == '# Title' and '`the command`' in text and 'Teacher: 70.0.' in text
  row = next(i for i, line in enumerate(lines) if line.startswith('| alone'))
  assert lines[row].count('|  ') > 4 and '+' not in lines[row]  # no difference from itself
  assert lines[row + 1].startswith('| kd') and '+3.0' in lines[row + 1]
  assert '1.8 to 4.2' in lines[row + 1] and '63.0' in lines[row + 1]
  assert any(line.startswith('| sky') and '-' in line for line in lines)
  cells = [[cell.strip() for cell in line.split('|')[1:-1]] for line in lines]
  assert ['kd', '2.0', '10', '3', '1,000', '5,000,000', '7'] in cells
  assert ['teacher', '4.0', '99', '-', '9,999', '-', '-'] in cells
  assert lines[-2:] == [
      '- alone: 50.0, 52.0, 49.0, 51.0, 48.0', '- kd: 53.0, 54.0, 53.0, 53.0, 52.0']


def test_the_words_of_a_report_are_those_of_its_study():
  text = study_report.markdown(report_of(), metric=METRIC, title='', command='')
  assert '\nWhat is compared.\n' in text and 'Teacher' not in text and '## Tuning' not in text
  assert 'mean_iou in %, after the last of 10 steps. ' in text and 'over 5 seed(s)' in text
  assert 'paired by seed with *alone*' in text


def test_one_seed_has_a_dash_wherever_several_are_needed():
  report = study_report.build(
      {name: {'evaluations': [[{'step': 10, 'error': value}]], 'training': None, 'inference': None}
       for name, value in (('alone', 0.5), ('kd', 0.375), ('at', 0.25))},
      baseline='alone', metric=tasks.MainMetric('error', 'error', maximize=False), classes=(),
      seeds=(3,), teacher=None, shared={'steps': 10, 'description': ''})
  assert report['seeds'] == [3] and report['baseline'] == 'alone' and report['metric'] == 'error'
  text = study_report.markdown(
      report, metric=tasks.MainMetric('error', 'error', maximize=False), title='', command='')
  cells = [[cell.strip() for cell in line.split('|')[1:-1]] for line in text.splitlines()]
  assert [row[2:3] + row[4:7] for row in cells if row and row[0] in ('kd', 'at')][:2] == [
      ['-'] * 4] * 2
  assert '## Differences by class' not in text  # the metric has none
  assert ['kd', *['-'] * 6] in cells  # its costs


def test_students_of_the_table_of_costs_are_in_the_order_of_the_report():
  report = report_of(students=(('zebra', BETTER), ('alone', ALONE), ('kd', BETTER)))
  text = study_report.markdown(report, metric=METRIC, title='', command='')
  costs = text.split('## Cost')[1].split('## Each seed')[0]
  names = [line.split('|')[1].strip() for line in costs.splitlines() if line.startswith('| ')]
  assert names[1:] == [*report['students']] and names[1:] != sorted(names[1:])


def test_every_column_of_the_results_is_what_its_title_says():
  report = report_of()
  text = study_report.markdown(report, metric=METRIC, title='', command='')
  cells = [[cell.strip() for cell in line.split('|')[1:-1]] for line in text.splitlines()]
  row = lambda name: next(row for row in cells if row and row[0] == name)
  within = lambda interval: ' to '.join(f'{100 * end:.1f}' for end in interval)
  kd, alone = (report['students'][name] for name in ('kd', 'alone'))
  assert row('student') == ['student', 'mean_iou', '95% interval', 'difference', '95% interval',
                            'p', 'seeds for 80%', 'best of many']
  assert row('kd') == [
      'kd', '53.0', within(kd['interval']), '+3.0', within(kd['paired']['interval']),
      f'{kd["paired"]["p_value"]:.2g}', '4', '63.0']
  assert row('alone') == ['alone', '50.0', within(alone['interval']), '', '', '', '', '60.0']


def test_of_errors_the_least_evaluation_is_the_best():
  rows = [[{'step': 5, 'error': low}, {'step': 10, 'error': 0.5}] for low in (0.1, 0.3)]
  report = study_report.build(
      {'alone': {'evaluations': rows, 'training': {}, 'inference': {}}}, baseline='alone',
      metric=tasks.MainMetric('error', 'error', maximize=False), classes=(), seeds=(0, 1),
      teacher=None, shared={'steps': 10})
  assert report['students']['alone']['best_of_many'] == pytest.approx(0.2)
  assert report['students']['alone']['error'] == 0.5


def test_several_comparisons_are_corrected_and_said_to_be():
  students = (('kd', BETTER), ('at', BETTER[::-1]), ('alone', ALONE))
  report = report_of(students=students)
  p_values = [report['students'][name]['paired']['p_value'] for name in ('kd', 'at')]
  got = [report['students'][name]['p_value_corrected'] for name in ('kd', 'at')]
  assert got == study_report.corrected(p_values) and got[0] > p_values[0]
  text = study_report.markdown(report, metric=METRIC, title='', command='')
  assert 'corrected for 2 comparisons' in text and 'p (Holm)' in text
  assert f'| {got[0]:.2g} |'.replace('| ', '') in text
  text = study_report.markdown(report_of(), metric=METRIC, title='', command='')
  assert 'Holm' not in text and 'this one teacher, this one training set' in text


def test_two_seeds_are_enough_for_a_p_value():
  report = study_report.build(
      {name: {'evaluations': [[{'step': 10, 'error': value}] for value in values],
              'training': None, 'inference': None}
       for name, values in (('alone', (0.5, 0.75)), ('kd', (0.25, 0.375)))},
      baseline='alone', metric=tasks.MainMetric('error', 'error', maximize=False), classes=(),
      seeds=(0, 1), teacher=None, shared={'steps': 10})
  kd = report['students']['kd']
  # Of -0.25 and -0.375, with one degree of freedom: t = 5, p = 1 - 2 / pi * atan(5).
  assert kd['p_value_corrected'] == pytest.approx(1 - 2 / math.pi * math.atan(5))
  assert 'p_value_corrected' not in report['students']['alone']


def test_what_was_tried_is_shown_with_the_chosen_in_bold():
  tuning = {'alone': {'field': 'optimizer.learning_rate', 'chosen': 0.02,
                      'results': {'0.01': 0.3, '0.02': 0.4, '0.04': None}},
            'kd': {'field': 'optimizer.learning_rate', 'chosen': 0.01,
                   'results': {'0.005': 0.1, '0.01': 0.3, '0.02': 0.2}}}
  text = study_report.markdown(report_of(tuning=tuning), metric=METRIC, title='', command='')
  assert '\noptimizer.learning_rate of every student, on other seeds' in text
  rows = [line.replace(' ', '') for line in text.splitlines()]
  assert '|student|0.005|0.01|0.02|0.04|' in rows
  assert '|alone||30.0|**40.0**|diverged|' in rows and '|kd|10.0|**30.0**|20.0||' in rows
