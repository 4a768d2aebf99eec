"""A state dict of PyTorch to our variables and back, by a list of layers."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from flax import traverse_util

from kdseg_jax.errors import UserError
from kdseg_jax.interop.layers import Layer

PyTree = Any

# Buffers that are no weights: the steps of a BatchNorm, the bins of GFL's integral.
_BUFFER = re.compile(r'(^|\.)(num_batches_tracked|integral\.project)$')


class WeightsError(UserError):
  """A state dict does not fit a model; the message says which keys."""


class Conversion(NamedTuple):
  """What a state dict gave.

  Attributes:
    variables: our arrays by path, as 'params/backbone/stem/conv/kernel'.
    absent: paths of ours whose layers the source does not have.
    left_out: keys of the source whose layers the scheme names and our model does not have.
    unknown: keys of the source that the scheme does not name.
    resized: paths whose shapes differ, of a head with another number of classes.
  """

  variables: dict[str, np.ndarray]
  absent: list[str]
  left_out: list[str]
  unknown: list[str]
  resized: list[str]


def to_variables(
    state_dict: Mapping[str, np.ndarray], layers: Iterable[Layer], like: PyTree, *,
    head: Collection[str] = (),
) -> Conversion:
  """Our variables from a source's arrays.

  Args:
    state_dict: arrays by PyTorch's names.
    layers: of the naming scheme; what the model does not have is skipped.
    like: our variables or their shapes.
    head: paths whose shapes may differ, as they follow from the number of classes.

  Raises:
    WeightsError: an array whose shape differs from ours, or that is not finite; says which.
  """
  layers, shapes = list(layers), traverse_util.flatten_dict(like, sep='/')
  found, used, wrong, resized = {}, set(), [], []
  for layer, leaf, path in _leaves_of(layers, shapes):
    key = layer.key(leaf)
    if key not in state_dict:
      continue
    used.add(key)
    array = _checked(key, layer.to_ours(leaf, np.asarray(state_dict[key])))
    if array.shape == tuple(shapes[path].shape):
      found[path] = array
    elif path in head:
      resized.append(path)
    else:
      wrong.append(f'  {key}: {tuple(state_dict[key].shape)}, which would be {array.shape} of '
                   f'{path}; expected {tuple(shapes[path].shape)}')
  if wrong:
    raise WeightsError(
        f'{len(wrong)} arrays are of another shape than in the model:\n' + _listed(wrong))
  absent = [path for path in shapes if path not in found and path not in resized]
  rest = [key for key in state_dict if key not in used and not _BUFFER.search(key)]
  named = {layer.source for layer in layers}
  left_out = [key for key in rest if key.rpartition('.')[0] in named]
  unknown = [key for key in rest if key not in set(left_out)]
  return Conversion(found, absent, left_out, unknown, resized)


def require_all(conversion: Conversion, where: str) -> None:
  """Checks that a conversion accounts for every array on either side.

  Args:
    conversion: what a state dict gave.
    where: whose it is, for errors.

  Raises:
    WeightsError: paths of ours that it lacks, or keys that the scheme does not name; lists them.
  """
  for rows, what in ((conversion.absent, 'does not hold these arrays of the model'),
                     (conversion.unknown, 'holds arrays that are no part of the model')):
    if rows:
      raise WeightsError(f'{where}: {what} ({len(rows)}); it is of another architecture, or of '
                         'other options of it:\n' + _listed([f'  {row}' for row in rows]))


def to_state_dict(variables: PyTree, layers: Iterable[Layer]) -> dict[str, np.ndarray]:
  """The arrays of a model under a source's names, in its layout; the inverse of `to_variables`.

  Raises:
    WeightsError: leaves of the model that no layer names.
  """
  arrays = traverse_util.flatten_dict(variables, sep='/')
  found, named = {}, set()
  for layer, leaf, path in _leaves_of(layers, arrays):
    array = layer.to_source(leaf, np.asarray(arrays[path]))
    # Not ascontiguousarray, which gives a scalar an axis.
    found[layer.key(leaf)] = np.asarray(array, order='C')
    named.add(path)
  missing = sorted(set(arrays) - named)
  if missing:
    raise WeightsError('These leaves have no name in the scheme:\n' + _listed(
        [f'  {path}' for path in missing]))
  return found


def _leaves_of(layers, arrays):
  """Every leaf that a model has of the layers: layer, leaf and path."""
  leaves = {}
  for path in arrays:
    module, _, leaf = path.partition('/')[2].rpartition('/')
    leaves.setdefault(module, []).append(leaf)
  for layer in layers:
    for leaf in leaves.get(layer.ours, ()):
      yield layer, leaf, layer.path(leaf)


def _checked(key, array):
  if not np.issubdtype(array.dtype, np.floating) and array.dtype.name != 'bfloat16':
    raise WeightsError(f'{key} holds {array.dtype}, no floating-point numbers.')
  array = array.astype(np.float32)
  if not np.isfinite(array).all():
    raise WeightsError(f'{key} holds numbers that are not finite: the file is damaged, or the '
                       'training that it is from had diverged.')
  return array


def summarized(paths: Iterable[str], most: int = 6) -> str:
  """Paths of leaves, or keys of a source: of a part with more than so many, their number."""
  parts: dict[str, list[str]] = {}
  for path in sorted(paths):
    part = path.split('/')[1] if '/' in path else path.partition('.')[0]
    parts.setdefault(part, []).append(path)
  return ', '.join(f'{len(leaves)} arrays of {part}' if len(leaves) > most else ', '.join(leaves)
                   for part, leaves in parts.items())


def _listed(rows: Sequence[str], limit: int = 8) -> str:
  more = [f'  ... and {len(rows) - limit} more'] if len(rows) > limit else []
  return '\n'.join([*rows[:limit], *more])
