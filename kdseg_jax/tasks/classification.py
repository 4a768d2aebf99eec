"""Image classification: cross-entropy, top-1 and top-5 accuracy, one global confusion matrix."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Mapping
from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from kdseg_jax import losses, metrics
from kdseg_jax.data import crops, files
from kdseg_jax.errors import UserError
from kdseg_jax.inference.views import WHOLE_IMAGE, Inference, apply_frozen
from kdseg_jax.tasks.base import Field, MainMetric, Outputs
from kdseg_jax.tasks.class_check import ClassCheck

NO_LABEL = -1  # of padding examples, and of images whose class is not known
_TOP = 5


def _one(size):  # no lambda: sources that hold a field are pickled
  del size
  return ()


class Classification(NamedTuple):
  """A classified image.

  Attributes:
    label: index of the most probable class in `Model.classes`.
    probabilities: `(C,)` float32.
  """

  label: int
  probabilities: np.ndarray


@dataclasses.dataclass(frozen=True)
class ClassificationTask:
  """One class an image: mean cross-entropy; how often the label is the first, or among five.

  Attributes:
    num_classes: number of classes.
  """

  num_classes: int

  name: ClassVar[str] = 'classification'
  fields: ClassVar[Mapping[str, Field]] = {'label': Field(
      shape=_one, dtype=np.int32, padding=NO_LABEL)}
  main_metric: ClassVar[MainMetric] = MainMetric(
      'top1', 'top-1', scale=100, unit='%', per_class='per_class_accuracy')

  def __post_init__(self):
    if self.num_classes < 2:
      raise UserError(f'The data have {self.num_classes} class. Classification needs at least 2.')

  def loss(self, taps: dict, batch: dict, *, axis_name: str | None = None):
    """Mean of `-log softmax(logits)[label]` over the images that have a label.

    Returns:
      `(loss, (targets, metrics))`; classification assigns no targets.
    """
    loss = losses.cross_entropy(
        taps['logits'], batch['label'], ignore_label=NO_LABEL, axis_name=axis_name)
    return loss, ({}, {'cross_entropy': loss})

  def scorer(self, model: Any, views: Inference = WHOLE_IMAGE) -> Callable:
    """`(variables, batch) -> logits (N, C)` of images as they are; sources crop them (`Centres`).

    Raises:
      UserError: windows, scales or mirror images are asked for.
    """
    check_views(views)
    return lambda variables, batch: apply_frozen(model, variables, batch)[0]

  def predictor(self, model: Any, views: Inference = WHOLE_IMAGE, *, size: tuple[int, ...] = (),
                multiple: int = 1) -> Callable:
    """`(variables, images, *, scores) -> list[Classification]`, of images at `size` if it is set.

    Raises:
      UserError: as `scorer`.
    """
    del multiple  # of sizes: a classifier takes any
    check_views(views)
    probabilities_of = jax.jit(
        lambda variables, images: jax.nn.softmax(model.apply(variables, images)[0]))

    def classify(variables, images, *, scores):
      del scores  # they cost nothing here
      if size:
        images = np.stack([files.resize_image(image, size) for image in images])
      if views.crop:
        images = np.stack([crops.centre(image, views.short_side, views.crop) for image in images])
      return [Classification(int(np.argmax(row)), row)
              for row in np.asarray(probabilities_of(variables, images))]
    return classify

  def outputs(self, scores: jax.Array, batch: Mapping[str, Any]) -> Outputs:
    """Integer counts of one batch: `confusion_matrix`, `labelled`, `top5` and `images`.

    Padding examples have index -1 and no label, and so count nowhere.
    """
    labels = batch['label']
    labelled = labels >= 0
    matrix = metrics.confusion_matrix(
        labels, jnp.argmax(scores, axis=-1), self.num_classes, where=labelled)
    count = lambda where: jnp.sum(where, dtype=jnp.int32)
    return Outputs(sums={
        'confusion_matrix': matrix, 'labelled': count(labelled),
        'top5': count(labelled & (ranks(scores, labels) < _TOP)),
        'images': count(batch['index'] >= 0)})

  def predictions(self, scores: jax.Array, batch: Mapping[str, Any]) -> dict[str, jax.Array]:
    """`label` `(N,)` int32 and its `probability` `(N,)` float32."""
    del batch
    return {'label': jnp.argmax(scores, axis=-1).astype(jnp.int32),
            'probability': jnp.max(jax.nn.softmax(scores), axis=-1)}

  def accumulator(self) -> ClassCounts:
    """A fresh one."""
    return ClassCounts(self)

  def data_check(self, classes: Iterable[str]) -> ClassCheck:
    """Counts the images of each class."""
    return ClassCheck(classes)


def check_views(views: Inference) -> None:
  """Raises UserError unless the whole image is seen, once."""
  if not views.is_plain:
    raise UserError(f'A classifier sees whole images only, or their centre, not {views}. Leave '
                    'config.eval.window, scales and flip at their defaults.')
  if views.is_fitted:
    raise UserError(f'config.eval.canvas={views.canvas} and sides={views.sides} are for detectors. '
                    'Leave both ().')


def ranks(scores: jax.Array, labels: jax.Array) -> jax.Array:
  """How many classes come before the label, `(N,)` int32, in the order of argmax.

  Of equal scores the lower class is first. A score that is NaN comes before all numbers; so a label
  whose own is NaN comes last.

  Args:
    scores: `(N, C)`.
    labels: `(N,)` integers in [0, C); of others the result says nothing.
  """
  own = jnp.take_along_axis(scores, jnp.maximum(labels, 0)[:, None], axis=-1)
  earlier = (scores == own) & (jnp.arange(scores.shape[-1]) < labels[:, None])
  return jnp.sum(~(scores <= own) | earlier, axis=-1, dtype=jnp.int32)


class ClassCounts:
  """The counts of an evaluation, summed in int64 on the host.

  Args:
    task: whose they are.

  Attributes:
    matrix: `(C, C)` int64, rows = labels.
    images: number of images.
  """

  def __init__(self, task: ClassificationTask):
    self.matrix = np.zeros((task.num_classes, task.num_classes), np.int64)
    self.images = self._labelled = self._top5 = 0

  def add(self, outputs: Outputs) -> None:
    """Adds one batch."""
    self.matrix += np.asarray(outputs.sums['confusion_matrix'], np.int64)
    self.images += int(outputs.sums['images'])
    self._labelled += int(outputs.sums['labelled'])
    self._top5 += int(outputs.sums['top5'])

  def summarize(self) -> dict[str, Any]:
    """`top1`, `top5` (of more than 5 classes), `per_class_accuracy` and `images`.

    The accuracy of a class without images is NaN, and so is all where none has a label.
    """
    hits, totals = np.diagonal(self.matrix), self.matrix.sum(axis=1)
    share = lambda count: float(count / self._labelled) if self._labelled else float('nan')
    top5 = {'top5': share(self._top5)} if len(self.matrix) > _TOP else {}
    return {'top1': share(hits.sum())} | top5 | {
        'per_class_accuracy': [float(hit / total) if total else float('nan')
                               for hit, total in zip(hits, totals, strict=True)],
        'images': self.images}
