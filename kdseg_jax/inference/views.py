"""What a trained model is shown of an image, and how a frozen one is run."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import flax.linen as nn
import jax
from jax import lax
from ml_collections import ConfigDict

from kdseg_jax import config_fields
from kdseg_jax.errors import UserError
from kdseg_jax.models.normalization import BatchNorm

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
    canvas: (height, width) on which whole images of any size are shown, of detectors, see
      `data.Fitted`; () is each at its own size.
    sides: shorter and longer side of the image, at most, to which it is resized, its shape kept, of
      detectors; () is as large as the canvas permits, or its own size without one.
    by_orientation: whether the canvas is turned for images higher than wide.

  Raises:
    ValueError: a field cannot be used; says which and what was expected.
  """

  window: tuple[int, ...] = ()
  overlap: float = 1 / 3
  scales: tuple[float, ...] = (1.0,)
  flip: bool = False
  short_side: int = 0
  crop: tuple[int, ...] = ()
  canvas: tuple[int, ...] = ()
  sides: tuple[int, ...] = ()
  by_orientation: bool = False

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
    if self.is_fitted and self.crop:
      raise UserError(
          f'config.eval.canvas={self.canvas}, sides={self.sides} and crop={self.crop}: expected no '
          'crop beside a canvas or sides.')

  @property
  def is_plain(self) -> bool:
    """Whether the model simply sees the image, or its centre, once."""
    return not self.window and self.scales == (1.0,) and not self.flip

  @property
  def is_fitted(self) -> bool:
    """Whether images are resized with their shape kept, see `data.Fitted`."""
    return bool(self.canvas or self.sides)

  def check_size(self, size: tuple[int, int]) -> None:
    """Raises ValueError if windows are larger than every image of this size, to be padded all."""
    largest = scaled(size, max(self.scales))
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
    turned = f', or {self.canvas[1]}x{self.canvas[0]} if upright' if self.by_orientation else ''
    parts += [] if not self.canvas else [f'fitted into {self.canvas[0]}x{self.canvas[1]}{turned}']
    parts += [] if not self.sides else [f'sides up to {self.sides[0]} and {self.sides[1]}']
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
      short_side=config.eval.short_side, crop=tuple(config.eval.crop),
      canvas=tuple(config.eval.canvas), sides=tuple(config.eval.sides),
      by_orientation=config.data.by_orientation and bool(config.eval.canvas))
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


def scaled(size: tuple[int, ...], scale: float) -> tuple[int, ...]:
  """The size of an image that is resized by a factor."""
  return tuple(max(1, round(scale * side)) for side in size)
