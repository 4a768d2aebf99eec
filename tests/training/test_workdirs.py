"""What a work directory tells of its run."""

import pytest

from configs import quickstart
from kdseg_jax.training import workdirs


@pytest.mark.parametrize('evaluated, checkpoints, finished', [
    (7, [4, 7], True), (None, [7], False), (4, [7], False),
    (7, [], False), (7, [6], False)])
def test_a_run_is_finished_with_its_last_checkpoint_and_the_evaluation_after_it(
    evaluated, checkpoints, finished, monkeypatch):
  run = quickstart.get_config('role=student')
  run.train.steps = 7
  rows = [{'phase': 'train', 'step': 7}, {'phase': 'evaluation', 'step': evaluated}]
  for name, value in (('read_rows', rows), ('saved_steps', checkpoints)):
    monkeypatch.setattr(workdirs, name, lambda workdir, value=value: value)
  assert workdirs.is_finished(run, 'somewhere') == finished
