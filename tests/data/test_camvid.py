"""CamVid folders: pairing, void, sizes, and an error for everything that can be wrong in them."""

import pickle
import shutil

import numpy as np
import PIL.Image
import pytest

from kdseg_jax.data import camvid, files


@pytest.fixture
def root(tmp_path, monkeypatch):
  """Two images of 12 x 16 a split, one PNG and one JPEG, with labels 0 to 11."""
  monkeypatch.delenv('KDSEG_DATA', raising=False)
  rng = np.random.default_rng(0)
  for split in ('train', 'val', 'test'):
    for stem, suffix in (('b', '.png'), ('a', '.jpg')):
      (tmp_path / split).mkdir(exist_ok=True)
      PIL.Image.fromarray(rng.integers(0, 256, (12, 16, 3), np.uint8)).save(
          tmp_path / split / f'{stem}{suffix}')
      label = np.arange(192).reshape(12, 16) % 12
      files.write_png(tmp_path / f'{split}annot' / f'{stem}.png', label.astype(np.uint8))
  return tmp_path


def test_examples_are_sorted_and_void_is_ignored(root):
  source = camvid.CamVid('train', root=root)
  assert len(source) == 2 and len(source.classes) == len(source.palette) == 11
  assert [example['image_id'] for example in source] == ['a', 'b']
  example = source[1]
  np.testing.assert_array_equal(example['image'], files.read_image(root / 'train' / 'b.png'))
  expected = np.arange(192).reshape(12, 16) % 12
  np.testing.assert_array_equal(example['label'], np.where(expected == 11, 255, expected))
  assert example['label'].dtype == np.uint8
  with pytest.raises(IndexError, match='Image 2 does not exist: there are 2'):
    source[2]
  np.testing.assert_array_equal(pickle.loads(pickle.dumps(source))[1]['image'], example['image'])


def test_size_resizes_image_by_area_and_label_to_the_nearest(root):
  label = np.zeros((12, 16), np.uint8)
  label[:, 8:] = 3
  files.write_png(root / 'trainannot' / 'b.png', label)
  files.write_png(root / 'train' / 'b.png', np.repeat(label[..., None] * np.uint8(50), 3, axis=2))
  example = camvid.CamVid('train', root=root, size=(4, 8))[1]
  np.testing.assert_array_equal(example['label'], np.tile([0, 0, 0, 0, 3, 3, 3, 3], (4, 1)))
  np.testing.assert_array_equal(example['image'][..., 1], example['label'] * 50)


def test_root_may_hold_camvid_or_come_from_the_environment(root, monkeypatch):
  above = root / 'above'
  above.mkdir()
  for folder in ('train', 'trainannot'):
    shutil.copytree(root / folder, above / 'camvid' / folder)
  assert len(camvid.CamVid('train', root=above)) == 2
  monkeypatch.setenv('KDSEG_DATA', str(root))
  assert len(camvid.CamVid('val')) == 2
  monkeypatch.setenv('KDSEG_DATA', str(above))
  assert len(camvid.CamVid('train', root='')) == 2
  (root / 'camvid' / 'train').mkdir(parents=True)  # what the root itself holds goes before
  assert len(camvid.CamVid('train', root=root)) == 2


def remove(path):
  def spoil(root):
    if (root / path).is_dir():
      shutil.rmtree(root / path)
    else:
      (root / path).unlink()
  return spoil


def empty(root):
  for folder in ('train', 'trainannot'):
    for path in (root / folder).iterdir():
      path.unlink()


@pytest.mark.parametrize(('spoil', 'error', 'message'), [
    (remove('train'), FileNotFoundError, r'train: no such folder; the layout is train/ trainannot'),
    (remove('trainannot'), FileNotFoundError, r'trainannot: no such folder'),
    (remove('trainannot/a.png'), ValueError, r'train.a\.jpg: has no label; .*trainannot.a\.png'),
    (remove('train/a.jpg'), ValueError,
     r'trainannot.a\.png: has no image; .*train.a\.png or \.jpg'),
    (empty, FileNotFoundError, r'train: holds no PNG or JPEG image'),
    (lambda root: shutil.copy(root / 'train/a.jpg', root / 'train/b.jpg'), ValueError,
     r'b\.png and .*b\.jpg: same name twice|b\.jpg and .*b\.png: same name twice'),
    (lambda root: (root / 'trainannot/b.png').rename(root / 'trainannot/b.jpg'), ValueError,
     r'trainannot.b\.jpg: labels must be PNG'),
])
def test_wrong_folders_are_refused_at_construction(root, spoil, error, message):
  spoil(root)
  with pytest.raises(error, match=message):
    camvid.CamVid('train', root=root)


def label_12(root):
  files.write_png(root / 'trainannot/b.png', np.full((12, 16), 12, np.uint8))


def other_size(root):
  files.write_png(root / 'trainannot/b.png', np.zeros((12, 15), np.uint8))


def cut(path):
  def spoil(root):
    content = (root / path).read_bytes()
    (root / path).write_bytes(content[:len(content) // 2])
  return spoil


@pytest.mark.parametrize(('spoil', 'message'), [
    (label_12, r'trainannot.b\.png: holds label 12; expected class indices 0 to 10 and 11 = void'),
    (other_size, r'trainannot.b\.png: is \(12, 15\) .*train.b\.png is \(12, 16\)'),
    (cut('train/b.png'), r'train.b\.png: cannot be decoded'),
    (cut('trainannot/b.png'), r'trainannot.b\.png: cannot be decoded'),
])
def test_wrong_content_is_refused_on_reading(root, spoil, message):
  spoil(root)
  source = camvid.CamVid('train', root=root)
  assert source[0]['image_id'] == 'a'
  with pytest.raises(ValueError, match=message):
    source[1]


def test_missing_root_and_unknown_split_are_explained(root, monkeypatch):
  with pytest.raises(ValueError, match=r'give root .* or set \$KDSEG_DATA'):
    camvid.CamVid('train')
  with pytest.raises(FileNotFoundError, match=r'root=.*nowhere: no CamVid there'):
    camvid.CamVid('train', root=root / 'nowhere')
  monkeypatch.setenv('KDSEG_DATA', str(root / 'nowhere'))
  with pytest.raises(FileNotFoundError, match=r'\$KDSEG_DATA=.*nowhere: no CamVid there'):
    camvid.CamVid('train')
  with pytest.raises(ValueError, match="Unknown split of camvid: 'trian'. Did you mean 'train'"):
    camvid.CamVid('trian', root=root)
