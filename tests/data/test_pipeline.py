"""Batches: the same on any number of processes and threads; evaluation visits everything once."""

import functools
import itertools

import hypothesis
import numpy as np
import pytest
from hypothesis import strategies as st

from kdseg_jax import tasks
from kdseg_jax.data import augmentation, pipeline, scenes

FIELDS = tasks.SegmentationTask.fields


class Coded:
  """Examples that carry their position in their pixels; sizes may differ."""

  def __init__(self, sizes):
    self.sizes = sizes

  def __len__(self):
    return len(self.sizes)

  def __getitem__(self, index):
    label = np.full(self.sizes[index], index % 11, np.uint8)
    image = np.full((*self.sizes[index], 3), index, np.uint8)
    return {'image': image, 'label': label, 'image_id': str(index), 'boxes': np.zeros((index, 4))}


def plain(example, rng):
  """Augmentation that only marks the draw of its generator in the last channel."""
  image = example['image'].copy()
  image[..., 2] = rng.integers(256)
  return {'image': image, 'label': example['label'], 'mask': np.ones(example['label'].shape, bool)}


def positions(batch):
  """Positions in a `Coded` source, from the pixels."""
  return batch['image'][:, 0, 0, 0].astype(int)


def take(source, count, **options):
  options = {'batch_size': 4, 'seed': 0, 'augmentation': plain, 'num_threads': 1} | options
  return list(itertools.islice(pipeline.train_batches(source, **options), count))


def assert_same_batches(first, second):
  assert len(first) == len(second)
  for one, other in zip(first, second, strict=True):
    assert one.keys() == other.keys()
    for name in one:
      assert one[name].dtype == other[name].dtype
      np.testing.assert_array_equal(one[name], other[name], err_msg=name)


def test_batch_is_the_same_whatever_the_start_threads_and_processes():
  source = scenes.Scenes('train', length=10)
  options = {'seed': 3, 'augmentation': augmentation.Augmentation(crop=(48, 80), fields=FIELDS)}
  whole = take(source, 6, **options)
  assert_same_batches(whole, take(source, 6, **options, num_threads=4))
  assert_same_batches(whole, take(source, 6, **options, num_threads=0))
  assert_same_batches(whole[4:], take(source, 2, **options, start=4))
  for process_count in (2, 4):
    parts = [take(source, 3, **options, start=3, process_index=index, process_count=process_count)
             for index in range(process_count)]
    assert all(len(batch['index']) == 4 // process_count for batch in parts[0])
    joined = [{name: np.concatenate([part[name] for part in batches]) for name in batches[0]}
              for batches in zip(*parts)]
    assert_same_batches(whole[3:], joined)


def test_train_batch_has_the_promised_fields():
  batch, = take(scenes.Scenes('train', length=5), 1, start=2,
                augmentation=augmentation.Augmentation(crop=(70, 90), scale=None, fields=FIELDS))
  assert {name: (value.shape, value.dtype.name) for name, value in batch.items()} == {
      'image': ((4, 70, 90, 3), 'uint8'), 'label': ((4, 70, 90), 'uint8'),
      'mask': ((4, 70, 90), 'bool'), 'index': ((4,), 'int32')}
  np.testing.assert_array_equal(batch['index'], [8, 9, 10, 11])
  assert (batch['label'][~batch['mask']] == 255).all() and not batch['mask'].all()


def test_every_epoch_covers_all_examples_in_a_new_order_with_new_draws():
  source = Coded([(2, 2)] * 6)
  batches = take(source, 9, batch_size=4)  # 36 examples: six epochs, batches run over their ends
  order = np.concatenate([positions(batch) for batch in batches]).reshape(6, 6)
  np.testing.assert_array_equal(np.sort(order, axis=1), np.tile(np.arange(6), (6, 1)))
  assert len(np.unique(order, axis=0)) >= 5
  draws = np.concatenate([batch['image'][:, 0, 0, 2] for batch in batches])
  assert len(np.unique(draws)) > 20
  np.testing.assert_array_equal(np.concatenate([batch['index'] for batch in batches]),
                                np.arange(36))


def test_seed_changes_order_and_draws():
  first, second = (take(Coded([(2, 2)] * 40), 5, seed=seed) for seed in (0, 1))
  assert any((positions(a) != positions(b)).any() for a, b in zip(first, second))
  draws = [[batch['image'][:, 0, 0, 2] for batch in batches] for batches in (first, second)]
  assert (np.concatenate(draws[0]) != np.concatenate(draws[1])).mean() > 0.9


def test_far_start_is_reached_at_once():
  class Counting(Coded):
    reads = 0

    def __getitem__(self, index):
      self.reads += 1
      return super().__getitem__(index)

  source = Counting([(2, 2)] * 3)
  batch, = take(source, 1, start=10 ** 8)
  assert batch['index'][0] == 4 * 10 ** 8
  assert source.reads <= 40  # the batch, and what the threads read ahead


def test_source_of_one_example_can_be_trained_on():
  batch, = take(Coded([(2, 2)]), 1)
  np.testing.assert_array_equal(positions(batch), [0, 0, 0, 0])


@hypothesis.settings(max_examples=30, deadline=None, derandomize=True)
@hypothesis.given(
    sizes=st.lists(st.sampled_from([(2, 3), (3, 2), (4, 4)]), min_size=1, max_size=23),
    share=st.integers(1, 5), process_count=st.sampled_from([1, 2, 3, 8]))
def test_evaluation_visits_every_image_exactly_once(sizes, share, process_count):
  source = Coded(sizes)
  parts = [list(pipeline.evaluation_batches(
      source, fields=FIELDS, batch_size=share * process_count, process_index=index,
      process_count=process_count, sizes=sizes if process_count > 1 else None,
      num_threads=index % 2)) for index in range(process_count)]
  seen = {size: [] for size in sizes}
  for batches in zip(*parts, strict=True):
    assert len({batch['image'].shape for batch in batches}) == 1
    batch = {name: np.concatenate([part[name] for part in batches]) for name in batches[0]}
    assert len(batch['index']) == share * process_count
    assert batch['image'].dtype == batch['label'].dtype == np.uint8
    assert batch['mask'].dtype == bool and batch['index'].dtype == np.int32
    real = batch['index'] >= 0
    np.testing.assert_array_equal(real, np.sort(real)[::-1])  # padding comes last
    assert real.any() and (batch['index'][~real] == -1).all()
    assert batch['mask'][real].all() and not batch['mask'][~real].any()
    assert (batch['label'][~real] == 255).all() and (batch['image'][~real] == 0).all()
    np.testing.assert_array_equal(positions(batch)[real], batch['index'][real])
    np.testing.assert_array_equal(batch['label'][real][:, 0, 0], batch['index'][real] % 11)
    seen[batch['label'].shape[1:]].extend(batch['index'][real])
  for size, indices in seen.items():
    assert indices == [index for index, other in enumerate(sizes) if other == size]


@pytest.mark.parametrize('sizes', [None, [(2, 3)], [(2, 3)] * 4])
def test_several_processes_need_the_size_of_every_image(sizes):
  with pytest.raises(ValueError, match='2 processes need the sizes of all 3 images'):
    pipeline.evaluation_batches(Coded([(2, 3)] * 3), fields=FIELDS, batch_size=2, process_index=0,
                                process_count=2, sizes=sizes)


@pytest.mark.parametrize('multiple', [1, 4])
def test_evaluation_pads_to_few_sizes(multiple):
  sizes = [(2, 3), (4, 4), (3, 4), (5, 2), (2, 3)]
  source = Coded(sizes)
  seen = {}
  for batch in pipeline.evaluation_batches(source, fields=FIELDS, batch_size=2, multiple=multiple):
    for index, *arrays in zip(*(batch[name] for name in ('index', 'image', 'label', 'mask'))):
      seen.setdefault(int(index), []).append(arrays)
  assert [len(seen[index]) for index in range(5)] == [1] * 5
  for index, (height, width) in enumerate(sizes):
    (image, label, mask), = seen[index]
    assert label.shape == tuple(-(-side // multiple) * multiple for side in (height, width))
    np.testing.assert_array_equal(image[:height, :width], source[index]['image'])
    np.testing.assert_array_equal(label[:height, :width], source[index]['label'])
    assert mask[:height, :width].all() and mask.sum() == height * width
    assert (label[~mask] == 255).all() and (image[~mask] == 0).all()
  if multiple == 4:
    assert {arrays[1].shape for item in seen.values() for arrays in item} == {(4, 4), (8, 4)}


@pytest.mark.parametrize('process_count', [2, 3])
def test_processes_share_the_batches_of_padded_images(process_count):
  sizes = [(2, 3), (5, 4), (4, 4), (3, 4), (6, 2), (2, 3), (1, 1), (4, 3)]
  options = {'fields': FIELDS, 'batch_size': 6, 'multiple': 4}
  whole = list(pipeline.evaluation_batches(Coded(sizes), **options))
  parts = [pipeline.evaluation_batches(
      Coded(sizes), process_index=index, process_count=process_count, sizes=sizes, **options)
      for index in range(process_count)]
  joined = [{name: np.concatenate([part[name] for part in batches]) for name in batches[0]}
            for batches in zip(*parts, strict=True)]
  assert [batch['image'].shape for batch in whole] == [(6, 4, 4, 3), (6, 8, 4, 3)]
  assert_same_batches(whole, joined)


def test_evaluation_pads_every_field_with_its_own_and_keeps_the_mask_of_the_source():
  fields = {
      'pose': tasks.Field(shape=lambda size: (2,), dtype=np.float32, padding=0.5),
      'depth': tasks.Field(shape=lambda size: size, dtype=np.int16, padding=-7, geometry='map')}
  mask = np.array([[True, False, True], [True, True, False]])
  source = [{'image': np.full((2, 3, 3), 9, np.uint8), 'mask': mask, 'other': 1,
             'pose': np.float32([1, 2]), 'depth': np.full((2, 3), 5, np.int16)}]
  batch, = pipeline.evaluation_batches(source, fields=fields, batch_size=2, multiple=4)
  assert batch.keys() == {'image', 'mask', 'index', 'pose', 'depth'}
  expected = np.zeros((2, 4, 4), bool)
  expected[0, :2, :3] = mask
  np.testing.assert_array_equal(batch['mask'], expected)
  depth = np.full((2, 4, 4), -7, np.int16)
  depth[0, :2, :3] = 5
  np.testing.assert_array_equal(batch['depth'], depth, strict=True)
  np.testing.assert_array_equal(batch['pose'], np.float32([[1, 2], [0.5, 0.5]]), strict=True)
  np.testing.assert_array_equal(batch['index'], np.int32([0, -1]), strict=True)


def test_each_process_reads_the_sizes_of_its_part():
  sizes = [(2, 3), (4, 5), (6, 7), (2, 2), (3, 3)]
  source = Coded(sizes)
  assert pipeline.read_sizes(source) == sizes
  assert [pipeline.read_sizes(source, start=start, step=3) for start in range(3)] == [
      [(2, 3), (2, 2)], [(4, 5), (3, 3)], [(6, 7)]]


@pytest.mark.parametrize('num_threads', [0, 2])
def test_read_reads_each_once_and_raises_what_is_wrong(num_threads):
  class Spoilt(Coded):
    reads = []

    def __getitem__(self, index):
      self.reads.append(index)
      if len(self) == 7 and index == 5:
        raise ValueError('street.png: cannot be decoded')
      return super().__getitem__(index)

  tally = lambda example: np.bincount(example['label'].ravel(), minlength=6)
  counts = list(pipeline.read(Spoilt([(2, 3)] * 6), tally, num_threads=num_threads))
  np.testing.assert_array_equal(np.stack(counts), 6 * np.eye(6, dtype=int))
  assert sorted(Spoilt.reads) == list(range(6))
  with pytest.raises(ValueError, match=r'street\.png'):
    list(pipeline.read(Spoilt([(2, 2)] * 7), tally, num_threads=num_threads))


def test_evaluation_flushes_a_full_buffer_before_reading_on():
  source = Coded([(2, 2), (3, 3), (2, 2), (3, 3), (3, 3)])
  batches = pipeline.evaluation_batches(source, fields=FIELDS, batch_size=2, num_threads=1)
  assert [batch['index'].tolist() for batch in batches] == [[0, 2], [1, 3], [4, -1]]


@pytest.mark.parametrize('function', [
    lambda source, **options: pipeline.train_batches(source, seed=0, augmentation=plain, **options),
    functools.partial(pipeline.evaluation_batches, fields=FIELDS)])
def test_wrong_arguments_are_refused_before_reading(function):
  source = Coded([(2, 2)])
  with pytest.raises(ValueError, match='no examples'):
    function(Coded([]), batch_size=2)
  with pytest.raises(ValueError, match='batch_size=3 cannot be shared by 2 processes'):
    function(source, batch_size=3, process_count=2)
  with pytest.raises(ValueError, match='batch_size=0'):
    function(source, batch_size=0)
  with pytest.raises(ValueError, match='process_index=2: expected 0 to 1'):
    function(source, batch_size=4, process_index=2, process_count=2)


@pytest.mark.parametrize('num_threads', [0, 2])
def test_errors_of_the_source_come_through(num_threads):
  class Broken(Coded):

    def __getitem__(self, index):
      raise ValueError('street.png: cannot be decoded')

  source = Broken([(2, 2)] * 4)
  with pytest.raises(ValueError, match=r'street\.png: cannot be decoded'):
    take(source, 1, num_threads=num_threads)
  with pytest.raises(ValueError, match=r'street\.png: cannot be decoded'):
    next(pipeline.evaluation_batches(source, fields=FIELDS, batch_size=2, num_threads=num_threads))
