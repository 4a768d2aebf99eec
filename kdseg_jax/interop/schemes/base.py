"""What a naming scheme is."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from kdseg_jax.interop.layers import Layer

# Of models that go back to Caffe's: OpenCV's order, the mean subtracted and no division.
CAFFE_BGR = {'mean': (122.67891434, 116.66876762, 104.00698793), 'std': (1.0, 1.0, 1.0),
             'channel_order': 'bgr'}


class Scheme(NamedTuple):
  """The names that a family of PyTorch models gives its layers, and its conventions.

  Attributes:
    name: of the scheme, as 'cirkd'.
    models: names of ours that it has layers for.
    layers: all layers of one of these.
    student: fields of `config.student` that its weights need, as `mean` or `ceil_mode`; what the
      shapes of a state dict say, as `aux`, is found by `structure.read`.
    config: other sections of the config, as `{'task': {'align_corners': True}}`.
  """

  name: str
  models: tuple[str, ...]
  layers: Callable[[str], list[Layer]]
  student: Mapping[str, Any] = {}
  config: Mapping[str, Any] = {}
