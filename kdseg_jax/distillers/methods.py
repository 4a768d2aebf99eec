"""From a method string to a distiller: `pixelwise+pairwise` and the papers' weights."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Mapping
from typing import Any

from kdseg_jax import names
from kdseg_jax.distillers import core, skd
from kdseg_jax.distillers.cirkd import cross_image, memory
from kdseg_jax.distillers.cirkd_channels import channels, with_context

# A term is one loss with its own weight and options; a method is one or more terms.
TERMS = {
    'pixelwise': skd.pixelwise,
    'pairwise': skd.pairwise,
    'kd': skd.pixelwise,
    'cross_image': cross_image,
    'memory': memory,
    'channels': channels,
}

# What wraps the combination of all terms; its weight only switches it on.
WRAPPERS = {'context': with_context}

# method -> term -> weight of the paper.
METHODS = {
    'none': {},
    'pixelwise': {'pixelwise': 10.0},  # CVPR 2019, section 3.3: lambda_1 = 10
    'pairwise': {'pairwise': 10.0},
    'cross_image': {'cross_image': 1.0},
    'memory': {'memory': 1.0},  # its two parts have weights of their own
    'channels': {'channels': 1.0},
    'cirkd': {'kd': 1.0, 'cross_image': 1.0, 'memory': 1.0},
    'cirkd_v2': {'kd': 1.0, 'cross_image': 1.0, 'memory': 1.0, 'channels': 1.0},
    'context': {'context': 1.0},
}


def terms_of(method: str, weights: Mapping[str, float] | None = None) -> dict[str, dict[str, Any]]:
  """The terms of a method string with the papers' weights and the factories' defaults.

  Args:
    method: names of `METHODS` joined by '+', e.g. 'pixelwise+pairwise'.
    weights: weights given explicitly, term -> weight; needed for a term that two of the
      methods share.

  Returns:
    term -> {'weight': number, **options of its factory}.

  Raises:
    ValueError: an unknown method or term, or a shared term without an explicit weight.
  """
  weights = dict(weights or {})
  found: dict[str, float] = {}
  for name in method.split('+'):
    names.require(name, METHODS, 'method')
    for term, weight in METHODS[name].items():
      if term in found and term not in weights:
        raise ValueError(
            f'method={method}: the term {term!r} occurs in two of the methods, with weights '
            f'{found[term]} and {weight}. Give its weight explicitly: {term}=<weight>.')
      found[term] = weight
  for term in weights:
    names.require(term, found, f'term of method={method}')
  return {term: {'weight': weights.get(term, weight), **_options((TERMS | WRAPPERS)[term])}
          for term, weight in found.items()}


def create(
    terms: Mapping[str, Mapping[str, Any]], *, axis_name: str | None = None
) -> core.Distiller:
  """The distiller of the given terms, as `terms_of` returns them; those of weight 0 left out."""
  parts, wrappers = {}, []
  for term, options in terms.items():
    options = dict(options)
    weight = options.pop('weight')
    options['axis_name'] = axis_name
    if weight and term in WRAPPERS:
      wrappers.append(functools.partial(WRAPPERS[term], **options))
    elif weight:
      parts[term] = (weight, TERMS[term](**options))
  return functools.reduce(lambda method, wrap: wrap(method), wrappers, core.combine(parts))


def _options(factory):
  parameters = inspect.signature(factory).parameters
  return {name: p.default for name, p in parameters.items()
          if p.kind is p.KEYWORD_ONLY and name != 'axis_name'}

