"""Semantic segmentation: supervised loss, confusion counts and predictions."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Mapping
from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from kdseg_jax import losses, metrics, names, resizing
from kdseg_jax.data import files
from kdseg_jax.errors import UserError
from kdseg_jax.inference.views import WHOLE_IMAGE, Inference
from kdseg_jax.inference.windows import make_predictor, make_scorer
from kdseg_jax.tasks.base import Field, MainMetric, Outputs
from kdseg_jax.tasks.pixel_check import PixelCheck

SUPERVISED_LOSSES = ('cross_entropy', 'ohem_cross_entropy')


class Segmentation(NamedTuple):
  """A segmented image.

  Attributes:
    labels: `(H, W)` uint8 at the size of the image, indices into `Model.classes`.
    scores: `(H, W, C)` float32 probabilities there; None where they were not asked for.
  """

  labels: np.ndarray
  scores: np.ndarray | None


def _as_image(size):  # no lambda: sources that hold a field are pickled
  return size


@dataclasses.dataclass(frozen=True)
class SegmentationTask:
  """Cross-entropy of all or of the hard pixels at label size, one global confusion matrix, mIoU.

  Attributes:
    num_classes: number of classes.
    align_corners: how logits are upsampled to label size.
    auxiliary_weight: weight of the auxiliary head's cross-entropy (0.4 in PSPNet and after it).
    supervised_loss: name in `kdseg_jax.losses` of the main head's loss, one of
      `SUPERVISED_LOSSES`; the auxiliary head always has the plain cross-entropy, as in SKD.
    ohem_threshold: of `losses.ohem_cross_entropy`.
    ohem_min_kept: of `losses.ohem_cross_entropy`, pixels of the global batch.
    absent_as_zero: a class that occurs in neither labels nor predictions counts as 0 in the mean
      (an older convention) instead of being left out.
  """

  num_classes: int
  align_corners: bool = True
  auxiliary_weight: float = 0.4
  supervised_loss: str = 'cross_entropy'
  ohem_threshold: float = 0.7
  ohem_min_kept: int = 100_000
  absent_as_zero: bool = False

  name: ClassVar[str] = 'segmentation'
  fields: ClassVar[Mapping[str, Field]] = {'label': Field(
      shape=_as_image, dtype=np.uint8, padding=files.IGNORE_LABEL, geometry='map')}
  main_metric: ClassVar[MainMetric] = MainMetric(
      'mean_iou', 'mIoU', scale=100, unit='%', per_class='per_class_iou')

  def __post_init__(self):
    names.require(self.supervised_loss, SUPERVISED_LOSSES, 'supervised loss')
    if self.num_classes < 2:
      raise UserError(
          f'The data have {self.num_classes} class. Segmentation needs at least 2: name the '
          'background too, with a label of its own.')
    if not 0 <= self.ohem_threshold <= 1 or self.ohem_min_kept < 0:
      raise UserError(
          f'ohem_threshold={self.ohem_threshold} must be in [0, 1], and '
          f'ohem_min_kept={self.ohem_min_kept} at least 0.')

  def loss(self, taps: dict, batch: dict, *, axis_name: str | None = None):
    """`L(logits) + auxiliary_weight * CE(aux_logits)`, the latter if the model has such a head.

    L is `supervised_loss`.

    Returns:
      `(loss, (targets, metrics))`; segmentation assigns no targets.
    """
    arguments: dict[str, Any] = {
        'ignore_label': files.IGNORE_LABEL, 'align_corners': self.align_corners,
        'axis_name': axis_name}
    if self.supervised_loss == 'ohem_cross_entropy':
      value = losses.ohem_cross_entropy(
          taps['logits'], batch['label'], threshold=self.ohem_threshold,
          min_kept=self.ohem_min_kept, **arguments)
    else:
      value = losses.cross_entropy(taps['logits'], batch['label'], **arguments)
    loss, terms = value, {self.supervised_loss: value}
    if 'aux_logits' in taps:
      terms['auxiliary'] = losses.cross_entropy(taps['aux_logits'], batch['label'], **arguments)
      loss += self.auxiliary_weight * terms['auxiliary']
    return loss, ({}, terms)

  def upsample(self, scores: jax.Array, size: tuple[int, int]) -> jax.Array:
    """Logits or probabilities `(N, h, w, C)` at a size, bilinearly."""
    return resizing.resize_bilinear(scores, size, align_corners=self.align_corners)

  def predict(self, scores: jax.Array, size: tuple[int, int]) -> jax.Array:
    """Labels `(N, *size)` int32: upsampled logits or probabilities, then argmax."""
    return jnp.argmax(self.upsample(scores, size), axis=-1).astype(jnp.int32)

  def scorer(self, model: Any, views: Inference = WHOLE_IMAGE) -> Callable:
    """`(variables, batch) -> scores`, see `make_scorer`, for labels at the size of the images."""
    _check_views(views)
    score = make_scorer(self, model, views)
    return lambda variables, batch: score(variables, batch, batch['image'].shape[1:3])

  def predictor(self, model: Any, views: Inference = WHOLE_IMAGE, *, size: tuple[int, ...] = (),
                multiple: int = 1) -> Callable:
    """`(variables, images, *, scores) -> list[Segmentation]`, see `make_predictor`."""
    _check_views(views)
    predict = make_predictor(self, model, inference=views, size=size, multiple=multiple)

    def segment(variables, images, *, scores):
      labels, probabilities = predict(variables, images, with_scores=scores)
      return [Segmentation(label, None if probabilities is None else probabilities[i])
              for i, label in enumerate(labels)]
    return segment

  def outputs(self, scores: jax.Array, batch: Mapping[str, Any]) -> Outputs:
    """Integer counts of one batch: `confusion_matrix` and `images`.

    Padding examples have index -1 and ignored labels, and so count nowhere.
    """
    labels = batch['label'].astype(jnp.int32)
    matrix = metrics.confusion_matrix(
        labels, self.predict(scores, labels.shape[1:]), self.num_classes,
        where=labels != files.IGNORE_LABEL)
    return Outputs(sums={'confusion_matrix': matrix,
                         'images': jnp.sum(batch['index'] >= 0, dtype=jnp.int32)})

  def predictions(self, scores: jax.Array, batch: Mapping[str, Any]) -> dict[str, jax.Array]:
    """`label` `(N, H, W)` uint8 at the size of the images."""
    return {'label': self.predict(scores, batch['image'].shape[1:3]).astype(jnp.uint8)}

  def accumulator(self) -> ConfusionCounts:
    """A fresh one."""
    return ConfusionCounts(self)

  def data_check(self, classes: Iterable[str]) -> PixelCheck:
    """Counts the pixels of each class."""
    return PixelCheck(classes)


def _check_views(views):
  """Refuses the centre of images, as every pixel is to have a class, and other sizes of them."""
  if views.crop:
    raise UserError(f'config.eval.crop={views.crop} is for classifiers: a segmentation gives every '
                    'pixel a class. Leave it (), and short_side 0.')
  if views.is_fitted:
    raise UserError(f'config.eval.canvas={views.canvas} and sides={views.sides} are for detectors. '
                    'Leave both ().')


class ConfusionCounts:
  """The confusion matrix of an evaluation, summed in int64 on the host.

  Args:
    task: whose it is.

  Attributes:
    matrix: `(C, C)` int64, rows = labels.
    images: number of images.
  """

  def __init__(self, task: SegmentationTask):
    self._task = task
    self.matrix = np.zeros((task.num_classes, task.num_classes), np.int64)
    self.images = 0

  def add(self, outputs: Outputs) -> None:
    """Adds one batch."""
    self.matrix += np.asarray(outputs.sums['confusion_matrix'], np.int64)
    self.images += int(outputs.sums['images'])

  def summarize(self) -> dict[str, Any]:
    """`mean_iou`, `per_class_iou`, `pixel_accuracy` and `images`."""
    mean, per_class = metrics.mean_iou(self.matrix, absent_as_zero=self._task.absent_as_zero)
    return {
        'mean_iou': float(mean),
        'per_class_iou': [float(x) for x in per_class],
        'pixel_accuracy': float(metrics.pixel_accuracy(self.matrix)),
        'images': self.images,
    }
