"""Streams whose batches hold images of one orientation."""

import collections
import itertools

import hypothesis
import numpy as np
import pytest
from hypothesis import strategies as st

from kdseg_jax import data, tasks
from kdseg_jax.data import augmentation, pipeline, streams, subset
from kdseg_jax.errors import UserError
from tests.data import test_pipeline
from tests.mylab import parts

FIELDS = tasks.SegmentationTask.fields


class Known(test_pipeline.Coded):
  """Examples that carry their position in their pixels, of sizes that are told."""

  def size_of(self, index):
    return self.sizes[index]


def kept(example, rng):
  """Augmentation that changes nothing."""
  del rng
  return {'image': example['image'], 'mask': np.ones(example['label'].shape, bool)}


def batches(source, count, **options):
  options = {'batch_size': 4, 'seed': 0, 'augmentation': kept, 'num_threads': 1} | options
  return list(itertools.islice(
      pipeline.train_batches(source, by_orientation=True, **options), count))


@hypothesis.settings(max_examples=40)
@hypothesis.given(wide=st.integers(0, 6), upright=st.integers(0, 6), batch_size=st.integers(1, 3),
                  seed=st.integers(0, 9))
def test_a_batch_has_one_orientation_and_each_has_its_share(wide, upright, batch_size, seed):
  hypothesis.assume(wide + upright)
  sizes = np.random.default_rng(seed).permutation([(3, 5)] * wide + [(5, 3)] * upright)
  total = wide + upright
  stream = streams.shuffled(Known([tuple(size) for size in sizes.tolist()]), seed=seed,
                            batch_size=batch_size, by_orientation=True)
  found = [[stream[batch * batch_size + place]['image'].shape[:2] for place in range(batch_size)]
           for batch in range(2 * total)]
  assert all(len(set(batch)) == 1 for batch in found)
  kinds = [batch[0] for batch in found]
  assert kinds.count((3, 5)) == 2 * wide and kinds.count((5, 3)) == 2 * upright
  for end in range(len(kinds)):  # at every moment, so that a run may end anywhere
    assert kinds[:end].count((5, 3)) == end * upright // total


def test_every_image_comes_once_an_epoch_of_its_orientation_in_a_new_order():
  sizes = [(3, 5)] * 8 + [(5, 3)] * 4
  orders = collections.defaultdict(list)
  for batch in batches(Known(sizes), 9):  # three epochs
    orders[batch['image'].shape[1]] += test_pipeline.positions(batch).tolist()
  for height, expected in ((3, range(8)), (5, range(8, 12))):
    epochs = np.reshape(orders[height], (3, -1)).tolist()
    assert all(sorted(epoch) == list(expected) for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) > 1
  other = batches(Known(sizes), 9, seed=1)
  assert [test_pipeline.positions(batch).tolist() for batch in other] != [
      test_pipeline.positions(batch).tolist() for batch in batches(Known(sizes), 9)]


def test_equal_numbers_of_both_are_not_shuffled_alike():
  found = [test_pipeline.positions(batch) for batch in batches(
      Known([(3, 5)] * 16 + [(5, 3)] * 16), 2, batch_size=16)]
  assert (found[0] != found[1] - 16).any()


@pytest.mark.parametrize('kind', ['plain', 'by_orientation', 'mixture'])
def test_every_example_of_every_epoch_and_seed_is_augmented_by_a_draw_of_its_own(kind):
  images = Known([(3, 5)] * 6 + [(5, 3)] * 6 * (kind == 'by_orientation'))
  images.classes = images.palette = ()
  source = data.Concatenated(images, images, share=0.5) if kind == 'mixture' else images
  drawn = [draw for seed in (0, 1) for batch in itertools.islice(pipeline.train_batches(
      source, batch_size=4, seed=seed, by_orientation=kind == 'by_orientation', num_threads=1,
      augmentation=lambda example, rng: kept(example, rng) | {'draw': rng.random()}), 5)
           for draw in batch['draw'].tolist()]
  assert len(set(drawn)) == len(drawn) == 2 * 20


def test_batches_are_the_same_whatever_the_start_threads_and_processes():
  source = Known([(3, 5), (5, 3), (3, 5), (4, 4), (5, 3), (3, 5), (5, 3)])
  augment = augmentation.Augmentation(crop=(4, 6), by_orientation=True, fields=FIELDS)
  whole = batches(source, 8, augmentation=augment, seed=3)
  assert {batch['image'].shape for batch in whole} == {(4, 4, 6, 3), (4, 6, 4, 3)}
  test_pipeline.assert_same_batches(
      whole[5:], batches(source, 3, augmentation=augment, seed=3, start=5, num_threads=3))
  halves = [batches(source, 8, augmentation=augment, seed=3, process_index=index, process_count=2)
            for index in range(2)]
  test_pipeline.assert_same_batches(whole, [
      {name: np.concatenate([first[name], second[name]]) for name in first}
      for first, second in zip(*halves, strict=True)])


def test_square_images_lie_among_the_wide_ones():
  assert [streams.is_upright(Known([(4, 4), (5, 4), (4, 5)]), threads).tolist()
          for threads in (0, 1, 3)] == [[False, True, False]] * 3


def test_a_part_of_a_source_tells_the_sizes_of_its_images():
  source = parts.Turned('train', count=9)
  part = subset.spread(source, 3)
  assert [part.size_of(i) for i in range(3)] == [part[i]['image'].shape[:2] for i in range(3)]
  assert streams.is_upright(subset.Subset(source, [2, 1, 5])).tolist() == [True, False, True]


@pytest.mark.parametrize('limit', [0, 3])
def test_sources_that_do_not_tell_are_refused(limit):
  source = subset.first(parts.Stripes('train'), limit)
  with pytest.raises(UserError, match='by_orientation=True: this source does not tell the sizes'):
    streams.is_upright(source)


class Numbers(list):
  """Examples that are numbers, with what a source has."""

  classes = palette = ()


@pytest.mark.parametrize('share, batch_size, second', [(0.5, 4, [1, 3]), (0.3, 3, [2])])
def test_a_mixture_takes_each_part_from_a_stream_of_its_own(share, batch_size, second):
  source = data.Concatenated(Numbers(range(6)), Numbers(range(100, 106)), share=share)
  is_second, orders = np.isin(np.arange(batch_size), second), []
  for seed in (0, 5):
    stream = streams.shuffled(source, batch_size=batch_size, seed=seed)
    found = np.array([stream[i] for i in range(12 // len(second) * batch_size)])
    found = found.reshape(-1, batch_size)
    assert ((found >= 100) == is_second).all()
    for part in (False, True):
      epochs = (found[:, is_second == part] % 100).reshape(-1, 6)
      assert len(epochs) >= 2 and (np.sort(epochs, axis=1) == range(6)).all()
      orders += epochs[:2].tolist()
  assert len(set(map(tuple, orders))) == 8  # anew for each seed, part and epoch
