"""What is exported: images to logits at their size; and what the live model says, to compare."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import jax
import numpy as np

from kdseg_jax import parallel, tasks
from kdseg_jax.errors import UserError
from kdseg_jax.inference import Model
from kdseg_jax.models import conv

# Largest difference to the live model, over the deviation of its logits. Of bfloat16, with 8 bits,
# other lowerings of the convolutions make up to 0.1.
_TOLERANCES = {'float32': 1e-4, 'bfloat16': 0.3}


class Difference(NamedTuple):
  """How far an exported model is from the live one.

  Attributes:
    largest: absolute difference of two logits.
    deviation: standard deviation of the live model's logits.
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


def logits_of(model: Model) -> Callable[[jax.Array], jax.Array]:
  """`images (N, H, W, 3) uint8 -> logits`, float32, the weights inside.

  Of a segmenter `(N, H, W, C)`, upsampled as in its training, so that argmax gives labels; of a
  classifier `(N, C)`. A new function every time: none is traced for another platform before.
  """
  variables, task = jax.device_get(model.variables), model.task

  def logits(images):
    found = model.module.apply(variables, images)[0]
    return (task.upsample(found, images.shape[1:3]) if isinstance(
        task, tasks.SegmentationTask) else found)
  return logits


def compare(model: Model, exported: Sequence[Callable[[np.ndarray], np.ndarray]],
            shapes: Sequence[tuple[int, int, int]]) -> Difference:
  """How far exported functions are from the live model, on fixed images of these `(N, H, W)`.

  All compute on the CPU, in full precision, wherever the export is to be used.

  Raises:
    UserError: jax has no CPU here.
  """
  live, wanted, largest = compiled(logits_of(model)), [], []
  with on_cpu():
    for shape in shapes:
      images = np.random.default_rng(0).integers(0, 256, (*shape, 3), np.uint8)
      wanted.append(np.asarray(live(images)))
      largest += [_largest(wanted[-1], np.asarray(function(images))) for function in exported]
  deviation = float(np.std(np.concatenate([logits.ravel() for logits in wanted])))
  return Difference(float(np.max(largest)), deviation,
                    _TOLERANCES[model.config.student.dtype] * deviation,
                    [(*shape, 3) for shape in shapes])


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
  with jax.default_device(device), conv.lowered_for('cpu'):
    yield


def _largest(wanted, found):
  if wanted.shape != found.shape:
    return float('inf')
  return float(np.max(np.abs(wanted - found)))
