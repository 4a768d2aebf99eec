"""Queues: against a plain Python model, what is drawn, devices, masks."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jax.sharding import PartitionSpec as P

from kdseg_jax.losses import queues

CLASSES, SIZE, DIM = 3, 5, 2
AXIS = 'data'

push = jax.jit(queues.push)
push_pixels = jax.jit(queues.push_pixels, static_argnames=('per_class', 'ignore_label'))
push_regions = jax.jit(queues.push_regions, static_argnames='ignore_label')
sample = jax.jit(queues.sample, static_argnums=2, static_argnames='only_filled')


def empty(size=SIZE, dim=DIM):
  return queues.init(CLASSES, size, dim, jax.random.key(0))


def rings_of(queue):
  """What was pushed and is still there, class by class, oldest first."""
  queue = jax.tree.map(np.asarray, queue)
  return [[tuple(vectors[(pointer - filled + i) % len(vectors)]) for i in range(filled)]
          for vectors, pointer, filled in zip(*queue)]


def numbered(shape):
  """Embeddings of which no two are alike."""
  return jnp.arange(np.prod(shape) * DIM, dtype=jnp.float32).reshape(*shape, DIM) + 1


def test_a_fresh_queue_holds_unit_noise_and_nothing_pushed():
  queue = empty()
  np.testing.assert_allclose(jnp.linalg.norm(queue.embeddings, axis=-1), 1, rtol=1e-6)
  assert queue.embeddings.shape == (CLASSES, SIZE, DIM)
  np.testing.assert_array_equal([queue.pointer, queue.filled], 0)
  with jax.enable_x64(True):
    assert empty().embeddings.dtype == jnp.float32


def test_numpy_arrays_are_taken_outside_jit():
  rows = np.asarray(numbered((4,))), np.array([0, 2, 0, 1]), np.array([True, True, True, False])
  pushed = queues.push(jax.device_get(empty()), *rows)
  jax.tree.map(np.testing.assert_array_equal, pushed, push(empty(), *rows))


@settings(deadline=None, max_examples=25, database=None)
@given(st.lists(st.lists(st.tuples(st.integers(-1, CLASSES), st.booleans()), min_size=12,
                         max_size=12), min_size=1, max_size=4), st.integers(0, 10**6))
def test_pushes_and_samples_equal_a_model_of_lists(pushes, seed):
  queue, model = empty(), [[] for _ in range(CLASSES)]
  for number, rows in enumerate(pushes):
    embeddings = numbered((12,)) + 100 * number
    classes, where = (np.array(x) for x in zip(*rows))
    queue = push(queue, embeddings, classes, where)
    for embedding, (class_, pushed) in zip(np.asarray(embeddings), rows):
      if pushed and 0 <= class_ < CLASSES:
        model[class_] = (model[class_] + [tuple(embedding)])[-SIZE:]
    assert rings_of(queue) == model
    drawn, valid = sample(queue, jax.random.key(seed), 4)
    drawn, valid = np.asarray(drawn).reshape(CLASSES, 4, DIM), valid.reshape(CLASSES, 4)
    for vectors, flags, ring in zip(drawn, valid, model):
      assert np.all(flags == bool(ring))
      if ring:
        chosen = list(map(tuple, vectors))
        assert set(chosen) <= set(ring)
        assert len(ring) < 4 or len(set(chosen)) == 4  # without replacement


def test_slots_are_written_in_order_and_wrap_around():
  queue = push(empty(), numbered((4,)), jnp.ones(4, int), jnp.ones(4, bool))
  queue = push(queue, numbered((4,)) + 50, jnp.ones(4, int), jnp.ones(4, bool))
  np.testing.assert_array_equal(queue.embeddings[1, :, 0], [53, 55, 57, 7, 51])
  np.testing.assert_array_equal(queue.pointer, [0, 3, 0])
  np.testing.assert_array_equal(queue.filled, [0, 5, 0])
  np.testing.assert_array_equal(queue.embeddings[0], empty().embeddings[0])


def test_a_fully_masked_push_changes_nothing():
  queue = push(empty(), numbered((4,)), jnp.arange(4) % 3, jnp.ones(4, bool))
  again = push(queue, numbered((4,)), jnp.zeros(4, int), jnp.zeros(4, bool))
  images = jnp.full((1, 2, 2, DIM), jnp.nan)
  nowhere = jnp.full((1, 2, 2), 255, jnp.uint8)
  for other in (again, push_pixels(queue, images, nowhere, jax.random.key(0)),
                push_regions(queue, images, nowhere)):
    jax.tree.map(np.testing.assert_array_equal, other, queue)


def test_pixels_are_drawn_from_their_own_class_image_by_image():
  labels = np.full((2, 4, 4), 255, np.uint8)
  labels[0, :2], labels[0, 2, 0], labels[1, 3] = 0, 2, 2  # 8 of class 0; 1 and 4 of class 2
  embeddings = numbered((2, 4, 4))
  places = lambda image, class_: set(map(tuple, np.asarray(embeddings)[image][
      labels[image] == class_]))
  seen = set()
  for seed in range(20):
    queue = push_pixels(empty(), embeddings, labels, jax.random.key(seed), per_class=3)
    np.testing.assert_array_equal(queue.filled, [3, 0, 4])
    ring = rings_of(queue)
    assert set(ring[0]) <= places(0, 0) and len(set(ring[0])) == 3
    assert {ring[2][0]} == places(0, 2) and set(ring[2][1:]) <= places(1, 2)
    seen |= set(ring[0])
  assert seen == places(0, 0)  # all of them, sooner or later: not the first in raster order


def test_every_pixel_of_a_class_is_as_likely():
  labels = jnp.zeros((1, 2, 4), jnp.int32).at[0, 0, :2].set(1)
  draw = jax.jit(jax.vmap(lambda key: queues.push_pixels(
      empty(), numbered((1, 2, 4)), labels, key, per_class=2).embeddings[0, :2, 0]))
  drawn = draw(jax.random.split(jax.random.key(0), 3000))
  values, counts = np.unique(drawn, return_counts=True)
  assert len(values) == 6
  np.testing.assert_allclose(counts, 1000, atol=100)  # 4 standard deviations


def test_images_of_a_batch_draw_differently():
  embeddings = jnp.broadcast_to(numbered((1, 6, 6)), (2, 6, 6, DIM))
  queue = push_pixels(empty(), embeddings, jnp.zeros((2, 6, 6), int), jax.random.key(0),
                      per_class=2)
  [first, second] = np.split(np.asarray(queue.embeddings[0, :4]), 2)
  assert not np.array_equal(first, second)


def test_drawn_rows_are_of_the_whole_batch_and_no_row_comes_twice():
  rows = numbered((4, 6))
  draw = jax.jit(jax.vmap(lambda key: queues.push_drawn(
      queues.init(1, 24, DIM, key), rows, key, 5).embeddings[0, :5, 0]))
  drawn = np.asarray(draw(jax.random.split(jax.random.key(0), 1200)))
  assert all(len(set(row)) == 5 for row in drawn)
  values, counts = np.unique(drawn, return_counts=True)
  np.testing.assert_array_equal(values, rows[..., 0].ravel())
  np.testing.assert_allclose(counts, 250, atol=60)  # 4 standard deviations
  everything = queues.push_drawn(queues.init(1, 30, DIM, jax.random.key(0)), rows,
                                 jax.random.key(0), 100)
  np.testing.assert_array_equal(everything.filled, 24)


def test_regions_are_unit_means_at_the_size_of_the_embeddings():
  embeddings = jnp.array([[3., 0.], [0., 4.], [jnp.nan, 1.], [-1., -1.]]).reshape(1, 2, 2, 2)
  labels = jnp.repeat(jnp.array([[[0, 0], [255, 1]]], jnp.uint8), 3, axis=1)  # 6 x 2
  queue = push_regions(empty(), embeddings, labels)
  np.testing.assert_array_equal(queue.filled, [1, 1, 0])
  np.testing.assert_allclose(queue.embeddings[:2, 0], [[0.6, 0.8], [-(0.5**0.5)] * 2], rtol=1e-6)
  other = push_regions(empty(), embeddings, labels, ignore_label=0)
  np.testing.assert_array_equal(other.filled, [0, 1, 0])


def test_sampling_is_class_balanced_and_masks_empty_classes():
  queue = push(empty(), numbered((12,)), jnp.array([0] * 8 + [2] * 4), jnp.arange(12) != 9)
  drawn, where = sample(queue, jax.random.key(1), 4)
  np.testing.assert_array_equal(where, np.repeat([True, False, True], 4))
  few = {tuple(row) for row in np.asarray(drawn[8:])}
  assert few <= set(rings_of(queue)[2]) and len(few) <= 3
  assert len({tuple(row) for row in np.asarray(drawn[:4])}) == 4
  many, where = sample(queue, jax.random.key(1), SIZE + 3)  # more than there are slots
  assert set(map(tuple, np.asarray(many[:SIZE + 3]))) <= set(rings_of(queue)[0])


@pytest.mark.parametrize('only_filled', [True, False])
def test_all_that_may_be_sampled_is_as_likely_and_classes_are_drawn_apart(only_filled):
  classes = np.array([0] * 7 + [1] * 3 + [2] * 5)  # a ring that has wrapped, a part, a whole one
  queue = push(empty(), np.asarray(numbered((15,))), classes, np.ones(15, bool))
  draw = jax.jit(jax.vmap(lambda key: sample(queue, key, 4, only_filled=only_filled)[0]))
  drawn = np.asarray(draw(jax.random.split(jax.random.key(0), 1000))).reshape(-1, CLASSES, 4, DIM)
  queue, drawn, rings = jax.tree.map(np.asarray, queue), drawn[..., 0], rings_of(queue)
  for class_, slots in enumerate(queue.embeddings[..., 0]):
    may_be = [row[0] for row in rings[class_]] if only_filled else slots
    values, counts = np.unique(drawn[:, class_], return_counts=True)
    np.testing.assert_array_equal(values, np.sort(may_be))
    np.testing.assert_allclose(counts, 4000 / len(may_be), rtol=0.15)
  if only_filled:  # from the oldest on, as one key for all classes would draw them
    oldest = [np.array([row[0] for row in ring]) for ring in rings]
    ages = [np.argmax(drawn[:, class_, :, None] == oldest[class_], axis=-1) for class_ in (0, 2)]
    assert (ages[0] == ages[1]).all(axis=1).mean() < 0.1


def test_the_official_rule_draws_the_same_slots_of_all_classes():
  queue = push(empty(), numbered((2,)), jnp.array([0, 0]), jnp.ones(2, bool))
  drawn, where = sample(queue, jax.random.key(2), 4, only_filled=False)
  assert where.all()
  slots = [[next(i for i in range(SIZE) if np.array_equal(queue.embeddings[c, i], row))
            for row in drawn[4 * c:4 * c + 4]] for c in range(CLASSES)]
  assert slots[0] == slots[1] == slots[2] and len(set(slots[0])) == 4
  with pytest.raises(ValueError, match='per_class=6'):
    queues.sample(queue, jax.random.key(0), SIZE + 1, only_filled=False)


def test_the_official_rule_draws_each_slot_once_and_no_more_than_there_are():
  queue = queues.init(2, 4, DIM, jax.random.key(0))
  drawn, where = queues.sample(queue, jax.random.key(1), 4, only_filled=False)
  assert where.all() and len(where) == 8
  for rows, slots in zip(np.split(np.asarray(drawn), 2), np.asarray(queue.embeddings)):
    assert sorted(rows.tolist()) == sorted(slots.tolist())
  with pytest.raises(ValueError, match='per_class=5 slots cannot be drawn from 4'):
    queues.sample(queue, jax.random.key(1), 5, only_filled=False)


@pytest.mark.parametrize('mode', ['shard_map', 'pmap'])
def test_eight_devices_push_what_one_does(mode):
  rng = np.random.default_rng(0)
  embeddings = rng.normal(size=(16, 4, 4, DIM)).astype(np.float32)
  labels = rng.integers(0, CLASSES, (16, 8, 8)).astype(np.uint8)
  labels[rng.random(labels.shape) < np.linspace(0, 1, 16)[:, None, None]] = 255

  def both(queue, embeddings, labels, axis_name=AXIS):
    queue = queues.push_pixels(queue, embeddings, labels, jax.random.key(3), per_class=2,
                               axis_name=axis_name)
    queue = queues.push_regions(queue, embeddings, labels, axis_name=axis_name)
    return queues.push_drawn(queue, embeddings[:, 0], jax.random.key(4), 13, axis_name=axis_name)
  expected = jax.jit(lambda *args: both(*args, axis_name=None))(empty(20), embeddings, labels)
  if mode == 'pmap':
    split = lambda x: x.reshape(8, 2, *x.shape[1:])
    got = jax.pmap(both, AXIS, in_axes=(None, 0, 0), out_axes=None)(
        empty(20), split(embeddings), split(labels))
  else:
    mesh = jax.make_mesh((8,), (AXIS,), axis_types=(jax.sharding.AxisType.Auto,))
    got = jax.jit(jax.shard_map(
        both, mesh=mesh, in_specs=(P(), P(AXIS), P(AXIS)), out_specs=P(),
        check_vma=True))(empty(20), embeddings, labels)
  assert np.all(expected.filled > 10)
  np.testing.assert_array_equal(got.pointer, expected.pointer)
  np.testing.assert_array_equal(got.filled, expected.filled)
  np.testing.assert_allclose(got.embeddings, expected.embeddings, atol=1e-6)


def test_no_gradient_flows_into_a_queue():
  def total(x):
    queue = queues.push_pixels(empty(), x, jnp.zeros((1, 2, 2), int), jax.random.key(0))
    queue = queues.push_regions(queue, x, jnp.zeros((1, 2, 2), int))
    return jnp.sum(queues.sample(queue, jax.random.key(1), 3)[0])
  np.testing.assert_array_equal(jax.jit(jax.grad(total))(numbered((1, 2, 2))), 0)


def test_errors_say_what_was_expected():
  with pytest.raises(ValueError, match='got 3, 0 and 2'):
    queues.init(3, 0, 2, jax.random.key(0))
  with pytest.raises(ValueError, match=r'embeddings \(M, 2\).*\(4, 3\)'):
    queues.push(empty(), jnp.zeros((4, 3)), jnp.zeros(4, int), jnp.ones(4, bool))
  with pytest.raises(ValueError, match=r'width 2 .*\(1, 4, 4, 3\)'):
    queues.push_regions(empty(), jnp.zeros((1, 4, 4, 3)), jnp.zeros((1, 4, 4), int))
