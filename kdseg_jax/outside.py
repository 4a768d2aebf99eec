"""Models, sources and optimisers from elsewhere: how their factories are called.

A config names one by `module:attribute`, and its options stand in the section's `options`. Methods
are in `distillers.methods`, tasks in `tasks.find`; see docs/your_own_method.md.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from kdseg_jax import factory_options, references
from kdseg_jax.errors import UserError


class Part(NamedTuple):
  """One of the parts that can be from elsewhere.

  Attributes:
    section: of the config.
    given: parameters that we give by name, to factories that have them.
  """

  section: str
  given: tuple[str, ...]


# What `models.create` takes of every model; a Flax module as factory has the last two.
MODEL = Part('student', (
    'num_classes', 'axis_name', 'width', 'output_stride', 'aux', 'project_dropout', 'dropout',
    'dtype', 'remat', 'mean', 'std', 'channel_order', 'head_channels', 'aux_channels', 'aux_bias',
    'negative_slope', 'parent', 'name'))
SOURCE = Part('data', ('root', 'size'))
OPTIMIZER = Part('optimizer', ('weight_decay', 'mask'))


def options_of(part: Part, reference: str) -> dict[str, Any]:
  """The options of a factory with their defaults; its module is imported.

  Raises:
    UserError: as `references.find`.
  """
  factory = references.find(reference, f'config.{part.section}.name')
  return factory_options.options_of(factory, ours=_ours(part, factory))


def build(part: Part, reference: str, options: Mapping[str, Any], *first: Any, **given: Any) -> Any:
  """What a factory makes.

  Args:
    part: which part it is.
    reference: `module:attribute` of the factory.
    options: of the factory.
    *first: its first argument, if we give one.
    **given: parameters of `part.given`, handed over where the factory has them.

  Raises:
    UserError: as `references.find` and `factory_options.check`, or the factory lacks the first
      parameter.
  """
  where = f'config.{part.section}'
  factory = references.find(reference, f'{where}.name')
  factory_options.check(
      options, factory, where=f'{where}.options', ours=_ours(part, factory))
  known = factory_options.parameters_of(factory)
  if first and factory_options.first_of(factory) is None:
    raise UserError(f'{where}.name={reference}: expected a function whose first parameter has no '
                    f'default, as docs/your_own_method.md says.')
  return factory(*first, **{name: value for name, value in given.items() if name in known},
                 **options)


def takes(reference: str, part: Part, parameter: str) -> bool:
  """Whether a factory has a parameter."""
  factory = references.find(reference, f'config.{part.section}.name')
  return parameter in factory_options.parameters_of(factory)


def require(made: Any, attributes: tuple[str, ...], *, where: str, expected: str) -> Any:
  """What a factory made, if it has these attributes.

  Raises:
    UserError: it has not; names the first.
  """
  for attribute in attributes:
    if not hasattr(made, attribute):
      raise UserError(f'{where}: is {type(made).__name__}, without {attribute!r}; expected '
                      f'{expected}.')
  return made


def _ours(part, factory):
  return (*part.given, factory_options.first_of(factory))
