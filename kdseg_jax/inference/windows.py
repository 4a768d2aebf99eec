"""Dense scores of whole images or of windows, at scales, mirrored; and the labels from them.

The one place where a model of maps is run for its predictions: evaluation, `predict` and the
measured throughput share it.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from kdseg_jax import compiling, resizing
from kdseg_jax.data import files, pipeline
from kdseg_jax.inference.views import WHOLE_IMAGE, Inference, apply_frozen, scaled

PyTree = Any


def make_scorer(task: Any, model: Any, inference: Inference = WHOLE_IMAGE) -> Callable:
  """`score(variables, batch, size) -> scores`, which `task.predict` and `task.count` take.

  The scores are the model's own logits where it sees the whole image once. Else they are
  probabilities at `size`, the mean over scales of the mean over windows, by how many cover a pixel,
  of the mean over a window and its mirror image of `softmax(upsampled logits)`. So do the test
  code of PSPNet's authors (semseg) and, but for windows, whose logits it averages,
  mmsegmentation; the official codes of SKD (`predict_sliding`) and CIRKD (`eval.py`) average
  logits.

  Pure, of static shapes; works under jit and in mapped functions. The windows of a scale run one
  after the other in one loop, so that neither the program nor its memory grows with their number.

  Args:
    task: a task of `kdseg_jax.tasks`; only for the plain inference if it is not segmentation.
    model: the model.
    inference: what the model is shown.
  """
  def score(variables, batch, size):
    if inference.is_plain:
      return apply_frozen(model, variables, batch)[0]
    inputs = {name: batch[name] for name in ('image', 'mask', 'index')}
    look = functools.partial(_look, task, model, variables, inference.flip)
    total = 0
    for scale in inference.scales:
      resized = _rescale(inputs, scale)
      if inference.window:
        probabilities = _slide(look, resized, task.num_classes, inference)
        total += task.upsample(probabilities, size)
      else:
        total += look(resized, size)
    return total / len(inference.scales)
  return score


def make_predictor(task: Any, model: Any, *, inference: Inference = WHOLE_IMAGE,
                   size: tuple[int, ...] = (), multiple: int = 1) -> Callable:
  """`predict(variables, images, *, with_scores=False) -> (labels, scores)`, on the host.

  Images are `(N, H, W, 3)` uint8, labels `(N, H, W)` uint8, and scores `(N, H, W, C)` float32
  probabilities, or None. One compiled program for each shape of images, padded to `multiple`; for
  each size that is asked for where images are resized to `size` and the inference is not plain.

  Args:
    task: the segmentation task.
    model: the model.
    inference: what the model is shown.
    size: (height, width) at which the model sees images, as in training; () is their own.
    multiple: of which their own sizes become a multiple by padding, as in evaluation, where an
      approximation; 1 is exact.
  """
  score = make_scorer(task, model, inference)
  sizes = compiling.Sizes(None if size else multiple)

  @functools.partial(jax.jit, static_argnames='output_size')
  def scores_of(variables, images, masks, output_size):
    batch = {'image': images, 'mask': masks, 'index': jnp.arange(len(images), dtype=jnp.int32)}
    return score(variables, batch, output_size)

  # Programs of their own, so that what is shown at one `size` compiles the model once.
  @functools.partial(jax.jit, static_argnames='output_size')
  def labels_of(scores, output_size):
    return task.predict(scores, output_size).astype(jnp.uint8)

  @functools.partial(jax.jit, static_argnames='output_size')
  def probabilities_of(scores, output_size):
    scores = task.upsample(scores, output_size)
    return jax.nn.softmax(scores) if inference.is_plain else scores

  def predict(variables, images, *, with_scores=False):
    count, *own = images.shape[:3]
    shown, masks = images, np.ones((count, *(size or own)), bool)
    if size:
      shown = np.stack([files.resize_image(image, size) for image in images])
    else:
      shown, masks = (np.stack([pipeline.pad_to_multiple(x, multiple, 0) for x in stack])
                      for stack in (images, masks))
    output_size = tuple(own) if size else masks.shape[1:]
    # Plain scores do not depend on the size that is asked for.
    of_model = masks.shape[1:] if inference.is_plain else output_size
    call = functools.partial(scores_of, output_size=of_model)
    if sizes.is_first(of_model):
      call = functools.partial(compiling.announced, 'the model', call)
    scores = call(variables, shown, masks)
    cut = lambda x: np.asarray(x)[:, :own[0], :own[1]]
    return (cut(labels_of(scores, output_size)),
            cut(probabilities_of(scores, output_size)) if with_scores else None)
  return predict


def window_starts(total: int, window: int, overlap: float) -> np.ndarray:
  """First pixels of the windows along one axis of `total >= window` pixels.

  They advance by `ceil(window * (1 - overlap))`, as in SKD's and PSPNet's test code; the last one
  ends at the border.
  """
  stride = max(1, window - int(window * overlap + 1e-6))  # 0.29 * 100 is 28.999...
  return np.minimum(np.arange(0, total - window + stride, stride), total - window)


def _look(task, model, variables, flip, inputs, size):
  """Probabilities `(N, *size, C)` from one pass of the model, over mirror images too if `flip`."""
  count = inputs['image'].shape[0]
  if flip:
    mirrored = inputs | {name: inputs[name][:, :, ::-1] for name in ('image', 'mask')}
    inputs = jax.tree.map(lambda *pair: jnp.concatenate(pair), inputs, mirrored)
  logits, _ = apply_frozen(model, variables, inputs)
  probabilities = jax.nn.softmax(task.upsample(logits, size))
  if flip:
    probabilities = (probabilities[:count] + probabilities[count:, :, ::-1]) / 2
  return probabilities


def _slide(look, inputs, num_classes, inference):
  """Mean probabilities of the windows that cover each pixel, at the size of the images."""
  height, width = inputs['image'].shape[1:3]
  padded = tuple(map(max, (height, width), inference.window))
  inputs = inputs | {name: _pad(inputs[name], padded) for name in ('image', 'mask')}
  starts = [window_starts(total, side, inference.overlap)
            for total, side in zip(padded, inference.window, strict=True)]
  counts = [_coverage(*axis) for axis in zip(starts, inference.window, padded, strict=True)]
  counts = (counts[0][:, None] * counts[1])[:, :, None]

  def add(total, start):
    window = inputs | {name: _crop(inputs[name], start, inference.window)
                       for name in ('image', 'mask')}
    sums = _crop(total, start, inference.window) + look(window, inference.window)
    return lax.dynamic_update_slice(total, sums, (0, *start, 0)), None

  # zeros_like, not zeros: inside a map the carry must vary over the devices as the images do.
  total = jnp.zeros_like(inputs['image'], jnp.float32,
                         shape=(inputs['image'].shape[0], *padded, num_classes))
  total, _ = lax.scan(add, total, jnp.array(list(itertools.product(*starts)), jnp.int32))
  return (total / counts)[:, :height, :width]


def _coverage(starts, window, total):
  """How many of the windows along one axis cover each pixel, float32."""
  pixels = np.arange(total)[:, None]
  return np.sum((starts <= pixels) & (pixels < starts + window), axis=1, dtype=np.float32)


def _pad(x, size):
  """0 (False in a mask) at the bottom and right of `(N, H, W, ...)` up to a size."""
  return jnp.pad(x, [(0, 0), *((0, b - a) for a, b in zip(x.shape[1:3], size, strict=True)),
                     *[(0, 0)] * (x.ndim - 3)])


def _crop(x, start, size):
  start, size = [0, *start, 0][:x.ndim], (x.shape[0], *size, x.shape[-1])[:x.ndim]
  return lax.dynamic_slice(x, start, size)


def _rescale(inputs, scale):
  """Images resized bilinearly to floats, masks to the nearest pixel."""
  size = scaled(inputs['image'].shape[1:3], scale)
  if size == inputs['image'].shape[1:3]:
    return inputs
  image = resizing.resize_bilinear(
      inputs['image'].astype(jnp.float32), size, align_corners=False)
  mask = jax.image.resize(inputs['mask'], (inputs['mask'].shape[0], *size), 'nearest')
  return inputs | {'image': image, 'mask': mask}
