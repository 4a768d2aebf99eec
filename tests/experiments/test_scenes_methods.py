"""The study of every method: those that find their taps in the models of the scenes."""

import jax

from experiments import scenes_methods
from kdseg_jax import distillers
from kdseg_jax.distillers.methods import METHODS
from tests.experiments import abstract


def test_every_method_is_there_that_finds_its_taps():
  config = scenes_methods.get_config()
  inputs = distillers.DistillInputs(
      abstract.taps(config.student, 3), abstract.taps(config.study.teacher.student, 3), batch={},
      rng=jax.random.key(0), step=0)

  def finds_its_taps(distill):
    try:
      distillers.check_requires(distillers.create(distill).requires, inputs)
    except ValueError:
      return False
    return True

  students = config.study.students
  assert all(finds_its_taps(students[name].distill.to_dict()) for name in students)
  missing = {name for name in METHODS if name not in students}
  assert {name for name in missing if finds_its_taps(distillers.terms_of(name))} == {
      'none', 'context'}
