"""Exported models, run without the code of the model."""

from __future__ import annotations

import functools
import os
from typing import Any

import jax
import jax.export
import jax.numpy as jnp
import numpy as np

from kdseg_jax import paths, resizing
from kdseg_jax.data import crops, files
from kdseg_jax.errors import UserError
from kdseg_jax.inference import images as images_lib
from kdseg_jax.inference.predictions import Prediction
from kdseg_jax.inference.views import Inference
from kdseg_jax.interop.exporting import manifest, stablehlo
from kdseg_jax.interop.exporting.sizes import Sizes
from kdseg_jax.tasks import Classification, Segmentation
from kdseg_jax.tasks.detection import heads, rows
from kdseg_jax.tasks.detection.task import of_images, seen, sizes_of


def is_export(path: str | os.PathLike) -> bool:
  """Whether a folder holds an export."""
  return os.path.isfile(os.path.join(path, manifest.FILE))


def load(path: str | os.PathLike) -> Exported:
  """A StableHLO export, for the platform that jax runs on here.

  Args:
    path: folder of the export.

  Raises:
    NotFoundError: there is none, or a file of it is missing.
    UserError: it is of another kind, damaged, not for this platform, or this jax cannot read it.
  """
  folder = os.path.abspath(paths.local(path))
  description = manifest.read(folder)
  if description['kind'] != 'stablehlo':
    raise UserError(f'{folder}: is an export of kind {description["kind"]}, which other programs '
                    'run (its README.md says how); export with --format=stablehlo for this one.')
  platform = jax.export.default_export_platform()
  of_platform = {name: file for file, about in description['files'].items()
                 for name in about.get('platforms', ())}
  if platform not in of_platform:
    raise UserError(f'{folder}: is for {", ".join(of_platform)}, and jax runs on {platform} here. '
                    f'Export again with --platforms={platform}.')
  file = manifest.check_file(folder, description, of_platform[platform])
  return Exported(folder, description, stablehlo.read(file, description['jax']))


class Exported:
  """A trained model from its export; what `Model` has, but for variables, module and config.

  Attributes:
    path: absolute path of the folder.
    description: what its `export.json` holds.
    classes: names of the classes.
    palette: their colours, `((r, g, b), ...)`, or None.
    sizes: of the images that it takes.
  """

  def __init__(self, path: str, description: dict[str, Any], function: Any):
    self.path, self.description = path, description
    self.classes = tuple(description['classes'])
    palette = description['palette']
    self.palette = None if palette is None else tuple(map(tuple, palette))
    self.sizes = Sizes.of(description['input'])
    self._function = function
    self._jitted = jax.jit(function)

  @property
  def is_classifier(self) -> bool:
    """Whether it classifies images, and does not segment them."""
    return self.description['task'] == manifest.CLASSIFICATION

  def apply(self, images: jax.Array) -> tuple[jax.Array, dict[str, jax.Array]]:
    """`(logits, {'logits': logits})`, of a detector `predictions`; pure: for `jax.jit`.

    Args:
      images: `(N, H, W, 3)` uint8 RGB, of the `sizes`.

    Returns:
      Float32 logits, of a segmenter `(N, H, W, C)` at the size of the images, of a classifier
      `(N, C)`; of a detector `(N, P, 5 + C)` boxes and probabilities of all anchors, before
      suppression, see `tasks.detection.rows`.
    """
    found = self._function(images)
    return found, {manifest.OUTPUTS[self.description['task']]: found}

  def predict(self, images: Any, *, batch_size: int = 1, scores: bool = True) -> list[Prediction]:
    """What the model says of images, as `Model.predict`.

    Images that the export does not take at their own size are resized where it has one size; where
    it takes multiples, they are padded with the mean colour at the bottom and right, which is close
    to the padding that the live model masks. Those of a detector are resized, their shape kept, to
    fit into its size, and padded likewise; what it predicts is suppressed as the live model's is.
    Predictions are at the images' sizes.

    Args:
      images: see `Model.predict`.
      batch_size: how many images of one size the model sees at once, if it takes several.
      scores: whether a segmentation has its scores.

    Returns:
      A `Segmentation`, `Classification` or `Detections` for each image, in their order.

    Raises:
      UserError: an image of another type or shape, or a file that cannot be read.
    """
    if batch_size < 1:
      raise UserError(f'batch_size={batch_size} must be at least 1.')
    images = images_lib.as_list(images)
    found: dict[int, Prediction] = {}
    for indices, batch in images_lib.batches(images, self.sizes.batch or batch_size):
      found |= zip(indices, self._predict(batch, scores), strict=True)
    return [found[index] for index in range(len(images))]

  def _predict(self, images, scores):
    if self.description['task'] == manifest.DETECTION:
      return self._detect(images)
    size = images.shape[1:3]
    logits = self._jitted(self._shown(images))
    if self.is_classifier:
      return [Classification(int(np.argmax(row)), row)
              for row in np.asarray(jax.nn.softmax(logits))]
    resized = (self.sizes.size or self.description['resize']) is not None
    labels, probabilities = _at_size(logits, size, resized=resized, scores=scores)
    return [Segmentation(label, np.asarray(probabilities[i]) if scores else None)
            for i, label in enumerate(np.asarray(labels))]

  def _detect(self, images):
    sides = self.description['sides']
    views = Inference(canvas=self.sizes.size, sides=tuple(sides or ()))
    batch, scale = seen(images, views, self.description['resize'] or ())
    shown = np.where(batch['mask'][..., None], batch['image'], self._mean())
    found = jax.tree.map(np.asarray, self._suppressed(self._jitted(shown), batch['mask']))
    return of_images(found, scale, images.shape[1:3])

  @functools.cached_property
  def _suppressed(self):
    """`(predictions, masks) -> suppression.Detections`, compiled."""
    head = heads.HEADS[self.description['output']['head']](len(self.classes))
    return jax.jit(lambda found, mask: rows.detections(
        head, found, self.sizes.size, sizes_of(mask)))

  def _mean(self):
    return np.round(self.description['preprocessing']['mean']).astype(np.uint8)

  def _shown(self, images):
    resize, centre = self.description['resize'], self.description.get('centre')
    if centre:
      images = _each(files.resize_image, images, tuple(resize)) if resize else images
      images, resize = _each(crops.centre, images, centre[0], tuple(centre[1:])), None
    size = self.sizes.size or resize
    if size:
      images = _each(files.resize_image, images, tuple(size))
    margins = [(0, -side % self.sizes.multiple) for side in images.shape[1:3]]
    if not any(margin for _, margin in margins):
      return images
    inside = np.pad(np.ones(images.shape[:3], bool), [(0, 0), *margins])
    padded = np.pad(images, [(0, 0), *margins, (0, 0)])
    return np.where(inside[..., None], padded, self._mean())

  def __repr__(self):
    return (f'Exported({self.description["model"]}, {len(self.classes)} classes, {self.sizes}, '
            f'{self.path})')


def _each(function, images, *options):
  return np.stack([function(image, *options) for image in images])


@functools.partial(jax.jit, static_argnames=('size', 'resized', 'scores'))
def _at_size(logits, size, *, resized, scores):
  """Labels and, if asked for, probabilities at the size of images that were resized or padded."""
  if resized:
    logits = resizing.resize_bilinear(logits, size, align_corners=False)
  logits = logits[:, :size[0], :size[1]]
  labels = jnp.argmax(logits, axis=-1).astype(jnp.uint8)
  return labels, jax.nn.softmax(logits) if scores else None
