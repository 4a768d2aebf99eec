"""ONNX by jax2onnx, run by onnxruntime."""

from __future__ import annotations

import contextlib
import dataclasses
import importlib
import importlib.util
import json
import logging
import os
import sys
from collections.abc import Callable, Iterator
from typing import Any
from unittest import mock

import numpy as np
from ml_collections import ConfigDict

from kdseg_jax import target_platform
from kdseg_jax.errors import UserError
from kdseg_jax.inference import Model
from kdseg_jax.inference.model import create_module
from kdseg_jax.interop.exporting import manifest
from kdseg_jax.interop.exporting.graph import outputs_of
from kdseg_jax.interop.exporting.sizes import Sizes

FILE = 'model.onnx'
_VERSION = '0.17.1'  # of jax2onnx, that was tested
_WRONG = 'remove_redundant_transpose_pairs'
_KEY = 'kdseg_jax'  # of the description among the metadata


def require() -> None:
  """Raises UserError, with the commands that install them, unless ONNX can be written and run."""
  missing = [name for name in ('jax2onnx', 'onnxruntime') if importlib.util.find_spec(name) is None]
  if missing:
    pip = f'{sys.executable} -m pip install'
    raise UserError(
        f'--format=onnx needs {" and ".join(missing)}, which is not installed. In this order:\n'
        f'  {pip} onnx onnx-ir onnxruntime\n  {pip} --no-deps jax2onnx=={_VERSION}\n'
        '(jax2onnx asks for an older orbax-checkpoint than kdseg_jax, and does not use it.)')


def in_float32(model: Model) -> Model:
  """The model computing in float32: onnxruntime has no convolution in bfloat16 for the CPU."""
  if model.config.student.dtype == 'float32':
    return model
  config = ConfigDict(model.config)
  config.student.dtype = 'float32'
  return dataclasses.replace(
      model, config=config, module=create_module(config.student, len(model.classes)))


def write(model: Model, sizes: Sizes, folder: str, description: dict[str, Any]) -> None:
  """Writes `model.onnx`, its metadata as in `export.json`.

  Raises:
    UserError: a symbolic size stands where jax2onnx needs a number, or a layer is unknown to it.
  """
  with _converter() as to_onnx:
    try:
      with target_platform.lowered_for('onnx'):
        proto = to_onnx(outputs_of(model), [sizes.abstract()], model_name=description['model'],
                        input_names=[manifest.INPUT], 
                        output_names=[description['output']['name']])
    except Exception as error:  # it has no errors of its own
      reason = next(iter(str(error).splitlines()), '')
      raise UserError(
          f'jax2onnx cannot convert it ({type(error).__name__}: {reason:.300}).') from error
  entry = proto.metadata_props.add()
  entry.key, entry.value = _KEY, json.dumps(description)
  with open(os.path.join(folder, FILE), 'wb') as file:
    file.write(proto.SerializeToString())


def read(path: str) -> Callable[[np.ndarray], np.ndarray]:
  """The function of a file, by onnxruntime on the CPU."""
  onnxruntime = importlib.import_module('onnxruntime')
  options = onnxruntime.SessionOptions()
  options.log_severity_level = 3
  session = onnxruntime.InferenceSession(path, options, providers=['CPUExecutionProvider'])
  return lambda images: session.run(None, {manifest.INPUT: images})[0]


@contextlib.contextmanager
def _converter() -> Iterator[Callable]:
  """`jax2onnx.to_onnx`, without what is wrong in it and without its log.

  Version 0.17.1 takes pairs of transpositions away although an addition between them has another
  side, which is then of the wrong order: residual networks come out wrong. onnxruntime does the
  same by itself, rightly. The log is of parts that it cannot import, as those for equinox.
  """
  logger = logging.getLogger('jax2onnx')
  level = logger.level
  logger.setLevel(logging.ERROR)
  try:
    to_onnx = importlib.import_module('jax2onnx').to_onnx
    optimizer = importlib.import_module('jax2onnx.converter.ir_optimizations')
    passes = [step for step in optimizer._OPTIMIZER_PASSES if step.name != _WRONG]
    with mock.patch.object(optimizer, '_OPTIMIZER_PASSES', tuple(passes)):
      yield to_onnx
  finally:
    logger.setLevel(level)
