"""Packages that not everyone needs."""

from __future__ import annotations

import importlib.util
import pathlib

from kdseg_jax.errors import UserError

_CHECKOUT = pathlib.Path(__file__).resolve().parents[1]


def require(extra: str, module: str, purpose: str) -> None:
  """Raises UserError if the module of an extra of this package is not installed.

  Args:
    extra: name of the extra in pyproject.toml.
    module: what will be imported.
    purpose: what needs it, for the message.
  """
  if importlib.util.find_spec(module) is None:
    is_checkout = (_CHECKOUT / 'pyproject.toml').is_file()
    raise UserError(
        f"{purpose} needs {module}, which is not installed: "
        f"pip install '{_CHECKOUT if is_checkout else 'kdseg_jax'}[{extra}]'")
