"""Names of Python objects in configs, `module:attribute`: what they lead to, and who permits it.

What a recipe, a command line or a caller names is imported. What a saved config names is imported
only where the user permits it: a work directory of someone else runs no code.
"""

from __future__ import annotations

import importlib
import os
import re
import sys
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from kdseg_jax import names
from kdseg_jax.errors import UserError

_NAME = r'[A-Za-z_]\w*'
_REFERENCE = re.compile(rf'(?!tfds:){_NAME}(\.{_NAME})*:{_NAME}')  # tfds:<name> is a data set
_FIELDS = ('name', 'factory')  # of a config, that may hold one


def is_reference(name: str) -> bool:
  """Whether a name is `module:attribute`, and not one of ours."""
  return _REFERENCE.fullmatch(name) is not None


def of(function: Callable, module: str) -> str:
  """The name of one of our functions, by the module that exports it."""
  return f'{module}:{function.__name__}'


def find(reference: str, where: str) -> Callable:
  """The function or class of a `module:attribute`, whose module is imported.

  Args:
    reference: the name.
    where: what holds it, for errors, as 'config.student.name'.

  Raises:
    UserError: there is no such module (says where it was looked for) or attribute (names the
      nearest), the module needs another that is missing, or it is nothing to call. What else the
      module raises is left as it is: a bug in it needs its traceback.
  """
  module_name, _, attribute = reference.partition(':')
  try:
    module = importlib.import_module(module_name)
  except ModuleNotFoundError as error:
    missing = error.name or ''
    if module_name == missing or module_name.startswith(f'{missing}.'):
      raise UserError(
          f'{where}={reference}: there is no module {missing!r}. It was looked for in '
          f'{", ".join(_searched())}. Start the program in the folder that holds it, add that '
          'folder to PYTHONPATH, or install it.') from None
    raise UserError(f'{where}={reference}: {module_name} imports {missing!r}, which is missing. '
                    'Install it.') from error
  if not hasattr(module, attribute):
    callables = [name for name, value in vars(module).items() if callable(value)]
    raise UserError(f'{where}={reference}: {module_name} ({getattr(module, "__file__", None)}) has '
                    f'no {attribute!r}.{names.hint(attribute, callables)}')
  found = getattr(module, attribute)
  if not callable(found):
    raise UserError(f'{where}={reference}: is a {type(found).__name__}; expected a function or a '
                    'class.')
  return found


def named_in(config: Mapping[str, Any]) -> tuple[str, ...]:
  """Every reference that a config of the user's own names, at any depth; it permits these."""
  found: list[str] = []
  for name, value in config.items():
    if hasattr(value, 'items'):
      found += named_in(value)
    elif name in _FIELDS and isinstance(value, str) and is_reference(value):
      found.append(value)
  return tuple(dict.fromkeys(found))


def require_permission(
    reference: str, allow_imports: Iterable[str], *, field: str, where: str) -> None:
  """Refuses what a saved config names and the user does not permit. Names of ours always pass.

  Args:
    reference: value of the field.
    allow_imports: modules, each permitted with those below it (`mylab`, not `mylab2`), and
      references, each permitted alone.
    field: of the config.
    where: whose config it is, for the error.

  Raises:
    UserError: it is not permitted; says how it would be.
  """
  if not is_reference(reference):
    return
  module = reference.partition(':')[0]
  if any(allowed == reference or module == allowed or module.startswith(f'{allowed}.')
         for allowed in allow_imports):
    return
  package = module.partition('.')[0]
  raise UserError(
      f'{where}: its config.{field}={reference} is code, and code that a saved config names is '
      'imported only where you permit it. If you know and trust it, give '
      f'--allow_imports={package} (from Python: allow_imports=({package!r},)).')


def _searched():
  """The folders in which modules are looked for, the current one by its name."""
  return list(dict.fromkeys(os.path.abspath(path) for path in sys.path))
