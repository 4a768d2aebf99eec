"""ONNX by jax2onnx, run by onnxruntime."""

from __future__ import annotations

import contextlib
import dataclasses
import importlib
import importlib.util
import json
import logging
import os
from collections.abc import Callable
from typing import Any

import numpy as np
from ml_collections import ConfigDict

from kdseg_jax import extras
from kdseg_jax.errors import UserError
from kdseg_jax.inference import Model
from kdseg_jax.inference.model import create_module
from kdseg_jax.interop.exporting import manifest
from kdseg_jax.interop.exporting.graph import logits_of
from kdseg_jax.interop.exporting.sizes import Sizes
from kdseg_jax.models import conv

FILE = 'model.onnx'
_CONVERTER = 'jax2onnx'
_KEY = 'kdseg_jax'  # of the description among the metadata


def require() -> None:
  """Raises UserError, with the commands that install it, unless ONNX can be written and run."""
  for module in ('onnx', 'onnxruntime'):
    extras.require('onnx', module, '--format=onnx')
  if importlib.util.find_spec(_CONVERTER) is None:
    # It asks for an orbax-checkpoint older than ours, which it does not use.
    raise UserError(f'--format=onnx needs {_CONVERTER}, which is not installed: '
                    f'pip install --no-deps {_CONVERTER}')


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
  with _quiet():
    to_onnx = importlib.import_module(_CONVERTER).to_onnx
    try:
      with conv.lowered_for('onnx'):
        proto = to_onnx(logits_of(model), [sizes.abstract()], model_name=description['model'],
                        input_names=[manifest.INPUT], output_names=[manifest.OUTPUT])
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
  import onnxruntime

  options = onnxruntime.SessionOptions()
  options.log_severity_level = 3
  session = onnxruntime.InferenceSession(path, options, providers=['CPUExecutionProvider'])
  return lambda images: session.run([manifest.OUTPUT], {manifest.INPUT: images})[0]


@contextlib.contextmanager
def _quiet():
  """Without what jax2onnx logs of the parts that it cannot import, as equinox's."""
  logger = logging.getLogger(_CONVERTER)
  level = logger.level
  logger.setLevel(logging.ERROR)
  try:
    yield
  finally:
    logger.setLevel(level)
