"""A real model on one device and on eight: the same ten steps, the same evaluation.

Dropout is on, padding and rims make the numbers of valid pixels unequal, and the last batch of the
evaluation is ragged.
"""

import jax
import numpy as np
import optax
import pytest

from kdseg_jax import data, distillers, models, tasks
from kdseg_jax.data import augmentation, pipeline
from kdseg_jax.training import parallel
from kdseg_jax.training.evaluation import Evaluator
from kdseg_jax.training.state import Optimizers, create_state
from kdseg_jax.training.step import make_train_step

pytestmark = pytest.mark.slow

AXIS = parallel.AXIS
TASK = tasks.SegmentationTask(num_classes=11)


def ten_steps(devices, mode):
  """Losses, final parameters, and the metrics of the student."""
  mesh = parallel.create_mesh(jax.devices()[:devices])
  model = models.create('deeplabv3_resnet18', 11, width=0.125, output_stride=16, axis_name=AXIS)
  terms = distillers.terms_of('pixelwise+pairwise', {'pixelwise': 1.0, 'pairwise': 1.0})
  distiller = distillers.create(terms, axis_name=AXIS)
  optimizers = Optimizers(*[optax.sgd(1e-3, momentum=0.9)] * 3)
  batches = pipeline.train_batches(
      data.create('scenes', 'train', size=(32, 32)), batch_size=16, seed=0,
      augmentation=augmentation.Augmentation((32, 32)))
  batch = next(batches)
  inputs = distillers.DistillInputs(student={}, teacher={}, batch=batch, rng=jax.random.key(0))
  state = create_state(jax.random.key(0), model, distiller, optimizers, inputs)
  teacher = create_state(jax.random.key(1), model, distiller, optimizers, inputs)
  variables, state = parallel.replicate(
      ({'params': teacher.params, 'batch_stats': teacher.batch_stats}, state), mesh)
  step = parallel.data_parallel(
      make_train_step(TASK, model, model, distiller, optimizers, axis_name=AXIS), mesh, mode=mode,
      donate_state=True)
  losses = []
  for _ in range(10):
    state, metrics = step(variables, state, batch)
    losses.append(float(metrics['loss']))
    batch = next(batches)
  student = {'params': state.params, 'batch_stats': state.batch_stats}
  metrics = Evaluator(TASK, model, mesh, mode=mode, batch_size=8, limit=13)(
      student, data.create('scenes', 'test', size=(32, 32)))
  return losses, jax.device_get(state.params), metrics


@pytest.fixture(scope='module')
def one_device():
  return ten_steps(1, 'shard_map')


@pytest.mark.parametrize('mode', parallel.MODES)
def test_ten_steps_on_eight_devices_equal_ten_on_one(one_device, mode):
  losses, params, metrics = ten_steps(8, mode)
  np.testing.assert_allclose(losses, one_device[0], rtol=1e-5)
  paths = jax.tree_util.tree_leaves_with_path(params)
  for (path, got), want in zip(paths, jax.tree.leaves(one_device[1]), strict=True):
    error = np.linalg.norm(got - want) / np.linalg.norm(want) if np.any(want) else np.abs(got).max()
    assert error <= 1e-5, (jax.tree_util.keystr(path), error)
  assert metrics['images'] == one_device[2]['images'] == 13
  np.testing.assert_allclose(metrics['pixel_accuracy'], one_device[2]['pixel_accuracy'], atol=1e-3)
