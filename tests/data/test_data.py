"""The registry of sources and the names it suggests."""

import pytest

from kdseg_jax import data, names


def test_create_passes_its_arguments_on():
  source = data.create('scenes', 'val', size=(32, 40), length=3, seed=5, root='')
  assert isinstance(source, data.Scenes) and len(source) == 3 and source.seed == 5
  assert source[0]['image'].shape == (32, 40, 3)
  assert data.create('scenes', 'val', size=None)[0]['image'].shape == (64, 64, 3)


def test_unknown_names_are_answered_with_the_nearest():
  with pytest.raises(ValueError, match="data set: 'scene'. Did you mean 'scenes'."):
    data.create('scene', 'train')
  with pytest.raises(ValueError, match="split of scenes: 'tran'. Did you mean 'train'"):
    data.create('scenes', 'tran')
  with pytest.raises(ValueError, match='reads no folder; leave root=here out'):
    data.create('scenes', 'train', root='here')


def test_far_names_get_no_suggestion():
  with pytest.raises(ValueError) as caught:
    names.require('xyz', ['scenes', 'camvid'], 'data set')
  assert str(caught.value) == "Unknown data set: 'xyz'. Known: scenes, camvid."
