"""CIFAR from its official archives, of which nothing is run."""

import pickle
import tarfile

import numpy as np
import pytest

from kdseg_jax import data
from kdseg_jax.errors import NotFoundError, UserError
from tests.data import classified_sets

FOLDER = 'cifar-10-batches-py'


def test_images_and_labels_are_those_of_the_files(tmp_path):
  made = classified_sets.cifar10(tmp_path / FOLDER)
  with tarfile.open(tmp_path / 'cifar-10-python.tar.gz', 'w:gz') as tar:
    tar.add(tmp_path / FOLDER, FOLDER)
  rows, labels = (np.concatenate([made[f'data_batch_{i}'][part] for i in range(1, 6)])
                  for part in (0, 1))
  archive = tmp_path / 'cifar-10-python.tar.gz'
  for root in (tmp_path, tmp_path / FOLDER, archive):
    train = data.create('cifar10', 'train', root=root)
    assert train.classes == ('cat', 'dog') and len(train) == 10
    for i in (0, 9):
      red = rows[i, :1024].reshape(32, 32)
      np.testing.assert_array_equal(train[i]['image'][..., 0], red)
      np.testing.assert_array_equal(train[i]['image'][..., 2], rows[i, 2048:].reshape(32, 32))
      assert train[i]['label'] == labels[i]
  test = data.create('cifar10', 'test', root=archive)
  assert (train[9]['image_id'], test[1]['image_id']) == ('train_00009', 'test_00001')
  assert [int(example['label']) for example in test] == list(made['test_batch'][1])


def test_the_fine_classes_of_cifar100(tmp_path):
  folder = tmp_path / 'cifar-100-python'
  folder.mkdir()
  rows = np.arange(3072, dtype=np.uint8)[None]
  (folder / 'test').write_bytes(classified_sets.cifar_batch(rows, [1], 'fine_labels'))
  (folder / 'meta').write_bytes(pickle.dumps({'fine_label_names': ['a', 'b']}, protocol=2))
  source = data.create('cifar100', 'test', root=tmp_path)
  assert source.classes == ('a', 'b') and source[0]['label'] == 1


def evil():
  class Runs:
    def __reduce__(self):
      return print, ('this must not be run',)
  return pickle.dumps({'data': Runs()}, protocol=2)


ROWS = np.zeros((2, 3072), np.uint8)


@pytest.mark.parametrize('content,message', [
    (evil(), r'test_batch: is no file of the official archive.*names __builtin__.print'),
    (classified_sets.cifar_batch(ROWS, [0, 2]), 'not one class in labels for each of 2 images'),
    (classified_sets.cifar_batch(ROWS, [0, -1]), 'not one class in labels for each of 2 images'),
    (classified_sets.cifar_batch(ROWS, [0, 1]).replace(b'tb\x89', b'tb\x88'),  # order of Fortran
     'an array is none of bytes'),
    (classified_sets.cifar_batch(ROWS, [0]), 'not one class in labels for each of 2'),
    (classified_sets.cifar_batch(ROWS[:, :8], [0, 1]), 'has no data of rows of 3,072'),
    (classified_sets.cifar_batch(ROWS, [0, 1], dtype='f4'), "of dtype 'f4'"),
    (classified_sets.cifar_batch(ROWS, [0, 1])[:700], 'cannot be read'),
    (pickle.dumps([1], protocol=2), 'holds no dict')],
    ids=['call', 'class', 'negative', 'order', 'labels', 'width', 'dtype', 'cut', 'list'])
def test_other_files_are_refused_and_not_run(tmp_path, capsys, content, message):
  classified_sets.cifar10(tmp_path / FOLDER)
  (tmp_path / FOLDER / 'test_batch').write_bytes(content)
  with pytest.raises(UserError, match=message):
    data.create('cifar10', 'test', root=tmp_path)
  assert 'must not be run' not in capsys.readouterr().out


@pytest.mark.parametrize('meta', [{}, {'label_names': 'cd'}, {'label_names': ['cat', 1]}])
def test_an_archive_needs_the_names_of_its_classes(tmp_path, meta):
  classified_sets.cifar10(tmp_path / FOLDER)
  (tmp_path / FOLDER / 'batches.meta').write_bytes(pickle.dumps(meta, protocol=2))
  with pytest.raises(UserError, match='batches.meta: .*has no list label_names'):
    data.create('cifar10', 'test', root=tmp_path)


def test_what_is_missing_is_named(tmp_path):
  with pytest.raises(NotFoundError, match='neither cifar-10-python.tar.gz nor the folder'):
    data.create('cifar10', 'test', root=tmp_path)
  archive = tmp_path / 'cifar-10-python.tar.gz'
  with tarfile.open(archive, 'w:gz'):
    pass
  with pytest.raises(NotFoundError, match='has no file cifar-10-batches-py/batches.meta'):
    data.create('cifar10', 'test', root=tmp_path)
  archive.write_bytes(b'no archive')
  with pytest.raises(UserError, match='cannot be unpacked'):
    data.create('cifar10', 'test', root=tmp_path)


def test_damage_to_the_archive_is_one_error_with_its_name(tmp_path):
  classified_sets.cifar10(tmp_path / FOLDER)
  rows = np.arange(40 * 3072, dtype=np.uint32).astype('>u4').view(np.uint8).reshape(-1, 3072)
  (tmp_path / FOLDER / 'test_batch').write_bytes(  # which can be compressed
      classified_sets.cifar_batch(rows, np.zeros(len(rows))))
  archive = tmp_path / 'a.tar.gz'
  with tarfile.open(archive, 'w:gz') as tar:
    tar.add(tmp_path / FOLDER / 'batches.meta', f'{FOLDER}/batches.meta')
    tar.add(tmp_path / FOLDER / 'test_batch', f'{FOLDER}/test_batch')
  content, refused = archive.read_bytes(), 0
  for place in (*range(10, 20), *range(20, len(content), len(content) // 20)):
    changed = bytearray(content)
    changed[place] ^= 0xff
    for damaged in (bytes(changed), content[:place]):
      archive.write_bytes(damaged)
      try:
        data.create('cifar10', 'test', root=archive)
      except UserError as error:
        assert str(error).startswith(str(archive))
        refused += 1
  assert refused > 40
