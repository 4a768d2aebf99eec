"""How alike the pixels of an image are to a model: cosines of its last features."""

from __future__ import annotations

import re
from collections.abc import Mapping

import jax
import numpy as np

from kdseg_jax.data import files
from kdseg_jax.errors import UserError
from kdseg_jax.inference.model import Model


def affinity(model: Model, image: np.ndarray, pixel: tuple[int, int]) -> np.ndarray:
  """The affinity of every node of a model's last feature map to one pixel of an image.

  `f_i . f_p / (|f_i| |f_p|)`, a row of what `losses.pairwise_affinity` compares where every pixel
  is a node; 0 for a zero vector. The features f are what the terms of knowledge adaptation compare
  and their autoencoder reads by default, the tap `embedding`: what the classifier of a segmenter
  takes, of a teacher and of a student, without the adapters of the terms. A model whose embedding
  is no map, as of a classifier or detector, has its deepest `stage<i>` shown.

  p is the node nearest to the pixel, where the corners of map and image coincide, as they do where
  these terms resize a map. The model sees the whole image once, at `config.data.size` if that is
  set, whatever `config.eval` says of windows, scales, crops and padding.

  Args:
    model: a loaded model.
    image: `(H, W, 3)` uint8 RGB.
    pixel: (x, y), column and row in the image, from 0.

  Returns:
    `(h, w)` float32, -1 to 1, at the size of the map.

  Raises:
    UserError: the pixel is outside the image, or the model has no map of features.

  Reference: He et al., "Knowledge Adaptation for Efficient Semantic Segmentation" (CVPR 2019), the
  matrix A of its affinity term.
  """
  height, width = image.shape[:2]
  x, y = pixel
  if not (0 <= x < width and 0 <= y < height):
    raise UserError(f'The pixel x={x}, y={y} is outside the image, which is {width} wide and '
                    f'{height} high: expected x from 0 to {width - 1} and y from 0 to '
                    f'{height - 1}.')
  size = tuple(model.config.data.size)
  shown = files.resize_image(image, size) if size else image
  features = np.asarray(_last_features(model, shown[None]), np.float32)[0]
  return cosines(features, node_of(pixel, (height, width), features.shape[:2]))


def cosines(features: np.ndarray, node: tuple[int, int]) -> np.ndarray:
  """Cosines of all vectors of a map `(h, w, C)` with that at (row, column), `(h, w)`."""
  lengths = np.linalg.norm(features, axis=-1)
  products = lengths * lengths[node]
  return np.divide(features @ features[node], products, out=np.zeros_like(products),
                   where=products > 0)


def node_of(pixel: tuple[int, int], size: tuple[int, int], nodes: tuple[int, int]
            ) -> tuple[int, int]:
  """(row, column) of the node nearest to a pixel (x, y), of a map whose corners are the image's.

  Args:
    pixel: in the image.
    size: (height, width) of the image.
    nodes: (h, w) of the map.
  """
  row, column = (int(place * (few - 1) / max(many - 1, 1) + 0.5)
                 for place, many, few in zip(pixel[::-1], size, nodes, strict=True))
  return row, column


def last_map(taps: Mapping[str, jax.Array]) -> str:
  """Name of the tap that `affinity` shows.

  Raises:
    UserError: no tap is a map (names those there are).
  """
  stages = [name for name in taps if re.fullmatch(r'stage\d+', name)]
  for name in ('embedding', *sorted(stages, key=lambda name: int(name[5:]), reverse=True)):
    if getattr(taps.get(name), 'ndim', 0) == 4:
      return name
  raise UserError(f'The model has no map of features, whose affinity could be shown: expected '
                  f'the tap embedding or a stage<i> of shape (N, h, w, C); it has {sorted(taps)}.')


@jax.jit
def _last_features(model, images):
  _, taps = model.apply(images)
  return taps[last_map(taps)]
