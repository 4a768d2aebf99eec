"""What the presenters of all tasks have in common: whose results the files of `predict` hold."""

import json
import types

import numpy as np
import pytest

from kdseg_jax.data import files, palettes
from kdseg_jax.errors import UserError
from kdseg_jax.inference import Classification
from kdseg_jax.report import detection, presenters
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


def test_the_legend_of_a_strip_explains_all_that_it_shows(tmp_path):
  palette = palettes.voc_palette(26)  # so many that only those that occur are explained
  shown = types.SimpleNamespace(classes=[f'class {i}' for i in range(26)], palette=palette)
  presenter = presenters.create('segmentation', shown)
  full = lambda label: np.full((8, 12), label, np.uint8)
  presenter.writer(str(tmp_path), main='a', titles=dict(a='a', b='b'), strips=True, legend=False
                   ).add(Example('x.png', 'x', IMAGE, {'label': full(25)}), {
                       'a': Segmentation(full(3), None), 'b': Segmentation(full(7), None)})
  found = presenter.comparison(IMAGE, {'label': full(25)}, {
      'a': {'label': full(3)}, 'b': {'label': full(7)}})
  strip = files.read_image(tmp_path / 'strips/x.png')
  np.testing.assert_array_equal(strip, found)
  explained = [i for i in range(26) if (strip[292:] == palette[i]).all(axis=-1).sum() > 100]
  assert explained == [3, 7, 25]


@pytest.mark.parametrize('legend', [False, True])
def test_overlays_have_a_legend_where_asked_for_and_strips_their_folder(legend, tmp_path):
  writer = presenters.create('segmentation', SHOWN).writer(
      str(tmp_path), main='mine', titles=TITLES, strips=False, legend=legend)
  found = PREDICTED['segmentation'][0]
  for name in ('a.png', 'b.png'):
    writer.add(Example(name, name, IMAGE, {}), {'mine': found})
  assert writer.close() == f'2 images. Labels and overlays: {tmp_path}'
  overlay = palettes.overlay(IMAGE, found.labels, np.array(SHOWN.palette))
  np.testing.assert_array_equal(
      files.read_image(tmp_path / 'overlays/b.png'), overlay if not legend else (
          palettes.with_legend(overlay, [found.labels], SHOWN.classes, np.array(SHOWN.palette))))
  assert sorted(path.name for path in tmp_path.iterdir()) == ['labels', 'overlays']


@pytest.mark.parametrize('task, fields', [
    ('classification', {'label': np.int32(1)}),
    ('detection', {'boxes': np.float32([[2, 2, 9, 7]]), 'classes': np.array([1]),
                   'crowd': np.array([False])})])
def test_pictures_show_what_is_known_and_the_models_by_their_titles(task, fields, tmp_path):
  presenter = presenters.create(task, SHOWN)
  written(task, tmp_path, ('other', 'mine'), fields)
  mine, other = map(presenter.fields_of, PREDICTED[task])
  shown = presenter.comparison(IMAGE, fields, {'other': other, 'mine 65.1': mine})
  np.testing.assert_array_equal(files.read_image(tmp_path / 'pictures/a.png'), shown)
  unknown = presenter.comparison(IMAGE, {}, {'other': other, 'mine 65.1': mine})
  assert not np.array_equal(unknown, shown)


def test_ground_truth_stands_before_the_boxes_that_are_predicted():
  presenter = presenters.create('detection', SHOWN)
  known = {'boxes': np.float32([[2, 2, 9, 7]]), 'classes': np.array([1]),
           'crowd': np.array([True])}
  drawn = lambda boxes, labels, **options: detection.draw_boxes(
      IMAGE, boxes, labels, classes=SHOWN.classes, palette=np.array(SHOWN.palette), **options)
  found = presenter.fields_of(PREDICTED['detection'][0])
  panels = [drawn(known['boxes'], known['classes'], crowd=known['crowd']),
            drawn(found['boxes'], found['classes'], scores=found['scores'])]
  np.testing.assert_array_equal(
      presenter.comparison(IMAGE, known, {'a': found}),
      palettes.strip(panels, ['ground truth', 'a'], height=len(panels[0])))
  np.testing.assert_array_equal(presenter.comparison(IMAGE, {}, {'a': found}), panels[1])


def test_the_file_of_boxes_has_all_of_them_and_those_that_are_drawn_are_counted(tmp_path):
  writer = presenters.create('detection', SHOWN).writer(
      str(tmp_path), main='mine', titles={}, strips=False, legend=False)
  sides = np.float32([[1, 1, 6, 6], [0, 0.5, 4, 5], [2, 2, 3, 3]])
  writer.add(Example('a.png', 'a.jpg', IMAGE, {}), {
      'mine': Detections(sides, np.array([1, 0, 1]), np.float32([0.75, 0.5, 0.125]))})
  writer.add(Example('b.png', 'b.jpg', IMAGE, {}), {'mine': boxes(0, 0.25)})
  assert writer.close() == (
      '2 images, 4 boxes, 2 of them of a score of at least 0.3 and in the pictures. '
      f'Predictions: {tmp_path}/predictions.json')
  assert json.loads((tmp_path / 'predictions.json').read_text()) == {
      'a.jpg': [{'class': 'road', 'score': 0.75, 'box': [1, 1, 6, 6]},
                {'class': 'sky', 'score': 0.5, 'box': [0, 0.5, 4, 5]},
                {'class': 'road', 'score': 0.125, 'box': [2, 2, 3, 3]}],
      'b.jpg': [{'class': 'sky', 'score': 0.25, 'box': [1, 1, 6, 6]}]}


@pytest.mark.parametrize('task', PREDICTED)
def test_a_checkpoint_holds_what_a_task_draws_with(task):
  saved = presenters.create(task, SHOWN).saved()
  assert saved == ({} if task == 'classification' else {'palette': SHOWN.palette})
  json.dumps(saved)


def test_labels_in_a_line_and_their_convention():
  presenter = presenters.create('segmentation', SHOWN)
  metrics = {'mean_iou': 0.25, 'pixel_accuracy': 0.75, 'images': 9, 'per_class_iou': [0.5, 0.0]}
  assert presenter.summary(metrics) == 'mean IoU 0.2500, pixel accuracy 0.7500 on 9 images'
  assert presenter.table(metrics).splitlines()[3] == '| road  | 0.0000 |'
  for as_zero, convention in ((True, 'classes that occur nowhere count as 0'),
                              (False, 'mean over the classes that occur')):
    assert presenter.details(metrics, types.SimpleNamespace(absent_as_zero=as_zero)) == [
        ('mean IoU', f'0.2500   ({convention})'), ('pixel accuracy', '0.7500')]


def test_an_unknown_task_is_refused_by_its_nearest_name():
  with pytest.raises(UserError, match="Unknown task: 'detecton'. Did you mean 'detection'"):
    presenters.find('detecton')


@pytest.mark.parametrize('score, is_drawn', [(0.3, True), (0.299, False)])
def test_boxes_of_the_least_score_are_drawn_and_none_below(score, is_drawn):
  presenter = presenters.create('detection', SHOWN)
  of = lambda found: presenter.comparison(IMAGE, {}, {'a': presenter.fields_of(found)})
  none = of(Detections(np.zeros((0, 4), np.float32), np.zeros(0, int), np.zeros(0, np.float32)))
  assert (of(boxes(0, score)) != none).any() == is_drawn
