"""What a naming scheme is."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from kdseg_jax.interop.layers import Layer


class Scheme(NamedTuple):
  """The names that a family of PyTorch models gives its layers, and its conventions.

  Attributes:
    name: of the scheme, as 'cirkd'.
    models: names of ours that it has layers for.
    layers: all layers of one of these.
    student: fields of `config.student` that its weights need, as `deep_stem` or `mean`.
    config: other fields of the config, as `align_corners`.
  """

  name: str
  models: tuple[str, ...]
  layers: Callable[[str], list[Layer]]
  student: Mapping[str, Any] = {}
  config: Mapping[str, Any] = {}
