"""Plain-text tables."""

from __future__ import annotations

import math
from collections.abc import Sequence


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
  """A Markdown table with aligned columns: the first to the left, the others to the right."""
  widths = [max(len(str(row[i])) for row in [header, *rows]) for i in range(len(header))]
  align = lambda row: '| ' + ' | '.join(
      str(cell).ljust(width) if i == 0 else str(cell).rjust(width)
      for i, (cell, width) in enumerate(zip(row, widths, strict=True))) + ' |'
  rule = '|' + '|'.join(
      '-' * (width + 2) if i == 0 else '-' * (width + 1) + ':'
      for i, width in enumerate(widths)) + '|'
  return '\n'.join([align(header), rule, *map(align, rows)])


def per_class(classes: Sequence[str], values: Sequence[float], title: str = 'IoU') -> str:
  """A metric of every class; '-' for one that occurs nowhere."""
  return table(['class', title], [
      (name, number(value)) for name, value in zip(classes, values, strict=True)])


def number(value: float) -> str:
  """Four digits after the point; '-' for NaN."""
  return '-' if math.isnan(value) else f'{value:.4f}'
