"""`quickstart` as a user starts it: what is trained, by whom and where."""

import types

import numpy as np
import pytest

from kdseg_jax import quickstart
from kdseg_jax.data import files
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


def test_every_overlay_shows_its_own_image_and_what_each_model_says_of_it(tmp_path):
  source = [{'image': np.full((6, 6, 3), 10 * i, np.uint8), 'image_id': f'scene_{9 - i}'}
            for i in range(8)]

  class Model:
    """Says what it was shown, plus a number of its own."""

    def __init__(self, own):
      self.own = own

    def predict(self, images, **_):
      return [int(image[0, 0, 0]) + self.own for image in images]

  trained = {name: quickstart.Trained(Model(own), {'mean_iou': score})
             for name, own, score in (('teacher', 1, 0.5), ('student', 2, 0.25))}
  presenter = types.SimpleNamespace(
      fields_of=lambda found: found,
      comparison=lambda image, example, predicted: np.stack(
          [image[0, 0], [*predicted.values(), 0]])[None].astype(np.uint8))
  titles = []
  metric = types.SimpleNamespace(name='mean_iou', titled=lambda name, score: (
      titles.append((name, score)), f'{name} {score}')[1])
  folder = quickstart._write_overlays(str(tmp_path), trained, source, metric, presenter)
  assert titles == [('teacher', 0.5), ('student', 0.25)]
  for i in range(8):
    overlay = files.read_image(f'{folder}/scene_{9 - i}.png')
    np.testing.assert_array_equal(overlay, [[[10 * i] * 3, [10 * i + 1, 10 * i + 2, 0]]])
