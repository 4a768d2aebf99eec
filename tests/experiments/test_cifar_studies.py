"""The studies of knowledge review on CIFAR: what their students are, and that they run."""

import itertools
import json

import pytest

from experiments import cifar_review, cifar_review_forms, cifar_stages
from kdseg_jax.recipes import cifar
from kdseg_jax.studies import plan as study_plan
from kdseg_jax.training import shapes
from tests import runs
from tests.data import classified_sets

pytestmark = pytest.mark.usefixtures('one_device')

STUDIES = {'cifar_stages': cifar_stages, 'cifar_review_forms': cifar_review_forms}


@pytest.fixture(scope='module')
def file(tmp_path_factory):
  folder = tmp_path_factory.mktemp('data')
  return classified_sets.npz(folder / 'a.npz', classes=6, counts=(16, 9), size=16)


def review_of(config):
  """name -> fields of the term review of every student but the first, which is alone."""
  first, *others = study_plan.student_names(config)
  assert first == config.study.baseline == 'alone' and not config.study.students.alone.distill
  return {name: config.study.students[name].distill.review for name in others}


def test_each_stage_learns_from_each():
  found = review_of(cifar_stages.get_config())
  assert len(found) == 9
  for i, j in itertools.product((1, 2, 3), (1, 2, 3)):
    term = found[f'stage{i}_from_stage{j}']
    assert (term.form, term.levels) == ('single_stage', ())
    assert term.student_taps == (f'stage{i}',)
    assert term.teacher_taps == (f'stage{j}_preactivation',)


def test_every_form_of_the_method_is_a_student_with_and_without_its_parts():
  found = review_of(cifar_review_forms.get_config())
  assert {name: (term.form, term.attention, bool(term.levels)) for name, term in found.items()} == {
      'single_stage': ('single_stage', False, False),
      'single_stage_hcl': ('single_stage', False, True),
      'multi_stage': ('multi_stage', False, False), 'multi_stage_hcl': ('multi_stage', False, True),
      'all_pairs': ('all_pairs', False, False), 'all_pairs_hcl': ('all_pairs', False, True),
      'fused': ('fused', False, False), 'fused_hcl': ('fused', False, True),
      'fused_abf': ('fused', True, False), 'fused_abf_hcl': ('fused', True, True),
      'residual': ('residual', False, False), 'residual_hcl': ('residual', False, True),
      'residual_abf': ('residual', True, False), 'residual_abf_hcl': ('residual', True, True)}
  recipe = cifar.get_config('method=review').distill.review
  assert found['residual_abf_hcl'] == recipe
  assert found['single_stage'].student_taps == ('stage1', 'stage2', 'stage3')


def test_review_and_kd_are_compared_alone_and_together():
  config = cifar_review.get_config('steps=240')
  students = {name: config.study.students[name].distill
              for name in study_plan.student_names(config)}
  assert {name: set(terms) for name, terms in students.items()} == {
      'alone': set(), 'kd': {'kd'}, 'review': {'review'}, 'kd_review': {'kd', 'review'}}
  for name in ('review', 'kd_review'):  # one pass of the teacher serves all
    term = students[name].review
    assert (term.weight, term.warmup_steps, term.teacher_batch_statistics) == (0.6, 20, False)
  for name in ('kd', 'kd_review'):
    assert (students[name].kd.weight, students[name].kd.temperature) == (1.0, 4.0)
  assert config.train.steps == 240 and config.study.teacher.train.steps == 1500
  assert config.eval.split == 'test' and config.study.tune.split == 'val'


@pytest.mark.parametrize('study', STUDIES.values(), ids=STUDIES)
def test_weights_grow_over_the_same_share_of_fewer_steps(study):
  whole, short = study.get_config('images=1280'), study.get_config('images=1280,steps=600')
  assert (whole.train.steps, short.train.steps) == (240 * 10, 600)
  assert whole.study.teacher.train.steps == short.study.teacher.train.steps == 240 * 10
  for config, steps in ((whole, 200), (short, 50)):
    assert {term.warmup_steps for term in review_of(config).values()} == {steps}


@pytest.mark.parametrize('study', STUDIES.values(), ids=STUDIES)
def test_every_student_can_be_built(study, file):
  config = study.get_config('data=npz,runlocal')
  config.data.root = config.study.teacher.data.root = str(file)
  study_plan.check_study(config)


@pytest.mark.slow
@pytest.mark.parametrize('study', STUDIES.values(), ids=STUDIES)
def test_every_student_fits_the_models(study, file):
  """By shapes: to compile all of them would take minutes."""
  config = study.get_config('data=npz,runlocal')
  config.data.root = config.study.teacher.data.root = str(file)
  shapes.check_study(config, {
      name: study_plan.student_config(config, name, 0) for name in review_of(config)})


FEW = """
from experiments import cifar_stages
def get_config(arg=None):
  config = cifar_stages.get_config(arg)
  for name in set(config.study.students) - {'alone', 'stage1_from_stage3', 'stage3_from_stage2'}:
    del config.study.students[name]
  return config
"""


@pytest.mark.slow
def test_a_study_in_small_is_reported_by_top1(file, cache, tmp_path):
  (tmp_path / 'few.py').write_text(FEW)  # of ten students, each a program to compile
  output = runs.run(
      'study', f'--config={tmp_path}/few.py:data=npz,runlocal', f'--workdir={tmp_path}',
      f'--config.data.root={file}', f'--config.study.teacher.data.root={file}', cache=cache,
      prelude=runs.SHORT_TIMING)
  report = json.loads((tmp_path / 'report.json').read_text())
  assert report['seeds'] == [0, 1] and report['steps'] == 2
  assert report['students'].keys() == {'alone', 'stage1_from_stage3', 'stage3_from_stage2'}
  for student in report['students'].values():
    assert 0 <= student['top1'] <= 1 and len(student['top1_of_seeds']) == 2
  assert 0 <= report['teacher']['top1'] <= 1
  text = (tmp_path / 'report.md').read_text()
  assert text in output and 'top1 in %, after the last of 2 steps' in text
