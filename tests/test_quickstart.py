"""`quickstart` as a user starts it: what is trained, by whom and where."""

import pytest

from kdseg_jax import quickstart
from tests import runs


@pytest.mark.parametrize('options, folder', [
    ([], 'runs/quickstart'), (['--runlocal'], 'runs/quickstart_runlocal'),
    (['--workdir=elsewhere', '--runlocal'], 'elsewhere')])
def test_the_distilled_student_learns_from_the_teacher_beside_it(
    options, folder, tmp_path, monkeypatch, capsys):
  trained = {}

  def train(config, workdir, allow_class_names):
    trained[workdir] = config
    return len(trained) < 3 or None  # as if it were stopped in the last

  monkeypatch.chdir(tmp_path)
  monkeypatch.setattr(quickstart, '_train', train)
  status, text = runs.run_here(capsys, quickstart.PROGRAM, *options)
  assert not status and 'distilled: deeplabv3_resnet18' in text
  assert list(trained) == [f'{folder}/{name}' for name in ('teacher', 'student', 'distilled')]
  teacher, student, distilled = trained.values()
  assert distilled.teacher.checkpoint == f'{folder}/teacher'
  assert not teacher.teacher.checkpoint and not student.teacher.checkpoint
  assert (student.role, [*student.distill], student.data.unlabelled) == ('student', [], '')
  assert ({*distilled.distill}, distilled.data.unlabelled) == ({'pixelwise', 'pairwise'}, 'rest')
  steps = {2} if '--runlocal' in options else {3_000, 5_000}
  assert {config.train.steps for config in trained.values()} == steps
