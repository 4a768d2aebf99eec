"""Affinities for people: how alike the pixels of an image are to one of them, model by model."""

from __future__ import annotations

import os
from collections.abc import Mapping

import cv2
import numpy as np
import PIL.Image
import PIL.ImageDraw

from kdseg_jax import lettering, resizing
from kdseg_jax.data import files, palettes
from kdseg_jax.errors import UserError
from kdseg_jax.report.base import Example

_OPACITY, _MIDDLE = 0.7, 160  # of the colours over the image, whose middle grey is this
_CAPTION = 'cosine similarity to the pixel at the cross'
_BAR, _LINE, _LETTERS, _MARGIN = 256, 24, 13, 8  # of the scale, in pixels


class AffinityWriter:
  """Writes `affinities/<name>.png`; a `Writer` of the maps of `inference.affinity.affinity`.

  Args:
    output: folder.
    pixel: (x, y) in the images.
    titles: of the models, by name.
  """

  def __init__(self, output: str, pixel: tuple[int, int], titles: Mapping[str, str]):
    self._folder = os.path.join(output, 'affinities')
    self._pixel, self._titles, self._written = pixel, titles, 0

  def add(self, example: Example, predictions: Mapping[str, np.ndarray]) -> None:
    """Writes the picture of an image, from the map of each model."""
    files.write_png(os.path.join(self._folder, example.name), draw(
        example.image, self._pixel,
        {self._titles[name]: values for name, values in predictions.items()}))
    self._written += 1

  def close(self) -> str:
    """How many there are, and where."""
    x, y = self._pixel
    return f'{self._written} images. Affinities to the pixel x={x}, y={y}: {self._folder}'


def draw(image: np.ndarray, pixel: tuple[int, int], maps: Mapping[str, np.ndarray], *,
         height: int = 300) -> np.ndarray:
  """Draws how similar one pixel of an image is to all nodes of maps, side by side.

  The image comes first, then each map as colours (viridis) over the grey image, resized bilinearly
  with aligned corners; a cross marks the pixel in all of them. One scale, from the lowest value of
  all maps to 1, stands below.

  Args:
    image: `(H, W, 3)` uint8 RGB.
    pixel: (x, y), column and row in the image, from 0.
    maps: title -> `(h, w)` cosine similarities with that pixel, -1 to 1; of any sizes.
    height: of every panel in pixels.

  Returns:
    `(H', W', 3)` uint8 RGB.

  Raises:
    UserError: there is no map, or one is not `(h, w)`.
  """
  shapes = {title: np.shape(values) for title, values in maps.items()}
  if not maps or any(len(shape) != 2 for shape in shapes.values()):
    raise UserError(f'Expected one or more maps (h, w), got shapes {shapes}.')
  rows, columns = image.shape[:2]
  size = height, max(1, round(height * columns / rows))
  shown = cv2.resize(image, size[::-1], interpolation=(
      cv2.INTER_AREA if rows > height else cv2.INTER_LINEAR))
  # Paler than it is, so that the colours stay those of the scale.
  grey = _MIDDLE + (cv2.cvtColor(shown, cv2.COLOR_RGB2GRAY)[..., None] - 128.0) / 2
  lowest = min(float(np.min(values)) for values in maps.values())
  panels = [shown, *(_over(grey, _shares(values, size, lowest)) for values in maps.values())]
  place = (int((pixel[0] + 0.5) * size[1] / columns), int((pixel[1] + 0.5) * height / rows))
  strip = palettes.strip([_marked(panel, place) for panel in panels], ['image', *maps],
                         height=height)
  return _with_scale(strip, lowest)


def _shares(values, size, lowest):
  """Where the values of a map, at a size, lie between the ends of the scale: 0 to 1."""
  resized = resizing.resize_bilinear(
      np.asarray(values, np.float32)[None, ..., None], size, align_corners=True)
  return np.clip((np.asarray(resized)[0, ..., 0] - lowest) / max(1 - lowest, 1e-6), 0, 1)


def _over(grey, shares):
  """Shares in colours, `(H, W, 3)` uint8 RGB, over grey `(H, W, 1)`; brighter is more."""
  colors = cv2.applyColorMap(np.rint(255 * shares).astype(np.uint8), cv2.COLORMAP_VIRIDIS)
  return np.rint(_OPACITY * colors[..., ::-1] + (1 - _OPACITY) * grey).astype(np.uint8)


def _marked(panel, place):
  """A red cross with a white rim, which no colour of map or image hides."""
  panel = np.ascontiguousarray(panel)
  for color, length, thickness in (((255, 255, 255), 19, 5), ((255, 0, 0), 17, 2)):
    cv2.drawMarker(panel, place, color, cv2.MARKER_CROSS, length, thickness)
  return panel


def _with_scale(picture, lowest):
  """The scale of the colours below a picture, on white."""
  lettered = lettering.letter([_CAPTION])
  font = lettered.font(_LETTERS)
  numbers = f'{lowest:.2f}', '1.00'
  bar = _over(np.float64(_MIDDLE), np.tile(np.linspace(0, 1, _BAR), (_LINE // 2, 1)))
  lengths = [font.getlength(text) for text in (*numbers, _CAPTION)]
  width = max(picture.shape[1], round(_BAR + sum(lengths) + 5 * _MARGIN))
  image = PIL.Image.new('RGB', (width, picture.shape[0] + _LINE + _MARGIN), 'white')
  image.paste(PIL.Image.fromarray(picture))
  draw, left = PIL.ImageDraw.Draw(image), float(_MARGIN)
  middle = picture.shape[0] + _LINE // 2
  draw.text((left, middle), numbers[0], fill='black', font=font, anchor='lm')
  left += lengths[0] + _MARGIN
  image.paste(PIL.Image.fromarray(bar), (round(left), middle - _LINE // 4))
  left += _BAR + _MARGIN
  draw.text((left, middle), f'{numbers[1]}  {_CAPTION}', fill='black', font=font, anchor='lm')
  return np.asarray(image)
