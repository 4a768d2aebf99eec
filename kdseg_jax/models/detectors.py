"""Detectors by name: a dense head and the feature pyramid that goes with it."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping
from typing import Any, NamedTuple

import flax.linen as nn

from kdseg_jax.models.dense_detector import (
    ATSSHead,
    DenseHead,
    Detector,
    FCOSHead,
    GFLHead,
    RetinaNetHead,
)
from kdseg_jax.models.fpn import FeaturePyramid
from kdseg_jax.models.layers import scale_channels

CHANNELS = 256  # of pyramid and towers at width 1
OUTPUT_STRIDE = 32  # of the backbone
_OF_EVERY_PART = {'channels', 'num_classes', 'dtype', 'parent', 'name'}


class Head(NamedTuple):
  """A head, and the options of its pyramid that mmdetection gives it."""

  module: type[DenseHead]
  pyramid: Mapping[str, Any] = {}


HEADS = {
    'gfl': Head(GFLHead),
    'retinanet': Head(RetinaNetHead, {'extra_convs': 'on_input'}),
    'fcos': Head(FCOSHead, {'extra_relu': True}),
    'atss': Head(ATSSHead),
}


def options_of(head: Head) -> frozenset[str]:
  """Names of the options of a detector, beside its backbone's: see `build`."""
  return frozenset({'fpn_channels', 'frozen_statistics'} | _fields(FeaturePyramid)
                   | _fields(head.module))


def build(
    head: Head,
    backbone: nn.Module,
    num_classes: int,
    *,
    preprocessing: Any,
    width: float,
    dtype: Any,
    head_channels: int | None = None,
    fpn_channels: int | None = None,
    frozen_statistics: bool = False,
    **options: Any,
) -> Detector:
  """A detector.

  Args:
    head: of `HEADS`.
    backbone: with stages at strides 8, 16 and 32.
    num_classes: number of classes; there is none for the background.
    preprocessing: of the images.
    width: multiplies the channels of pyramid and towers where these are not given.
    dtype: of the computation.
    head_channels: of the towers; None is 256 * width.
    fpn_channels: of the pyramid; None is as the towers.
    frozen_statistics: of `Detector`.
    **options: fields of the head, as `stacked_convs` and `norm_groups`, and of `FeaturePyramid`.

  Raises:
    UserError: channels or numbers that there cannot be.
  """
  channels = head_channels or scale_channels(CHANNELS, width)
  find = lambda module: {name: value for name, value in options.items() if name in _fields(module)}
  pyramid = FeaturePyramid(channels=fpn_channels or channels, dtype=dtype,
                           **head.pyramid | find(FeaturePyramid))
  made = head.module(num_classes=num_classes, channels=channels, dtype=dtype, **find(head.module))
  pyramid.check()
  made.check()
  return Detector(backbone=backbone, fpn=pyramid, head=made, preprocessing=preprocessing,
                  frozen_statistics=frozen_statistics)


@functools.cache
def _fields(module):
  return {field.name for field in dataclasses.fields(module)} - _OF_EVERY_PART
