"""What the presenters of all tasks have in common: whose results the files of `predict` hold."""

import json
import types

import numpy as np
import pytest

from kdseg_jax.data import files, palettes
from kdseg_jax.inference import Classification
from kdseg_jax.report import presenters
from kdseg_jax.report.base import Example
from kdseg_jax.tasks.detection.task import Detections
from kdseg_jax.tasks.segmentation import Segmentation

SHOWN = types.SimpleNamespace(classes=('sky', 'road'), palette=[[0, 0, 255], [128, 128, 128]])
IMAGE = np.random.default_rng(0).integers(0, 256, (8, 12, 3), np.uint8)
TITLES = {'mine': 'mine 65.1', 'other': 'other'}


def boxes(label, score):
  return Detections(np.float32([[1, 1, 6, 6]]), np.array([label]), np.float32([score]))


# Of each task what two models predict: the first all sky, the second all road.
PREDICTED = {
    'segmentation': [Segmentation(np.full((8, 12), label, np.uint8), None) for label in (0, 1)],
    'classification': [Classification(label, np.float32([1 - label, label])) for label in (0, 1)],
    'detection': [boxes(0, 0.9), boxes(1, 0.9)]}


def written(task, folder, order, fields=None):
  """The folder of an image that two models, of which 'mine' is the main one, have predicted."""
  writer = presenters.create(task, SHOWN).writer(
      str(folder), main='mine', titles=TITLES, strips=True, legend=False)
  found = dict(zip(('mine', 'other'), PREDICTED[task], strict=True))
  writer.add(Example('a.png', 'a.jpg', IMAGE, fields or {}), {name: found[name] for name in order})
  writer.close()
  return folder


@pytest.mark.parametrize('order', [('mine', 'other'), ('other', 'mine')])
@pytest.mark.parametrize('task', PREDICTED)
def test_files_of_results_are_of_the_main_model_wherever_it_stands(task, order, tmp_path):
  folder = written(task, tmp_path, order)
  if task == 'segmentation':
    label, palette = PREDICTED[task][0].labels, np.array(SHOWN.palette)
    np.testing.assert_array_equal(files.read_label(folder / 'labels/a.png'), label)
    np.testing.assert_array_equal(
        files.read_image(folder / 'overlays/a.png'), palettes.overlay(IMAGE, label, palette))
  else:
    found = json.loads((folder / 'predictions.json').read_text())
    assert list(found) == ['a.jpg'] and found['a.jpg'][0]['class'] == 'sky'


@pytest.mark.parametrize('order', [('mine', 'other'), ('other', 'mine')])
def test_a_strip_shows_the_image_its_label_and_the_models_in_their_order(
    order, tmp_path, monkeypatch):
  strips, strip = [], palettes.strip
  monkeypatch.setattr(palettes, 'strip', lambda pictures, titles, **options: (
      strips.append((pictures, titles)), strip(pictures, titles, **options))[1])
  label = np.tile(np.uint8([0, 1, 255]), (8, 4))
  written('segmentation', tmp_path, order, {'label': label})
  (pictures, titles), = strips
  assert titles == ['image', 'label', *(TITLES[name] for name in order)]
  labels = dict(zip(('mine', 'other'), (found.labels for found in PREDICTED['segmentation'])))
  expected = [IMAGE, *(palettes.overlay(IMAGE, shown, np.array(SHOWN.palette)) for shown in (
      label, *(labels[name] for name in order)))]
  for picture, want in zip(pictures, expected, strict=True):
    np.testing.assert_array_equal(picture, want)


@pytest.mark.parametrize('score, is_drawn', [(0.3, True), (0.299, False)])
def test_boxes_of_the_least_score_are_drawn_and_none_below(score, is_drawn):
  presenter = presenters.create('detection', SHOWN)
  of = lambda found: presenter.comparison(IMAGE, {}, {'a': presenter.fields_of(found)})
  none = of(Detections(np.zeros((0, 4), np.float32), np.zeros(0, int), np.zeros(0, np.float32)))
  assert (of(boxes(0, score)) != none).any() == is_drawn
