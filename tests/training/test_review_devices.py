"""Knowledge review of a classifier on one device and on eight: the same steps and evaluation.

Half of the images of a batch have no class, not as many on each device; the teacher normalises by
the batch; the last batch of the evaluation is ragged. In float64, see `test_devices.py`.
"""

import jax
import numpy as np
import optax
import pytest

from kdseg_jax import distillers, models, parallel, tasks
from kdseg_jax.inference.evaluation import Evaluator
from kdseg_jax.training.state import Optimizers, create_state
from kdseg_jax.training.step import make_train_step
from tests.data import classified_sets
from tests.precision import float64

pytestmark = pytest.mark.slow

AXIS, CLASSES, SIDE, BATCH, STEPS = parallel.AXIS, 5, 8, 16, 3
TASK = tasks.ClassificationTask(num_classes=CLASSES)
TOLERANCE = 1e-10


def batches():
  """Of the first 8 examples one has a class, of the others most."""
  for seed in range(STEPS):
    images, labels = classified_sets.arrays(BATCH, CLASSES, SIDE, seed)
    without = np.arange(BATCH) % 8 >= np.repeat((1, 7), 8)
    yield {'image': images, 'label': np.where(without, -1, labels).astype(np.int32),
           'mask': np.ones(images.shape[:3], bool), 'index': np.arange(BATCH, dtype=np.int32)}


def examples():
  images, labels = classified_sets.arrays(13, CLASSES, SIDE, seed=9)
  return [{'image': image, 'label': np.int32(label)} for image, label in zip(images, labels)]


def create_distiller():
  """The whole method, and with it a term that averages over the images alone."""
  terms = distillers.terms_of('review+kd')
  stages = ('stage1', 'stage2', 'stage3')
  terms['review'].update(
      teacher_batch_statistics=True, student_taps=(*stages, 'pooled'),
      teacher_taps=(*(f'{stage}_preactivation' for stage in stages), 'pooled'))
  return distillers.create(terms, axis_name=AXIS)


def states_of(model, distiller, optimizers):
  """Of student and teacher, as numpy in float64; drawn in float32."""
  image = np.zeros((1, SIDE, SIDE, 3), np.uint8)
  _, taps = jax.eval_shape(
      lambda: model.init_with_output({'params': jax.random.key(0)}, image)[0])
  inputs = distillers.DistillInputs(
      student=taps, teacher=taps, batch=next(batches()), rng=jax.random.key(0))
  create = jax.jit(lambda key: create_state(
      key, model, distiller, optimizers, inputs)._replace(rng=0))
  widen = lambda x: np.asarray(x, np.float64) if x.dtype == np.float32 else np.asarray(x)
  return [jax.tree.map(widen, create(jax.random.key(seed))) for seed in (0, 1)]


def trained(devices, mode):
  """Losses, the final state of what is trained, and the metrics of the student."""
  mesh = parallel.create_mesh(jax.devices()[:devices])
  model = models.create('cifar_resnet8', CLASSES, width=0.25, output_stride=4, axis_name=AXIS)
  distiller, optimizers = create_distiller(), Optimizers(*[optax.sgd(0.01, momentum=0.9)] * 2)
  step = parallel.data_parallel(
      make_train_step(TASK, model, model, distiller, optimizers, axis_name=AXIS), mesh, mode=mode,
      donate_state=True)
  evaluate = Evaluator(TASK, model, mesh, mode=mode, batch_size=8)
  student, teacher = states_of(model, distiller, optimizers)
  losses = []
  with float64():
    variables, state = parallel.replicate(
        ({'params': teacher.params, 'batch_stats': teacher.batch_stats},
         student._replace(rng=jax.random.key(5))), mesh)
    for batch in batches():
      state, metrics = step(variables, state, batch)
      losses.append([float(metrics[name]) for name in (
          'loss', 'task/cross_entropy', 'distill/review/raw', 'distill/kd/raw')])
    final = jax.device_get((state.params, state.batch_stats, state.distiller))
    metrics = evaluate(state.deployed, examples())
  return losses, final, metrics


@pytest.fixture(scope='module')
def one_device():
  return trained(1, 'shard_map')


@pytest.mark.parametrize('mode', parallel.MODES)
def test_steps_with_review_on_eight_devices_equal_those_on_one(one_device, mode):
  losses, final, metrics = trained(8, mode)
  assert np.min(losses) > 0
  np.testing.assert_allclose(losses, one_device[0], rtol=TOLERANCE)
  for (path, got), want in zip(
      jax.tree.leaves_with_path(final), jax.tree.leaves(one_device[1]), strict=True):
    assert got.dtype == np.float64
    # Some biases stay at 0 but for rounding: the means of the teacher's maps are 0.
    error = np.linalg.norm(got - want) / max(np.linalg.norm(want), 1e-6)
    assert error <= TOLERANCE, (jax.tree_util.keystr(path), error)
  assert metrics == one_device[2] and metrics['images'] == 13
