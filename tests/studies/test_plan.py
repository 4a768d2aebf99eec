"""What is left of a study to be done."""

import pytest

from configs import quickstart
from kdseg_jax.studies import plan as study_plan


@pytest.mark.parametrize('evaluated, checkpoints, trained, finished', [
    (7, [10], 7, True), (7, [7], 7, True), (None, [10], 7, False), (4, [10], 7, False),
    (7, [], None, False), (7, [6], 6, False),
    (7, [7], 4, False)])  # of 3 steps that prepared: their numbers count too
def test_a_run_is_finished_with_its_last_checkpoint_and_the_evaluation_after_it(
    evaluated, checkpoints, trained, finished, monkeypatch):
  run = quickstart.get_config('role=student')
  run.train.steps = 7
  rows = [{'phase': 'train', 'step': 7}, {'phase': 'evaluation', 'step': evaluated}]
  for name, value in (
      ('read_rows', rows), ('saved_steps', checkpoints), ('saved_train_step', trained)):
    monkeypatch.setattr(study_plan, name, lambda workdir, value=value: value)
  assert study_plan.is_finished(run, 'somewhere') == finished
