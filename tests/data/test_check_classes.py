"""The check of data with one class an image: counts, what is wrong, and leaks."""

import collections
import pickle
import shutil

import numpy as np
import pytest

from kdseg_jax import data
from kdseg_jax.data import check as check_lib
from kdseg_jax.data import check_classes, files
from kdseg_jax.errors import NotFoundError, UserError
from tests import runs
from tests.data import classified_sets


@pytest.fixture
def root(tmp_path):
  """Two classes of different pictures of two sizes, nothing wrong with them."""
  rng = np.random.default_rng(0)
  for split, classes in {'train': {'cat': 3, 'dog': 2}, 'val': {'cat': 1, 'dog': 1}}.items():
    for name, count in classes.items():
      for i in range(count):
        files.write_png(tmp_path / split / name / f'{i}.png',
                        rng.integers(0, 256, (4 + (split == 'val'), 6, 3), np.uint8))
  return tmp_path


def test_images_of_each_class_and_sizes_are_counted(root):
  report = check_classes.check(root, 'class_folder')
  assert report.classes == ('cat', 'dog') and not report.problems and not report.warnings
  train, val = report.splits['train'], report.splits['val']
  assert train.counts.tolist() == [3, 2] and val.counts.tolist() == [1, 1]
  assert train.sizes == {(4, 6): 5} and val.sizes == {(5, 6): 2}
  text = check_classes.describe(report)
  rows = [[cell.strip() for cell in line.split('|')] for line in text.splitlines()]
  assert ['', '0 cat', '3 (60.00%)', '1 (50.00%)', ''] in rows
  assert ['', 'train', '5', '4x6 (5)', ''] in rows and text.endswith('\n0 problems.')


def test_every_problem_of_a_folder_is_reported_at_once(root):
  (root / 'train' / 'cat' / '0.png').write_bytes(b'no picture')
  (root / 'train' / 'dog' / 'photo.heic').write_bytes(b'x')
  (root / 'train' / 'dog' / 'inner').mkdir()
  shutil.copy(root / 'val' / 'cat' / '0.png', root / 'val' / 'stray.png')
  (root / 'train' / 'empty').mkdir()
  (root / 'val' / 'dig').mkdir()
  (root / 'test').mkdir()
  report = check_classes.check(root, 'class_folder')
  expected = [
      'cat/0.png: cannot be decoded', 'dog/photo.heic: pictures of this format are not read',
      'dog/inner: subfolders are not entered', 'val/stray.png: lies beside the folders',
      'train: has no image of empty, so that', 'val/dig: is no class, for',
      'test: holds no picture']
  for part in expected:
    assert sum(part in problem for problem in report.problems) == 1, part
  assert len(report.problems) == len(expected)
  assert report.splits['train'].counts.tolist() == [2, 2, 0]
  text = check_classes.describe(report)
  assert 'Note: val has no image of empty.' in text and 'Note: train' not in text
  assert all(f'\n- {problem}\n' in text for problem in report.problems)


def test_images_of_the_same_bytes_are_warnings(root):
  shutil.copy(root / 'train' / 'cat' / '0.png', root / 'val' / 'cat' / 'again.png')
  shutil.copy(root / 'train' / 'cat' / '1.png', root / 'train' / 'dog' / 'other.png')
  report = check_classes.check(root, 'class_folder')
  assert not report.problems
  leak, classes, twice = report.warnings
  assert leak.startswith('train and val share 1 image (the same bytes), of 3 in val: ')
  assert leak.endswith(f'One is {root}/train/cat/0.png and {root}/val/cat/again.png.')
  assert classes.startswith('1 image is of two classes') and 'dog/other.png' in classes
  assert twice.startswith('train holds 1 image more than once')
  text = check_classes.describe(report)
  assert [line for line in text.splitlines() if line.startswith('Warning: ')] == [
      f'Warning: {warning}' for warning in report.warnings]


def test_warnings_count_the_images_and_name_the_first(root):
  for i in range(2):
    shutil.copy(root / 'train' / 'cat' / f'{i}.png', root / 'val' / 'dog' / f'again{i}.png')
  leak, classes = check_classes.check(root, 'class_folder').warnings
  assert leak.startswith('train and val share 2 images (the same bytes), of 4 in val: ')
  assert classes.startswith('2 images are of two classes or more')
  first = f'The first is {root}/train/cat/0.png and {root}/val/dog/again0.png.'
  assert leak.endswith(first) and classes.endswith(first)


def test_the_most_frequent_sizes_are_shown_and_the_others_counted():
  sizes = collections.Counter({(1, 2): 5, (3, 4): 1, (5, 6): 4, (7, 8): 2, (9, 8): 7})
  assert check_classes.shown_sizes(sizes) == '9x8 (7), 1x2 (5), 5x6 (4) and 2 more'
  del sizes[3, 4], sizes[7, 8]
  assert check_classes.shown_sizes(sizes) == '9x8 (7), 1x2 (5), 5x6 (4)'


def test_a_folder_without_train_is_a_problem(root):
  shutil.rmtree(root / 'train')
  report = check_classes.check(root, 'class_folder')
  assert [problem for problem in report.problems] == [
      f'{root}: has no folder train, whose folders are the classes.']
  assert report.splits['val'].counts.tolist() == [1, 1]
  (root / 'test' / 'ape').mkdir(parents=True)
  shutil.move(root / 'val' / 'cat' / '0.png', root / 'test' / 'ape' / '0.png')
  report = check_classes.check(root, 'class_folder')
  assert report.classes == ('ape', 'cat', 'dog')  # of all splits
  assert report.splits['test'].counts.tolist() == [1, 0, 0]
  with pytest.raises(NotFoundError, match='no such file or folder'):
    check_classes.check(root / 'nowhere', 'class_folder')


def test_a_file_of_numpy(tmp_path):
  images, labels = classified_sets.arrays(12, 3)
  path = classified_sets.npz(tmp_path / 'a.npz', counts=(10, 4), test_label=np.array([0, 1, 0, 9]))
  report = check_classes.check(path, 'npz')
  assert len(report.problems) == 1 and 'the labels are 0, 1, 2, 9; expected' in report.problems[0]
  assert not report.splits
  np.savez(path, images=np.concatenate([images, images[:1]]), labels=np.append(labels, 1),
           class_names=np.array(['x', 'y', 'z', 'none']))
  report = check_classes.check(path, 'npz')
  assert report.classes == ('x', 'y', 'z', 'none')
  assert report.splits['val'].counts.sum() == 2 and report.splits['train'].counts.sum() == 11
  assert 'train: has no image of none' in report.problems[0]
  assert report.warnings[0].startswith('train and val share 1 image')
  assert report.warnings[0].endswith('image 10 of train and image 0 of val.')
  path.write_bytes(b'x')
  with pytest.raises(UserError, match='cannot be read as .npz'):
    check_classes.check(path, 'npz')


def test_an_archive_of_cifar(tmp_path):
  classified_sets.cifar10(tmp_path / 'cifar-10-batches-py')
  report = check_classes.check(tmp_path, 'cifar10')
  sources = {split: data.create('cifar10', split, root=tmp_path) for split in ('train', 'test')}
  assert not report.problems and report.classes == ('cat', 'dog')
  for split, source in sources.items():
    assert report.splits[split].counts.tolist() == np.bincount(
        [example['label'] for example in source], minlength=2).tolist()
    assert report.splits[split].sizes == {(32, 32): len(source)}
  (tmp_path / 'cifar-10-batches-py' / 'test_batch').write_bytes(pickle.dumps([1], protocol=2))
  report = check_classes.check(tmp_path, 'cifar10')
  assert list(report.splits) == ['train'] and 'test_batch: is no file of' in report.problems[0]


def test_the_program_checks_classes_by_their_layout(root, capsys):
  status, text = runs.run_here(capsys, check_lib.PROGRAM, root, '--layout=class_folder')
  assert status in (None, 0) and '0 problems.' in text and '0 cat' in text
  (root / 'val' / 'dog' / '0.png').write_bytes(b'x')
  status, text = runs.run_here(capsys, check_lib.PROGRAM, root, '--layout=class_folder')
  assert status == 1 and 'cannot be decoded' in text and '1 problem.' in text
