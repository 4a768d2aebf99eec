"""What a run of several processes does in each of them; here in one that is told it is one of two.
"""

import os
import signal

import jax
import numpy as np
import pytest

from kdseg_jax import checkpoint, parallel, program
from kdseg_jax.training import preparations
from kdseg_jax.training.preemption import StopSignal
from kdseg_jax.training.writers import MetricWriter


@pytest.fixture(params=[0, 1])
def process(request, monkeypatch):
  """The number of the process, of two."""
  monkeypatch.setattr(jax, 'process_count', lambda: 2)
  monkeypatch.setattr(jax, 'process_index', lambda: request.param)
  return request.param


def test_processes_stop_after_the_step_that_they_agree_on_and_not_by_signals_of_their_own(process):
  before, asked = [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)], []
  with StopSignal() as stop:
    assert [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)] == before
    agree = lambda step: stop.agree(lambda step: (asked.append(step), step == 6)[1], step)
    assert [(agree(step), stop()) for step in (4, 5, 6)] == [
        (False, False), (False, False), (True, True)]
  assert asked == [4, 5, 6]


def test_the_first_process_alone_writes_metrics(process, tmp_path):
  writer = MetricWriter(str(tmp_path / 'run'), start=0)
  writer.write('train', 1, {'loss': 0.5})
  writer.close()
  assert writer.is_writing == (process == 0) == (tmp_path / 'run').exists()


def test_the_first_process_waits_for_other_programs_and_the_rest_for_the_first(
    process, tmp_path, monkeypatch):
  path, events = str(tmp_path / 'folder'), []
  try_lock = preparations._try_lock
  monkeypatch.setattr(preparations, '_try_lock', lambda file: (
      events.append('locked'), try_lock(file))[1])
  monkeypatch.setattr(preparations.multihost_utils, 'sync_global_devices', events.append)
  with preparations._alone(path, lambda: False):
    events.append('works')
  assert events == ['locked'] * (process == 0) + [f'{path} begin', 'works']
  assert os.path.exists(path) == (process == 0)


def test_a_program_of_one_process_waits_for_no_other(tmp_path, monkeypatch):
  events = []
  monkeypatch.setattr(preparations.multihost_utils, 'sync_global_devices', events.append)
  with preparations._alone(str(tmp_path), lambda: False):
    assert not events


def test_what_all_devices_of_several_processes_hold_is_saved_as_it_is(process):
  array = parallel.replicate(np.arange(8.0), parallel.create_mesh(jax.devices()[:2]))
  assert checkpoint._one_copy(array) is array


def test_the_first_line_says_which_process_it_is_of(process, capsys):
  program.announce()
  assert f'process {process} of 2' in capsys.readouterr().out
