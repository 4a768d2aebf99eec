"""Programs that compile: what the user is told of them, and where they are kept for later runs."""

from __future__ import annotations

import os
import pathlib
import platform
import re
import time
import zlib
from collections.abc import Callable
from typing import Any

import jax
from absl import logging

_MANY_SIZES = 5
PADDING_NOTE = 'which changes their results, by points of mIoU'

CACHE_BYTES = 2 << 30  # some hundred train steps
_CACHED_FROM_SECONDS = 0.1  # jax's own 1 s leaves out most programs of a small run


def keep_programs() -> str | None:
  """Has jax keep compiled programs for later runs, in one folder of at most `CACHE_BYTES`.

  The folder is `kdseg_jax/compiled/<kind of CPU>` of `$XDG_CACHE_HOME`, or of `~/.cache`: a home
  may be shared by machines of which some cannot run what others compile. The programs that were
  used longest ago make room. What the user has set goes first: a folder
  (`JAX_COMPILATION_CACHE_DIR`) is left with all its settings, `JAX_ENABLE_COMPILATION_CACHE=false`
  keeps nothing, and `JAX_COMPILATION_CACHE_MAX_SIZE` is the bound in bytes.

  Returns:
    The folder, or None: nothing is kept, as the user wants or because it cannot be written.
  """
  if not jax.config.jax_enable_compilation_cache:
    logging.info('Compiled programs are not kept: jax_enable_compilation_cache is false.')
    return None
  folder = jax.config.jax_compilation_cache_dir
  if folder is not None:
    logging.info('Compiled programs are kept in %s, as jax_compilation_cache_dir says.', folder)
    return folder
  base = os.environ.get('XDG_CACHE_HOME') or pathlib.Path.home() / '.cache'
  folder = os.path.join(base, 'kdseg_jax', 'compiled', _kind_of_cpu())
  try:
    os.makedirs(folder, exist_ok=True)
  except OSError as error:
    logging.info('Compiled programs are not kept: %s cannot be made (%s).', folder, error.strerror)
    return None
  if jax.config.jax_compilation_cache_max_size == -1:  # jax's default, no bound
    jax.config.update('jax_compilation_cache_max_size', CACHE_BYTES)
  jax.config.update('jax_compilation_cache_dir', folder)
  jax.config.update('jax_persistent_cache_min_compile_time_secs', _CACHED_FROM_SECONDS)
  logging.info('Compiled programs are kept in %s, at most %.3g GB.', folder,
               jax.config.jax_compilation_cache_max_size / 1e9)
  return folder


def announced(what: str, program: Callable, *arguments: Any) -> Any:
  """`program(*arguments)`, its first call: says that it compiles, and then how long that took.

  Args:
    what: that is compiled, e.g. 'the train step'.
    program: function of arrays; its results are waited for.
    *arguments: of the program.
  """
  logging.info('Compiling %s; this takes a while ...', what)
  start = time.perf_counter()
  result = jax.block_until_ready(program(*arguments))
  logging.info('Compiled %s, and ran it once, in %.1f s.', what, time.perf_counter() - start)
  return result


class Announced:
  """A program's calls, of which those are `announced` that compile: one for each size of images.

  Args:
    what: that is compiled, e.g. 'the train step'.
  """

  def __init__(self, what: str):
    self._what, self._known = what, set()

  def __call__(self, size: tuple[int, ...], program: Callable, *arguments: Any) -> Any:
    """`program(*arguments)` for images of (height, width)."""
    if size in self._known:
      return program(*arguments)
    another = f' for images of {size[0]}x{size[1]}' if self._known else ''
    self._known.add(size)
    return announced(f'{self._what}{another}', program, *arguments)


def _kind_of_cpu():
  """The architecture, and a checksum of the instructions that the CPU knows where that is told."""
  try:
    with open('/proc/cpuinfo') as file:
      flags = re.search(r'^(?:flags|Features)\s*:.*$', file.read(), re.M)
  except OSError:
    flags = None
  return platform.machine() + (f'-{zlib.crc32(flags[0].encode()):08x}' if flags else '')


class Sizes:
  """The image sizes that a program was compiled for; warns once when they are many.

  Args:
    multiple: of which the sizes are made a multiple by padding, `config.eval.pad_multiple`; None
      where that is not done.
  """

  def __init__(self, multiple: int | None = 1):
    self._multiple, self._known = multiple, set()

  def is_first(self, size: tuple[int, ...]) -> bool:
    """Whether an image size, (height, width), is the first of all; counts it."""
    first, new = not self._known, size not in self._known
    self._known.add(size)
    if new and len(self._known) == _MANY_SIZES:
      logging.warning(
          'Images of %d sizes so far, and a program is compiled for each, which can take longer '
          'than running it.%s', _MANY_SIZES, self._advice())
    return first

  def _advice(self):
    if self._multiple is None:
      return ''
    larger = 32 if self._multiple < 32 else 4 * self._multiple
    return (f' --config.eval.pad_multiple={larger} makes the sizes few by padding images, '
            f'{PADDING_NOTE}; "--config.data.size=(height,width)" brings all to one by resizing, '
            'in training and evaluation alike.')
