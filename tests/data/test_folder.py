"""Folders of images and labels of one's own: layouts, splits, classes, and what can be wrong."""

import shutil

import numpy as np
import PIL.Image
import pytest

from kdseg_jax import data
from kdseg_jax.data import files
from tests.data import archives


@pytest.fixture
def root(tmp_path, monkeypatch):
  """images/<split>/ labels/<split>/ with 3 classes in classes.txt."""
  monkeypatch.delenv('KDSEG_DATA', raising=False)
  archives.folder(tmp_path)
  return tmp_path


@pytest.fixture
def flat(tmp_path, monkeypatch):
  """images/ labels/ with 21 images s00..s20 and neither lists nor classes.txt."""
  monkeypatch.delenv('KDSEG_DATA', raising=False)
  for i in range(21):
    files.write_png(tmp_path / 'images' / f's{i:02d}.png', np.full((4, 5, 3), i, np.uint8))
    files.write_png(tmp_path / 'labels' / f's{i:02d}.png', np.full((4, 5), i % 3, np.uint8))
  return tmp_path


def ids(source):
  return [example['image_id'] for example in source]


def test_subfolders_are_the_splits(root):
  expected = archives.folder(root)
  for split, labels in expected.items():
    source = data.create('folder', split, root=root)
    assert ids(source) == sorted(labels)
    assert source.classes == ('name 0', 'name 1', 'name 2') and source.palette.shape == (3, 3)
    for example in source:
      np.testing.assert_array_equal(example['label'], labels[example['image_id']])
  assert data.create('folder', 'val', root=root, size=(8, 12))[0]['image'].shape == (8, 12, 3)


def test_lists_are_the_splits_of_a_flat_folder(flat):
  (flat / 'train.txt').write_text('s03\ns01\n\n')
  (flat / 'val.txt').write_text('\ufeffs02\r\ns04\r\n', encoding='utf-8')
  (flat / 'images' / 's20.png').unlink()  # in no list
  assert ids(data.create('folder', 'train', root=flat)) == ['s01', 's03']
  assert ids(data.create('folder', 'val', root=flat)) == ['s02', 's04']
  with pytest.raises(FileNotFoundError, match='has no split test, only train, val; .*test.txt'):
    data.create('folder', 'test', root=flat)


def test_without_lists_every_tenth_image_is_val(flat, monkeypatch):
  val = ids(data.create('folder', 'val', root=flat))
  assert val == ['s00', 's10', 's20']
  monkeypatch.setenv('KDSEG_DATA', str(flat))
  assert sorted(ids(data.create('folder', 'train')) + val) == [f's{i:02d}' for i in range(21)]


def test_classes_are_found_in_the_labels(flat):
  source = data.create('folder', 'val', root=flat)  # whose own labels are all 0, 1, 2
  assert source.classes == ('class 0', 'class 1', 'class 2')
  files.write_png(flat / 'labels' / 's01.png', np.full((4, 5), 3, np.uint8))
  files.write_png(flat / 'labels' / 's02.png', np.full((4, 5), 255, np.uint8))
  assert len(data.create('folder', 'val', root=flat).classes) == 4  # of all splits


@pytest.mark.parametrize(('value', 'message'), [
    (5, r'labels: the labels reach to 5, but 3, 4 do not occur, so the number of classes is amb'),
    (4, r'reach to 4, but 3 does not occur')])
def test_gaps_in_the_labels_are_ambiguous_without_names(flat, value, message):
  files.write_png(flat / 'labels' / 's01.png', np.full((4, 5), value, np.uint8))
  with pytest.raises(ValueError, match=message + r'.*Write .*classes\.txt'):
    data.create('folder', 'train', root=flat)
  (flat / 'classes.txt').write_text('a\nb\nc\nd\ne\nf')
  assert data.create('folder', 'train', root=flat)[0]['label'].max() == value


def test_masks_of_0_and_255_are_refused(flat):
  for path in (flat / 'labels').iterdir():
    files.write_png(path, np.tile(np.array([[0, 255]], np.uint8), (4, 1)))
  with pytest.raises(ValueError, match='all labels are 0, 255; expected two classes or more'):
    data.create('folder', 'train', root=flat)


@pytest.mark.parametrize('values', [[0], [1], [0, 255], [255]])
def test_labels_of_one_class_are_refused_without_names(flat, values):
  for path in (flat / 'labels').iterdir():
    files.write_png(path, np.resize(np.uint8(values), (4, 5)))
  shown = ', '.join(map(str, values))
  with pytest.raises(ValueError, match=f'labels: all labels are {shown}; expected two classes or'):
    data.create('folder', 'train', root=flat)


def test_as_many_classes_may_be_named_as_there_are_labels(root):
  (root / 'classes.txt').write_text('\n'.join(f'name {i}x' for i in range(255)))
  assert len(data.create('folder', 'train', root=root).classes) == 255


@pytest.mark.parametrize(('text', 'message'), [
    ('a\n\nb', 'line 2 is blank'), ('a\nb\na', "line 3 repeats line 1, 'a'"), ('\n', 'is empty'),
    ('a', 'names 1 classes; expected 2 to 255'), (b'\xff\xfe\xfa', 'is not UTF-8 text'),
    ('\n'.join(map(str, range(256))), 'names 256 classes')])
def test_wrong_class_lists_are_refused(root, text, message):
  (root / 'classes.txt').write_bytes(text if isinstance(text, bytes) else text.encode())
  with pytest.raises(ValueError, match=rf'classes\.txt: {message}'):
    data.create('folder', 'train', root=root)


def write_list(root, text):
  (root / 'train.txt').write_text(text)


def remove(path):
  def spoil(root):
    if (root / path).is_dir():
      shutil.rmtree(root / path)
    else:
      (root / path).unlink()
  return spoil


def copy(source, target):
  def spoil(root):
    (root / target).parent.mkdir(exist_ok=True)
    shutil.copy(root / source, root / target)
  return spoil


@pytest.mark.parametrize(('spoil', 'error', 'message'), [
    (remove('images'), FileNotFoundError, r'images: no such folder; the layout is images/<split>/'),
    (remove('labels'), FileNotFoundError, r'labels: no such folder'),
    (remove('labels/train'), FileNotFoundError, r'labels.train: no such folder'),
    (remove('images/train'), FileNotFoundError, r'images.train: no such folder'),
    (lambda root: (remove('images/train')(root), remove('labels/train')(root)), FileNotFoundError,
     r'has no split train, only test, val; expected'),
    (copy('labels/train/1.png', 'labels/train/9.jpg'), ValueError, r'9\.jpg: labels must be PNG'),
    (copy('labels/train/1.png', 'labels/train/9.bmp'), ValueError, r'9\.bmp: labels must be PNG'),
    (copy('labels/train/1.png', 'labels/train/9.webp'), ValueError, r'9\.webp: labels must be'),
    (copy('images/train/1.jpg', 'images/train/x.tif'), ValueError,
     r'x\.tif: pictures of this format are not read'),
    (copy('labels/train/1.png', 'labels/x.png'), ValueError, r'labels: holds pictures beside'),
    (remove('labels/train/1.png'), ValueError, r'train.1\.jpg: has no label; .*train.1\.png'),
    (remove('images/train/1.jpg'), ValueError, r'train.1\.png: has no image; .*1\.png or \.jpg'),
    (copy('images/train/1.jpg', 'images/train/0.jpg'), ValueError, r'same name twice'),
    (copy('labels/train/1.png', 'labels/train/0.jpg'), ValueError, r'same name twice'),
    (copy('images/train/1.jpg', 'images/0.jpg'), ValueError,
     r'images: holds pictures beside the folders test, t'),
    (copy('images/train/1.jpg', 'images/trian/0.jpg'), ValueError, r"'trian'. Did you mean 't"),
    (copy('images/train/1.jpg', 'images/train/more/x.jpg'), ValueError,
     r'train.more: subfolders are not entered'),
    (lambda root: write_list(root, '0'), ValueError, r'has folders of splits in images/ and train'),
])
def test_wrong_layouts_are_refused_at_construction(root, spoil, error, message):
  spoil(root)
  with pytest.raises(error, match=message):
    data.create('folder', 'train', root=root)


@pytest.mark.parametrize(('text', 'message'), [
    ('s01\ns99', r's99: is listed, but .*images.s99\.png or \.jpg does not exist'),
    ('s01.png', r's01\.png: is listed, .*without folder and suffix'),
    ('s01\ns02', r's02 is in train\.txt and val\.txt; results on one would tell nothing'),
    ('s01\ns01', r'train\.txt: line 2 repeats line 1'), ('', r'train\.txt: is empty')])
def test_wrong_lists_are_refused(flat, text, message):
  (flat / 'val.txt').write_text('s02\ns04')
  write_list(flat, text)
  with pytest.raises(ValueError, match=message):
    data.create('folder', 'train', root=flat)


@pytest.mark.parametrize('split', ['train', 'val', 'test'])
def test_a_name_in_any_two_lists_is_refused_in_every_split(flat, split):
  for name, text in (('train', 's01\ns02'), ('val', 's03\ns04'), ('test', 's05\ns02')):
    (flat / f'{name}.txt').write_text(text)
  with pytest.raises(ValueError, match=r's02 is in train\.txt and test\.txt'):
    data.create('folder', split, root=flat)


def test_an_empty_split_is_refused(flat):
  for path in [*(flat / 'images').iterdir(), *(flat / 'labels').iterdir()]:
    if path.stem != 's00':
      path.unlink()
  (flat / 'classes.txt').write_text('a\nb')
  assert len(data.create('folder', 'val', root=flat)) == 1
  with pytest.raises(FileNotFoundError, match='the split train holds no image'):
    data.create('folder', 'train', root=flat)


def test_several_problems_are_counted(root):
  remove('labels/train/1.png')(root)
  remove('labels/train/2.png')(root)
  with pytest.raises(ValueError, match=r'1\.jpg: has no label; .* \(1 more problem, '):
    data.create('folder', 'train', root=root)


def test_missing_root_is_explained(monkeypatch):
  monkeypatch.delenv('KDSEG_DATA', raising=False)
  with pytest.raises(ValueError, match=r'give root .* or set \$KDSEG_DATA'):
    data.create('folder', 'train')


def turned(orientation):
  """An image that EXIF data turn, beside a label that may have been drawn on either view."""
  def spoil(root):
    exif = PIL.Image.Exif()
    exif[0x0112] = orientation
    picture = PIL.Image.open(root / 'images/train/1.jpg').copy()
    picture.save(root / 'images/train/1.jpg', exif=exif)
  return spoil


@pytest.mark.parametrize('orientation', [0, 1])
def test_an_orientation_that_turns_nothing_is_read(root, orientation):
  turned(orientation)(root)
  assert data.create('folder', 'train', root=root)[1]['image'].shape == (16, 24, 3)


def rgba(root):
  picture = PIL.Image.open(root / 'images/train/0.png').convert('RGBA')
  picture.save(root / 'images/train/0.png')


@pytest.mark.parametrize(('spoil', 'index', 'message'), [
    (turned(6), 1, r'train.1\.jpg: its EXIF data turn or mirror it \(orientation 6\), and its l'),
    (turned(3), 1, r'train.1\.jpg: .*\(orientation 3\).*1\.png may .*without EXIF orientation'),
    (rgba, 0, r'train.0\.png: has an alpha channel'),
    (lambda root: files.write_png(root / 'labels/train/0.png', np.full((16, 24), 3, np.uint8)), 0,
     r'labels.train.0\.png: holds label 3; expected class indices 0 to 2 and 255 = ignore'),
    (lambda root: files.write_png(root / 'labels/train/0.png', np.zeros((24, 16), np.uint8)), 0,
     r'0\.png: is \(24, 16\) .*0\.png is \(16, 24\); expected the same size\.$'),
])
def test_wrong_content_is_refused_on_reading(root, spoil, index, message):
  spoil(root)
  source = data.create('folder', 'train', root=root)
  with pytest.raises(ValueError, match=message):
    source[index]



def test_links_are_followed_and_hidden_folders_are_not(root, tmp_path_factory):
  elsewhere = tmp_path_factory.mktemp('elsewhere')
  for name in ('images', 'labels'):
    shutil.move(root / name / 'train', elsewhere / name)
    (root / name / 'train').symlink_to(elsewhere / name)
    shutil.move(elsewhere / name, elsewhere / f'{name}_moved')
    (elsewhere / name).symlink_to(elsewhere / f'{name}_moved')  # a link to a link
  picture = root / 'images/train/0.png'
  shutil.move(picture, elsewhere / 'x.png')
  picture.symlink_to(elsewhere / 'x.png')
  hidden = root / 'labels/.ipynb_checkpoints'
  hidden.mkdir()
  shutil.copytree(hidden, root / 'images/train/.ipynb_checkpoints')
  files.write_png(hidden / '0-checkpoint.png', np.full((4, 4), 9, np.uint8))
  (root / 'classes.txt').unlink()
  source = data.create('folder', 'train', root=root)
  assert len(source) == 8 and len(source.classes) == 3  # the hidden 9 does not count
  assert source[0]['image'].shape == (16, 24, 3)


def test_names_match_in_composed_and_decomposed_unicode(tmp_path, monkeypatch):
  monkeypatch.delenv('KDSEG_DATA', raising=False)
  composed, decomposed = 'stra\xdfe_\xe9', 'stra\xdfe_e\u0301'
  for i, (image, label) in enumerate([(composed, decomposed), (decomposed + '2', composed + '2')]):
    files.write_png(tmp_path / f'images/{image}.png', np.zeros((4, 5, 3), np.uint8))
    files.write_png(tmp_path / f'labels/{label}.png', np.full((4, 5), i, np.uint8))
  (tmp_path / 'train.txt').write_text(decomposed, encoding='utf-8')
  (tmp_path / 'val.txt').write_text(composed + '2', encoding='utf-8')
  assert ids(data.create('folder', 'train', root=tmp_path)) == [composed]
  assert ids(data.create('folder', 'val', root=tmp_path)) == [composed + '2']
  (tmp_path / 'train.txt').write_text(f'{composed}\n{decomposed}', encoding='utf-8')
  with pytest.raises(ValueError, match='line 2 repeats line 1'):
    data.create('folder', 'train', root=tmp_path)
  files.write_png(tmp_path / f'images/{decomposed}.png', np.zeros((4, 5, 3), np.uint8))
  (tmp_path / 'train.txt').write_text(composed, encoding='utf-8')
  with pytest.raises(ValueError, match='same name twice'):
    data.create('folder', 'train', root=tmp_path)
