"""Meaning of stored labels."""

import numpy as np
import pytest

from kdseg_jax.data import pairs


def test_labels_are_mapped_and_others_refused_all_at_once():
  label_map = pairs.LabelMap({0: 255, 7: 0, 300: 1}, 'labels 0, 7 and 300')
  label = np.array([[0, 7], [300, 7]])
  result = label_map(label, 'a.png')
  assert result.dtype == np.uint8
  np.testing.assert_array_equal(result, [[255, 0], [1, 0]])
  with pytest.raises(ValueError, match='a.png: holds labels 6, 301, 9999; expected labels 0, 7'):
    label_map(np.array([[6, 0, 9999], [301, 7, 6]], np.uint16), 'a.png')
  with pytest.raises(ValueError, match='a.mat: holds labels -293, -1;'):
    label_map(np.array([[-1, 7, -293]]), 'a.mat')
  with pytest.raises(ValueError, match='a.png: holds label 8;'):
    label_map(np.array([[8]], np.uint8), 'a.png')


@pytest.mark.parametrize('count', [1, 21, 255])
def test_identity_has_every_class_and_255(count):
  label_map = pairs.LabelMap.identity(count)
  label = np.array([[*range(count), 255]], np.uint8)
  np.testing.assert_array_equal(label_map(label, 'a'), label)
  if count < 255:
    with pytest.raises(ValueError, match=f'holds label {count}; expected class indices 0 to'):
      label_map(np.array([[count]], np.uint8), 'a')
