"""What a model says of an image, a tuple a task, and the programs that compute it."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np

from kdseg_jax import tasks
from kdseg_jax.data import files
from kdseg_jax.errors import UserError
from kdseg_jax.training.inference import Inference


class Classification(NamedTuple):
  """A classified image.

  Attributes:
    label: index of the most probable class in `Model.classes`.
    probabilities: `(C,)` float32.
  """

  label: int
  probabilities: np.ndarray


Prediction = Any  # a tuple a task: `tasks.Segmentation`, `Classification`, ...


@functools.lru_cache(maxsize=16)  # so that models of one architecture share their programs
def predictor(task: tasks.Task | None, module: Any, *, views: Inference,
              size: tuple[int, ...], multiple: int) -> Callable:
  """`predict(variables, images (N, H, W, 3), *, scores) -> list[Prediction]`.

  Args:
    task: of the model; None for a classifier.
    module: the model.
    views: what it is shown of an image.
    size: (height, width) at which the model sees images; () is their own.
    multiple: of which these become a multiple by padding, `config.eval.pad_multiple`.

  Raises:
    UserError: views that the task cannot do.
  """
  if task is None:
    return _classifier(module, views, size)
  return task.predictor(module, views, size=size, multiple=multiple)


def _classifier(module, views, size):
  if not views.is_plain:
    raise UserError(f'A classifier sees whole images only, and not {views}.')
  probabilities_of = jax.jit(
      lambda variables, images: jax.nn.softmax(module.apply(variables, images)[0]))

  def classify(variables, images, *, scores):
    del scores  # they cost nothing here
    if size:
      images = np.stack([files.resize_image(image, size) for image in images])
    return [Classification(int(np.argmax(row)), row)
            for row in np.asarray(probabilities_of(variables, images))]
  return classify
