"""Real training processes: starting, killing, and what they leave behind."""

import json
import os
import pathlib
import subprocess
import sys
import time

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
import pytest

from tests import compilation

ROOT = pathlib.Path(__file__).resolve().parents[1]

# One device and one compilation cache for all processes of a test session, for speed.
ENVIRONMENT = os.environ | compilation.ENVIRONMENT | {
    'JAX_PLATFORMS': 'cpu', 'PYTHONPATH': str(ROOT),
    'JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS': '0',
    'JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES': '-1'}

# A prelude: images/s of a few passes, not of a second of them.
SHORT_TIMING = """
from kdseg_jax.inference import evaluation
evaluation.throughput.__kwdefaults__['seconds'] = 0.05
"""


def toy_models(name):
  """Prelude of a program in which a model of `tests.toys` is made whatever a config names."""
  return ('from kdseg_jax import models\nfrom tests import toys\n'
          f'models.create = toys.maker_of(toys.{name})\n')


def start(program, *arguments, cache, prelude=''):
  """Starts `python -m kdseg_jax.<program> <arguments>` after the lines of `prelude`."""
  # Tests that run in the background pass on an ignored Ctrl-C.
  code = ('import signal\nsignal.signal(signal.SIGINT, signal.default_int_handler)\n'
          f'{prelude}\nimport runpy\nrunpy.run_module("kdseg_jax.{program}", run_name="__main__")')
  return subprocess.Popen(
      [sys.executable, '-c', code, *map(str, arguments)], cwd=ROOT, text=True,
      stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
      env=ENVIRONMENT | {'JAX_COMPILATION_CACHE_DIR': str(cache)})


def run(program, *arguments, cache, prelude='', status=0):
  """Runs a program to its end, checks its exit status, and returns what it printed."""
  process = start(program, *arguments, cache=cache, prelude=prelude)
  output, _ = process.communicate(timeout=600)
  assert process.returncode == status, output
  return output


def run_here(capsys, program, *arguments):
  """Exit status and output of a `Program` in this process, which has it imported."""
  with pytest.raises(SystemExit) as error:
    program.run(['program', *map(str, arguments)])
  return error.value.code, ''.join(capsys.readouterr())


def wait_for_step(process, workdir, step, phase='train'):
  """Waits until a run has logged a step."""
  deadline = time.time() + 300
  while not any(row['phase'] == phase and row['step'] >= step for row in rows(workdir)):
    assert process.poll() is None, process.communicate()[0]
    assert time.time() < deadline, 'the run logged nothing for too long'
    time.sleep(0.02)


def rows(workdir):
  """The rows of `metrics.jsonl`; a line that is being written is left out."""
  path = pathlib.Path(workdir) / 'metrics.jsonl'
  lines = path.read_text().splitlines(keepends=True) if path.exists() else []
  return [json.loads(line) for line in lines if line.endswith('\n')]


def saved(workdir, step=None):
  """All arrays of a checkpoint (default: the newest), by path."""
  folder = pathlib.Path(workdir) / 'checkpoints'
  step = max(int(path.name) for path in folder.iterdir() if path.name.isdigit()) if (
      step is None) else step
  arrays = {}
  for item in ('model', 'training'):
    arrays |= _flat(ocp.StandardCheckpointer().restore(folder / str(step) / item), item)
  return {name: np.asarray(jax.random.key_data(value) if _is_key(value) else value)
          for name, value in arrays.items()}


def _is_key(value):
  return isinstance(value, jax.Array) and jnp.issubdtype(value.dtype, jax.dtypes.prng_key)


def _flat(tree, prefix):
  if tree is None:
    return {}
  if isinstance(tree, (dict, list, tuple)):
    items = tree.items() if isinstance(tree, dict) else enumerate(tree)
    return {k: v for name, sub in items for k, v in _flat(sub, f'{prefix}/{name}').items()}
  return {prefix: tree}
