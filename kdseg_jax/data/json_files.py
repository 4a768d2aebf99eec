"""JSON files of a work directory: written whole or not at all, read where they are cut."""

from __future__ import annotations

import json
import math
import os

import jax

from kdseg_jax import paths

METRICS_FILE = 'metrics.jsonl'


def finite(value):
  """The value with None for NaN and infinity, which JSON does not know; in lists and dicts too."""
  if isinstance(value, dict):
    return {key: finite(item) for key, item in value.items()}
  if isinstance(value, (list, tuple)):
    return [finite(item) for item in value]
  return None if isinstance(value, float) and not math.isfinite(value) else value


def read_rows(workdir: str) -> list[dict]:
  """The rows of `metrics.jsonl` of a work directory; [] where there is none."""
  path, rows = os.path.join(workdir, METRICS_FILE), []
  if os.path.exists(path):
    with open(path) as file:
      for line in file:
        try:
          rows.append(json.loads(line))
        except json.JSONDecodeError:  # the last line of a killed process may be cut
          continue
  return rows


def read_json(path: str) -> dict:
  """The dict in a JSON file; {} where there is none."""
  if not os.path.exists(path):
    return {}
  with paths.reading(path), open(path) as file:
    return json.load(file)


def write_json(path: str, value: dict) -> None:
  """Writes a JSON file whole or not at all, on the first process only."""
  if jax.process_index():
    return
  os.makedirs(os.path.dirname(path), exist_ok=True)
  temporary = path + '.tmp'
  with open(temporary, 'w') as file:
    json.dump(value, file, indent=2)
    file.write('\n')
  os.replace(temporary, path)
