"""What a model says of an image, a tuple a task, and the programs that compute it."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np

from kdseg_jax import tasks
from kdseg_jax.data import files
from kdseg_jax.tasks.classification import check_views
from kdseg_jax.training.inference import Inference, make_predictor


class Segmentation(NamedTuple):
  """A segmented image.

  Attributes:
    labels: `(H, W)` uint8 at the size of the image, indices into `Model.classes`.
    scores: `(H, W, C)` float32 probabilities there; None where they were not asked for.
  """

  labels: np.ndarray
  scores: np.ndarray | None


class Classification(NamedTuple):
  """A classified image.

  Attributes:
    label: index of the most probable class in `Model.classes`.
    probabilities: `(C,)` float32.
  """

  label: int
  probabilities: np.ndarray


Prediction = Segmentation | Classification


@functools.lru_cache(maxsize=16)  # so that models of one architecture share their programs
def predictor(task: tasks.Task, module: Any, *, views: Inference,
              size: tuple[int, ...], multiple: int) -> Callable:
  """`predict(variables, images (N, H, W, 3), *, scores) -> list[Prediction]`.

  Args:
    task: of the model, segmentation or classification.
    module: the model.
    views: what it is shown of an image.
    size: see `make_predictor`.
    multiple: likewise; of segmenters.

  Raises:
    UserError: views that are not those of a classifier.
  """
  if task.name == tasks.ClassificationTask.name:
    return _classifier(module, views, size)
  predict = make_predictor(task, module, inference=views, size=size, multiple=multiple)

  def segment(variables, images, *, scores):
    labels, probabilities = predict(variables, images, with_scores=scores)
    return [Segmentation(label, None if probabilities is None else probabilities[i])
            for i, label in enumerate(labels)]
  return segment


def _classifier(module, views, size):
  check_views(views)
  probabilities_of = jax.jit(
      lambda variables, images: jax.nn.softmax(module.apply(variables, images)[0]))

  def classify(variables, images, *, scores):
    del scores  # they cost nothing here
    if size:
      images = np.stack([files.resize_image(image, size) for image in images])
    return [Classification(int(np.argmax(row)), row)
            for row in np.asarray(probabilities_of(variables, images))]
  return classify
