"""`export.json`: what an export is, and the sums of its files."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping
from typing import Any

import jax

import kdseg_jax
from kdseg_jax import paths
from kdseg_jax.errors import NotFoundError, UserError
from kdseg_jax.inference import Model
from kdseg_jax.interop.download import digest_of
from kdseg_jax.interop.exporting.graph import Difference
from kdseg_jax.interop.exporting.sizes import Sizes
from kdseg_jax.tasks.detection import rows

FILE = 'export.json'
FORMAT = 1
SEGMENTATION, CLASSIFICATION, DETECTION = 'segmentation', 'classification', 'detection'
INPUT = 'images'
OUTPUTS = {SEGMENTATION: 'logits', CLASSIFICATION: 'logits', DETECTION: 'predictions'}


def describe(model: Model, kind: str, sizes: Sizes | None) -> dict[str, Any]:
  """What an export is, but for its files and how it was checked.

  Args:
    model: that is exported.
    kind: 'stablehlo', 'onnx' or 'safetensors'.
    sizes: of the images; None where weights alone are exported.
  """
  student, views = model.config.student, model.views
  description = {
      'format': FORMAT, 'kind': kind, 'kdseg_jax': kdseg_jax.__version__, 'jax': jax.__version__,
      'model': student.name,
      'task': model.task.name,
      'classes': list(model.classes),
      'palette': None if model.palette is None else [list(color) for color in model.palette],
      'preprocessing': {'mean': list(student.mean), 'std': list(student.std),
                        'channel_order': student.channel_order, 'inside': sizes is not None},
      'resize': list(model.config.data.size) or None,
      'centre': [views.short_side, *views.crop] if views.crop else None,  # of images, see `crops`
      'canvas': list(views.canvas) or None, 'sides': list(views.sides) or None,
      'by_orientation': views.by_orientation,
      'dtype': student.dtype,
      'source': {'workdir': os.path.basename(model.workdir), 'checkpoint': model.step}}
  if sizes is None:
    return description
  return description | {
      'input': {'name': INPUT, 'dtype': 'uint8', 'shape': ['batch', 'height', 'width', 3],
                'channels': 'RGB, 0-255', **sizes._asdict()},
      'output': {'name': OUTPUTS[model.task.name], 'dtype': 'float32', **_output(model)}}


def _output(model):
  """The shape of what is computed, and of a detector what its numbers are."""
  count = len(model.classes)
  if model.task.name == DETECTION:
    return {'shape': ['batch', 'anchors', rows.FACTOR + count],
            'columns': ['x1', 'y1', 'x2', 'y2', 'factor', *model.classes],
            'suppression': None, 'head': getattr(model.module, 'head_kind', model.task.head)}
  sides = ['height', 'width'] if model.task.name == SEGMENTATION else []
  return {'shape': ['batch', *sides, count]}


def verified(difference: Difference) -> dict[str, Any]:
  """How an export was checked."""
  return {'largest_difference': difference.largest,
          'standard_deviation': difference.deviation,
          'inputs': [list(shape) for shape in difference.shapes]}


def write(folder: str, description: Mapping[str, Any], names: Iterable[str],
          platforms: Mapping[str, list[str]]) -> None:
  """Writes `export.json` with the sums of the named files, and the platforms some are for."""
  files = {}
  for name in names:
    path = os.path.join(folder, name)
    files[name] = {'sha256': digest_of(path), 'bytes': os.path.getsize(path)}
    if name in platforms:
      files[name]['platforms'] = platforms[name]
  with open(os.path.join(folder, FILE), 'w') as file:
    json.dump({**description, 'files': files}, file, indent=2)


def read(folder: str) -> dict[str, Any]:
  """The description of an export.

  Raises:
    NotFoundError: there is none.
    UserError: it is damaged, or a newer kdseg_jax wrote it.
  """
  path = os.path.join(folder, FILE)
  if not os.path.isfile(path):
    raise NotFoundError(f'{path}: no such file; expected the folder of an export.')
  with paths.reading(path), open(path, encoding='utf-8') as file:
    description = json.load(file)
  number = description.get('format') if isinstance(description, dict) else None
  if not isinstance(number, int):
    raise UserError(f'{path}: describes no export; it is damaged or was edited.')
  if number > FORMAT:
    raise UserError(
        f'{path}: is of format {number}, written by kdseg_jax {description.get("kdseg_jax")}; this '
        f'one is {kdseg_jax.__version__} and reads formats up to {FORMAT}. Update kdseg_jax.')
  return description


def check_file(folder: str, description: Mapping[str, Any], name: str) -> str:
  """The path of a file of an export.

  Raises:
    NotFoundError: it is missing.
    UserError: it is not the file that was written.
  """
  path = os.path.join(folder, name)
  if not os.path.isfile(path):
    raise NotFoundError(f'{path}: is missing; copy the whole folder of the export again.')
  if digest_of(path) != description['files'][name]['sha256']:
    raise UserError(f'{path}: is not the file that was exported: its sha256 is not that of '
                    f'{FILE}. It is damaged or was changed; copy it again, or export again.')
  return path
