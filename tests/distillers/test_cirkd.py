"""Cross-image relational distillation: official arrays, switches, devices, resumption."""

import dataclasses
import functools
import importlib
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from kdseg_jax import distillers, losses, parallel, tasks
from kdseg_jax.checkpoint import Checkpointer
from kdseg_jax.distillers.cirkd import ProjectionHead
from kdseg_jax.training.state import Optimizers, create_state
from kdseg_jax.training.step import make_train_step
from tests import toys
from tests.precision import float64

cirkd = importlib.import_module('kdseg_jax.distillers.cirkd')  # and not its function
AXIS = parallel.AXIS
GOLDEN = pathlib.Path(__file__).parents[1] / 'golden'
SMALL = {'pixel_slots': 20, 'region_slots': 12, 'pixel_samples': 20, 'region_samples': 9}


def inputs_of(label, seed=0, width=4, teacher_width=6):
  keys = jax.random.split(jax.random.key(seed), 2)
  shape = (*label.shape[:1], 4, 4)
  return distillers.DistillInputs(
      student={'embedding': jax.random.normal(keys[0], (*shape, width)),
               'logits': jnp.zeros((*shape, 3))},
      teacher={'embedding': jax.random.normal(keys[1], (*shape, teacher_width))},
      batch={'label': label, 'index': jnp.arange(len(label))}, rng=jax.random.key(seed), step=0)


def labels_of(images=2):
  labels = np.random.default_rng(0).integers(0, 3, (images, 8, 8)).astype(np.uint8)
  labels[:, :3] = 255
  return labels


@functools.cache
def fresh_state():
  return jax.jit(distillers.memory(**SMALL).init)(jax.random.key(0), inputs_of(labels_of()))


@functools.cache
def differentiated():
  """`(params, state, inputs) -> ((loss, (memory, metrics)), gradient of the params)`."""
  loss = distillers.memory(**SMALL).loss
  return jax.jit(jax.value_and_grad(
      lambda params, state, inputs: loss(state._replace(params=params), inputs), has_aux=True))


@pytest.mark.parametrize('queue', ['pixel', 'region'])
def test_head_and_memory_equal_the_official_code(queue):
  golden = dict(np.load(GOLDEN / 'cirkd.npz')) | dict(np.load(GOLDEN / 'skd_cirkd.npz'))
  last = lambda x: np.moveaxis(x, 1, -1)
  kernel = lambda x: np.transpose(x, (2, 3, 1, 0))  # OIHW to HWIO
  head = lambda prefix: {
      'hidden': {'conv': {'kernel': kernel(golden[f'{prefix}.0.weight'])},
                 'norm': {'norm': {'scale': golden[f'{prefix}.1.weight'],
                                   'bias': golden[f'{prefix}.1.bias']}}},
      'projection': {'kernel': kernel(golden[f'{prefix}.3.weight'])}}
  student, teacher = last(golden['in/feat_s']), last(golden['in/feat_t'])
  where = losses.resize_nearest(golden['in/labels_255'], student.shape[1:3]) != 255
  case = f'cirkd_memory_{queue}'

  def loss(params, student, teacher, contrast, where):
    projected, _ = ProjectionHead(24).apply({'params': params}, student, mutable=['batch_stats'])
    return losses.memory_similarity(projected, teacher, contrast, where=where)
  value, (head_gradient, student_gradient) = jax.jit(jax.value_and_grad(loss, (0, 1)))(
      head('cirkd_memory/head'), student, teacher, golden[f'{case}/contrast'], where)
  np.testing.assert_allclose(value, golden[f'{case}/loss_f32'], rtol=1e-5)
  expected = last(golden[f'{case}/g_feat_s']), *jax.tree.leaves(head(f'{case}/g_head'))
  for got, want in zip((student_gradient, *jax.tree.leaves(head_gradient)), expected, strict=True):
    np.testing.assert_allclose(got, want, rtol=0, atol=1e-4 * np.abs(want).max())


def test_method_has_the_weights_and_sizes_of_the_paper():
  terms = distillers.terms_of('cirkd')
  assert {name: term['weight'] for name, term in terms.items()} == {
      'kd': 1.0, 'cross_image': 1.0, 'memory': 1.0}
  assert terms['kd']['temperature'] == 1.0 and terms['cross_image']['temperature'] == 0.1
  memory = terms['memory']
  assert memory['pixel_weight'] == memory['region_weight'] == 0.1
  method = distillers.create(terms)
  inputs = inputs_of(labels_of())
  state = jax.eval_shape(lambda: method.init(jax.random.key(0), inputs))
  assert state.memory['memory']['pixel'].embeddings.shape == (3, 20_000, 6)
  assert state.memory['memory']['region'].embeddings.shape == (3, 2_000, 6)
  assert jax.tree.structure(state) == jax.tree.structure(
      jax.eval_shape(lambda: distillers.cirkd().init(jax.random.key(0), inputs)))


def test_parts_are_pushed_before_they_are_sampled_and_are_reported():
  state = fresh_state()
  (loss, (memory, metrics)), _ = differentiated()(state.params, state, inputs_of(labels_of()))
  assert metrics['pixel/raw'] > 0 and metrics['region/raw'] > 0
  np.testing.assert_allclose(metrics['pixel/weighted'], 0.1 * metrics['pixel/raw'], rtol=1e-6)
  np.testing.assert_allclose(
      loss, 0.1 * metrics['pixel/raw'] + 0.1 * metrics['region/raw'], rtol=1e-6)
  np.testing.assert_array_equal(memory['region'].filled, 2)
  np.testing.assert_allclose(
      jnp.linalg.norm(memory['pixel'].embeddings, axis=-1), 1, rtol=1e-5)
  assert np.any(memory['batch_stats']['hidden']['norm']['norm']['mean'])


def test_a_part_of_weight_zero_has_no_queue_and_no_loss():
  inputs = inputs_of(labels_of())
  method = distillers.memory(**SMALL, region_weight=0.0)
  state = jax.eval_shape(method.init, jax.random.key(0), inputs)
  assert set(state.memory) == {'batch_stats', 'pixel'}
  shapes = jax.eval_shape(method.loss, state, inputs)
  assert set(shapes[1][1]) == {'pixel/raw', 'pixel/weighted'}
  with pytest.raises(ValueError, match='both 0'):
    distillers.memory(pixel_weight=0, region_weight=0)
  parts = distillers.cirkd(kd_weight=0, pixel_weight=0, region_weight=0)
  state = jax.eval_shape(parts.init, jax.random.key(0), inputs)
  assert set(state.memory) == {'cross_image'}


def test_an_all_ignored_batch_gives_zero_with_zero_gradient_and_pushes_nothing():
  state = fresh_state()
  (loss, (memory, _)), gradient = differentiated()(
      state.params, state, inputs_of(np.full((2, 8, 8), 255, np.uint8)))
  assert loss == 0
  jax.tree.map(lambda x: np.testing.assert_array_equal(x, 0), gradient)
  for name in ('pixel', 'region'):
    jax.tree.map(np.testing.assert_array_equal, memory[name], state.memory[name])


def test_anchors_may_be_drawn_from_the_labelled_pixels():
  of_all, of_100, of_4 = (jax.jit(distillers.memory(**SMALL, anchors_per_image=count).loss)
                          for count in (None, 100, 4))
  inputs = inputs_of(labels_of())
  every, all_drawn, some = (
      loss(fresh_state(), inputs)[0] for loss in (of_all, of_100, of_4))
  np.testing.assert_allclose(all_drawn, every, rtol=1e-5)
  assert some != every and 0.5 < some / every < 2
  later = dataclasses.replace(inputs, batch=inputs.batch | {'index': inputs.batch['index'] + 2})
  assert of_4(fresh_state(), later)[0] != some  # other examples, which draw for themselves


def test_drawn_anchors_belong_to_examples():
  pixels = jax.random.normal(jax.random.key(0), (3, 4, 4, 2))
  where = np.random.default_rng(0).random((3, 4, 4)) < 0.6
  draw = lambda order: cirkd._draw_anchors(
      jax.random.key(1), jnp.array([5, 0, 9])[order], 3, pixels[order], pixels[order],
      where[order])
  for whole, part in zip(draw(np.arange(3)), draw(np.array([2, 0])), strict=True):
    np.testing.assert_array_equal(part, whole[np.array([2, 0])])


def test_as_many_are_compared_with_as_the_official_code_takes(monkeypatch):
  counts = []
  original = cirkd.queues.sample
  monkeypatch.setattr(cirkd.queues, 'sample', lambda queue, rng, count, **options: (
      counts.append(count), original(queue, rng, count, **options))[1])
  jax.eval_shape(distillers.memory(**SMALL).loss, fresh_state(), inputs_of(labels_of()))
  assert counts == [20 // 3 + 1, 9 // 3 + 1]  # of each of 3 classes


METHOD = distillers.terms_of('kd+cross_image+memory+channels+context')
METHOD['memory'].update(anchors_per_image=30, **SMALL)
METHOD['channels'].update(slots=8, samples=12)


@functools.cache
def setup(devices, mode):
  """A mapped train step of the whole method, teacher, fresh state and a batch."""
  rng = np.random.default_rng(0)
  label = rng.integers(0, 3, (16, 8, 8)).astype(np.uint8)
  label[rng.random(label.shape) < np.linspace(0, 1, 16)[:, None, None]] = 255
  batch = {'image': rng.integers(0, 256, (16, 8, 8, 3)).astype(np.uint8), 'label': label,
           'mask': np.ones((16, 8, 8), bool), 'index': np.arange(16, dtype=np.int32)}
  mesh = parallel.create_mesh(jax.devices()[:devices])
  model = toys.Model(axis_name=AXIS)
  distiller = distillers.create(METHOD, axis_name=AXIS)
  optimizers = Optimizers(*[optax.sgd(0.01, momentum=0.9)] * 2)
  taps = {'embedding': np.zeros((16, 8, 8, 3)), 'logits': np.zeros((16, 8, 8, 3))}
  inputs = distillers.DistillInputs(student=taps, teacher=taps, batch=batch)
  state = create_state(jax.random.key(0), model, distiller, optimizers, inputs)
  teacher = model.init(jax.random.key(1), batch['image'])
  step = parallel.data_parallel(
      make_train_step(tasks.SegmentationTask(num_classes=3), model, model, distiller, optimizers,
                      axis_name=AXIS), mesh, mode=mode)
  return step, parallel.replicate(teacher, mesh), parallel.replicate(state, mesh), batch


def three_steps(devices, mode):
  """In float64, where what is left of a difference is a fault and not rounding."""
  step, *arguments, batch = setup(devices, mode)
  widen = lambda x: np.asarray(x, np.float64) if x.dtype == np.float32 else x
  with float64():
    teacher, state = jax.tree.map(widen, arguments)
    for _ in range(3):
      state, metrics = step(teacher, state, batch)
    return jax.device_get((metrics, state.params, state.distiller._asdict()))


@pytest.fixture(scope='module')
def one_device():
  return three_steps(1, 'shard_map')


@pytest.mark.slow
@pytest.mark.parametrize('mode', parallel.MODES)
def test_steps_and_queues_on_eight_devices_equal_those_on_one(one_device, mode):
  result = three_steps(8, mode)
  assert np.all(result[2]['memory']['method']['memory']['region'].pointer > 0)
  assert all(x.dtype == np.float64 for x in jax.tree.leaves(result[1]))
  paths = jax.tree_util.tree_leaves_with_path(result)
  for (path, got), want in zip(paths, jax.tree.leaves(one_device), strict=True):
    tolerance = 1e-10 if np.asarray(want).dtype == np.float64 else 1e-6
    np.testing.assert_allclose(
        got, want, rtol=tolerance, atol=tolerance, err_msg=jax.tree_util.keystr(path))


@pytest.mark.slow
def test_a_restored_state_with_wrapped_queues_goes_on_identically(tmp_path):
  step, teacher, state, batch = setup(8, 'shard_map')
  fresh = state
  for _ in range(3):
    state, _ = step(teacher, state, batch)
  pixels = state.distiller.memory['method']['memory']['pixel']
  assert np.all(pixels.filled == SMALL['pixel_slots']) and np.any(pixels.pointer > 0)
  checkpointer = Checkpointer(tmp_path, metric='mean_iou')
  checkpointer.save(3, state, {})
  checkpointer.close()
  checkpointer = Checkpointer(tmp_path)
  restored = checkpointer.restore(3, fresh)
  checkpointer.close()
  expected, got = (jax.tree.leaves(step(teacher, s, batch)) for s in (state, restored))
  for want, value in zip(expected, got, strict=True):
    if jnp.issubdtype(want.dtype, jax.dtypes.prng_key):
      want, value = jax.random.key_data(want), jax.random.key_data(value)
    np.testing.assert_array_equal(value, want)
