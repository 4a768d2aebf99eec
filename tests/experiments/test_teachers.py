"""What all studies have in common."""

import importlib
import pathlib

import pytest

import experiments

FOLDER = pathlib.Path(next(iter(experiments.__path__)))
STUDIES = sorted(path.stem for path in FOLDER.glob('*.py') if 'get_config' in path.read_text())


def test_studies_are_found():
  assert {'bccd', 'cifar_review', 'scenes_core'} <= {*STUDIES}


@pytest.mark.parametrize('name', STUDIES)
def test_no_teacher_is_the_checkpoint_that_is_best_on_the_test_of_its_students(name):
  config = importlib.import_module(f'experiments.{name}').get_config()
  teacher = config.study.teacher
  if teacher and teacher.eval.split == config.eval.split:
    assert teacher.eval.every_steps in (0, teacher.train.steps)  # once, at the end
