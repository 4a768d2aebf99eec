"""The folder of an export: written whole and checked, or not at all."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Sequence
from typing import Any, NamedTuple

from absl import logging

from kdseg_jax import names
from kdseg_jax.errors import UserError
from kdseg_jax.inference import Model
from kdseg_jax.interop.exporting import card, graph, manifest, onnx_file, stablehlo, weights
from kdseg_jax.interop.exporting.sizes import Sizes, attempts

FORMATS = ('stablehlo', 'onnx', 'safetensors')


class Options(NamedTuple):
  """How a model is exported.

  Attributes:
    format: one of `FORMATS`.
    size: (height, width) of the images; None is free, where the model permits.
    platforms: that a StableHLO export is for, of `stablehlo.PLATFORMS`.
    scheme: of the names in safetensors; None is the first that fits.
  """

  format: str
  size: tuple[int, int] | None = None
  platforms: Sequence[str] = ('cpu', 'cuda', 'tpu')
  scheme: str | None = None


def export(model: Model, output: str, options: Options) -> dict[str, Any]:
  """Writes a model into a folder, with `export.json` and a model card, once it was checked.

  An export that was there is replaced.

  Args:
    model: as loaded.
    output: the folder.
    options: see `Options`.

  Returns:
    What `export.json` holds.

  Raises:
    UserError: the folder holds something else, the model cannot be exported so, or what was
      written does not compute what the model does; nothing is left then.
  """
  names.require(options.format, FORMATS, 'format')
  if model.task.name not in manifest.OUTPUTS:
    raise UserError(f'Models of {", ".join(manifest.OUTPUTS)} are exported; the task of this one '
                    f'is {model.task.name}.')
  for platform in options.platforms:
    names.require(platform, stablehlo.PLATFORMS, 'platform')
  check_output(output)
  output = os.path.abspath(output)
  os.makedirs(os.path.dirname(output), exist_ok=True)
  with tempfile.TemporaryDirectory(prefix='.export-', dir=os.path.dirname(output)) as parent:
    folder = os.path.join(parent, 'new')
    os.mkdir(folder)
    description = _write(model, folder, options)
    if os.path.isdir(output):
      os.rename(output, os.path.join(parent, 'old'))
    shutil.move(folder, output)
  return description


def check_output(output: str) -> None:
  """Raises UserError if a folder holds anything but an export."""
  if os.path.isdir(output) and os.listdir(output) and not os.path.isfile(
      os.path.join(output, manifest.FILE)):
    raise UserError(f'{output} is not empty and holds no export; give a new folder.')


def _write(model, folder, options):
  platforms: dict[str, list[str]] = {}
  if options.format == 'safetensors':
    description, difference = _write_weights(model, folder, options)
  elif options.format == 'onnx':
    onnx_file.require()
    model = onnx_file.in_float32(model)

    def write(sizes):
      description = manifest.describe(model, 'onnx', sizes)
      onnx_file.write(model, sizes, folder, description)
      return description, [onnx_file.read(os.path.join(folder, onnx_file.FILE))]
    description, difference = _first_that_works(model, options, write)
  else:
    def write(sizes):
      platforms.update(stablehlo.write(model, sizes, folder, options.platforms))
      description = manifest.describe(model, 'stablehlo', sizes)
      return description, [graph.compiled(stablehlo.read(
          os.path.join(folder, name), description['jax'], anywhere=True)) for name in platforms]
    description, difference = _first_that_works(model, options, write)
  description['verified'] = manifest.verified(difference)
  files = sorted(os.listdir(folder))
  with open(os.path.join(folder, card.FILE), 'w', encoding='utf-8') as file:
    file.write(card.text(model, description, files))
  manifest.write(folder, description, files, platforms)
  return manifest.read(folder)


def _write_weights(model, folder, options):
  scheme = weights.choose(model, options.scheme)
  description = manifest.describe(model, 'safetensors', None) | {'scheme': scheme.name}
  weights.write(model, scheme, folder, description)
  difference = graph.compare(
      model, [graph.compiled(weights.read(model, scheme, folder))], Sizes(batch=1).examples())
  _require_none(difference)
  return description, difference


def _first_that_works(model, options, write):
  """Writes for the freest sizes for which what was written computes what the model does.

  Args:
    model: the model.
    options: of the export.
    write: `(sizes) -> (description, functions of the files)`.
  """
  usual = model.views.crop or model.views.canvas or tuple(
      model.config.data.size or model.config.augmentation.crop)
  size = options.size
  if model.task.name == manifest.DETECTION and not size:  # the anchors are those of one size
    if not (model.views.canvas or model.config.data.size):
      raise UserError('The config of this detector names no size of images (eval.canvas, '
                      'data.size); give --size=<height>,<width>, multiples of 32.')
    size = usual
  *tried, last = attempts(size, usual)
  for sizes in tried:
    try:
      return _checked(model, sizes, write)
    except Exception as error:  # of a tracer, a converter, a compiler; the last one counts
      reason = next(iter(str(error).splitlines()), '')
      logging.info('Not for %s (%s: %.200s).', sizes, type(error).__name__, reason)
  return _checked(model, last, write)


def _checked(model, sizes, write):
  description, functions = write(sizes)
  difference = graph.compare(model, functions, sizes.examples())
  _require_none(difference)
  return description, difference


def _require_none(difference):
  if not difference.is_none:
    raise UserError(
        f'What was written does not compute what the model does: outputs differ by up to '
        f'{difference.largest:.2g}, and {difference.allowed:.2g} would be rounding. Nothing is '
        'kept. Please report it, with the config of the model.')
