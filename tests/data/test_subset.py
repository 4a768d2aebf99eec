"""Parts of a source."""

import pickle

import numpy as np
import pytest

from kdseg_jax import data
from kdseg_jax.data import subset
from kdseg_jax.errors import UserError
from tests.mylab import parts


def test_first_and_spread_take_whole_examples_of_the_source():
  source = data.create('scenes', 'val', size=(32, 32))
  ids = lambda part: [int(example['image_id'].split('_')[1]) for example in part]
  assert ids(subset.first(source, 3)) == [0, 1, 2]
  assert ids(subset.spread(source, 4)) == [0, 62, 125, 187]  # of 250
  part = pickle.loads(pickle.dumps(subset.spread(source, 4)))
  assert len(part) == 4 and part.classes == source.classes
  np.testing.assert_array_equal(part.palette, source.palette)
  np.testing.assert_array_equal(part[1]['image'], source[62]['image'])
  assert part.is_generated and part.size == (32, 32)
  plain = subset.first(list(range(5)), 3)
  assert not plain.is_generated and plain.size is None and plain.size_of is None


@pytest.mark.parametrize('take', [subset.first, subset.spread])
def test_no_limit_and_one_beyond_the_source_are_the_source(take):
  source = list(range(5))
  assert take(source, 0) is source and take(source, 5) is source and take(source, 9) is source
  assert list(take(source, 4)) == [0, 1, 2, 3]


@pytest.mark.parametrize('length, limit', [(2, 1), (7, 3), (10, 9), (20, 10)])
def test_the_rest_is_what_was_not_taken_in_order(length, limit):
  source = list(range(length))
  taken, rest = list(subset.spread(source, limit)), list(subset.rest(source, limit))
  assert len(taken) == limit and rest == [i for i in source if i not in taken]


@pytest.mark.parametrize('limit', [-1, 0, 5, 6])
def test_a_limit_that_leaves_no_rest_is_refused(limit):
  with pytest.raises(UserError, match=rf'no example of the 5 .*train_limit \(now {limit}\)'):
    subset.rest(list(range(5)), limit)


def test_sizes_are_those_of_the_examples_that_were_taken():
  source = parts.Turned('train', count=9)
  for part in (subset.rest(source, 3), subset.Subset(source, [5, 2, 1])):
    sizes = [part.size_of(index) for index in range(len(part))]
    assert sizes == [example['image'].shape[:2] for example in part] and len(set(sizes)) == 2
