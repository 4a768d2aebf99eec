"""Parts of a source."""

import pickle

import numpy as np
import pytest

from kdseg_jax import data
from kdseg_jax.data import subset


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
