"""Colours of classes, and pictures of labels."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence

import cv2
import numpy as np
import PIL.Image
import PIL.ImageDraw

from kdseg_jax import lettering
from kdseg_jax.data import files
from kdseg_jax.errors import UserError

# The colours that the SegNet authors and most CamVid papers use, in label order.
CAMVID = np.array([
    (128, 128, 128), (128, 0, 0), (192, 192, 128), (128, 64, 128), (60, 40, 222), (128, 128, 0),
    (192, 128, 128), (64, 64, 128), (64, 0, 128), (64, 64, 0), (0, 128, 192)], np.uint8)

# The colours of the Cityscapes authors, in the order of the trainIds.
CITYSCAPES = np.array([
    (128, 64, 128), (244, 35, 232), (70, 70, 70), (102, 102, 156), (190, 153, 153),
    (153, 153, 153), (250, 170, 30), (220, 220, 0), (107, 142, 35), (152, 251, 152),
    (70, 130, 180), (220, 20, 60), (255, 0, 0), (0, 0, 142), (0, 0, 70), (0, 60, 100),
    (0, 80, 100), (0, 0, 230), (119, 11, 32)], np.uint8)

# Background, then ten hues that stay apart from each other on photographs.
SCENES = np.array([
    (38, 38, 46), (230, 57, 70), (255, 159, 28), (255, 230, 64), (118, 200, 60), (0, 150, 110),
    (60, 215, 235), (40, 110, 240), (140, 80, 220), (245, 110, 200), (165, 105, 65)], np.uint8)

_MOST_CLASSES_IN_LEGEND = 25
_TITLE = 15  # pixels, of its letters
_DARK, _GREY = (40, 40, 40), (150, 150, 150)


def default_palette(num_classes: int) -> np.ndarray:
  """Colours for data that bring none: a grey-blue, then ones that differ from all before them.

  Class by class the colour of a grid that is farthest in CIELAB from black, white and every class
  before it, of those that are at least 70 from the last two. So classes that are neighbours in
  the list differ clearly, and a class keeps its colour when others follow it.

  Args:
    num_classes: number of classes, 1 to 255.

  Returns:
    `(num_classes, 3)` uint8, all different, none near black, which is what ignored pixels are.

  Raises:
    ValueError: labels of so many classes do not fit uint8 beside 255 = ignore.
  """
  _check_count(num_classes)
  return _distinct_colors()[:num_classes].copy()


def voc_palette(num_classes: int) -> np.ndarray:
  """The Pascal VOC colours: the bits of the class index, spread over red, green and blue.

  Args:
    num_classes: number of classes, 1 to 255.

  Returns:
    `(num_classes, 3)` uint8; class 0 is black.

  Raises:
    ValueError: labels of so many classes do not fit uint8 beside 255 = ignore.
  """
  _check_count(num_classes)
  index = np.arange(num_classes)[:, None]
  channel = np.arange(3)
  palette = np.zeros((num_classes, 3), np.int64)
  for group in range(3):  # three bits of the index at a time, lowest first, into the high bits
    palette |= ((index >> (3 * group + channel)) & 1) << (7 - group)
  return palette.astype(np.uint8)


def colorize(label: np.ndarray, palette: np.ndarray) -> np.ndarray:
  """Draws labels in the colours of their classes; 255 (ignore) is black.

  Args:
    label: `(H, W)` of class indices.
    palette: `(C, 3)` uint8.

  Returns:
    `(H, W, 3)` uint8 RGB.

  Raises:
    ValueError: a label is neither 255 nor the index of a colour.
  """
  ignored = label == files.IGNORE_LABEL
  known = np.where(ignored, 0, label)
  if known.size and not 0 <= known.min() <= known.max() < len(palette):
    raise UserError(f'Labels reach from {known.min()} to {known.max()}, but the palette has '
                    f'colours for 0 to {len(palette) - 1}.')
  return np.where(ignored[..., None], np.uint8(0), palette[known])


def overlay(image: np.ndarray, label: np.ndarray, palette: np.ndarray,
            alpha: float = 0.6) -> np.ndarray:
  """Lays the colours of the labels over the image; ignored pixels show the image itself.

  Args:
    image: `(H, W, 3)` uint8 RGB.
    label: `(H, W)` of class indices, 255 = ignore.
    palette: `(C, 3)` uint8.
    alpha: opacity of the colours, 0 to 1.

  Returns:
    `(H, W, 3)` uint8 RGB.
  """
  if image.shape[:2] != label.shape:
    raise UserError(f'The image is {image.shape[:2]}, its label {label.shape} (height, width).')
  mixed = (1 - alpha) * image + alpha * colorize(label, palette)
  ignored = (label == files.IGNORE_LABEL)[..., None]
  return np.where(ignored, image, np.rint(mixed).astype(np.uint8))


def strip(images: Sequence[np.ndarray], titles: Sequence[str], *,
          height: int = 256) -> np.ndarray:
  """Puts pictures side by side on white, each under its title.

  Args:
    images: `(H, W, 3)` uint8 RGB each.
    titles: one a picture; drawn smaller where it would not fit, see also `with_score`.
    height: of every panel in pixels; small pictures are enlarged without smoothing.

  Returns:
    One `(H', W', 3)` uint8 RGB picture.
  """
  if not images or len(images) != len(titles):
    raise UserError(f'Expected one title for each picture, got {len(images)} pictures and '
                    f'{len(titles)} titles.')
  margin, bar = 8, 28
  lettered = lettering.letter(titles, instead='picture {}')
  panels = []
  for image, title in zip(images, lettered.texts, strict=True):
    width = max(1, round(image.shape[1] * height / image.shape[0]))
    smooth = cv2.INTER_AREA if height < image.shape[0] else cv2.INTER_NEAREST_EXACT
    panel = cv2.resize(image, (width, height), interpolation=smooth)
    panel = np.concatenate([_title(title, lettered, bar, width), panel])
    panels.append(cv2.copyMakeBorder(panel, 0, margin, margin // 2, margin // 2,
                                     cv2.BORDER_CONSTANT, value=(255, 255, 255)))
  return np.concatenate(panels, axis=1)


def comparison(image: np.ndarray, label: np.ndarray, predictions: Mapping[str, np.ndarray],
               classes: Sequence[str], palette: np.ndarray) -> np.ndarray:
  """An image, its label and what was predicted, side by side as overlays above a legend.

  Args:
    image: `(H, W, 3)` uint8 RGB.
    label: `(H, W)` of class indices, 255 = ignore.
    predictions: title -> `(H, W)` of class indices; see `with_score` for titles.
    classes: C names.
    palette: `(C, 3)` uint8.

  Returns:
    `(H', W', 3)` uint8 RGB.
  """
  labels = {'label': label} | predictions
  overlays = [overlay(image, drawn, palette) for drawn in labels.values()]
  return with_legend(strip([image, *overlays], ['image', *labels]), list(labels.values()),
                     classes, palette)


def with_score(title: str, mean_iou: float | None) -> str:
  """A panel's title with its mIoU in percent, e.g. 'teacher 65.1'; without where it is None."""
  return title if mean_iou is None else f'{title} {100 * mean_iou:.1f}'


def with_legend(picture: np.ndarray, labels: Sequence[np.ndarray], classes: Sequence[str],
                palette: np.ndarray) -> np.ndarray:
  """Puts a legend of colours and class names below a picture, on white.

  Args:
    picture: `(H, W, 3)` uint8 RGB; stays as it is, in the upper left corner.
    labels: the labels that the picture shows, of any shapes. Of more than 25 classes, only those
      that occur in them get an entry.
    classes: C names, see `lettering.letter` for those that no font can draw.
    palette: `(C, 3)` uint8.

  Returns:
    `(H', W', 3)` uint8 RGB, at least as wide as the picture and 256 pixels.
  """
  indices = range(len(classes))
  if len(classes) > _MOST_CLASSES_IN_LEGEND:
    occurring = np.unique(np.concatenate([np.unique(label) for label in labels]))
    indices = occurring[occurring < len(classes)]
  lettered = lettering.letter(classes)
  names, font = lettered.texts, lettered.font(13)
  side, line = 14, 22
  entry = max([0, *(int(font.getlength(names[i])) for i in indices)]) + side + 24
  width = max(picture.shape[1], 256, entry)
  columns = width // entry
  rows = -(-len(indices) // columns)
  image = PIL.Image.new('RGB', (width, picture.shape[0] + line * rows + 10), 'white')
  image.paste(PIL.Image.fromarray(picture))
  draw = PIL.ImageDraw.Draw(image)
  for place, index in enumerate(indices):
    left = 6 + place % columns * entry
    middle = picture.shape[0] + 5 + line // 2 + place // columns * line
    draw.rectangle((left, middle - side // 2, left + side, middle + side // 2),
                   fill=tuple(map(int, palette[index])), outline=_GREY)
    draw.text((left + side + 7, middle), names[index], fill=_DARK, font=font, anchor='lm')
  return np.asarray(image)


def _check_count(num_classes):
  if not 1 <= num_classes <= 255:
    raise UserError(f'num_classes must be 1 to 255, got {num_classes}: 255 means ignore.')


@functools.cache
def _distinct_colors():
  """The colours of `default_palette`, `(255, 3)` uint8."""
  levels = np.linspace(0, 255, 18).round().astype(np.uint8)
  grid = np.stack(np.meshgrid(levels, levels, levels, indexing='ij'), axis=-1).reshape(-1, 3)
  lightness = _lab(grid)[:, 0]
  grid = grid[(lightness >= 35) & (lightness <= 92)]  # on photographs, and on white in a legend
  points = _lab(grid)
  distance_to = lambda color: np.linalg.norm(points - _lab(np.uint8([color])), axis=1)
  colors = [(118, 128, 142)]
  before_last, last = np.full(len(grid), np.inf), distance_to(colors[0])
  nearest = np.min([last, distance_to((0, 0, 0)), distance_to((255, 255, 255))], axis=0)
  while len(colors) < 255:
    clear_of_neighbours = np.minimum(last, before_last) >= 70
    colors.append(grid[np.argmax(np.where(clear_of_neighbours, nearest, -1))])
    before_last, last = last, distance_to(colors[-1])
    nearest = np.minimum(nearest, last)
  return np.array(colors, np.uint8)


def _lab(colors):
  """CIELAB of `(N, 3)` uint8 sRGB."""
  return cv2.cvtColor(colors[None].astype(np.float32) / 255, cv2.COLOR_RGB2LAB)[0]


def _title(text, lettered, height, width):
  """White bar of the given size with the text in its middle."""
  bar = PIL.Image.new('RGB', (width, height), 'white')
  PIL.ImageDraw.Draw(bar).text((width / 2, height / 2), text, fill=_DARK, anchor='mm',
                               font=lettered.fitted(text, _TITLE, width))
  return np.asarray(bar)
