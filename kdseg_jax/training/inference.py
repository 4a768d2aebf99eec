"""How a trained model looks at images: whole or through windows, at scales, mirrored.

The one place where a model is run for its predictions: evaluation, `predict` and the measured
throughput share it.
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
import math
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from ml_collections import ConfigDict

from kdseg_jax import config_fields
from kdseg_jax.data import files, pipeline
from kdseg_jax.errors import UserError
from kdseg_jax.losses import resizing
from kdseg_jax.models.normalization import BatchNorm
from kdseg_jax.training import compiling

PyTree = Any


@dataclasses.dataclass(frozen=True)
class Inference:
  """What a model is shown of an image; the default is the whole image, once.

  Attributes:
    window: (height, width) of sliding windows, laid over each scaled image; () is no windows. An
      image that is smaller is padded to it at the bottom and right, with mask False.
    overlap: share of a window that the next one covers again, at most: the last window of a row
      or column is moved back to the border, so that none is partial.
    scales: factors by which images are resized.
    flip: whether images, or windows, are shown mirrored as well.
    short_side: to which the shorter side of an image is resized before `crop`.
    crop: (height, width) of the centre that is shown, of classifiers, see `data.Centres`; () is the
      whole image.

  Raises:
    ValueError: a field cannot be used; says which and what was expected.
  """

  window: tuple[int, ...] = ()
  overlap: float = 1 / 3
  scales: tuple[float, ...] = (1.0,)
  flip: bool = False
  short_side: int = 0
  crop: tuple[int, ...] = ()

  def __post_init__(self):
    if self.window and not (len(self.window) == 2 and all(
        isinstance(side, int) and side > 0 for side in self.window)):
      raise UserError(f'config.eval.window={self.window}: expected (height, width) in whole '
                      'pixels, both positive, or () for whole images.')
    if not 0 <= self.overlap < 1:
      raise UserError(f'config.eval.overlap={self.overlap}: expected a share of the window from '
                      '0 to below 1, e.g. 1/3 as 0.333.')
    if not self.scales or not all(0 < scale < math.inf for scale in self.scales):
      raise UserError(f'config.eval.scales={self.scales}: expected one or more positive factors, '
                      'e.g. (0.75,1.0,1.25); (1.0,) is the image as it is.')
    if self.short_side < max(self.crop, default=0) or self.short_side and not self.crop:
      raise UserError(
          f'config.eval.short_side={self.short_side} and crop={self.crop}: expected a side of at '
          'least the crop, as 256 and (224,224), or 0 and () for whole images.')

  @property
  def is_plain(self) -> bool:
    """Whether the model simply sees the image, or its centre, once."""
    return not self.window and self.scales == (1.0,) and not self.flip

  def check_size(self, size: tuple[int, int]) -> None:
    """Raises ValueError if windows are larger than every image of this size, to be padded all."""
    largest = _scaled(size, max(self.scales))
    if self.window and all(a > b for a, b in zip(self.window, largest, strict=True)):
      raise UserError(
          f'config.eval.window={self.window} is larger than every image: they are {largest} '
          '(config.data.size times the largest scale). Take a smaller window, or () for whole '
          'images.')

  def __str__(self) -> str:
    """For people, e.g. 'windows of 256x512 overlapping by 0.33, scales 0.5 1.0, flip'."""
    parts = [] if not self.window else [
        f'windows of {self.window[0]}x{self.window[1]} overlapping by {self.overlap:.2f}']
    parts += [] if self.scales == (1.0,) else ['scales ' + ' '.join(map(str, self.scales))]
    parts += [] if not self.crop else [
        f'the centre {self.crop[0]}x{self.crop[1]} at a shorter side of {self.short_side}']
    return ', '.join(parts + ['flip'] * self.flip) or 'whole images'


WHOLE_IMAGE = Inference()


def create_inference(config: ConfigDict) -> Inference:
  """How models are run by `config.eval`, for evaluation and prediction.

  Raises:
    ValueError: a field of `config.eval` cannot be used; says which and what was expected.
  """
  config_fields.check(config)
  inference = Inference(
      window=tuple(config.eval.window), overlap=config.eval.overlap,
      scales=tuple(config.eval.scales), flip=config.eval.flip,
      short_side=config.eval.short_side, crop=tuple(config.eval.crop))
  if config.data.size:
    inference.check_size(tuple(config.data.size))
  return inference


def apply_frozen(model: Any, variables: PyTree, batch: dict, *,
                 batch_statistics: bool = False) -> tuple[jax.Array, dict]:
  """`(prediction, taps)` of a model in evaluation mode, without gradient.

  With `batch_statistics` its BatchNorms normalise by the batch, and all else is as in evaluation.
  """
  images = {name: batch[name] for name in ('image', 'mask', 'index')}
  if not batch_statistics:
    return lax.stop_gradient(model.apply(variables, **images))

  def by_the_batch(call, args, kwargs, context):
    if isinstance(context.module, BatchNorm):
      return call(args[0], train=True)
    return call(*args, **kwargs)

  with nn.intercept_methods(by_the_batch):
    outputs, _ = model.apply(variables, **images, mutable=['batch_stats'])
  return lax.stop_gradient(outputs)


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
      scaled = _rescale(inputs, scale)
      if inference.window:
        probabilities = _slide(look, scaled, task.num_classes, inference)
        total += task.upsample(probabilities, size)
      else:
        total += look(scaled, size)
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
  size = _scaled(inputs['image'].shape[1:3], scale)
  if size == inputs['image'].shape[1:3]:
    return inputs
  image = resizing.resize_bilinear(
      inputs['image'].astype(jnp.float32), size, align_corners=False)
  mask = jax.image.resize(inputs['mask'], (inputs['mask'].shape[0], *size), 'nearest')
  return inputs | {'image': image, 'mask': mask}


def _scaled(size, scale):
  return tuple(max(1, round(scale * side)) for side in size)
