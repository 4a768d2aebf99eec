"""Images of users in batches: every one once, whatever their sizes."""

import numpy as np
import pytest

from kdseg_jax.inference import images


@pytest.mark.parametrize('batch_size', [1, 2, 3, 10])
def test_every_image_is_in_a_batch_of_its_size_and_fillings_repeat_one(batch_size):
  sizes = [(2, 3), (3, 2), (2, 3), (4, 4), (2, 3), (3, 2), (2, 3), (2, 3), (5, 1)]
  given = [np.full((*size, 3), number, np.uint8) for number, size in enumerate(sizes)]
  seen = []
  for indices, batch in images.batches(given, batch_size):
    assert len(indices) == len(batch) <= batch_size
    for index, image in zip(indices, batch, strict=True):
      np.testing.assert_array_equal(image, given[index])
    assert len(indices) - len(set(indices)) in (0, batch_size - len(set(indices)))
    seen += sorted(set(indices))
  assert sorted(seen) == list(range(len(sizes)))
