"""COCO's figures against pycocotools, and against cases that can be reckoned by hand."""

import importlib.util
import pathlib

import numpy as np
import pytest

from kdseg_jax import coco_ap, metrics

GOLDEN = pathlib.Path(__file__).parent / 'golden' / 'coco_ap.npz'
BOX = np.array([[0.0, 0, 10, 10]])
NAN = float('nan')


def boxes_of(rows):
  return {'boxes': rows[:, 2:6], 'classes': rows[:, 1].astype(int)}


def case(number):
  """Ground truth and detections an image, the number of classes, and pycocotools' figures."""
  with np.load(GOLDEN) as golden:
    arrays = {name: golden[f'{number}/{name}']
              for name in ('size', 'truth', 'found', 'figures', 'per_class')}
  images, classes = arrays['size']
  of_image = lambda name, index: arrays[name][arrays[name][:, 0] == index]
  truth = [boxes_of(rows) | {'crowd': rows[:, 6], 'area': rows[:, 7]}
           for rows in (of_image('truth', index) for index in range(images))]
  found = [boxes_of(rows) | {'scores': rows[:, 6]}
           for rows in (of_image('found', index) for index in range(images))]
  return truth, found, int(classes), arrays['figures'], arrays['per_class']


def results_of(truth, found, classes, numbers=None):
  results = metrics.CocoResults(classes)
  for index in range(len(truth)) if numbers is None else numbers:
    results.add(index, truth[index], found[index])
  return results


def one(truth, found, classes=1, **options):
  """The figures of a single image."""
  return metrics.coco_ap([truth], [found], num_classes=classes, **options)


@pytest.mark.parametrize('number', range(16))
def test_equals_pycocotools(number):
  truth, found, classes, figures, per_class = case(number)
  got = metrics.coco_ap(truth, found, num_classes=classes, evaluator='own')
  assert tuple(got) == coco_ap.FIGURES
  np.testing.assert_allclose(list(got.values()), figures, atol=1e-9)
  summary = results_of(truth, found, classes).summarize('own')
  np.testing.assert_allclose(summary['per_class_AP'], per_class, atol=1e-9)
  assert summary['images'] == len(truth) and summary['AP'] == got['AP']


@pytest.mark.parametrize('number', range(16))
def test_pycocotools_itself_is_used_where_it_is_installed(number):
  pytest.importorskip('pycocotools')
  truth, found, classes, figures, _ = case(number)
  own, official, default = (metrics.coco_ap(truth, found, num_classes=classes, evaluator=evaluator)
                            for evaluator in ('own', 'pycocotools', None))
  np.testing.assert_allclose(list(official.values()), figures, atol=1e-9)
  assert default == official
  np.testing.assert_allclose(list(own.values()), figures, atol=1e-9)


@pytest.mark.parametrize('evaluator', coco_ap.EVALUATORS)
def test_of_equal_scores_the_image_of_the_smaller_number_goes_first(evaluator):
  if evaluator == 'pycocotools':
    pytest.importorskip('pycocotools')
  truth = [{'boxes': BOX, 'classes': np.array([0])}] * 2
  found = [{'boxes': BOX + shift, 'classes': np.array([0]), 'scores': np.array([0.5])}
           for shift in (0, 50)]
  right_first, wrong_first = (
      results_of(truth, order, 1, numbers).summarize(evaluator)['AP']
      for order, numbers in ((found, (1, 0)), (found[::-1], (1, 0))))
  assert (right_first, wrong_first) == pytest.approx((51 / 101, 51 / 101 / 2))


def test_our_own_evaluator_serves_where_it_is_not_installed(monkeypatch):
  monkeypatch.setattr(importlib.util, 'find_spec', lambda name: None)
  truth, found, classes, figures, _ = case(0)
  np.testing.assert_allclose(
      list(metrics.coco_ap(truth, found, num_classes=classes).values()), figures, atol=1e-9)


def test_a_class_that_was_found_and_one_that_was_not():
  boxes = np.array([[0, 0, 50, 50], [60, 60, 160, 160]])
  figures = one({'boxes': boxes, 'classes': np.array([0, 1])},
                {'boxes': boxes[:1], 'classes': np.array([0]), 'scores': np.ones(1)}, 3)
  assert figures == pytest.approx({
      'AP': 0.5, 'AP50': 0.5, 'AP75': 0.5, 'APs': -1.0, 'APm': 1.0, 'APl': 0.0, 'AR1': 0.5,
      'AR10': 0.5, 'AR100': 0.5, 'ARs': -1.0, 'ARm': 1.0, 'ARl': 0.0})


def test_nothing_to_be_found_is_minus_one_and_nothing_found_is_zero():
  nothing = {'boxes': np.zeros((0, 4)), 'classes': np.zeros(0, int), 'scores': np.zeros(0)}
  found = {'boxes': BOX, 'classes': np.array([0]), 'scores': np.ones(1)}
  assert set(one(nothing, found).values()) == set(one(nothing, nothing).values()) == {-1.0}
  assert set(metrics.coco_ap([], [], num_classes=2).values()) == {-1.0}
  figures = one({'boxes': BOX, 'classes': np.array([0])}, nothing)
  assert set(figures.values()) == {0.0, -1.0} and figures['AP'] == figures['APs'] == 0.0
  summary = results_of([nothing], [found], 1).summarize('own')
  np.testing.assert_equal(summary['per_class_AP'], [NAN])


def test_detections_in_a_crowd_count_neither_way():
  boxes = np.concatenate([BOX, BOX + 100])
  truth = {'boxes': boxes, 'classes': np.zeros(2, int), 'crowd': np.array([False, True])}
  inside = BOX + np.array([101, 101, 95, 95])  # a quarter of the crowd: IoU would be 0.16
  found = {'boxes': np.concatenate([inside, inside, BOX]), 'classes': np.zeros(3, int),
           'scores': np.array([0.9, 0.8, 0.7])}
  assert one(truth, found, evaluator='own')['AP'] == pytest.approx(1.0)
  assert one(truth | {'crowd': np.zeros(2)}, found, evaluator='own')['AP'] < 0.5


def test_an_object_is_found_once():
  found = {'boxes': np.concatenate([BOX, BOX]), 'classes': np.zeros(2, int),
           'scores': np.array([0.5, 0.9])}
  twice = {'boxes': np.concatenate([BOX, BOX + 50]), 'classes': np.zeros(2, int)}
  assert one({'boxes': BOX, 'classes': np.zeros(1, int)}, found)['AP'] == pytest.approx(1.0)
  assert one(twice, found)['AP'] == pytest.approx(51 / 101)  # recall ends at a half


def test_the_area_of_the_object_and_not_of_its_box_is_its_size():
  truth = {'boxes': np.array([[0, 0, 50, 50]]), 'classes': np.array([0]), 'area': np.array([900])}
  found = {'boxes': truth['boxes'], 'classes': truth['classes'], 'scores': np.ones(1)}
  figures = one(truth, found)
  assert figures['APs'] == pytest.approx(1.0) and figures['APm'] == -1


@pytest.mark.parametrize('evaluator', coco_ap.EVALUATORS)
def test_bounds_of_areas_and_of_overlaps_belong_to_both_sides(evaluator):
  if evaluator == 'pycocotools':
    pytest.importorskip('pycocotools')
  def figures_of(side, found_height):
    truth = {'boxes': np.array([[0, 0, side, side]]), 'classes': np.array([0])}
    found = {'boxes': np.array([[0, 0, side, found_height]]), 'classes': np.array([0]),
             'scores': np.ones(1)}
    return one(truth, found, evaluator=evaluator)
  for side, sizes in ((32, 'sm'), (33, 'm'), (96, 'ml'), (97, 'l')):
    figures = figures_of(side, side)
    assert {size for size in 'sml' if figures[f'AP{size}'] == pytest.approx(1)} == set(sizes)
    assert {size for size in 'sml' if figures[f'AP{size}'] == -1} == set('sml') - set(sizes)
  assert figures_of(10, 5)['AP50'] == pytest.approx(1) and figures_of(10, 5)['AP75'] == 0
  assert figures_of(10, 5)['AP'] == pytest.approx(0.1)
  assert figures_of(20, 15)['AP75'] == pytest.approx(1)


def test_padding_counts_nowhere_and_arrays_of_all_images_will_do():
  truth, found, classes, figures, _ = case(0)
  pad = lambda entries, size: {
      name: np.stack([np.pad(
          np.asarray(entry[name], float), [(0, size - len(entry['classes']))] + [(0, 0)] * (
              np.ndim(entry[name]) - 1), constant_values=-1 if name == 'classes' else 0)
          for entry in entries]) for name in entries[0]}
  truth, found = pad(truth, 60), pad(found, 200)
  for side in (truth, found):
    side['classes'] = side['classes'].astype(np.int32)
  found['scores'][found['classes'] < 0] = NAN  # of what is no detection
  np.testing.assert_allclose(
      list(metrics.coco_ap(truth, found, num_classes=classes).values()), figures, atol=1e-9)


def test_parts_of_any_processes_make_the_same_whole():
  truth, found, classes, figures, _ = case(1)
  parts = [results_of(truth, found, classes, range(start, len(truth), 2)) for start in (1, 0)]
  parts[0].merge(parts[1])
  assert len(parts[0]) == len(truth)
  np.testing.assert_allclose(
      list(coco_ap.figures_of(parts[0].curves('own')).values()), figures, atol=1e-9)
  assert parts[0].summarize('own') == results_of(truth, found, classes).summarize('own')
  with pytest.raises(ValueError, match='image 0 was added before'):
    parts[0].merge(parts[1])
  with pytest.raises(ValueError, match='2 was added before'):
    parts[0].add(2, truth[2], found[2])
  with pytest.raises(ValueError, match='3 and 5 classes'):
    parts[0].merge(metrics.CocoResults(5))


def test_of_equal_scores_the_earlier_image_comes_first():
  truth = [{'boxes': BOX, 'classes': np.array([0])}] * 2
  right, wrong = ({'boxes': BOX + shift, 'classes': np.array([0]), 'scores': np.ones(1)}
                  for shift in (0, 50))
  ap = lambda *found: metrics.coco_ap(truth, found, num_classes=1)['AP']
  assert ap(right, wrong) == pytest.approx(51 / 101)
  assert ap(wrong, right) == pytest.approx(51 / 101 / 2)


@pytest.mark.parametrize('truth,found,message', [
    ({'classes': None}, {}, 'ground truth of image 0 has no classes, only boxes'),
    ({}, {'scores': None}, 'detections of image 0 has no scores'),
    ({}, {'scores': np.array([NAN])}, 'detections of image 0: scores hold a value that is not fin'),
    ({'boxes': BOX + np.inf}, {}, 'ground truth of image 0: boxes hold a value that is not finite'),
    ({'boxes': BOX[0]}, {}, r'boxes are of shape \(4,\); expected \(1, 4\)'),
    ({'crowd': np.zeros(3)}, {}, r'crowd are of shape \(3,\); expected \(1,\)'),
    ({'classes': np.array([2])}, {}, 'class 2 is none of 2; expected 0 to 1'),
    ({}, {'classes': np.array([0.0])}, r'classes are float64 \(1,\); expected integers'),
])
def test_what_is_no_set_of_boxes_is_refused(truth, found, message):
  whole = {'boxes': BOX, 'classes': np.array([0])}
  truth, found = ({name: value for name, value in given.items() if value is not None}
                  for given in (whole | truth, whole | {'scores': np.ones(1)} | found))
  with pytest.raises(ValueError, match=message):
    one(truth, found, 2)


def test_images_without_a_partner_and_unknown_evaluators_are_refused():
  truth = {'boxes': BOX, 'classes': np.array([0])}
  with pytest.raises(ValueError, match='ground_truth has 2 images and detections 0'):
    metrics.coco_ap([truth] * 2, [], num_classes=1)
  with pytest.raises(ValueError, match="evaluator='mine': expected own or pycocotools"):
    metrics.coco_ap([], [], num_classes=1, evaluator='mine')
  with pytest.raises(ValueError, match='Arrays of as many images'):
    metrics.coco_ap({'boxes': np.zeros((2, 1, 4)), 'classes': np.zeros((3, 1), int)}, [],
                    num_classes=1)
