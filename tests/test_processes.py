"""Two processes share the devices: a study of theirs equals that of one process."""

import json
import socket

import pytest

from tests import runs
from tests.test_study import PRELUDE

STUDY = ('study', '--config=experiments/scenes_core.py:runlocal',
         '--config.train.steps=6', '--config.eval.every_steps=3',
         '--config.checkpoint.every_steps=2')
JOIN = """
import jax
jax.distributed.initialize('localhost:{port}', num_processes=2, process_id={process})
"""


def results(workdir):
  report = json.loads((workdir / 'report.json').read_text())
  return {name: entry['mean_iou_of_seeds'] for name, entry in report['students'].items()}


@pytest.mark.slow
def test_a_study_on_two_processes_equals_one_on_two_devices(cache, tmp_path):
  two_devices = "import os\nos.environ['XLA_FLAGS'] = '--xla_force_host_platform_device_count=2'\n"
  runs.run(*STUDY, f'--workdir={tmp_path / "one"}', cache=cache, prelude=two_devices + PRELUDE)
  with socket.socket() as free:
    free.bind(('localhost', 0))
    port = free.getsockname()[1]
  processes = [
      runs.start(*STUDY, f'--workdir={tmp_path / "two"}', cache=cache,
                 prelude=JOIN.format(port=port, process=process) + PRELUDE)
      for process in (0, 1)]
  outputs = [process.communicate(timeout=300)[0] for process in processes]
  assert [process.returncode for process in processes] == [0, 0], '\n'.join(outputs)
  for name, values in results(tmp_path / 'one').items():
    assert results(tmp_path / 'two')[name] == pytest.approx(values, rel=1e-4), name
  for student in ('distilled', 'distilled_unlabelled'):
    losses = lambda name, student=student: [row['loss'] for row in runs.rows(
        tmp_path / name / 'students' / student / 'seed1') if row['phase'] == 'train']
    assert len(losses('one')) == 6
    assert losses('two') == pytest.approx(losses('one'), rel=1e-4)
