"""`train` as a user starts it: what it is told to do, and what it says at the end."""

import pytest

from kdseg_jax import train
from kdseg_jax.training import loop
from tests import runs


@pytest.mark.parametrize('metrics, said', [
    ({'mean_iou': 0.75, 'pixel_accuracy': 0.875, 'images': 3},
     'mean IoU 0.7500, pixel accuracy 0.8750 on 3 images'),
    (None, 'Stopped; the same command goes on from what was saved')])
def test_it_runs_the_recipe_in_the_work_directory_and_says_how_it_ended(
    metrics, said, tmp_path, monkeypatch, capsys):
  monkeypatch.chdir(runs.ROOT)
  given = []
  monkeypatch.setattr(loop, 'train', lambda config, workdir, **permitted: (
      given.append((config.train.steps, workdir, permitted)), metrics)[1])
  options = ('--config=configs/quickstart.py:runlocal', f'--workdir={tmp_path}')
  for more in ((), ('--allow_class_names', '--allow_imports=mine,yours.x')):
    status, text = runs.run_here(capsys, train.PROGRAM, *options, *more)
    (line,) = [line for line in text.splitlines() if line.startswith(said)]
    assert not status and line.endswith(f'. Work directory: {tmp_path}')
  assert given == [
      (2, str(tmp_path), {'allow_class_names': False, 'allow_imports': []}),
      (2, str(tmp_path), {'allow_class_names': True, 'allow_imports': ['mine', 'yours.x']})]
