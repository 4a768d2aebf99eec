"""Pushes to the queues against CIRKD's code, with what its pixel queue does wrong spelt out.

The arrays are six pushes in a row, see tests/golden/README.md. The rows of `pushed` are image,
class, the position whose embedding was pushed, and one of a pixel of that class.
"""

import functools
import pathlib

import jax
import numpy as np
import pytest

from kdseg_jax.losses import queues

GOLDEN = pathlib.Path(__file__).parents[1] / 'golden' / 'more_losses.npz'
STEPS, CLASSES, PER_CLASS = range(6), 5, 16


@functools.cache
def golden():
  with np.load(GOLDEN) as arrays:
    return {key.removeprefix('cirkd_queue_push/'): x for key, x in arrays.items()
            if key.startswith('cirkd_queue_push/')}


def batch(step):
  """Embeddings, channels last, and labels."""
  return np.moveaxis(golden()[f'in/embeddings{step}'], 1, -1), golden()[f'in/labels{step}']


def fresh(name):
  slots = golden()[f'{name}_queue0']
  return queues.init(*slots.shape, jax.random.key(0))._replace(embeddings=slots)


def test_the_region_queue_equals_the_official_one():
  queue = fresh('region')
  for step in STEPS:
    queue = jax.jit(queues.push_regions)(queue, *batch(step))
    np.testing.assert_array_equal(queue.pointer, golden()[f'step{step}/region_ptr'])
    np.testing.assert_allclose(
        queue.embeddings, golden()[f'step{step}/region_queue'], rtol=0, atol=1e-6)


def test_the_pixel_queue_has_the_official_number_of_pixels_in_the_official_order():
  """A class, image by image: as many as official, but all of that class, and none twice."""
  for step in STEPS:
    embeddings, labels = batch(step)
    queue = jax.jit(queues.push_pixels)(
        queues.init(CLASSES, 2 * PER_CLASS, embeddings.shape[-1], jax.random.key(0)),
        embeddings, labels, jax.random.key(step))
    pixels = {tuple(pixel): (image, label) for image in range(len(labels)) for pixel, label in zip(
        embeddings[image].reshape(-1, embeddings.shape[-1]), labels[image].ravel())}
    pushed = golden()[f'step{step}/pushed']
    for label in range(CLASSES):
      rows = [tuple(row) for row in np.asarray(queue.embeddings[label, :queue.filled[label]])]
      assert [pixels[row][0] for row in rows] == pushed[pushed[:, 1] == label, 0].tolist()
      assert {pixels[row][1] for row in rows} <= {label} and len(set(rows)) == len(rows)


@pytest.mark.parametrize('column', [2, 3])
def test_what_the_official_pixel_queue_holds(column):
  """Pixels from the top of the image, whatever their class: `push` makes that queue of them.

  Until the ring is full; what would run over its end the official code writes to the last slots.
  """
  embeddings, labels = batch(0)
  pushed = golden()['step0/pushed'].astype(int)
  rows = embeddings.reshape(len(labels), -1, embeddings.shape[-1])[pushed[:, 0], pushed[:, column]]
  queue = queues.push(fresh('pixel'), rows, pushed[:, 1], np.ones(len(rows), bool))
  np.testing.assert_array_equal(queue.pointer, golden()['step0/pixel_ptr'])
  of_class = labels.reshape(len(labels), -1)[pushed[:, 0], pushed[:, column]] == pushed[:, 1]
  difference = np.abs(queue.embeddings - golden()['step0/pixel_queue'])
  if column == 2:  # what was pushed
    assert np.max(difference) < 1e-6 and np.mean(of_class) < 0.5
  else:  # what was meant
    assert np.all(of_class) and np.mean(difference > 1e-3) > 0.2


def test_the_official_ring_skips_slots_at_its_end():
  """The second push: ours goes on at the first slot, theirs leaves the slots before the end."""
  queue = fresh('pixel')
  for step in (0, 1):
    embeddings, labels = batch(step)
    pushed = golden()[f'step{step}/pushed'].astype(int)
    rows = embeddings.reshape(len(labels), -1, embeddings.shape[-1])[pushed[:, 0], pushed[:, 2]]
    queue = queues.push(queue, rows, pushed[:, 1], np.ones(len(rows), bool))
  counts = sum(np.bincount(golden()[f'step{step}/pushed'][:, 1], minlength=CLASSES)
               for step in (0, 1))
  slots = queue.embeddings.shape[1]
  np.testing.assert_array_equal(queue.pointer, counts % slots)
  wrapped = counts >= slots
  assert wrapped.any() and np.all(
      (np.asarray(queue.pointer) != golden()['step1/pixel_ptr'])[counts > slots])
