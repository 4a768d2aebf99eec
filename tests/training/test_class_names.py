"""Class names are compared wherever a model meets data; other names are refused or allowed."""

import functools

import pytest

from configs import common, quickstart
from kdseg_jax.errors import UserError
from kdseg_jax.training import experiment, loop, shapes

pytestmark = pytest.mark.usefixtures('toy_models')

MESSAGE = r'different classes, (other names|the same names in another order)(.|\n)*0 digit'


@pytest.fixture(scope='module')
def trained(tmp_path_factory):
  workdir = tmp_path_factory.mktemp('teacher')
  loop.train(quickstart.get_config('role=teacher,runlocal'), str(workdir))
  return str(workdir)


def shift(monkeypatch, splits=('train', 'val', 'test'),
          shifted=lambda names: (*names[1:], names[0])):
  """The data's class list changes: the same names, each a line further."""
  create = experiment.create_source

  def create_shifted(config, split):
    source = create(config, split)
    if split in splits:
      source.classes = shifted(source.classes)
    return source
  monkeypatch.setattr(experiment, 'create_source', create_shifted)


def distilled(trained):
  config = quickstart.get_config('role=student,method=pixelwise,runlocal')
  config.teacher.checkpoint = trained
  return config


def test_a_teacher_of_other_classes(trained, monkeypatch):
  assert experiment.create_experiment(distilled(trained)).teacher is not None
  shift(monkeypatch)
  with pytest.raises(UserError, match=rf'the teacher .* and the data have {MESSAGE}'):
    experiment.create_experiment(distilled(trained))
  built = experiment.create_experiment(distilled(trained), allow_class_names=True)
  assert built.teacher is not None and built.allow_class_names


def test_a_teacher_of_more_classes_is_never_allowed(trained, monkeypatch):
  shift(monkeypatch, shifted=lambda names: names[:-1])
  for allow in (False, True):
    with pytest.raises(UserError, match='the teacher .* different classes, 11 and 10 classes'):
      experiment.create_experiment(distilled(trained), allow_class_names=allow)


def test_splits_of_other_classes_beside_a_teacher_that_is_yet_to_be_trained(monkeypatch):
  config, teacher = distilled(''), quickstart.get_config('role=teacher,runlocal')
  study = quickstart.get_config()
  common.study(study, title='', description='', students={'alone': {}}, teacher=teacher)
  shift(monkeypatch, splits=(config.eval.split,))
  checks = (functools.partial(shapes.check_with_untrained, config, teacher),
            functools.partial(shapes.check_study, study, {'student': config}))
  for check in checks:
    with pytest.raises(UserError, match=f'{config.eval.split} and train have {MESSAGE}'):
      check()
    check(allow_class_names=True)


def test_splits_of_other_classes(monkeypatch):
  config = quickstart.get_config('role=teacher,runlocal')
  shift(monkeypatch, splits=(config.eval.split,))
  with pytest.raises(UserError, match=f'{config.eval.split} and train have {MESSAGE}'):
    experiment.create_experiment(config)
  experiment.create_experiment(config, allow_class_names=True)


def test_a_run_whose_class_list_changed_is_not_resumed(trained, monkeypatch):
  shift(monkeypatch)
  config = quickstart.get_config('role=teacher,runlocal')
  with pytest.raises(UserError, match=rf'checkpoint 2 of .* and the data have {MESSAGE}'):
    loop.train(config, trained)
  assert loop.train(config, trained, allow_class_names=True) is not None
