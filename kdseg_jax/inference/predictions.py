"""What a model says of an image, a tuple a task, and the programs that compute it."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

from kdseg_jax import tasks
from kdseg_jax.inference.views import Inference

Prediction = Any  # a tuple a task: `tasks.Segmentation`, `tasks.Classification`, ...


@functools.lru_cache(maxsize=16)  # so that models of one architecture share their programs
def predictor(task: tasks.Task, module: Any, *, views: Inference, size: tuple[int, ...],
              multiple: int) -> Callable:
  """`predict(variables, images (N, H, W, 3), *, scores) -> list[Prediction]`.

  Args:
    task: of the model.
    module: the model.
    views: what it is shown of an image.
    size: (height, width) at which the model sees images; () is their own.
    multiple: of which these become a multiple by padding, `config.eval.pad_multiple`.

  Raises:
    UserError: views that the task cannot do.
  """
  return task.predictor(module, views, size=size, multiple=multiple)
