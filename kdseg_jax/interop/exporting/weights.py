"""Weights by the names of PyTorch's modules, as safetensors, which `import` reads back."""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
import safetensors.numpy
from flax import traverse_util

from kdseg_jax.errors import UserError
from kdseg_jax.inference import Model
from kdseg_jax.interop import conversion, schemes, state_dicts
from kdseg_jax.interop.exporting.graph import outputs_of
from kdseg_jax.models.normalization import Preprocessing

FILE = 'model.safetensors'
# Fields of config.student that do not change what a model of ours computes.
_OF_TRAINING = ('init', 'remat', 'options')
_DROPOUT = ('dropout', 'project_dropout')  # nor do these, but an import needs to know them
# Fields that an architecture fixes and no array shows.
_FIXED = {field for scheme in schemes.SCHEMES.values() for field in scheme.student} - {
    *Preprocessing._fields, *_DROPOUT}


def choose(model: Model, name: str | None) -> schemes.Scheme:
  """The naming scheme: the one of this name, or the first that names every array of the model.

  A scheme stands for an architecture: what of `config.student` it fixes must be the model's, but
  for the preprocessing, which travels beside the weights.

  Raises:
    UserError: an unknown one, or one that does not fit; says why.
  """
  candidates = [schemes.named(name)] if name else [
      scheme for scheme in schemes.SCHEMES.values() if model.config.student.name in scheme.models]
  reasons = []
  for scheme in candidates:
    reason = _objection(model, scheme)
    if reason is None:
      return scheme
    reasons.append(f'{scheme.name}: {reason}')
  raise UserError(
      f'{model.config.student.name} cannot be written by names of PyTorch: '
      + ('\n'.join(reasons) or 'no naming scheme knows it.')
      + '\nExport it as stablehlo or onnx instead.')


def write(model: Model, scheme: schemes.Scheme, folder: str, description: dict[str, Any]) -> None:
  """Writes `model.safetensors`, with what the weights alone do not say in its metadata."""
  arrays = conversion.to_state_dict(
      jax.device_get(model.variables), scheme.layers(model.config.student.name))
  student = {field: value for field, value in model.config.student.items()
             if field not in _OF_TRAINING}
  metadata = {'format': 'pt', state_dicts.OURS: json.dumps(description | {
      'student': student, 'config': {'task': {
          field: value for field, value in model.config.task.items()
          if field == 'align_corners'}}})}
  safetensors.numpy.save_file(arrays, os.path.join(folder, FILE), metadata=metadata)


def read(model: Model, scheme: schemes.Scheme, folder: str) -> Callable[[np.ndarray], jax.Array]:
  """The live model's function with the weights of the file."""
  found = conversion.to_variables(
      state_dicts.read(os.path.join(folder, FILE)), scheme.layers(model.config.student.name),
      jax.device_get(model.variables))
  conversion.require_all(found, FILE)
  variables = {'batch_stats': {}} | traverse_util.unflatten_dict(found.variables, sep='/')
  return outputs_of(dataclasses.replace(model, variables=variables))


def _objection(model, scheme):
  """Why a scheme cannot name the arrays of a model, or None."""
  student = model.config.student
  if student.name not in scheme.models:
    return f'names {", ".join(scheme.models)}.'
  for field in sorted(_FIXED):
    if student.get(field, False) != scheme.student.get(field, False):
      return f'stands for models with {field}={scheme.student.get(field, False)}.'
  try:
    conversion.to_state_dict(model.variables, scheme.layers(student.name))
  except conversion.WeightsError as error:
    return str(error)
  return None
