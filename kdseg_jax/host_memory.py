"""What a process on the CPU does with the memory that a program has used."""

from __future__ import annotations

import ctypes
import os

import jax

# Arguments of mallopt(3), of the GNU C library.
_TRIM_THRESHOLD, _MMAP_MAX = -1, -4
_NEVER = -1
# With these in the environment users decide by themselves.
VARIABLES = ('MALLOC_MMAP_MAX_', 'MALLOC_TRIM_THRESHOLD_')


def keep_freed() -> bool:
  """On the CPU has the process keep the memory of one step for the next.

  What a program needs beside its arguments XLA allocates anew at each call. Of a block so large
  malloc asks the system, which hands it over page by page and cleared: a third of the CPU time of a
  small train step. Kept, it lies in the heap of the thread that calls; so that programs are run by
  this thread, and not by one of jax's, `jax_cpu_enable_async_dispatch` is switched off. Of several
  virtual devices jax's threads run them all the same, and memory is kept now and then. The process
  holds what it needed most until it ends, and part of it twice where results of a call lie in the
  way of the next.

  To be called before jax finds its devices. `MALLOC_MMAP_MAX_` or `MALLOC_TRIM_THRESHOLD_` in the
  environment say that the user decides: then nothing is changed.

  Returns:
    Whether memory is kept: not on accelerators, nor without the GNU C library.
  """
  mallopt = _mallopt()
  if mallopt is None or any(name in os.environ for name in VARIABLES):
    return False
  jax.config.update('jax_cpu_enable_async_dispatch', False)  # read when devices are found
  if jax.default_backend() != 'cpu':
    return False
  return bool(mallopt(_MMAP_MAX, 0) and mallopt(_TRIM_THRESHOLD, _NEVER))


def _mallopt():
  """The function of the C library; None where it has none."""
  try:
    return ctypes.CDLL(None).mallopt
  except (AttributeError, OSError, TypeError):  # AttributeError of macOS, TypeError of Windows
    return None
