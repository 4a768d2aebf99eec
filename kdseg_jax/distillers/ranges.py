"""Ranges of options that a factory checks, as no loss does or not before it is traced."""

from __future__ import annotations

from kdseg_jax.errors import UserError


def at_least(least: float, method: str, **options: float | None) -> None:
  """Raises UserError for an option below `least`; None, which has it chosen, passes."""
  for name, value in options.items():
    if value is not None and not value >= least:  # NaN is not
      raise UserError(f'{method}: {name}={value}; expected {least} or more.')
