"""Names of PyTorch's layers and of ours, one file a family."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from kdseg_jax import names
from kdseg_jax.interop.conversion import WeightsError
from kdseg_jax.interop.schemes import (
    cifar,
    cirkd,
    efficientnet_lite,
    mmdetection,
    mobilenetv1,
    structured,
    timm,
    torchvision,
)
from kdseg_jax.interop.schemes.base import Scheme

__all__ = ['SCHEMES', 'Scheme', 'choose', 'fits', 'named']

SCHEMES = {scheme.name: scheme for scheme in (
    *torchvision.SCHEMES, *timm.SCHEMES, *efficientnet_lite.SCHEMES, *cirkd.SCHEMES,
    *structured.SCHEMES, *cifar.SCHEMES, *mobilenetv1.SCHEMES, *mmdetection.SCHEMES)}
_FITS = 0.5  # share of the source's keys that a scheme must name to be the one that is meant


def named(name: str) -> Scheme:
  """The scheme of a name.

  Raises:
    UserError: an unknown name; says the nearest.
  """
  names.require(name, SCHEMES, 'naming scheme')
  return SCHEMES[name]


def choose(model: str, state_dict: Mapping[str, Any]) -> Scheme:
  """The scheme of a model that names most of a state dict's keys.

  Raises:
    WeightsError: none names half of them; says which were tried, and how the keys look.
  """
  candidates = [scheme for scheme in SCHEMES.values() if model in scheme.models]
  shares = {scheme.name: _share(scheme, model, state_dict) for scheme in candidates}
  best = max(shares, key=shares.get, default=None)
  if best is None or shares[best] < _FITS:
    tried = ', '.join(f'{name} ({share:.0%})' for name, share in shares.items()) or 'none'
    others = {(scheme.name, name): _share(scheme, name, state_dict)
              for scheme in SCHEMES.values() for name in scheme.models if name != model}
    most = max(_FITS, *others.values())
    nearest = {name for (_, name), share in others.items() if share == most}
    hint = f' They are those of {", ".join(sorted(nearest))}.' if nearest else ''
    raise WeightsError(
        f'The keys are not those of {model}: schemes that were tried, with the share of keys that '
        f'each names: {tried}.{hint} The first keys are {", ".join(list(state_dict)[:4])}.')
  return SCHEMES[best]


def fits(model: str, state_dict: Mapping[str, Any]) -> bool:
  """Whether a scheme of a model names half of a state dict's keys or more."""
  return any(_share(scheme, model, state_dict) >= _FITS
             for scheme in SCHEMES.values() if model in scheme.models)


def _share(scheme, model, state_dict):
  sources = {layer.source for layer in scheme.layers(model)}
  return sum(key.rpartition('.')[0] in sources for key in state_dict) / max(1, len(state_dict))
