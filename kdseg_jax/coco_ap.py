"""Average precision and recall of detections as COCO defines them.

Twelve figures (Lin et al., ECCV 2014; pycocotools is the official code): AP is the mean over
classes and over the IoU thresholds 0.50, 0.55, ..., 0.95 of the precision at 101 recalls; AP50 and
AP75 are of one threshold; APs, APm and APl of objects up to 32**2, up to 96**2 and larger, in
pixels of area; AR1, AR10 and AR100 the mean recall with so many detections an image and class, ARs,
ARm, ARl that of sizes with 100. A figure of which there is no object is -1, as in pycocotools.
"""

from __future__ import annotations

import contextlib
import importlib.util
import io
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

FIGURES = ('AP', 'AP50', 'AP75', 'APs', 'APm', 'APl', 'AR1', 'AR10', 'AR100', 'ARs', 'ARm', 'ARl')
AREAS = {'all': (0.0, 1e5**2), 'small': (0.0, 32.0**2), 'medium': (32.0**2, 96.0**2),
         'large': (96.0**2, 1e5**2)}
MOST_DETECTIONS = (1, 10, 100)
EVALUATORS = ('own', 'pycocotools')
_THRESHOLDS = np.linspace(0.5, 0.95, 10)
_RECALLS = np.linspace(0, 1, 101)
_BOUNDS = np.array(list(AREAS.values()))

Boxes = Mapping[str, Any]


class Image(NamedTuple):
  """What an image holds and what was found in it, without padding.

  Attributes:
    boxes: `(G, 4)` float64, x1 y1 x2 y2 of the objects.
    classes: `(G,)` int64.
    crowd: `(G,)` bool.
    area: `(G,)` float64.
    found_boxes: `(D, 4)` float64.
    found_classes: `(D,)` int64.
    scores: `(D,)` float64.
  """

  boxes: np.ndarray
  classes: np.ndarray
  crowd: np.ndarray
  area: np.ndarray
  found_boxes: np.ndarray
  found_classes: np.ndarray
  scores: np.ndarray


class Curves(NamedTuple):
  """What all figures are means of; -1 where a class has no object.

  Attributes:
    precision: `(10 thresholds, 101 recalls, C, 4 areas)`, of 100 detections.
    recall: `(10 thresholds, C, 4 areas, 3 numbers of detections)`.
  """

  precision: np.ndarray
  recall: np.ndarray


def coco_ap(ground_truth: Sequence[Boxes] | Boxes, detections: Sequence[Boxes] | Boxes, *,
            num_classes: int, evaluator: str | None = None) -> dict[str, float]:
  """The 12 COCO figures of detections, in [0, 1], or -1 where there is no such object.

  Args:
    ground_truth: a mapping an image: `boxes` `(G, 4)` as x1 y1 x2 y2 in pixels, `classes` `(G,)`
      integers; where needed `crowd` `(G,)` (detections in it count neither way) and `area` `(G,)`
      of the objects (default: of their boxes). Or one mapping of `(N, G, ...)` arrays.
    detections: of the same images in the same order: `boxes` `(D, 4)`, `classes` `(D,)`, `scores`
      `(D,)`. Or one mapping of `(N, D, ...)` arrays.
    num_classes: C; a negative class is padding.
    evaluator: 'pycocotools' or 'own' (numpy); both give the same. None is pycocotools where it is
      installed.

  Returns:
    By name: AP, AP50, AP75, APs, APm, APl, AR1, AR10, AR100, ARs, ARm, ARl. Of equal scores the
    earlier image, and in it the earlier detection, comes first.

  Raises:
    ValueError: not as many images in one as in the other, wrong shapes, a class that is none, boxes
      or scores that are not finite.

  >>> import numpy as np
  >>> boxes = np.array([[0, 0, 50, 50], [60, 60, 160, 160]])
  >>> figures = coco_ap([{'boxes': boxes, 'classes': np.array([0, 1])}],
  ...                   [{'boxes': boxes[:1], 'classes': np.array([0]), 'scores': np.ones(1)}],
  ...                   num_classes=2)
  >>> [round(figures[name], 3) for name in ('AP', 'APs', 'APm', 'APl')]
  [0.5, -1.0, 1.0, 0.0]
  """
  truths, found = list(_by_image(ground_truth)), list(_by_image(detections))
  if len(truths) != len(found):
    raise ValueError(f'ground_truth has {len(truths)} images and detections {len(found)}; expected '
                     'one entry for each image in both, also for images without any.')
  results = CocoResults(num_classes)
  for index, pair in enumerate(zip(truths, found)):
    results.add(index, *pair)
  return figures_of(results.curves(evaluator))


class CocoResults:
  """Detections beside the ground truth, image by image, in any order and on any process.

  Args:
    num_classes: C.
  """

  def __init__(self, num_classes: int):
    self.num_classes = num_classes
    self._images: dict[int, Image] = {}

  def __len__(self) -> int:
    return len(self._images)

  def add(self, index: int, ground_truth: Boxes, detections: Boxes) -> None:
    """Adds the image of a number, which orders images of equal scores; see `coco_ap`.

    Raises:
      ValueError: as `coco_ap`, or this number was added before.
    """
    self._require_new([index])
    truth = _columns(ground_truth, self.num_classes, f'ground truth of image {index}')
    found = _columns(detections, self.num_classes, f'detections of image {index}',
                     needed=('scores',))
    sides = truth['boxes'][:, 2:] - truth['boxes'][:, :2]
    crowd, area = (truth.get('crowd', np.zeros(len(sides))), truth.get('area', sides.prod(axis=1)))
    self._images[int(index)] = Image(
        truth['boxes'], truth['classes'], crowd.astype(bool), area, found['boxes'],
        found['classes'], found['scores'])

  def merge(self, other: CocoResults) -> None:
    """Adds the images of another process or part of the data.

    Raises:
      ValueError: an image is in both, or they have not the same number of classes.
    """
    if other.num_classes != self.num_classes:
      raise ValueError(f'Results of {self.num_classes} and {other.num_classes} classes are not of '
                       'one evaluation.')
    self._require_new(other._images)
    self._images |= other._images

  def curves(self, evaluator: str | None = None) -> Curves:
    """Precision and recall of all classes; see `coco_ap` for the evaluator."""
    if evaluator is None:
      evaluator = EVALUATORS[importlib.util.find_spec('pycocotools') is not None]
    if evaluator not in EVALUATORS:
      raise ValueError(f'evaluator={evaluator!r}: expected {" or ".join(EVALUATORS)}, or None.')
    images = [self._images[index] for index in sorted(self._images)]
    return (_own if evaluator == 'own' else _official)(images, self.num_classes)

  def summarize(self, evaluator: str | None = None) -> dict[str, Any]:
    """The 12 figures, `per_class_AP` (NaN for a class without objects) and `images`."""
    curves = self.curves(evaluator)
    return {**figures_of(curves), 'per_class_AP': per_class_ap(curves), 'images': len(self)}

  def _require_new(self, indices):
    again = sorted(self._images.keys() & set(map(int, indices)))
    if again:
      raise ValueError(f'image {again[0]} was added before: each counts once.')


def figures_of(curves: Curves) -> dict[str, float]:
  """The 12 figures by name, each the mean over what has objects, or -1."""
  precision, recall = curves
  ap = [precision[..., 0], precision[0, ..., 0], precision[5, ..., 0], *(
      precision[..., area] for area in (1, 2, 3))]
  ar = [recall[..., 0, count] for count in range(3)] + [
      recall[..., area, 2] for area in (1, 2, 3)]
  return {name: _mean(values, -1.0) for name, values in zip(FIGURES, ap + ar, strict=True)}


def per_class_ap(curves: Curves) -> list[float]:
  """AP of each class over all thresholds and areas; NaN for a class without objects."""
  return [_mean(values, float('nan')) for values in np.moveaxis(curves.precision[..., 0], -1, 0)]


def _mean(values, absent):
  values = values[values > -1]
  return float(values.mean()) if values.size else absent


def _by_image(given) -> Iterator[Boxes]:
  """A mapping an image, of a list of them or of a mapping of stacked arrays."""
  if not isinstance(given, Mapping):
    return iter(given)
  lengths = {name: len(values) for name, values in given.items()}
  if len(set(lengths.values())) > 1:
    raise ValueError(f'Arrays of as many images were expected, got {lengths}.')
  return ({name: values[i] for name, values in given.items()}
          for i in range(next(iter(lengths.values()), 0)))


def _columns(given, num_classes, where, needed=()):
  """Its arrays as float64 without padding, classes as int64; refuses what is no set of boxes."""
  missing = [name for name in ('boxes', 'classes', *needed) if name not in given]
  if missing:
    raise ValueError(f'{where} has no {", ".join(missing)}, only {", ".join(given) or "nothing"}.')
  classes = np.asarray(given['classes'])
  if classes.ndim != 1 or classes.size and classes.dtype.kind not in 'iu':
    raise ValueError(f'{where}: classes are {classes.dtype} {classes.shape}; expected integers '
                     '(M,).')
  kept = classes >= 0
  if classes.max(initial=-1) >= num_classes:
    raise ValueError(f'{where}: class {classes.max()} is none of {num_classes}; expected 0 to '
                     f'{num_classes - 1}, or a negative number for padding.')
  found = {'classes': classes[kept].astype(np.int64)}
  for name in ('boxes', 'scores', 'crowd', 'area'):
    if name not in given:
      continue
    values = np.asarray(given[name], np.float64)
    expected = (len(classes), 4) if name == 'boxes' else (len(classes),)
    if values.shape != expected and not (values.size == len(classes) == 0):
      raise ValueError(f'{where}: {name} are of shape {values.shape}; expected {expected}.')
    found[name] = values.reshape(expected)[kept]
    if not np.isfinite(found[name]).all():
      raise ValueError(f'{where}: {name} hold a value that is not finite.')
  return found


class _Matches(NamedTuple):
  """The detections of a class in an image, best first, at most 100.

  Attributes:
    scores: `(D,)`.
    hit: `(4 areas, 10 thresholds, D)` bool, whether each matches an object.
    ignored: likewise, whether it counts neither way.
    objects: `(4,)`, how many objects of each area count.
  """

  scores: np.ndarray
  hit: np.ndarray
  ignored: np.ndarray
  objects: np.ndarray


def _own(images, num_classes):
  """Curves without pycocotools."""
  matches: list[list[_Matches]] = [[] for _ in range(num_classes)]
  for image in images:
    for index in np.union1d(image.classes, image.found_classes):
      matches[index].append(_matches(image, index))
  precision = -np.ones((len(_THRESHOLDS), len(_RECALLS), num_classes, len(AREAS)))
  recall = -np.ones((len(_THRESHOLDS), num_classes, len(AREAS), len(MOST_DETECTIONS)))
  for index, found in enumerate(matches):
    if not found:
      continue
    scores, hit, ignored = (np.concatenate([getattr(match, name) for match in found], axis=-1)
                            for name in ('scores', 'hit', 'ignored'))
    ranks = np.concatenate([np.arange(len(match.scores)) for match in found])
    objects = np.sum([match.objects for match in found], axis=0)
    for area in np.flatnonzero(objects):
      for number, most in enumerate(MOST_DETECTIONS):
        first = np.flatnonzero(ranks < most)
        order = first[np.argsort(-scores[first], kind='stable')]
        curve, recalls = _curve(hit[area][:, order], ignored[area][:, order], objects[area])
        recall[:, index, area, number] = recalls
      precision[..., index, area] = curve  # of the most detections
  return Curves(precision, recall)


def _matches(image, index):
  """Gives each detection of a class, best first, the free object that it overlaps most."""
  objects, found = image.classes == index, image.found_classes == index
  order = np.argsort(-image.scores[found], kind='stable')[:MOST_DETECTIONS[-1]]
  boxes, crowd = image.found_boxes[found][order], image.crowd[objects]
  outside = lambda areas: (areas < _BOUNDS[:, :1]) | (areas > _BOUNDS[:, 1:])  # (areas, ...)
  ignorable = crowd | outside(image.area[objects])
  if objects.any():
    hit, ignored = _assign(_ious(boxes, image.boxes[objects], crowd), crowd, ignorable)
  else:  # of most classes that are found in an image
    hit, ignored = np.zeros((2, len(AREAS), len(_THRESHOLDS), len(boxes)), bool)
  too_large_or_small = outside((boxes[:, 2:] - boxes[:, :2]).prod(axis=1))
  return _Matches(image.scores[found][order], hit, ignored | ~hit & too_large_or_small[:, None],
                  np.sum(~ignorable, axis=1))


def _assign(ious, crowd, ignorable):
  """`hit` and `ignored` of `_Matches`, of `(D, G)` overlaps and `(4, G)` objects to ignore."""
  shape = (len(AREAS), len(_THRESHOLDS))
  hit, ignored = np.zeros((2, *shape, len(ious)), bool)
  taken = np.zeros((*shape, ious.shape[1]), bool)
  least = np.minimum(_THRESHOLDS, 1 - 1e-10)[:, None]
  for place in np.flatnonzero((ious >= least[0]).any(axis=1)):
    free = (ious[place] >= least) & (~taken | crowd)
    counted = free & ~ignorable[:, None]
    # One that is ignored is taken only where none that counts is free.
    candidates = np.where(counted.any(axis=-1, keepdims=True), counted, free)
    overlaps = np.where(candidates, ious[place], -1)
    best = ious.shape[1] - 1 - np.argmax(overlaps[..., ::-1], axis=-1)  # of equal ones the last
    area, threshold = np.nonzero(candidates.any(axis=-1))
    chosen = best[area, threshold]
    taken[area, threshold, chosen] = True
    hit[area, threshold, place] = True
    ignored[area, threshold, place] = ignorable[area, chosen]
  return hit, ignored


def _ious(found, boxes, crowd):
  """`(D, G)` overlaps, of a crowd with the detection's area in place of the union's."""
  low, high = np.maximum(found[:, None, :2], boxes[:, :2]), np.minimum(found[:, None, 2:],
                                                                        boxes[:, 2:])
  shared = np.maximum(high - low, 0).prod(axis=-1)
  of_found, own = ((b[:, 2:] - b[:, :2]).prod(axis=1) for b in (found, boxes))
  union = np.where(crowd, of_found[:, None], of_found[:, None] + own - shared)
  return np.divide(shared, union, out=np.zeros_like(shared), where=shared > 0)


def _curve(hit, ignored, objects):
  """Precision at 101 recalls `(10, 101)` and the highest recall `(10,)`, of the best first."""
  right = np.cumsum(hit & ~ignored, axis=1).astype(float)
  wrong = np.cumsum(~hit & ~ignored, axis=1)
  if not hit.shape[1]:
    return np.zeros((len(_THRESHOLDS), len(_RECALLS))), np.zeros(len(_THRESHOLDS))
  precision = right / (right + wrong + np.spacing(1))
  precision = np.maximum.accumulate(precision[:, ::-1], axis=1)[:, ::-1]
  precision = np.pad(precision, ((0, 0), (0, 1)))  # 0 at recalls that are not reached
  recall = right / objects
  return np.array([row[np.searchsorted(reached, _RECALLS)]
                   for row, reached in zip(precision, recall)]), recall[:, -1]


def _official(images, num_classes):
  """Curves by pycocotools."""
  coco, cocoeval = map(importlib.import_module, ('pycocotools.coco', 'pycocotools.cocoeval'))

  def as_coco(annotations):
    data = coco.COCO()
    data.dataset = {'images': [{'id': i} for i in range(len(images))],
                    'categories': [{'id': i} for i in range(num_classes)],
                    'annotations': [{'id': i, **one} for i, one in enumerate(annotations, 1)]}
    data.createIndex()
    return data

  def annotation(index, category, box, **more):
    low, high = box[:2], box[2:]
    return {'image_id': index, 'category_id': int(category), 'bbox': [*low, *(high - low)], **more}

  with contextlib.redirect_stdout(io.StringIO()):
    evaluation = cocoeval.COCOeval(
        as_coco(annotation(i, *one[:2], iscrowd=int(one[2]), area=one[3])
                for i, image in enumerate(images)
                for one in zip(image.classes, image.boxes, image.crowd, image.area)),
        as_coco(annotation(i, category, box, iscrowd=0, score=score,
                           area=(box[2:] - box[:2]).prod())
                for i, image in enumerate(images)
                for category, box, score in zip(
                    image.found_classes, image.found_boxes, image.scores)), 'bbox')
    evaluation.evaluate()
    evaluation.accumulate()
  return Curves(evaluation.eval['precision'][..., -1], evaluation.eval['recall'])
