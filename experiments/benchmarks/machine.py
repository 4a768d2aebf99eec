"""What a table was measured on: CPU flags, cores, memory and versions; no names, no paths."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import re
import subprocess
import sys
from typing import Any

_FLAGS = re.compile(r'avx|fma|amx|bf16|fp16|vnni|neon|asimd|sve')
_PACKAGES = ('jax', 'jaxlib', 'flax', 'optax', 'numpy', 'opencv-python-headless')


def describe(torch_python: str, device: str = 'cpu') -> dict[str, Any]:
  """The machine, and the versions on both sides; `torch` is None where it is missing."""
  own = {} if device == 'cpu' else {'device': device_kind()}
  return own | {
      'cores': len(os.sched_getaffinity(0)) if hasattr(os, 'sched_getaffinity') else os.cpu_count(),
      'flags': _flags(), 'architecture': platform.machine(),
      'memory_gb': round(os.sysconf('SC_PAGE_SIZE') * os.sysconf('SC_PHYS_PAGES') / 1e9),
      'system': platform.system(), 'python': platform.python_version(),
      'versions': {name: importlib.metadata.version(name) for name in _PACKAGES},
      'torch': torch_version(torch_python)}


def device_kind() -> str:
  """Name of the first device that jax sees, in a process of its own, which gives it back."""
  code = 'import jax; print(jax.devices()[0].device_kind)'
  return subprocess.run([sys.executable, '-c', code], capture_output=True, text=True,
                        check=True).stdout.strip()


def torch_version(python: str) -> str | None:
  """That of PyTorch which a Python imports, and of the Python; None if it cannot."""
  code = 'import platform, torch; print(torch.__version__, "on Python", platform.python_version())'
  done = subprocess.run([python, '-c', code], capture_output=True, text=True)
  return done.stdout.strip() if done.returncode == 0 else None


def _flags():
  """Those of the CPU that decide how fast it multiplies."""
  try:
    with open('/proc/cpuinfo') as file:
      found = re.search(r'^(?:flags|Features)\s*:\s*(.*)$', file.read(), re.M)
  except OSError:
    return []
  return sorted(flag for flag in (found[1].split() if found else []) if _FLAGS.search(flag))
