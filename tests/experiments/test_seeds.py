"""Seeds of studies: of students, teacher and tuning, none of which may repeat another's draws."""

import importlib
import pathlib

import jax
import pytest

import experiments
from kdseg_jax.studies import plan as study_plan
from kdseg_jax.studies import tuning
from kdseg_jax.training import experiment, run

FOLDER = pathlib.Path(next(iter(experiments.__path__)))
STUDIES = sorted(path.stem for path in FOLDER.glob('*.py') if 'get_config' in path.read_text())
TUNED = ('adaptation_parts', 'adaptation_strides', 'bccd', 'cifar_review', 'scenes_core',
         'scenes_detection')
COUNTED = ('adaptation_parts', 'adaptation_strides', 'bccd', 'scenes_cirkd', 'scenes_detection')


def key_of(config):
  return tuple(jax.random.key_data(experiment.run_key(config)).tolist())


def load(name, arg=None):
  return importlib.import_module(f'experiments.{name}').get_config(arg)


@pytest.mark.parametrize('name', STUDIES)
def test_the_teacher_starts_and_reads_unlike_its_students(name):
  config = load(name)
  teacher = config.study.teacher
  assert config.study.seeds == tuple(range(len(config.study.seeds)))
  students = [study_plan.student_config(config, config.study.baseline, seed)
              for seed in config.study.seeds]
  assert (teacher.role, {student.role for student in students}) == ('teacher', {'student'})
  keys = list(map(key_of, (teacher, *students)))
  assert len(set(keys)) == len(keys)
  assert {run.data_seed(student) for student in students} == {0} != {run.data_seed(teacher)}


@pytest.mark.parametrize('name', TUNED)
def test_what_is_tuned_on_is_neither_drawn_nor_read_again(name):
  config = load(name)
  options = config.study.tune
  tuned = tuning.plan(config, {name: list(options.grid) for name in config.study.students})
  tuned, others = (
      [study_plan.student_config(plan, plan.study.baseline, seed) for seed in plan.study.seeds]
      for plan in (tuned, config))
  teacher = config.study.teacher
  assert {run.data_seed(one) for one in tuned}.isdisjoint(map(run.data_seed, (*others, teacher)))
  assert set(map(key_of, tuned)).isdisjoint(map(key_of, (*others, teacher)))


@pytest.mark.parametrize('name', COUNTED)
def test_as_many_seeds_as_are_asked_for_are_the_first(name):
  assert load(name, 'seeds=4').study.seeds == (0, 1, 2, 3)
