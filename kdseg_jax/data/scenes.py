"""Handwritten digits pasted on photographs: the built-in data, no download needed.

The 1,797 real 8x8 scans of scikit-learn's digits (UCI optical digits, Alpaydin and Kaynak, 1998)
are enlarged, rotated, coloured and pasted, one over the other, on crops of the two photographs
that scikit-learn ships. One source serves segmentation, detection and classification.
"""

from __future__ import annotations

import functools
import importlib.resources
from typing import Any

import cv2
import numpy as np

from kdseg_jax import names
from kdseg_jax.data import boxed, files, palettes
from kdseg_jax.errors import UserError

CLASSES = ('background', *(f'digit {digit}' for digit in range(10)))
_SPLITS = {'train': 0, 'val': 1, 'test': 2}  # the number is part of every scene's seed
_LENGTHS = {'train': 10_000, 'val': 250, 'test': 500}
_SCAN_PARTS = {'train': (0.0, 0.6), 'val': (0.6, 0.7), 'test': (0.7, 1.0)}  # of every class
# (top, bottom, left, right) of the photographs' height and width.
_PHOTOGRAPH_PARTS = {'train': (0.0, 1.0, 0.0, 0.5), 'val': (0.75, 1.0, 0.5, 1.0),
                     'test': (0.0, 0.75, 0.5, 1.0)}
_SCAN_SIDE = 8
_DIGIT_HEIGHTS = (20 / 64, 40 / 64)  # of the shorter image side
_MINIMUM_SIDE = 32
_MOST_HIDDEN = 0.35  # of a digit, by one pasted later, if four draws of its place allow
_KEPT_BYTES = 200_000_000  # of scenes that were made, in memory; making one takes as long as a step
_LEAST_CONTRAST = 110  # distance in RGB to what lies below, if four draws of the colour allow


class Scenes:
  """Scenes of 1 to 4 digits; scene i is a function of (seed, split, i) alone.

  `source[i]` is a dict of
    image: `(H, W, 3)` uint8 RGB.
    label: `(H, W)` uint8: 0 background, 1 + d digit d, 255 on the one-pixel rim around each digit.
    image_id: `<split>_<i>`.
    boxes: `(M, 4)` float32, x1 y1 x2 y2 in pixels around the visible part of each digit (x2, y2 is
      the first column, row after it). Digits that others hide entirely are left out.
    classes: `(M,)` int32, the digit in each box, 0 to 9.
    area: `(M,)` float32, how many pixels of each digit show.
    image_class: int, the digit that shows the largest area.

  Splits share neither a scan (60, 10 and 30% of every digit's scans) nor a pixel of the photographs
  (left half; right half, bottom quarter; rest of the right half).

  Args:
    split: 'train', 'val' or 'test'.
    seed: of the whole data set.
    size: (height, width) of the scenes, both at least 32.
    length: number of scenes; default 10,000, 250, 500.

  Raises:
    ValueError: unknown split, size below 32, or no scenes.
  """

  classes = CLASSES
  palette = palettes.SCENES
  is_generated = True  # no file of the user's is read

  def __init__(self, split: str, *, seed: int = 0, size: tuple[int, int] = (64, 64),
               length: int | None = None):
    names.require(split, _SPLITS, 'split of scenes')
    if min(size) < _MINIMUM_SIDE:
      raise UserError(f'size={tuple(size)}: digits cannot be read below {_MINIMUM_SIDE} pixels; '
                      f'choose a height and width of at least {_MINIMUM_SIDE}.')
    if length is not None and length < 1:
      raise UserError(f'length={length}: expected at least one scene.')
    self.split, self.seed, self.size = split, seed, tuple(size)
    self._length = _LENGTHS[split] if length is None else length
    self._kept = {}

  def __len__(self) -> int:
    return self._length

  def __getitem__(self, index: int) -> dict[str, Any]:
    if not 0 <= index < self._length:
      raise IndexError(f'Scene {index} does not exist: there are {self._length}.')
    if index not in self._kept:
      example = self._make(index)
      if len(self._kept) * example['image'].nbytes * 4 / 3 > _KEPT_BYTES:
        return example
      for value in example.values():
        if isinstance(value, np.ndarray):
          value.flags.writeable = False  # it is handed out again
      self._kept[index] = example
    return dict(self._kept[index])

  def __getstate__(self) -> dict[str, Any]:
    return self.__dict__ | {'_kept': {}}

  def _make(self, index):
    rng = np.random.default_rng((self.seed, _SPLITS[self.split], index))
    image = _background(rng, self.split, self.size)
    instances = np.full(self.size, -1, np.int8)
    digits = []
    scans, scan_classes = split_scans(self.split)
    for number in range(rng.integers(1, 5)):
      chosen = rng.integers(len(scans))
      digits.append(scan_classes[chosen])
      _paste(rng, image, instances, scans[chosen], number)
    rim = find_rim(instances)
    lookup = np.array([0, *(1 + digit for digit in digits)], np.uint8)
    label = np.where(rim, np.uint8(files.IGNORE_LABEL), lookup[instances + 1])
    return {'image': np.rint(image).astype(np.uint8), 'label': label,
            'image_id': f'{self.split}_{index:05d}',
            **_visible(np.where(rim, np.int8(-1), instances), digits)}


class _Digits:
  """The scenes as a source of their digits, without the background."""

  classes = CLASSES[1:]
  palette = palettes.SCENES[1:]
  is_generated = True

  def __init__(self, split: str, **options: Any):
    self._scenes = Scenes(split, **options)
    self.size = self._scenes.size

  def __len__(self) -> int:
    return len(self._scenes)


class SceneClasses(_Digits):
  """The scenes with one class each, the digit that shows the largest area.

  `source[i]` has `image` `(H, W, 3)` uint8 RGB, `label` int32, 0 to 9, and `image_id`.

  Args:
    split: see `Scenes`.
    **options: likewise.
  """

  def __getitem__(self, index: int) -> dict[str, Any]:
    scene = self._scenes[index]
    return {'image': scene['image'], 'label': np.int32(scene['image_class']),
            'image_id': scene['image_id']}


class SceneBoxes(_Digits):
  """The scenes with a box around what shows of each digit.

  `source[i]` is as of `boxed.BoxSource`: `image`, `boxes`, `classes` 0 to 9, `crowd` (none is),
  `area`, `scale` (1) and `image_id`.

  Args:
    split: see `Scenes`.
    **options: likewise.
  """

  def __getitem__(self, index: int) -> dict[str, Any]:
    scene = self._scenes[index]
    arrays = {name: scene[name] for name in ('boxes', 'classes', 'area')}
    return boxed.example(scene['image'], arrays | {'crowd': np.zeros(len(arrays['area']), bool)},
                         scene['image_id'], None)


@functools.cache
def split_scans(split: str) -> tuple[np.ndarray, np.ndarray]:
  """The digit scans of a split: `(N, 8, 8)` float32 ink from 0 to 1, and `(N,)` int32 digits."""
  import sklearn.datasets  # slow to import, and only this source needs it

  data = sklearn.datasets.load_digits()
  low, high = _SCAN_PARTS[split]
  chosen = []
  for digit in range(10):
    scans = np.random.default_rng(digit).permutation(np.flatnonzero(data.target == digit))
    chosen.append(scans[round(low * len(scans)):round(high * len(scans))])
  chosen = np.concatenate(chosen)
  return ((data.images[chosen] / 16).astype(np.float32), data.target[chosen].astype(np.int32))


@functools.cache
def split_photographs(split: str) -> tuple[np.ndarray, ...]:
  """The part of each photograph that belongs to a split, uint8 RGB."""
  top, bottom, left, right = _PHOTOGRAPH_PARTS[split]
  parts = []
  for name in ('china.jpg', 'flower.jpg'):
    resource = importlib.resources.files('sklearn') / 'datasets' / 'images' / name
    with importlib.resources.as_file(resource) as path:
      photograph = files.read_image(path)
    height, width = photograph.shape[:2]
    parts.append(photograph[round(top * height):round(bottom * height),
                            round(left * width):round(right * width)])
  return tuple(parts)


def find_rim(instances: np.ndarray) -> np.ndarray:
  """Pixels that touch (8 neighbours) a digit lying over what they show: a rim of one pixel.

  Args:
    instances: `(H, W)` int8, number of the digit in order of pasting, -1 = background.
  """
  above = cv2.dilate((instances + 1).astype(np.uint8), np.ones((3, 3), np.uint8))
  return above > instances + 1


def _background(rng, split, size):
  """A random crop of a photograph, of random scale, mirror image and brightness, float32."""
  photographs = split_photographs(split)
  photograph = photographs[rng.integers(len(photographs))]
  limit = min(photograph.shape[0] / size[0], photograph.shape[1] / size[1])
  scale = min(rng.uniform(0.75, 1.5), limit)
  height, width = (max(1, int(side * scale)) for side in size)
  top = rng.integers(photograph.shape[0] - height + 1)
  left = rng.integers(photograph.shape[1] - width + 1)
  crop = files.resize_image(photograph[top:top + height, left:left + width], size)
  if rng.random() < 0.5:
    crop = crop[:, ::-1]
  gain, shift = rng.uniform(0.25, 0.6), rng.uniform(-10, 10)
  return np.clip(crop * np.float32(gain) + np.float32(shift), 0, 255)


def _paste(rng, image, instances, scan, number):
  """Draws one digit into image and instances, both in place."""
  alpha = _draw(rng, scan, min(image.shape[:2]))
  stroke = alpha > 0.5
  window = _place(rng, instances, stroke)
  color = _visible_color(rng, cv2.mean(image[window], stroke.astype(np.uint8))[:3])
  opacity = np.float32(rng.uniform(0.75, 1.0)) * alpha[..., None]
  image[window] += opacity * (color - image[window])
  instances[window][stroke] = number


def _place(rng, instances, stroke):
  """The first of four places that leaves the digits below readable, else the best of them."""
  tops, lefts = (rng.integers(total - part + 1, size=4)
                 for total, part in zip(instances.shape, stroke.shape, strict=True))
  areas = np.bincount(instances.ravel() + 1)[1:]
  windows, hidden = [], []
  for top, left in zip(tops, lefts, strict=True):
    windows.append((slice(top, top + stroke.shape[0]), slice(left, left + stroke.shape[1])))
    covered = np.bincount(instances[windows[-1]][stroke] + 1, minlength=len(areas) + 1)[1:]
    hidden.append(np.max(covered / np.maximum(areas, 1), initial=0))
    if hidden[-1] <= _MOST_HIDDEN:
      break
  return windows[np.argmin(hidden)]


def _draw(rng, scan, side):
  """Opacity of a rotated, enlarged scan, cut to its ink, float32 from 0 to 1."""
  cell = rng.uniform(*_DIGIT_HEIGHTS) * side / _SCAN_SIDE
  canvas = int(np.ceil(1.5 * _SCAN_SIDE * cell)) + 2
  turn = cv2.getRotationMatrix2D((0, 0), rng.uniform(-15, 15), cell)
  turn[:, 2] = (canvas - 1) / 2 - turn[:, :2] @ np.full(2, (_SCAN_SIDE - 1) / 2)
  ink = cv2.warpAffine(scan, turn, (canvas, canvas), flags=cv2.INTER_CUBIC)
  alpha = np.clip((ink - 0.3) / 0.3, 0, 1)
  rows, columns = np.flatnonzero(alpha.any(axis=1)), np.flatnonzero(alpha.any(axis=0))
  return alpha[rows[0]:rows[-1] + 1, columns[0]:columns[-1] + 1]


def _visible_color(rng, background):
  """A random colour: the first of four that stands out, else the one that stands out most."""
  colors = 255 - rng.uniform(0, 1, (4, 3)) * rng.uniform(60, 150, (4, 1))  # bright ones
  colors = colors.astype(np.float32)
  distances = np.linalg.norm(colors - np.float32(background), axis=1)
  clear = np.flatnonzero(distances > _LEAST_CONTRAST)
  return colors[clear[0] if len(clear) else np.argmax(distances)]


def _visible(instances, digits):
  """Boxes and classes of the digits that show, and the class of the largest."""
  boxes, classes, areas = [], [], []
  for number, digit in enumerate(digits):
    shown = instances == number
    area = np.count_nonzero(shown)
    if not area:
      continue
    rows, columns = np.flatnonzero(shown.any(axis=1)), np.flatnonzero(shown.any(axis=0))
    boxes.append((columns[0], rows[0], columns[-1] + 1, rows[-1] + 1))
    classes.append(digit)
    areas.append(area)
  return {'boxes': np.array(boxes, np.float32), 'classes': np.array(classes, np.int32),
          'area': np.array(areas, np.float32), 'image_class': int(classes[np.argmax(areas)])}
