"""What sources that read files have in common."""

import numpy as np
import pytest

from kdseg_jax import data
from tests.data import archives, boxed_sets, classified_sets

WRITE = {
    'camvid': archives.camvid, 'folder': archives.folder,
    'npz': lambda root: classified_sets.npz(root / 'a.npz'),
    'class_folder': lambda root: classified_sets.folder(root, {'train': {'a': ['0.png', '1.png']}}),
    'cifar10': lambda root: classified_sets.cifar10(root / 'cifar-10-batches-py'),
    'voc_boxes': boxed_sets.voc, 'coco': boxed_sets.coco}
LENGTHS = {'camvid': 3, 'folder': 8, 'npz': 16, 'class_folder': 2, 'cifar10': 10, 'voc_boxes': 3,
           'coco': 3}


def written(name, root):
  """The root of a data set that is written there."""
  root.mkdir()
  WRITE[name](root)
  return root / 'a.npz' if name == 'npz' else root


@pytest.mark.parametrize('name', WRITE)
def test_an_index_beyond_the_images_is_refused(tmp_path, name):
  source = data.create(name, 'train', root=written(name, tmp_path / 'own'))
  assert len(source) == LENGTHS[name] == len([*source])
  for index in (-1, len(source)):
    with pytest.raises(IndexError, match=f'Image {index} does not exist: there are {len(source)}'):
      source[index]


@pytest.mark.parametrize('name', WRITE)
def test_the_environment_gives_the_root_where_none_is_given(tmp_path, monkeypatch, name):
  root = written(name, tmp_path / 'own')
  monkeypatch.setenv('KDSEG_DATA', str(root))
  for nothing in (None, ''):
    assert len(data.create(name, 'train', root=nothing)) == LENGTHS[name]
  monkeypatch.setenv('KDSEG_DATA', str(tmp_path / 'nowhere'))
  assert len(data.create(name, 'train', root=root)) == LENGTHS[name]


@pytest.mark.parametrize('name', WRITE)
def test_images_have_the_size_that_is_asked_for(tmp_path, name):
  root = written(name, tmp_path / 'own')
  source, own = (data.create(name, 'train', root=root, size=size) for size in ((6, 10), None))
  assert source.size == (6, 10)
  for i in range(len(source)):
    assert source[i]['image'].shape == (6, 10, 3) and source[i]['image'].dtype == np.uint8
    assert source[i]['image_id'] == own[i]['image_id']
    assert source[i].get('label', source[i]['image'][..., 0]).shape in ((), (6, 10))
