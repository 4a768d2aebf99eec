"""Models by name: Flax modules that return `(prediction, taps)`."""

from __future__ import annotations

import difflib
import functools
from typing import Any

from kdseg_jax.models.blocks import scaled
from kdseg_jax.models.complexity import Complexity, complexity
from kdseg_jax.models.deeplab import DeepLabV3Head
from kdseg_jax.models.mobilenet import MobileNetV2
from kdseg_jax.models.resnet import ResNet
from kdseg_jax.models.segmenter import Segmenter

__all__ = ['Complexity', 'complexity', 'create', 'names']

# backbone -> (module, channels of its head).
_BACKBONES = {
    'resnet18': (functools.partial(ResNet, blocks=(2, 2, 2, 2)), 128),
    'mobilenetv2': (MobileNetV2, 128),
}
_HEADS = {'deeplabv3': DeepLabV3Head}


def names() -> list[str]:
  """The names that `create` knows."""
  return [f'{head}_{backbone}' for head in _HEADS for backbone in _BACKBONES]


def create(
    name: str,
    num_classes: int,
    *,
    width: float = 1.0,
    output_stride: int = 8,
    aux: bool = False,
    head_channels: int | None = None,
    dropout: float = 0.1,
    axis_name: str | None = None,
    **options: Any,
) -> Segmenter:
  """Creates a segmentation model.

  Args:
    name: '<head>_<backbone>', one of `names()`.
    num_classes: channels of the logits.
    width: multiplies all channel counts, which are rounded to multiples of 8.
    output_stride: 8, 16 or 32, by dilation of the last stages.
    aux: adds the auxiliary head on stage 3.
    head_channels: of the head before `width`; None is 128.
    dropout: rate before the classifiers.
    axis_name: mesh axis over which BatchNorm takes its statistics in training.
    **options: further fields of `Segmenter`: `mean`, `std`, `dtype`.

  Raises:
    ValueError: unknown name (says the nearest), or a value out of range.
  """
  if name not in names():
    nearest = difflib.get_close_matches(name, names(), n=1, cutoff=0.0)[0]
    raise ValueError(
        f'Unknown model {name!r}. Did you mean {nearest!r}? Known: {", ".join(names())}.')
  if not width > 0:
    raise ValueError(f'width={width}; expected more than 0.')
  head, backbone = name.split('_', 1)
  module, channels = _BACKBONES[backbone]
  shared = {'axis_name': axis_name}
  if 'dtype' in options:
    shared['dtype'] = options['dtype']
  return Segmenter(
      backbone=module(width=width, output_stride=output_stride, **shared),
      head=_HEADS[head](scaled(head_channels or channels, width), dropout=dropout, **shared),
      num_classes=num_classes, aux=aux, dropout=dropout, axis_name=axis_name, **options)
