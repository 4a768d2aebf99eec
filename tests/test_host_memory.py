"""What a step has used is there for the next one."""

import ctypes
import platform
import subprocess
import sys

import jax
import pytest

from kdseg_jax import host_memory, program
from tests import runs

GNU = pytest.mark.skipif(platform.libc_ver()[0] != 'glibc', reason='mallopt is of the GNU library')
# Page faults of the call with the fewest, whose program needs 64 MB beside its arguments. Of a call
# that finds results of others in the way they are many even if memory is kept.
FAULTS = """
import resource
import jax, jax.numpy as jnp
from kdseg_jax import host_memory
KEEP
faults = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_minflt
program = jax.jit(lambda x: x @ x.T @ x)
x = jnp.zeros((4096, 8))
found = []
for calls in range(10):
  before = faults()
  program(x).block_until_ready()
  found.append(faults() - before)
print(min(found))
"""
PAGES = (64 << 20) / 4096


def faults(keep, **environment):
  kept = {name: value for name, value in runs.ENVIRONMENT.items() if not name.startswith('MALLOC_')}
  output = subprocess.run(
      [sys.executable, '-c', FAULTS.replace('KEEP', keep)], env=kept | environment,
      capture_output=True, text=True, check=True).stdout
  return float(output.splitlines()[-1])


@GNU
def test_the_system_is_asked_once_for_the_memory_of_a_program():
  assert faults('') > 0.9 * PAGES, 'there is nothing to keep: malloc or XLA do it by themselves'
  assert faults('assert host_memory.keep_freed()') < 0.02 * PAGES


@GNU
@pytest.mark.parametrize('name, value', [
    ('MALLOC_MMAP_MAX_', '65536'), ('MALLOC_TRIM_THRESHOLD_', '131072')])
def test_settings_of_the_user_go_first(name, value):
  assert faults('assert not host_memory.keep_freed()', **{name: value}) > 0.9 * PAGES


@pytest.fixture
def calls(monkeypatch):
  """What is set of malloc, on a machine that has it."""
  found = []
  monkeypatch.setattr(
      host_memory, '_mallopt', lambda: lambda option, value: found.append((option, value)) or 1)
  for name in host_memory.VARIABLES:
    monkeypatch.delenv(name, raising=False)
  monkeypatch.setattr(jax.config, 'update', lambda *given: found.append(given))
  return found


def test_nothing_is_set_on_accelerators(calls, monkeypatch):
  assert host_memory.keep_freed()
  assert calls == [('jax_cpu_enable_async_dispatch', False), (-4, 0), (-1, -1)]
  calls.clear()
  monkeypatch.setattr(jax, 'default_backend', lambda: 'gpu')
  assert not host_memory.keep_freed() and calls[1:] == []


@pytest.mark.parametrize('error', [AttributeError, OSError, TypeError])
def test_other_c_libraries_are_left_alone(monkeypatch, error):
  def fail(name):
    assert name is None
    raise error

  monkeypatch.setattr(ctypes, 'CDLL', fail)
  monkeypatch.setattr(jax.config, 'update', lambda *given: pytest.fail(f'set {given}'))
  assert not host_memory.keep_freed()


def test_programs_keep_memory_from_before_devices_are_found(monkeypatch):
  order = []
  monkeypatch.setattr(host_memory, 'keep_freed', lambda: order.append('kept'))
  monkeypatch.setattr(program, 'announce', lambda **given: order.append('devices'))
  monkeypatch.setattr(program.compiling, 'keep_programs', lambda: None)
  main = lambda options, arguments: order.append('main')
  with pytest.raises(SystemExit):
    program.Program(main, lambda options: None, config=None).run(['program'])
  assert order == ['kept', 'devices', 'main']
