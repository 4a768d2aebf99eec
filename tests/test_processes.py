"""Two processes share the devices: a study of theirs equals that of one process."""

import json
import socket

import jax
import numpy as np
import pytest

from tests import runs
from tests.test_study import PRELUDE

STUDY = ('study', '--config=experiments/scenes_core.py:runlocal',
         '--config.train.steps=6', '--config.eval.every_steps=3',
         '--config.checkpoint.every_steps=2')
TWO_DEVICES = """
import os
os.environ['XLA_FLAGS'] += ' --xla_force_host_platform_device_count=2'
"""
JOIN = """
import jax
jax.distributed.initialize('localhost:{port}', num_processes=2, process_id={process})
"""

EVALUATION = """
import json
import jax, numpy as np
from kdseg_jax.inference import evaluation
from kdseg_jax import parallel
from tests import toy_task
class Source(toy_task.Images):
  reads = 0
  def __getitem__(self, index):
    self.reads += 1
    return super().__getitem__(index)
source, mesh = Source('val'), parallel.create_mesh()
model = toy_task.Model()
variables = parallel.replicate(
    model.init(jax.random.key(0), np.zeros((1, 6, 8, 3), np.uint8)), mesh)
evaluator = evaluation.Evaluator(toy_task.Brightness(0), model, mesh, batch_size=4)
evaluator(variables, source)
source.reads = 0
found = evaluator.accumulate(variables, source)
print('FOUND', json.dumps([source.reads, sorted(found.of_example.items())]))
raise SystemExit
"""


# A detector beside a teacher of another head, whose metrics and conflicts are of all images.
DETECTION = """
import json
import jax, numpy as np
from kdseg_jax import data, default_config, inference, parallel, tasks
from kdseg_jax.data.json_files import finite
from kdseg_jax.inference import evaluation
from kdseg_jax.tasks.detection import conflict
from tests import toys
from tests.tasks.tiny_detector import Tiny
class Source(data.SceneBoxes):
  reads = 0
  def __getitem__(self, index):
    self.reads += 1
    return super().__getitem__(index)
source, mesh = Source('val', size=(48, 64), length=7), parallel.create_mesh()
image = np.zeros((1, 64, 64, 3), np.float32)
model, teacher = Tiny(10, 'gfl'), Tiny(10, 'fcos')
config = default_config.detection()
default_config.set_name(config, 'student.name', 'tests.tasks.tiny_detector:Tiny')
config.student.options.head = config.task.head = 'fcos'
variables = [parallel.replicate(toys.variables(module, image), mesh) for module in (model, teacher)]
taught = inference.Model(teacher, variables[1], source.classes, config)
task = conflict.Conflict(tasks.create('detection', 10, head='gfl', max_boxes=6), taught)
evaluator = evaluation.Evaluator(task, model, mesh, batch_size=4)
found = evaluator(tuple(variables), data.Fitted(source, (64, 64)))
print('FOUND', json.dumps([source.reads, finite(found)]))
raise SystemExit
"""


def found_by_one_and_by_two(code, cache):
  """What a prelude prints after 'FOUND': of one process of two devices, and of two processes."""
  with socket.socket() as free:
    free.bind(('localhost', 0))
    port = free.getsockname()[1]
  preludes = [TWO_DEVICES, *(JOIN.format(port=port, process=process) for process in (0, 1))]
  processes = [runs.start('study', cache=cache, prelude=prelude + code) for prelude in preludes]
  outputs = [process.communicate(timeout=300)[0] for process in processes]
  assert [process.returncode for process in processes] == [0] * 3, '\n'.join(outputs)
  return [json.loads(output.partition('FOUND ')[2].splitlines()[0]) for output in outputs]


@pytest.mark.slow
def test_two_processes_give_the_ap_and_the_conflict_of_one(cache):
  (alone, wanted), *parts = found_by_one_and_by_two(DETECTION, cache)
  assert alone == 7 and [reads for reads, _ in parts] == [4, 3]
  assert wanted['images'] == 7 and wanted['conflict']['positive'] > 0
  for _, found in parts:
    assert jax.tree.structure(found) == jax.tree.structure(wanted)
    np.testing.assert_allclose(jax.tree.leaves(found), jax.tree.leaves(wanted), rtol=1e-5)


@pytest.mark.slow
def test_each_process_reads_its_part_of_images_of_several_sizes(cache):
  (alone, wanted), *parts = found_by_one_and_by_two(EVALUATION, cache)
  assert alone == 11 and [reads for reads, _ in parts] == [6, 5]
  for _, found in parts:
    assert [index for index, _ in found] == list(range(11))
    assert dict(found) == pytest.approx(dict(wanted), rel=1e-5)


def results(workdir):
  report = json.loads((workdir / 'report.json').read_text())
  return {name: entry['mean_iou_of_seeds'] for name, entry in report['students'].items()}


@pytest.mark.slow
def test_a_study_on_two_processes_equals_one_on_two_devices(cache, tmp_path):
  runs.run(*STUDY, f'--workdir={tmp_path / "one"}', cache=cache, prelude=TWO_DEVICES + PRELUDE)
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
