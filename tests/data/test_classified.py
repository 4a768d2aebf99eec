"""Images with one class each: files of numpy and folders of classes."""

import json
import unicodedata

import numpy as np
import pytest

from kdseg_jax import data, predict
from kdseg_jax.data import check_classes, class_names
from kdseg_jax.errors import NotFoundError, UserError
from kdseg_jax.report import presenters
from kdseg_jax.tasks import Classification
from tests.data import classified_sets


def test_the_splits_of_a_file(tmp_path):
  path = classified_sets.npz(tmp_path / 'a.npz', class_names=np.array(['x', 'y', 'z']))
  train, test = (data.create('npz', split, root=path) for split in ('train', 'test'))
  assert (len(train), len(test)) == (16, 8) and train.classes == test.classes == ('x', 'y', 'z')
  assert train.size == (8, 8) and len(train.palette) == 3
  images, labels = classified_sets.arrays(8, 3, seed=1)
  for i, example in enumerate(test):
    np.testing.assert_array_equal(example['image'], images[i])
    assert example['label'] == labels[i] and example['label'].dtype == np.int32
    assert example['image_id'] == f'test_{i:05d}'
  small = data.create('npz', 'test', root=path, size=(4, 6))
  assert small[0]['image'].shape == (4, 6, 3) and small.size == (4, 6)


def test_a_file_without_splits(tmp_path):
  images, labels = classified_sets.arrays(21, 2)
  np.savez(tmp_path / 'a.npz', images=images, labels=labels)
  val, train = (data.create('npz', split, root=tmp_path / 'a.npz') for split in ('val', 'train'))
  assert [example['image_id'] for example in val] == ['val_00000', 'val_00010', 'val_00020']
  assert len(train) == 18 and train.classes == ('class 0', 'class 1')
  np.testing.assert_array_equal(train[9]['image'], images[11])


@pytest.mark.parametrize('change,message', [
    ({'train_label': np.arange(15)}, r'16 images, and labels are int64 \(15,\)'),
    ({'train_label': np.ones(16)}, r'the labels are 0.0, 1.0, 2.0; expected 0 to C - 1'),
    ({'train_label': np.arange(16) * 2}, 'each of which occurs, or an array class_names'),
    ({'class_names': np.array(['x', 'y'])}, r'label 2 of image 2 is no class; expected 0 to 1. 5'),
    ({'train_image': np.zeros((16, 8, 8), np.uint8)}, r'images are uint8 \(16, 8, 8\)'),
    ({'train_image': np.zeros((16, 8, 8, 3))}, 'images are float64'),
    ({'train_image': np.zeros((16, 8, 8, 4), np.uint8)}, r'images are uint8 \(16, 8, 8, 4\)'),
    ({'train_image': np.zeros((0, 8, 8, 3), np.uint8), 'train_label': np.zeros(0, int)},
     r'a.npz \(train\): holds no image'),
    ({'train_label': np.arange(16) % 3 - 1, 'class_names': np.array(['x', 'y', 'z'])},
     'label -1 of image 0 is no class; expected 0 to 2. 6 are out of range'),
    ({'train_label': np.zeros((16, 1), int), 'class_names': np.array(['x', 'y', 'z'])},
     r'16 images, and labels are int64 \(16, 1\); expected integers'),
    ({'train_label': np.array([{}] * 16)}, 'train_label cannot be read')])
def test_files_that_cannot_be_used_are_refused(tmp_path, change, message):
  path = classified_sets.npz(tmp_path / 'a.npz', **change)
  with pytest.raises(UserError, match=message):
    data.create('npz', 'train', root=path)


@pytest.mark.parametrize('count', [11, 22])
def test_a_file_without_splits_has_a_label_for_each_image(tmp_path, count):
  images, _ = classified_sets.arrays(21, 2)
  np.savez(tmp_path / 'a.npz', images=images, labels=np.arange(count) % 2)
  for split in ('train', 'val'):
    with pytest.raises(UserError, match=rf'a.npz \({split}\): 21 images, and labels are int64 '
                                        rf'\({count},\)'):
      data.create('npz', split, root=tmp_path / 'a.npz')


@pytest.mark.parametrize('splits', [('train', 'test'), ('test', 'train')])
def test_classes_without_names_are_those_of_all_splits(tmp_path, splits):
  images, labels = classified_sets.arrays(6, 3)
  content = {'train': (images, labels), 'test': (images[:1], labels[:1])}
  np.savez(tmp_path / 'a.npz', **{f'{split}_{what}': array for split in splits
                                  for what, array in zip(('image', 'label'), content[split])})
  for split in splits:
    source = data.create('npz', split, root=tmp_path / 'a.npz')
    assert source.classes == ('class 0', 'class 1', 'class 2')


def test_a_single_array_is_refused(tmp_path):
  with open(tmp_path / 'a.npz', 'wb') as file:
    np.save(file, np.zeros((16, 8, 8, 3), np.uint8))
  with pytest.raises(UserError, match=r'a.npz: is a single array; expected .npz with images and'):
    data.create('npz', 'train', root=tmp_path / 'a.npz')


def test_splits_and_places_are_named(tmp_path, monkeypatch):
  monkeypatch.delenv('KDSEG_DATA', raising=False)
  path = classified_sets.npz(tmp_path / 'a.npz')
  with pytest.raises(UserError, match=r"split of .*a.npz: 'tets'. Did you mean 'test'"):
    data.create('npz', 'tets', root=path)
  with pytest.raises(NotFoundError, match=r'b.npz: no such file or folder; expected <file>.npz'):
    data.create('npz', 'train', root=tmp_path / 'b.npz')
  with pytest.raises(UserError, match='give root'):
    data.create('npz', 'train')
  monkeypatch.setenv('KDSEG_DATA', str(path))
  assert len(data.create('npz', 'train')) == 16
  path.write_bytes(b'no file of numpy')
  with pytest.raises(UserError, match='cannot be read as .npz'):
    data.create('npz', 'train')
  np.savez(path, x=np.zeros(3))
  with pytest.raises(UserError, match='holds x; expected images and labels'):
    data.create('npz', 'train')


def test_a_folder_of_classes(tmp_path):
  classified_sets.folder(tmp_path, {
      'train': {'dog': ['a.png', 'b.png'], 'cat': ['c.png']}, 'val': {'dog': ['d.png']}})
  train, val = (data.create('class_folder', split, root=tmp_path) for split in ('train', 'val'))
  assert train.classes == val.classes == ('cat', 'dog')
  assert [(x['image_id'], int(x['label'])) for x in train] == [
      ('cat/c', 0), ('dog/a', 1), ('dog/b', 1)]
  assert [(x['image_id'], int(x['label'])) for x in val] == [('dog/d', 1)]
  assert train[0]['image'].shape == (4, 5, 3)
  assert data.create('class_folder', 'val', root=tmp_path, size=(6, 6))[0]['image'].shape == (
      6, 6, 3)


def test_no_two_pictures_have_one_id_and_no_prediction_overwrites_another(tmp_path):
  classified_sets.folder(tmp_path / 'data', {'train': {
      'a_b': ['c.png'], 'a': ['b_c.png', 'b_d.png'],  # would be a_b_c twice
      'b': ['x.png', 'x.jpg', 'x.jpg.png', 'y.png']}})
  source = data.create('class_folder', 'train', root=tmp_path / 'data')
  ids = [example['image_id'] for example in source]
  assert ids == ['a/b_c', 'a/b_d', 'a_b/c', 'b/x.jpg', 'b/x.jpg.png', 'b/x.png', 'b/y.png']
  presenter = presenters.create('classification', source)
  writer = presenter.writer(str(tmp_path / 'out'), main='m', titles={}, strips=True, legend=True)
  prediction = Classification(0, np.array([0.5, 0.3, 0.2], np.float32))
  for example in predict._examples(source, [], ('label',), from_files=False):
    writer.add(example, {'m': prediction})
  writer.close()
  assert len(list((tmp_path / 'out' / 'pictures').rglob('*.png'))) == 7
  assert list(json.loads((tmp_path / 'out' / 'predictions.json').read_text())) == ids


def test_the_synsets_of_imagenet_have_the_names_of_its_classes(tmp_path):
  synsets = class_names.synsets()
  for synset in synsets:
    (tmp_path / 'train' / synset).mkdir(parents=True)
  picture = classified_sets.encoded(np.random.default_rng(0))
  for synset in synsets:
    (tmp_path / 'train' / synset / f'{synset}_1.JPEG').write_bytes(picture)
  source = data.create('class_folder', 'train', root=tmp_path)
  assert source.classes == class_names.imagenet() and source.palette.shape == (0, 3)
  assert source[999]['image_id'] == 'n15075141/n15075141_1' and source[999]['label'] == 999
  assert check_classes.LAYOUTS['class_folder'](tmp_path).classes == source.classes
  (tmp_path / 'train' / 'n15075141').rename(tmp_path / 'train' / 'other')
  assert data.create('class_folder', 'train', root=tmp_path).classes == (*synsets[:-1], 'other')


def test_more_classes_than_there_are_colours(tmp_path):
  labels = np.arange(300)
  np.savez(tmp_path / 'a.npz', train_image=np.zeros((300, 2, 2, 3), np.uint8), train_label=labels)
  source = data.create('npz', 'train', root=tmp_path / 'a.npz')
  assert len(source.classes) == 300 and source.palette.shape == (0, 3)


@pytest.mark.parametrize('splits,error,message', [
    ({}, NotFoundError, 'has no folder; expected <split>/<class>'),
    ({'train': {}, 'val': {'a': ['a.png']}}, UserError, "Unknown split of"),
    ({'train': {'a': ['a.png'], 'b': []}, 'val': {'a': ['a.png']}}, UserError,
     'b: holds no picture; fill the folder or remove it'),
    ({'train': {'a': ['a.png']}, 'val': {'aa': ['a.png']}}, UserError,
     r"Unknown class in .*val; .*train has: 'aa'. Did you mean 'a'"),
    ({'train': {'a': ['a.png']}, 'val': {'a': []}}, NotFoundError, 'val: holds no picture')])
def test_folders_that_cannot_be_used_are_refused(tmp_path, splits, error, message):
  classified_sets.folder(tmp_path, splits)
  with pytest.raises(error, match=message):
    for split in ('train', 'val'):
      data.create('class_folder', split, root=tmp_path)


def test_without_train_the_classes_are_those_of_the_split(tmp_path):
  classified_sets.folder(tmp_path, {'val': {'b': ['a.png']}, 'test': {'a': ['a.png'], 'b': []}})
  assert data.create('class_folder', 'val', root=tmp_path).classes == ('b',)
  with pytest.raises(UserError, match='b: holds no picture; fill the folder or remove it'):
    data.create('class_folder', 'test', root=tmp_path)


def test_a_picture_of_a_format_that_is_not_read_is_refused(tmp_path):
  classified_sets.folder(tmp_path, {'train': {'a': ['a.png']}, 'val': {'a': ['a.png']}})
  (tmp_path / 'val' / 'a' / 'photo.heic').write_bytes(b'x')
  assert len(data.create('class_folder', 'train', root=tmp_path)) == 1
  with pytest.raises(UserError, match=r'val.a.photo\.heic: pictures of this format are not read'):
    data.create('class_folder', 'val', root=tmp_path)


def test_the_class_of_a_scene_is_its_largest_digit():
  scenes, classes = (data.create(name, 'val', size=(32, 32))
                     for name in ('scenes', 'scene_classes'))
  assert classes.classes == scenes.classes[1:] and len(classes) == len(scenes)
  for i in range(3):
    assert classes[i]['label'] == scenes[i]['image_class']
    np.testing.assert_array_equal(classes[i]['image'], scenes[i]['image'])


def test_problems_of_a_folder_are_listed_and_the_program_that_knows_them_all(tmp_path):
  for name in 'abcdefghijk':
    (tmp_path / 'train' / name).mkdir(parents=True)
  with pytest.raises(UserError, match=r'train.a: holds no picture(.|\n)*train.h: (.|\n)*3 more; py'
                     ) as error:
    data.create('class_folder', 'train', root=tmp_path)
  assert str(error.value).endswith('data.check <folder> --layout=class_folder names them all.')


def test_classes_are_compared_in_composed_unicode(tmp_path):
  composed, decomposed = (unicodedata.normalize(form, 'caf\xe9') for form in ('NFC', 'NFD'))
  classified_sets.folder(tmp_path, {'train': {decomposed: ['a.png'], 'caff': ['b.png']},
                                    'val': {composed: ['c.png']}})
  train, val = (data.create('class_folder', split, root=tmp_path) for split in ('train', 'val'))
  assert train.classes == val.classes == ('caff', composed)  # in the order of the composed names
  assert (val[0]['label'], val[0]['image_id']) == (1, f'{composed}/c')
  assert train[1]['image_id'] == f'{composed}/a'
  report = check_classes.check(tmp_path, 'class_folder')
  assert report.classes == train.classes and report.splits['val'].counts.tolist() == [0, 1]
  assert not report.problems
  classified_sets.folder(tmp_path, {'train': {composed: ['d.png']}})
  with pytest.raises(UserError, match='another folder has this name in another form of Unicode'):
    data.create('class_folder', 'train', root=tmp_path)
  problem, = check_classes.check(tmp_path, 'class_folder').problems
  assert 'another folder has this name in another form of Unicode' in problem


@pytest.mark.parametrize('compress', [True, False])
def test_damage_to_a_file_of_numpy_is_one_error_with_its_name(tmp_path, compress):
  path, rng = tmp_path / 'a.npz', np.random.default_rng(0)
  images, labels = classified_sets.arrays(12, 2)
  (np.savez_compressed if compress else np.savez)(path, images=images, labels=labels)
  content = path.read_bytes()
  damaged = [b'', content[:1], content[:len(content) // 2]]
  for _ in range(150):
    changed = bytearray(content)
    place = rng.integers(len(content))
    changed[place:place + 8] = rng.bytes(8)
    damaged.append(bytes(changed))
  refused = 0
  for one in damaged:
    path.write_bytes(one)
    try:
      data.create('npz', 'train', root=path)
    except UserError as error:
      assert str(path) in str(error) and '\n' not in str(error)
      refused += 1
  assert refused > 100


def test_names_of_classes_may_be_bytes_and_are_told_once(tmp_path):
  path = classified_sets.npz(
      tmp_path / 'a.npz', class_names=np.array([b'cat', b'dog', b'c\xc3\xa9']))
  assert data.create('npz', 'train', root=path).classes == ('cat', 'dog', 'c\xe9')
  for names, message in ((['x', 'y', 'x'], 'class_names holds x more than once; expected one'),
                         (['\xe9', 'e\u0301', 'x'], 'class_names holds \xe9 more than once'),
                         ([b'x', b'y', b'\xff'], 'class_names is not UTF-8 text')):
    classified_sets.npz(path, class_names=np.array(names))
    with pytest.raises(UserError, match=f'a.npz: {message}'):
      data.create('npz', 'train', root=path)
