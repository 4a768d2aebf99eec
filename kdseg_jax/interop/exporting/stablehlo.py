"""StableHLO by `jax.export`: one file for the CPU, one for accelerators."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable, Sequence

import jax
import jax.export
import numpy as np

from kdseg_jax import target_platform
from kdseg_jax.errors import UserError
from kdseg_jax.inference import Model
from kdseg_jax.interop.exporting.graph import outputs_of
from kdseg_jax.interop.exporting.sizes import Sizes

PLATFORMS = ('cpu', 'cuda', 'rocm', 'tpu')


def write(model: Model, sizes: Sizes, folder: str, platforms: Sequence[str]
          ) -> dict[str, list[str]]:
  """Writes `model.<platforms>.stablehlo`; returns the platforms of each file.

  Convolutions and resizing are lowered for the platform that a file is for (`target_platform`), so
  that the CPU has a file of its own.
  """
  groups = [[name for name in platforms if (name == 'cpu') is alone] for alone in (True, False)]
  written = {}
  for group in filter(None, groups):
    with target_platform.lowered_for(group[0]):
      exported = jax.export.export(jax.jit(outputs_of(model)), platforms=group)(sizes.abstract())
    name = f'model.{"-".join(group)}.stablehlo'
    with open(os.path.join(folder, name), 'wb') as file:
      file.write(exported.serialize())
    written[name] = group
  return written


def read(path: str, written_by: str, *, anywhere: bool = False
         ) -> Callable[[np.ndarray], jax.Array]:
  """The function of a file, to be called or jitted.

  Args:
    path: the file.
    written_by: version of the jax that wrote it.
    anywhere: it may run on a platform that it is not for.

  Raises:
    UserError: this jax cannot read it.
  """
  with open(path, 'rb') as file:
    content = bytearray(file.read())
  try:
    exported = jax.export.deserialize(content)
  except Exception as error:  # of flatbuffers, of versions, of the compiler
    raise UserError(
        f'{path}: was exported by jax {written_by}, and jax {jax.__version__} cannot read it '
        f'({type(error).__name__}: {error}). Export it again with this jax, or install '
        f'jax=={written_by}.') from error
  if anywhere:
    exported = dataclasses.replace(
        exported, disabled_safety_checks=(jax.export.DisabledSafetyCheck.platform(),))
  return exported.call
