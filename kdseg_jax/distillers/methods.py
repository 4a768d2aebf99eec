"""From a method string to a distiller: `pixelwise+pairwise` and the papers' weights."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Mapping
from typing import Any

import optax

from kdseg_jax import names
from kdseg_jax.distillers import core, features, logits, similarity
from kdseg_jax.distillers.adaptation import ADAPTATION, affinity_adaptation, feature_adaptation
from kdseg_jax.distillers.cirkd import cross_image, memory
from kdseg_jax.distillers.cirkd_channels import channels, with_context
from kdseg_jax.distillers.holistic import holistic
from kdseg_jax.distillers.review import review
from kdseg_jax.distillers.skd import FORMS, pairwise, pixelwise
from kdseg_jax.errors import UserError

# A term is one loss with its own weight and options; a method is one or more terms.
TERMS: dict[str, Callable[..., core.Distiller]] = {
    'pixelwise': pixelwise,
    'pairwise': pairwise,
    'holistic': holistic,
    # The baseline "adversarial logits" of CIRKD (CVPR 2022).
    'adversarial': functools.partial(
        holistic, conditional=False, input_norm=True, critic_loss='hinge',
        gradient_penalty_weight=0.0, critic_learning_rate=4e-4),
    'kd': logits.kd,
    'decoupled': logits.decoupled,
    'fitnets': features.fitnets,
    'attention_transfer': features.attention_transfer,
    'channel_wise_features': features.channel_wise_features,
    'channel_wise_logits': features.channel_wise_logits,
    'intra_class_variation': similarity.intra_class_variation,
    'double_similarity_pixel': similarity.double_similarity_pixel,
    'double_similarity_category': similarity.double_similarity_category,
    'cross_image': cross_image,
    'memory': memory,
    'channels': channels,
    'review': review,
    'feature_adaptation': feature_adaptation,
    'affinity_adaptation': affinity_adaptation,
}

# Terms that also take vectors `(N, C)`. The others here compare pixels with pixels: of one pixel
# they could teach nothing, or are not defined.
OF_VECTORS = ('pixelwise', 'kd', 'decoupled', 'fitnets', 'review')
_OF_MAPS = frozenset(TERMS) - frozenset(OF_VECTORS)

# What wraps the combination of all terms; its weight only switches it on.
WRAPPERS: dict[str, Callable[..., core.Distiller]] = {'context': with_context}

# method -> term -> weight of the paper, or {'weight': it, and the fields of the term in which the
# method differs from their defaults: options of its factory, 'warmup_steps'}.
METHODS: dict[str, dict[str, Any]] = {
    'none': {},
    'pixelwise': {'pixelwise': 10.0},  # CVPR 2019, section 3.3: lambda_1 = 10
    'pairwise': {'pairwise': 10.0},
    'holistic': {'holistic': 0.1},  # lambda_2, ibid.
    **FORMS,
    'adversarial': {'adversarial': 0.001},  # official code of CIRKD
    # Baselines with the weights of CIRKD's scripts. To channel_wise and intra_class_variation the
    # scripts add the adversarial loss: `channel_wise+adversarial`. See also the factories for where
    # CIRKD's code differs: channel_wise_features, double_similarity_pixel.
    'kd': {'kd': 1.0},
    'fitnets': {'kd': 1.0, 'fitnets': 10.0},
    'attention_transfer': {'kd': 1.0, 'attention_transfer': 10_000.0},
    'channel_wise': {'kd': 1.0, 'channel_wise_features': 50.0, 'channel_wise_logits': 3.0},
    'intra_class_variation': {'kd': 1.0, 'intra_class_variation': 20.0},
    'double_similarity': {
        'double_similarity_pixel': 1000.0, 'double_similarity_category': 10.0},
    'decoupled': {'decoupled': 1.0},  # CVPR 2022, eq. 7, with its own alpha and beta
    'cross_image': {'cross_image': 1.0},
    'memory': {'memory': 1.0},  # its two parts have weights of their own
    'channels': {'channels': 1.0},
    'cirkd': {'kd': 1.0, 'cross_image': 1.0, 'memory': 1.0},
    'cirkd_v2': {
        'kd': 1.0, 'fitnets': 1.0, 'cross_image': 1.0, 'memory': 1.0, 'channels': 1.0},
    'context': {'context': 1.0},
    'adaptation': ADAPTATION,  # CVPR 2019: beta and gamma
    'feature_adaptation': {'feature_adaptation': ADAPTATION['feature_adaptation']},
    'affinity_adaptation': {'affinity_adaptation': ADAPTATION['affinity_adaptation']},
    'review': {'review': 1.0},  # official code of knowledge review; its scripts have 0.6 to 8
}


def terms_of(method: str, weights: Mapping[str, float] | None = None) -> dict[str, dict[str, Any]]:
  """The terms of a method string with the weights and options of the papers.

  Args:
    method: names of `METHODS` joined by '+', e.g. 'pixelwise+pairwise'. `term:weight` among them
      gives a term its weight, e.g. 'fitnets+kd:2', and adds the term where no method has it.
    weights: weights given explicitly, term -> weight, which override those of the string.

  Returns:
    term -> {'weight': number, 'warmup_steps': number, **options of its factory}, each option as the
    method declares it or else the factory's default. What wraps has no warm-up. A term that two
    methods share occurs once.

  >>> terms_of('pixelwise+kd:2')['kd']['weight']
  2.0

  Raises:
    ValueError: an unknown method or term, a weight that is no number, a term to which two methods
      give different weights while none is explicit, or different options.
  """
  items = method.split('+')
  explicit = _explicit_weights(method, [item for item in items if ':' in item])
  overrides = explicit | dict(weights or {})
  found: dict[str, dict[str, Any]] = {}
  for name in items:
    if ':' in name:
      continue
    names.require(name, METHODS, 'method')
    for term, declared in METHODS[name].items():
      fields = _fields(term, declared)
      if term in overrides:
        fields['weight'] = overrides[term]
      _check_same(method, term, found.setdefault(term, fields), fields)
  for term, weight in explicit.items():
    found.setdefault(term, _fields(term, overrides.get(term, weight)))
  for term in overrides:
    names.require(term, found, f'term of method={method}')
  return found


def names_of_terms(method: str) -> tuple[str, ...]:
  """The terms of a method string by name, each once, in order.

  Raises:
    ValueError: an unknown method or term.
  """
  found: list[str] = []
  for item in method.split('+'):
    name, is_term, _ = item.partition(':')
    names.require(name, TERMS | WRAPPERS if is_term else METHODS, f'part of method={method}')
    found += [name] if is_term else METHODS[name]
  return tuple(dict.fromkeys(found))


def create(
    terms: Mapping[str, Mapping[str, Any]], *, axis_name: str | None = None
) -> core.Distiller:
  """The distiller of the given terms, as `terms_of` returns them; those of weight 0 left out.

  With `warmup_steps` above 0 the weight of a term grows linearly from 0 at the first step, which
  `min(1, step / warmup_steps)` multiplies it by (an optax schedule).
  """
  parts: dict[str, tuple[Any, core.Distiller]] = {}
  wrappers: list[Callable[[core.Distiller], core.Distiller]] = []
  for term, options in terms.items():
    options = dict(options)
    weight, warmup_steps = options.pop('weight'), options.pop('warmup_steps', 0)
    if warmup_steps < 0:
      raise UserError(f'{term}: warmup_steps={warmup_steps} is negative; expected 0 or more.')
    options['axis_name'] = axis_name
    if weight and term in WRAPPERS:
      wrappers.append(functools.partial(WRAPPERS[term], **options))
    elif weight:
      schedule = optax.linear_schedule(0.0, weight, warmup_steps) if warmup_steps else weight
      distiller = TERMS[term](**options)
      parts[term] = (schedule, core.of_maps(distiller) if term in _OF_MAPS else distiller)
  return functools.reduce(
      lambda method, wrap: core.of_maps(wrap(method)), wrappers, core.combine(parts))


def channel_wise(*, axis_name: str | None = None) -> core.Distiller:
  """Channel-wise distillation (Shu et al., ICCV 2021) with all its terms and their weights.

  That is `create(terms_of('channel_wise'))`, by which options and weights can be changed. CIRKD's
  script, with its weights, adds an adversarial loss (`channel_wise+adversarial`) and has
  `official_channel_count=True` of the features, which doubles their weight from 128 to 256 wide.
  """
  return create(terms_of('channel_wise'), axis_name=axis_name)


def double_similarity(*, axis_name: str | None = None) -> core.Distiller:
  """Double similarity distillation (Feng et al., TIP 2021) with both terms and their weights.

  That is `create(terms_of('double_similarity'))`, by which options and weights can be changed.
  """
  return create(terms_of('double_similarity'), axis_name=axis_name)


def _check_same(method, term, first, second):
  """Raises ValueError where two methods declare other fields for the term that they share."""
  differing = [field for field in first if first[field] != second[field]]
  if differing == ['weight']:
    raise UserError(
        f'method={method}: the term {term!r} occurs in two of the methods, with weights '
        f'{first["weight"]} and {second["weight"]}. Give its weight explicitly: '
        f'method={method}+{term}:<weight>.')
  if differing:
    values = ', '.join(f'{field} {first[field]!r} and {second[field]!r}' for field in differing)
    raise UserError(
        f'method={method}: the term {term!r} occurs in two of the methods, which differ in its '
        f'options: {values}. Name one of the two methods and add the other terms of the second by '
        f'<term>:<weight>; options are set in config.distill.{term}.')


def _explicit_weights(method, items):
  """term -> weight of the items `term:weight` of a method string."""
  weights = {}
  for item in items:
    term, _, text = item.partition(':')
    names.require(term, TERMS | WRAPPERS, f'term of method={method}')
    try:
      weights[term] = float(text)
    except ValueError:
      raise UserError(
          f'method={method}: the weight of {term!r} is {text!r}; expected a number, as in '
          f'{term}:0.5.') from None
  return weights


def _fields(term, declared):
  """All fields of a term: the factory's defaults, and what a method declares."""
  parameters = inspect.signature((TERMS | WRAPPERS)[term]).parameters
  defaults = {name: p.default for name, p in parameters.items()
              if p.kind is p.KEYWORD_ONLY and name != 'axis_name'}
  if not isinstance(declared, Mapping):
    declared = {'weight': declared}
  warmup = {'warmup_steps': 0} if term in TERMS else {}
  return {'weight': declared['weight'], **warmup, **defaults, **declared}

