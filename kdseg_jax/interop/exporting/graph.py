"""What is exported: from images to outputs; and what the live model says, to compare."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import jax
import numpy as np

from kdseg_jax import parallel, target_platform, tasks
from kdseg_jax.errors import UserError
from kdseg_jax.inference import Model
from kdseg_jax.tasks.detection import rows

# Largest difference to the live model, over the deviation of its outputs. Of bfloat16, with 8 bits,
# other lowerings of the convolutions make up to 0.1.
_TOLERANCES = {'float32': 1e-4, 'bfloat16': 0.3}


class Difference(NamedTuple):
  """How far an exported model is from the live one.

  Attributes:
    largest: absolute difference of two outputs.
    deviation: standard deviation of the live model's outputs.
    allowed: the largest that is none.
    shapes: of the images.
  """

  largest: float
  deviation: float
  allowed: float
  shapes: list[tuple[int, ...]]

  @property
  def is_none(self) -> bool:
    """Whether it is no more than rounding."""
    return self.largest <= self.allowed  # False for NaN


def outputs_of(model: Model) -> Callable[[jax.Array], jax.Array]:
  """`images (N, H, W, 3) uint8 -> outputs`, one array, float32, the weights inside.

  Of a segmenter logits `(N, H, W, C)`, upsampled as in its training, so that argmax gives labels;
  of a classifier logits `(N, C)`; of a detector the rows `(N, P, 5 + C)` of
  `tasks.detection.rows`, boxes and probabilities without suppression. A new function every time:
  none is traced for another platform before.
  """
  variables, task = jax.device_get(model.variables), model.task

  def outputs(images):
    found, size = model.module.apply(variables, images)[0], images.shape[1:3]
    if isinstance(task, tasks.DetectionTask):
      return rows.rows(task.dense_head(model.module), found, size)
    return task.upsample(found, size) if isinstance(task, tasks.SegmentationTask) else found
  return outputs


def compare(model: Model, exported: Sequence[Callable[[np.ndarray], np.ndarray]],
            shapes: Sequence[tuple[int, int, int]]) -> Difference:
  """How far exported functions are from the live model, on fixed images of these `(N, H, W)`.

  All compute on the CPU, in full precision, wherever the export is to be used. Of a detector boxes
  and probabilities are compared by themselves; what is returned is of those that differ, else of
  the probabilities.

  Raises:
    UserError: jax has no CPU here.
  """
  live, wanted, found = compiled(outputs_of(model)), [], []
  with on_cpu():
    for shape in shapes:
      images = np.random.default_rng(0).integers(0, 256, (*shape, 3), np.uint8)
      wanted.append(np.asarray(live(images)))
      found.append([np.asarray(function(images)) for function in exported])
  parts = [slice(rows.BOX, None), slice(rows.BOX)] if isinstance(
      model.task, tasks.DetectionTask) else [slice(None)]
  tolerance = _TOLERANCES[model.config.student.dtype]
  differences = []
  for part in parts:
    deviation = float(np.std(np.concatenate([x[..., part].ravel() for x in wanted])))
    largest = [_largest(x[..., part], y[..., part])
               for x, outputs in zip(wanted, found, strict=True) for y in outputs]
    differences.append(Difference(float(np.max(largest)), deviation, tolerance * deviation,
                                  [(*shape, 3) for shape in shapes]))
  return next((difference for difference in differences if not difference.is_none),
              differences[0])


def compiled(function: Callable) -> Callable:
  """A function that is compiled soon and runs a few times, on the CPU."""
  return jax.jit(function, compiler_options=parallel.compiler_options(0))


@contextlib.contextmanager
def on_cpu() -> Iterator[None]:
  """Within it jax computes on the CPU."""
  try:
    device = jax.local_devices(backend='cpu')[0]
  except RuntimeError as error:
    raise UserError('An export is checked on the CPU, which jax does not have here: unset '
                    f'JAX_PLATFORMS, or add ,cpu to it ({error}).') from error
  with jax.default_device(device), target_platform.lowered_for('cpu'):
    yield


def _largest(wanted, found):
  if wanted.shape != found.shape:
    return float('inf')
  return float(np.max(np.abs(wanted - found)))
