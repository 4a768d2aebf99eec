"""From a method string to `config.distill`, and from there to a distiller.

`config.distill.<term>` is `{'factory': 'module:attribute', 'weight': number, 'warmup_steps':
number, **options of the factory}`, whoever wrote the factory. A method string only fills it.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import optax

from kdseg_jax import factory_options, names, references
from kdseg_jax.distillers import core
from kdseg_jax.distillers.adaptation import METHODS as ADAPTATION
from kdseg_jax.distillers.adaptation import TERMS as ADAPTATION_TERMS
from kdseg_jax.distillers.cirkd import METHODS as CIRKD
from kdseg_jax.distillers.cirkd import TERMS as CIRKD_TERMS
from kdseg_jax.distillers.cirkd_channels import METHODS as CIRKD_V2
from kdseg_jax.distillers.cirkd_channels import TERMS as CIRKD_V2_TERMS
from kdseg_jax.distillers.crosskd import TERMS as CROSSKD_TERMS
from kdseg_jax.distillers.declaration import Term, traits_of
from kdseg_jax.distillers.detector_baselines import TERMS as DETECTOR_TERMS
from kdseg_jax.distillers.features import METHODS as FEATURES
from kdseg_jax.distillers.features import TERMS as FEATURE_TERMS
from kdseg_jax.distillers.holistic import TERMS as HOLISTIC_TERMS
from kdseg_jax.distillers.logits import TERMS as LOGIT_TERMS
from kdseg_jax.distillers.review import TERMS as REVIEW_TERMS
from kdseg_jax.distillers.similarity import METHODS as SIMILARITY
from kdseg_jax.distillers.similarity import TERMS as SIMILARITY_TERMS
from kdseg_jax.distillers.skd import METHODS as SKD
from kdseg_jax.distillers.skd import TERMS as SKD_TERMS
from kdseg_jax.errors import UserError

# A term is one loss with its own weight and options, declared beside its factory.
TERMS: dict[str, Term] = {
    **SKD_TERMS, **HOLISTIC_TERMS, **LOGIT_TERMS, **FEATURE_TERMS, **SIMILARITY_TERMS,
    **CIRKD_TERMS, **CIRKD_V2_TERMS, **REVIEW_TERMS, **ADAPTATION_TERMS, **CROSSKD_TERMS,
    **DETECTOR_TERMS}

# A method is one or more terms: method -> term -> its weight there, or {'weight': it, and the
# options in which the method differs}. Every term alone is one.
METHODS: dict[str, dict[str, Any]] = {
    'none': {}, **{name: {name: term.weight} for name, term in TERMS.items()},
    **SKD, **FEATURES, **SIMILARITY, **CIRKD, **CIRKD_V2, **ADAPTATION}

_MODULE = 'kdseg_jax.distillers'  # exports every factory of ours
_FOREIGN_WEIGHT = 1.0


class Item(NamedTuple):
  """One of the names of a method string.

  Attributes:
    name: of `METHODS`, or a reference `module:attribute`.
    weight: that stands behind '@', or None.
  """

  name: str
  weight: float | None

  @property
  def term(self) -> str | None:
    """The only term that it has, or None if it has several or none."""
    if references.is_reference(self.name):
      return self.name.partition(':')[2]
    return self.name if self.name in TERMS else None


def parse(method: str) -> list[Item]:
  """The names of a method string, and the weights that stand there.

  >>> parse('pixelwise+kd@2')
  [Item(name='pixelwise', weight=None), Item(name='kd', weight=2.0)]

  Raises:
    ValueError: an unknown name, or a weight that is no number.
  """
  return [_parse_item(text, method) for text in method.split('+')]


def terms_of(method: str) -> dict[str, dict[str, Any]]:
  """The terms of a method string with the weights and options of the papers.

  Args:
    method: names joined by '+', each a name of `METHODS` or the `module:attribute` of a factory,
      whose module is imported and whose term has the attribute's name. `@<number>` behind a name of
      one term is its weight, as in 'pixelwise+kd@2' and 'mylab.losses:my_term@0.5'; behind a method
      of several terms it multiplies the weights of them all. Without it the weights are those of
      the papers, and 1 of what is not ours.

  Returns:
    term -> {'factory', 'weight', 'warmup_steps', **options of the factory}, each option as the
    method declares it or else the factory's default. What wraps has no warm-up. A term that two
    methods share occurs once; one that stands there by itself with a weight only weighs it.

  >>> terms_of('pixelwise+kd@2')['kd']['weight']
  2.0

  Raises:
    ValueError: as `parse`; a factory that cannot be found; two different terms of one name; a term
      to which two methods give different weights while none is explicit, or different options.
  """
  items = parse(method)
  alone = [item for item in items if item.weight is not None and item.term]
  weights = {item.term: item.weight for item in alone}
  found: dict[str, dict[str, Any]] = {}
  for item in items:
    if item in alone:
      continue
    for term, fields in _declared(item).items():
      fields['weight'] = weights.get(term, fields['weight'])
      _check_same(method, term, found.setdefault(term, fields), fields)
  for item in alone:
    (term, fields), = _declared(item).items()
    known = found.setdefault(term, fields)
    if known['factory'] != fields['factory'] or known['weight'] != fields['weight']:
      _check_same(method, term, known, fields)
  return found


def label(terms: Mapping[str, Mapping[str, Any]]) -> str:
  """Terms and their weights in one line, for people; 'none' if there are none.

  >>> label(terms_of('pixelwise+kd@2'))
  'pixelwise@10+kd@2'
  """
  return '+'.join(f'{term}@{options["weight"]:g}' for term, options in terms.items()) or 'none'


def check(terms: Mapping[str, Mapping[str, Any]]) -> None:
  """Checks `config.distill`: factories, weights, and the options of the factories.

  Raises:
    ValueError: names the term and the field, and the nearest that there is.
  """
  for term, options in terms.items():
    factory = factory_of(term, options)
    where = f'config.distill.{term}'
    own = _own_fields(factory)
    given = {name: value for name, value in options.items() if name not in own}
    for name in given:
      names.require(name, [*own, *_options_of(factory)], f'field of {where}')
    factory_options.check(given, factory, where=where, ours=_ours(factory))
    weight, warmup_steps = options.get('weight'), options.get('warmup_steps', 0)
    if not _is_number(weight):
      raise UserError(f'{where}.weight={weight!r}: expected a number, a finite one.')
    if options['weight'] < 0 and factory_options.is_ours(factory):
      raise UserError(f'{where}.weight={weight!r}: is negative, which teaches the opposite; '
                      'expected 0 or more.')
    if isinstance(warmup_steps, bool) or not isinstance(warmup_steps, int) or warmup_steps < 0:
      raise UserError(f'{where}.warmup_steps={warmup_steps!r}: expected a whole number, 0 or more.')


def completed(terms: Mapping[str, Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
  """The same terms with every option of their factories, those that are not given by default."""
  found = {}
  for term, options in terms.items():
    factory = factory_of(term, options)
    first = {'factory': options['factory'], 'weight': options.get('weight')} | (
        {'warmup_steps': 0} if 'warmup_steps' in _own_fields(factory) else {})
    found[term] = first | _options_of(factory) | dict(options)
  return found


def create(
    terms: Mapping[str, Mapping[str, Any]], *, axis_name: str | None = None
) -> core.Distiller:
  """The distiller of the given terms, as `terms_of` returns them; those of weight 0 left out.

  With `warmup_steps` above 0 the weight of a term grows linearly from 0 at the first step, which
  `min(1, step / warmup_steps)` multiplies it by (an optax schedule). A factory whose first
  parameter is positional, without default, receives the combination of all other terms and wraps
  it; its weight only switches it on. `axis_name` is handed to factories that have the parameter.

  Raises:
    ValueError: as `check`, or a factory returns no `Distiller`.
  """
  check(terms)
  parts: dict[str, tuple[Any, core.Distiller]] = {}
  wrappers: list[Callable[[core.Distiller], core.Distiller]] = []
  for term, options in terms.items():
    weight, warmup_steps = options['weight'], options.get('warmup_steps', 0)
    if not weight:
      continue
    factory = factory_of(term, options)
    own = _own_fields(factory)
    given = {name: value for name, value in options.items() if name not in own}
    if 'axis_name' in factory_options.parameters_of(factory):
      given['axis_name'] = axis_name
    build = functools.partial(_build, term, factory, given)
    if is_wrapper(factory):
      wrappers.append(build)
    else:
      schedule = optax.linear_schedule(0.0, weight, warmup_steps) if warmup_steps else weight
      parts[term] = schedule, build()
  return functools.reduce(lambda method, wrap: wrap(method), wrappers, core.combine(parts))


def is_wrapper(factory: Callable) -> bool:
  """Whether a factory takes the combination of all other terms."""
  return factory_options.first_of(factory) is not None


def shrink(distill: Any) -> None:
  """Makes the terms of `config.distill` small, as their factories declare it; in place."""
  for term, options in distill.items():
    options.update(traits_of(factory_of(term, options)).small)


def leave_out_auxiliary_head(distill: Any) -> None:
  """Has the terms of `config.distill` do without a student's auxiliary head; in place."""
  for term, options in distill.items():
    options.update(traits_of(factory_of(term, options)).without_auxiliary_head)


def take_pyramid(distill: Any) -> None:
  """Has the terms of `config.distill` read what dense detectors have; in place."""
  for term, options in distill.items():
    options.update(traits_of(factory_of(term, options)).of_detectors)


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


def _parse_item(text, method):
  name, at, weight = text.partition('@')
  if not references.is_reference(name) or name.partition(':')[0] in METHODS:
    known, colon, rest = name.partition(':')
    if colon and (known in METHODS or _number(rest) is not None):
      raise UserError(f'method={method}: a weight is written with @, {known}@{rest or "<weight>"}.')
    if colon:
      raise UserError(f'method={method}: {name!r} is no module:attribute, as mylab.losses:my_term.')
    names.require(name, METHODS, 'method')
  if not at:
    return Item(name, None)
  number = _number(weight)
  if number is None:
    raise UserError(f'method={method}: the weight of {name!r} is {weight!r}; expected a number, as '
                    f'in {name}@0.5.')
  return Item(name, number)


def _number(text):
  """The finite number that a text says, or None."""
  try:
    number = float(text)
  except ValueError:
    return None
  return number if math.isfinite(number) else None


def _is_number(value):
  return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def _declared(item):
  """term -> all its fields, of one name of a method string."""
  if references.is_reference(item.name):
    weight = _FOREIGN_WEIGHT if item.weight is None else item.weight
    return {item.term: _fields(item.term, item.name, weight, {})}
  found = {}
  for name, declared in METHODS[item.name].items():
    declared = dict(declared) if isinstance(declared, Mapping) else {'weight': declared}
    weight, term = declared.pop('weight'), TERMS[name]
    if item.weight is not None:
      weight = item.weight if item.term else item.weight * weight
    found[name] = _fields(
        name, references.of(term.factory, _MODULE), weight, dict(term.options) | declared)
  return found


def _fields(term, reference, weight, options):
  """All fields of a term."""
  own = {'factory': reference, 'weight': weight}
  return completed({term: own | options})[term]


def factory_of(term: str, options: Mapping[str, Any]) -> Callable:
  """The factory of a term of `config.distill`; UserError where there is none."""
  where = f'config.distill.{term}.factory'
  reference = options.get('factory')
  if not isinstance(reference, str) or not references.is_reference(reference):
    ours = f', as {references.of(TERMS[term].factory, _MODULE)!r}' if term in TERMS else ''
    raise UserError(f'{where}={reference!r}: expected the module:attribute of a factory{ours}.')
  return references.find(reference, where)


def _own_fields(factory):
  """The fields of a term that are no options of its factory."""
  return ('factory', 'weight') if is_wrapper(factory) else ('factory', 'weight', 'warmup_steps')


def _ours(factory):
  """The parameters that `create` gives."""
  return ('axis_name', factory_options.first_of(factory))


def _options_of(factory):
  return factory_options.options_of(factory, ours=_ours(factory))


def _build(term, factory, given, *wrapped):
  distiller = factory(*wrapped, **given)
  if not isinstance(distiller, core.Distiller):
    raise UserError(f'config.distill.{term}.factory returned {type(distiller).__name__}; expected '
                    'a kdseg_jax.distillers.Distiller.')
  return core.of_maps(distiller) if traits_of(factory).maps_only else distiller


def _check_same(method, term, first, second):
  """Raises ValueError where two items declare other fields for the term of one name."""
  if first['factory'] != second['factory']:
    raise UserError(
        f'method={method}: two terms are called {term!r}, {first["factory"]} and '
        f'{second["factory"]}. Leave one of them out, and add it to config.distill in your recipe '
        'under a name of its own.')
  differing = [field for field in first if first[field] != second[field]]
  if differing == ['weight']:
    raise UserError(
        f'method={method}: the term {term!r} occurs twice, with weights {first["weight"]} and '
        f'{second["weight"]}. Give its weight explicitly, once, by {term}@<weight>.')
  if differing:
    values = ', '.join(f'{field} {first[field]!r} and {second[field]!r}' for field in differing)
    raise UserError(
        f'method={method}: the term {term!r} occurs in two of the methods, which differ in its '
        f'options: {values}. Name one of the two methods and add the other terms of the second by '
        f'<term>@<weight>; options are set in config.distill.{term}.')
