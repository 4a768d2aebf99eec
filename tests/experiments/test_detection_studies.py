"""The studies of detectors: what their students are, and that each can learn of the teacher."""

import re
import subprocess

import pytest

from experiments import bccd, scenes_detection
from kdseg_jax.data.voc_boxes import VocBoxes
from kdseg_jax.studies import plan as study_plan
from kdseg_jax.studies import tuning
from kdseg_jax.training import shapes
from tests.data import boxed_sets

pytestmark = pytest.mark.usefixtures('one_device')

STUDIES = {'bccd': bccd, 'scenes_detection': scenes_detection}
METHODS = {
    'alone': None, 'mimicking': 'prediction_mimicking', 'localization': 'localization_distillation',
    'pkd': 'pkd', 'crosskd': 'crosskd', 'review': 'review'}


@pytest.fixture
def root(tmp_path):
  """Boxes in the splits that the commands in the docstring of experiments/bccd.py make."""
  boxed_sets.voc(tmp_path / 'BCCD')
  command = re.search(r'\n  (cp -r .*\n.*\n.*\n.*\n)', bccd.__doc__)[1].replace('\n', ' && ')
  subprocess.run(command + 'true', shell=True, check=True, cwd=tmp_path)
  return tmp_path / 'bccd'


def load(study, arg, root):
  config = STUDIES[study].get_config(arg)
  if study == 'bccd':
    config.data.root = config.study.teacher.data.root = str(root)
  return config


@pytest.mark.parametrize('study', STUDIES)
def test_students_are_tuned_and_learn_by_the_methods_of_detectors(study, root):
  config = load(study, 'steps=400', root)
  students = config.study.students
  assert {name: next(iter(students[name].distill), None)
          for name in study_plan.student_names(config)} == METHODS
  tuning.check(config)
  assert config.study.tune.split == 'val' and config.eval.split == 'test'
  teacher = config.study.teacher
  if study == 'bccd':  # a checkpoint that is the best on test would be chosen on it
    assert teacher.eval.split == 'test' and teacher.eval.every_steps == teacher.train.steps
  assert config.train.steps == 400 < config.study.teacher.train.steps
  assert students.pkd.distill.pkd.taps == ('p3', 'p4', 'p5', 'p6', 'p7')
  assert students.review.distill.review.student_taps == students.pkd.distill.pkd.taps
  assert 0 < students.crosskd.distill.crosskd.layer < config.student.stacked_convs
  assert config.student.width < config.study.teacher.student.width


def test_the_commands_of_the_docstring_part_the_images(root):
  def read(split, folder=root):
    return {example['image_id'] for example in VocBoxes(split, root=folder)}
  before = {split: read(split, root.parent / 'BCCD') for split in ('train', 'val')}
  assert read('test') == before['val'] and read('trainval') == before['train']
  assert read('train') | read('val') == before['train']
  assert read('val') and not read('train') & read('val')


@pytest.mark.slow
@pytest.mark.parametrize('study', STUDIES)
def test_every_student_fits_the_teacher(study, root, shallow_models):
  """By shapes, at the widths of the study: to compile all of them would take minutes."""
  config = load(study, 'runlocal', root)
  whole = STUDIES[study].get_config()
  for own, other in ((config.student, whole.student),
                     (config.study.teacher.student, whole.study.teacher.student)):
    own.update(width=other.width, head_channels=other.head_channels,
               stacked_convs=other.stacked_convs)
  study_plan.check_study(config)
  shapes.check_study(config, {
      name: study_plan.student_config(config, name, 0) for name in METHODS})
