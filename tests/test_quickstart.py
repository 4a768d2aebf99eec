"""`quickstart` as a user starts it: what is trained, by whom and where."""

import json
import types

import jax.numpy as jnp
import numpy as np
import pytest

from kdseg_jax import models, quickstart
from kdseg_jax.data import files
from kdseg_jax.training import experiment, loop
from tests import runs, toys, workdirs


@pytest.mark.parametrize('options, folder', [
    ([], 'runs/quickstart'), (['--runlocal'], 'runs/quickstart_runlocal'),
    (['--workdir=elsewhere', '--runlocal', '--allow_class_names'], 'elsewhere')])
def test_the_distilled_student_learns_from_the_teacher_beside_it(
    options, folder, tmp_path, monkeypatch, capsys):
  trained, permitted = {}, set()

  def train(config, workdir, options):
    permitted.add(options.allow_class_names)
    trained[workdir] = config
    return len(trained) < 3 or None  # as if it were stopped in the last

  monkeypatch.chdir(tmp_path)
  monkeypatch.setattr(quickstart, '_train', train)
  status, text = runs.run_here(capsys, quickstart.PROGRAM, *options)
  assert not status and 'distilled: deeplabv3_resnet18' in text
  assert list(trained) == [f'{folder}/{name}' for name in ('teacher', 'student', 'distilled')]
  assert permitted == {'--allow_class_names' in options}
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


def test_a_model_is_that_of_the_last_step_as_its_metrics_are(monkeypatch, capsys):
  options = types.SimpleNamespace(allow_class_names=True, allow_imports=['mylab'])
  for metrics in (None, {'mean_iou': 0.5}):
    monkeypatch.setattr(loop, 'train', lambda config, workdir, metrics=metrics, **allowed: (
        metrics if (config, workdir, allowed) == ('config', 'runs/a', vars(options)) else 'other'))
    monkeypatch.setattr(quickstart, 'load', lambda workdir, checkpoint: (workdir, checkpoint))
    found = quickstart._train('config', 'runs/a', options)
    assert found == (metrics and (('runs/a', 'latest'), metrics))
  assert capsys.readouterr().out == (
      'Stopped; the same command goes on from what was saved. Work directory: runs/a\n')


class Pictures(list):
  """Ten images and labels, as a source gives them."""

  classes, palette = workdirs.CLASSES, np.array(workdirs.PALETTE, np.uint8)

  def __init__(self):
    super().__init__({
        'image': np.full((16, 24, 3), i, np.uint8), 'label': np.full((16, 24), i % 3, np.uint8),
        'image_id': str(i)} for i in range(10))


def test_figures_of_all_three_are_written_and_shown_with_the_time_they_took(
    tmp_path, monkeypatch, capsys):
  module = toys.BodyAndHead()
  model = toys.loaded(module, toys.variables(module, jnp.zeros((1, 16, 24, 3))))
  scores = {'teacher': 0.75, 'student': 0.25, 'distilled': 0.5}
  speeds = {(8, 16, 24, 3): 123.4}  # of a batch of eight
  monkeypatch.setattr(quickstart, '_train', lambda config, workdir, _: quickstart.Trained(
      model, {'mean_iou': scores[workdir.rpartition('/')[2]], 'images': 1}))
  monkeypatch.setattr(quickstart, 'throughput', lambda model, images: speeds[images.shape])
  monkeypatch.setattr(experiment, 'create_source', lambda config, split: (
      Pictures() if split == 'test' else None))
  status, text = runs.run_here(capsys, quickstart.PROGRAM, f'--workdir={tmp_path}')
  assert not status, text
  written = json.loads((tmp_path / 'quickstart.json').read_text())
  assert written.pop('seconds') > 0
  params, macs = models.complexity(module, (16, 24))
  assert macs > 0 and written == {name: {
      'mean_iou': score, 'params': params, 'macs': macs, 'images_per_second': 123.4}
      for name, score in scores.items()}
  rows = [[cell.strip() for cell in line.split('|')[1:-1]] for line in text.splitlines()
          if line.startswith('| ')]
  assert rows[1:] == [[name, f'{100 * score:.1f} %', f'{params:,}', f'{macs:,}', '123']
                      for name, score in scores.items()]
  assert f'Figures: {tmp_path}/quickstart.json\nOverlays: {tmp_path}/overlays' in text
  assert sorted(path.name for path in (tmp_path / 'overlays').iterdir()) == [
      f'{i}.png' for i in range(8)]
