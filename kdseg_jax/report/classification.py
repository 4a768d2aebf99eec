"""What a classifier says of images, for people."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from kdseg_jax.inference import Classification
from kdseg_jax.report import tables


def most_probable(prediction: Classification, classes: Sequence[str], count: int = 5
                  ) -> list[dict[str, Any]]:
  """`{'class': name, 'probability': ...}` of the most probable classes, the first of all first."""
  order = np.argsort(-prediction.probabilities, kind='stable')[:count]
  return [{'class': classes[index], 'probability': float(prediction.probabilities[index])}
          for index in order]


def table(found: Mapping[str, Sequence[Mapping[str, Any]]]) -> str:
  """A row for each of the most probable classes of each image, by its name."""
  return tables.table(['image', 'class', 'probability'], [
      (name if rank == 0 else '', row['class'], f'{100 * row["probability"]:.1f} %')
      for name, rows in found.items() for rank, row in enumerate(rows)])
