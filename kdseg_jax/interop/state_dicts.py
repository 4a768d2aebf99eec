"""State dicts of PyTorch models from files of any usual kind, as flat dicts of numpy arrays."""

from __future__ import annotations

import io
import json
import os
import zipfile
from collections.abc import Mapping
from typing import Any

import numpy as np
import safetensors
import safetensors.numpy
from absl import logging

from kdseg_jax.interop import plain_pickle, torch_files
from kdseg_jax.interop.file_errors import AGAIN, Refusal, StateDictError, reading, unpacking

__all__ = ['OURS', 'StateDictError', 'WRAPPERS', 'description', 'read']

# Under which names the scripts of training save a state dict beside other things.
WRAPPERS = ('state_dict', 'model_state_dict', 'model', 'net', 'params', 'state_dict_ema')
OURS = 'kdseg_jax'  # in the metadata of the safetensors that `export` writes
_TEACHER, _STUDENT = 'teacher.', 'student.'  # of code that distils, saved together
_PREFIXES = ('module.', '_orig_mod.', _STUDENT)  # of DataParallel, torch.compile
_EXPECTED = 'expected a .pth or .pt file of torch.save, .safetensors, or .npz'
_DEEPEST = 3
_LONGEST_HEADER = 100_000_000  # of safetensors
_TIMES, _AND = 64, 16 * 2**20


def read(path: str | os.PathLike) -> dict[str, np.ndarray]:
  """The tensors of a file by name, in the types that they were saved in.

  The content decides what the file is, not its name:
    safetensors: all of it.
    .npz: the arrays under `sd/`, or all if there are none; together at most 64 times the bytes of
      the file and 16 MiB.
    torch.save: as `torch_files.read`. The state dict is the whole or what is found under `WRAPPERS`
      up to three deep; the rest of a checkpoint (optimizer, epoch) is left out. If several are
      found, it is the one that `state_dict_ema` leads to, and otherwise an error. The log says
      which was taken.

  What begins with `teacher.` beside other names is left out, as code that distils saves it with the
  student. `module.`, `_orig_mod.` and `student.`, which DataParallel, torch.compile and such code
  put before all names, are taken off, repeatedly, where all have them. Tensors that shared memory
  may do so here.

  Args:
    path: the file.

  Raises:
    StateDictError: it is of another kind, damaged or cut short, would have to be run, holds no
      tensors, or several state dicts.
    NotFoundError: there is no such file.
  """
  with reading(path):
    with open(path, 'rb') as file:
      start, size = file.read(64), os.fstat(file.fileno()).st_size
    if _is_safetensors(start):
      found = _read_safetensors(path)
    elif start.startswith(torch_files.ZIP_START) and _is_npz(path):
      found = _read_npz(path, size)
    elif start.startswith((torch_files.ZIP_START, torch_files.PICKLE_START)):
      found = _unwrapped(torch_files.read(path), path)
    else:
      raise Refusal(_unknown(start))
    if not found:
      raise Refusal(f'holds no tensors; {_EXPECTED} with the state dict of a model.')
  return {name: np.asarray(array, order='C') for name, array in _without_prefixes(found).items()}


def description(path: str | os.PathLike) -> dict[str, Any] | None:
  """What `export` wrote beside the weights of a safetensors file; None of any other file.

  Raises:
    StateDictError: it is damaged.
    NotFoundError: there is no such file.
  """
  with reading(path):
    with open(path, 'rb') as file:
      if not _is_safetensors(file.read(64)):
        return None
    with unpacking(), safetensors.safe_open(path, framework='numpy') as file:
      text = (file.metadata() or {}).get(OURS)
    with unpacking():
      return None if text is None else json.loads(text)


def _is_safetensors(start):
  return start[8:9] == b'{' and int.from_bytes(start[:8], 'little') <= _LONGEST_HEADER


def _read_safetensors(path):
  with unpacking():
    return safetensors.numpy.load_file(path)


def _is_npz(path):
  with unpacking(), zipfile.ZipFile(path) as archive:
    names = archive.namelist()
  return bool(names) and all(name.endswith('.npy') for name in names)


def _read_npz(path, size):
  with unpacking():
    archive = zipfile.ZipFile(path)
  with archive:
    entries = {entry.filename.removesuffix('.npy'): entry for entry in archive.infolist()}
    if any(name.startswith('sd/') for name in entries):
      entries = {name.removeprefix('sd/'): entry for name, entry in entries.items()
                 if name.startswith('sd/')}
    if sum(entry.file_size for entry in entries.values()) > _TIMES * size + _AND:
      raise Refusal(f'unpacks to more than {_TIMES} times its size and {_AND // 2**20} MiB; '
                    'expected the weights of a model.')
    return {name: _read_npy(name, archive, entry) for name, entry in entries.items()}


def _read_npy(name, archive, entry):
  """One array; numpy's own reader makes room for what a header says before it looks further."""
  with unpacking():
    content = archive.read(entry)
    stream = io.BytesIO(content)
    version = np.lib.format.read_magic(stream)
    header = (np.lib.format.read_array_header_1_0 if version == (1, 0)
              else np.lib.format.read_array_header_2_0)
    shape, by_columns, dtype = header(stream)
  if dtype.kind not in 'biufc':
    raise Refusal(f'array {name!a:.100} is of type {dtype}; expected numbers. (numpy cannot save '
                  'bfloat16: save it as float32.)')
  if min(shape, default=0) < 0:  # numpy takes -1 for as many as there are
    raise Refusal(f'cannot be unpacked (array {name!a:.100} has the shape {shape}). {AGAIN}')
  with unpacking():
    array = np.ndarray(shape, dtype, content, stream.tell(), order='F' if by_columns else 'C')
    return array.astype(dtype.newbyteorder('='))


def _unwrapped(tree: Any, path) -> dict[str, np.ndarray]:
  """The state dict in what torch.save saved."""
  if not isinstance(tree, Mapping):
    what = 'tensor' if isinstance(tree, np.ndarray) else type(tree).__name__
    raise Refusal(f'holds one {what}; expected a state dict, or a checkpoint with one under '
                  f'{", ".join(WRAPPERS)}.')
  found = _candidates(tree)
  averaged = {where: state for where, state in found.items() if 'state_dict_ema' in where}
  chosen = averaged if len(averaged) == 1 else found
  if len(chosen) > 1:
    raise Refusal(f'holds several state dicts: {", ".join(map(".".join, chosen))}. Save the one '
                  'that you want alone.')
  if not chosen:
    raise Refusal(_nothing_in(tree))
  [(where, state)] = chosen.items()
  for name, value in state.items():
    if isinstance(value, plain_pickle.Unread):
      raise Refusal(f'{name!a:.100} is an array of numpy, which is not read: save tensors, or '
                    'arrays with numpy.savez.')
  if where:
    others = [other for other in found if other != where]
    logging.info('%s: took %s%s.', path, '.'.join(where), '' if not others else
                 f' and not {", ".join(map(".".join, others))}')
  return _tensors(state)


def _candidates(tree, where=()):
  """State dicts under the names of WRAPPERS, by path; the tree itself if there are none."""
  found: dict[tuple[str, ...], Mapping] = {}
  for name in WRAPPERS if len(where) < _DEEPEST else ():
    if isinstance(tree.get(name), Mapping):
      for path, state in _candidates(tree[name], (*where, name)).items():
        if not any(state is other for other in found.values()):
          found[path] = state
  return found or ({where: tree} if _tensors(tree) else {})


def _tensors(tree):
  return {name: value for name, value in tree.items()
          if isinstance(name, str) and isinstance(value, np.ndarray)}


def _nothing_in(tree):
  others = [name for name, value in tree.items()
            if isinstance(name, str) and isinstance(value, Mapping) and _tensors(value)]
  if not others:
    return (f'holds no tensors, neither by itself nor under {", ".join(WRAPPERS)}; expected the '
            'state dict of a model.')
  shown = ', '.join(f'{name!a:.50}' for name in others[:6])
  return (f'holds no state dict by itself or under {", ".join(WRAPPERS)}, but tensors under '
          f'{shown}. Save the one that you want alone.')


def _without_prefixes(found):
  while prefix := next((prefix for prefix in _PREFIXES
                        if all(name.startswith(prefix) for name in _without_teacher(found))), ''):
    found = {name.removeprefix(prefix): value for name, value in _without_teacher(found).items()}
  return _without_teacher(found)


def _without_teacher(found):
  rest = {name: value for name, value in found.items() if not name.startswith(_TEACHER)}
  return rest or found


def _unknown(start):
  if not start:
    return f'is empty; {_EXPECTED}. {AGAIN}'
  if start.startswith(b'version https://git-lfs'):
    return 'is a pointer of Git LFS, not the file itself. Get that with: git lfs pull.'
  text = start.decode('ascii', 'replace')
  if text.lstrip().startswith(('<', '{')) and '\ufffd' not in text:
    return ('is a web page or a message of a server, not weights: it begins '
            f'{ascii(text[:40])}. Open the address in a browser, and download the file itself.')
  return (f'is of no kind that can be read; {_EXPECTED}. It begins with the bytes '
          f'{start[:8].hex(" ")}.')
