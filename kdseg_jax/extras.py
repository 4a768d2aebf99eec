"""Packages that not everyone needs."""

from __future__ import annotations

import importlib.util

from kdseg_jax.errors import UserError


def require(extra: str, module: str, purpose: str) -> None:
  """Raises UserError if the module of an extra of this package is not installed.

  Args:
    extra: name of the extra in pyproject.toml.
    module: what will be imported.
    purpose: what needs it, for the message.
  """
  if importlib.util.find_spec(module) is None:
    raise UserError(
        f"{purpose} needs {module}, which is not installed: install the extra {extra}, "
        f"in the checkout by pip install '.[{extra}]'")
