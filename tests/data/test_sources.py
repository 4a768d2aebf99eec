"""What sources that read files have in common."""

import numpy as np
import pytest

from kdseg_jax import data
from kdseg_jax.data import files
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


@pytest.mark.parametrize('name', WRITE)
@pytest.mark.parametrize('size', [(16, 8), (48, 40)])
def test_labels_and_boxes_of_resized_images_lie_where_the_images_do(tmp_path, name, size):
  root = written(name, tmp_path / 'own')
  source, own = (data.create(name, 'train', root=root, size=size) for size in (size, None))
  for example, other in zip(source, own, strict=True):
    np.testing.assert_array_equal(example['image'], files.resize_image(other['image'], size))
    before = other['image'].shape[:2]
    if 'boxes' in other:
      factors = np.array([size[1] / before[1], size[0] / before[0]] * 2)
      np.testing.assert_allclose(example['boxes'], other['boxes'] * factors, rtol=1e-6)
      np.testing.assert_allclose(example['scale'], factors[:2], rtol=1e-6)
      for field in ('classes', 'crowd', 'area'):  # the area is that of the file's image
        np.testing.assert_array_equal(example[field], other[field])
    elif np.ndim(other['label']):  # the pixel in which its centre lies
      rows, columns = (np.floor((np.arange(new) + 0.5) * old / new).astype(int)
                       for new, old in zip(size, before))
      np.testing.assert_array_equal(example['label'], other['label'][rows][:, columns])
    else:
      assert example['label'] == other['label']
