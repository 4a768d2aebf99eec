"""Recipes, one module each: `get_config(arg)` returns a config.

The files of the same names in `configs/` are what `--config=configs/<name>.py:<arg>` reads.

>>> load('quickstart')('role=teacher,runlocal').train.steps
2
"""

import importlib
import pkgutil
from collections.abc import Callable

from kdseg_jax import names as known_names

_SHARED = ('common', 'papers')  # what the recipes have in common, no recipes

__all__ = ['load', 'names']


def names() -> tuple[str, ...]:
  """The names of all recipes, sorted."""
  return tuple(sorted(module.name for module in pkgutil.iter_modules(__path__)
                      if module.name not in _SHARED))


def load(name: str) -> Callable:
  """The `get_config` of a recipe: takes the text after the colon of `--config`, or None.

  Raises:
    UserError: there is no such recipe (names the nearest).
  """
  known_names.require(name, names(), 'recipe')
  return importlib.import_module(f'{__name__}.{name}').get_config
