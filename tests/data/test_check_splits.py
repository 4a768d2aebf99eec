"""What the checks say of data of three splits, and what they must not confuse."""

import shutil

import numpy as np
import pytest

from kdseg_jax.data import check, check_boxes, check_classes, files
from tests.data import archives, boxed_sets

PAIRS = [('train', 'val'), ('train', 'test'), ('val', 'test')]


def pictures(folder, splits, place, size=(4, 6)):
  """Two pictures of noise in each split, all different."""
  rng = np.random.default_rng(0)
  for split in splits:
    for i in range(2):
      files.write_png(folder / place.format(split) / f'{split}{i}.png',
                      rng.integers(0, 256, (*size, 3), np.uint8))


@pytest.mark.parametrize(('first', 'second'), PAIRS)
def test_label_maps_whose_picture_is_in_any_two_splits_are_a_warning(tmp_path, first, second):
  archives.folder(tmp_path)
  shutil.copy(tmp_path / f'images/{first}/0.png', tmp_path / f'images/{second}/2.png')
  warning, = check.check(tmp_path).warnings
  assert 'are the same picture' in warning
  for place in (f'{first}/0.png of {first} ', f'{second}/2.png of {second} '):
    assert place in warning


@pytest.mark.parametrize(('first', 'second'), PAIRS)
def test_images_with_boxes_that_are_in_any_two_splits_are_a_problem(tmp_path, first, second):
  objects = {number: [('dog', 1, 1, 9, 9)] for number in 'abc'}
  boxed_sets.voc(tmp_path, objects=objects, splits={'train': ['a'], 'val': ['b'], 'test': ['c']})
  of_split = {'train': 'a.jpg', 'val': 'b.jpg', 'test': 'c.jpg'}
  assert check_boxes.check(tmp_path, 'voc_boxes').problems == []
  shutil.copy(tmp_path / 'JPEGImages' / of_split[first], tmp_path / 'JPEGImages' / of_split[second])
  problem, = check_boxes.check(tmp_path, 'voc_boxes').problems
  assert 'are the same picture' in problem
  for split in (first, second):
    assert f'{of_split[split]} of {split} ' in problem


@pytest.mark.parametrize(('first', 'second'), PAIRS)
def test_classified_images_that_are_in_any_two_splits_are_a_warning(tmp_path, first, second):
  pictures(tmp_path, ('train', 'val', 'test'), '{}/cat')
  shutil.copy(tmp_path / first / 'cat' / f'{first}0.png',
              tmp_path / second / 'cat' / f'{second}1.png')
  report = check_classes.check(tmp_path, 'class_folder')
  assert report.splits.keys() == {'train', 'val', 'test'} and not report.problems
  warning, = report.warnings
  pair = sorted((first, second), key=list(report.splits).index)
  assert warning.startswith(f'{pair[0]} and {pair[1]} share 1 image')


def test_arrays_that_begin_alike_are_not_the_same_image(tmp_path):
  images = np.zeros((4, 8, 8, 3), np.uint8)
  images[range(4), -1, -1, -1] = range(4)  # the last of 192 bytes
  np.savez(tmp_path / 'a.npz', train_image=images[:2], train_label=np.arange(2),
           val_image=images[2:], val_label=np.arange(2))
  assert check_classes.check(tmp_path / 'a.npz', 'npz').warnings == []


def test_an_image_of_a_crowd_alone_is_not_without_boxes(tmp_path):
  boxed_sets.coco(tmp_path, objects={1: [(1, 1, 1, 5, 5, 1, 25)], 2: [],
                                     3: [(3, 1, 1, 5, 5, 0, 25), (1, 1, 1, 5, 5, 0, 25)]})
  train = check_boxes.check(tmp_path, 'coco').splits['train']
  assert (train.without, train.images, train.crowd) == (1, 3, 1)


def test_an_image_of_another_size_than_it_was_annotated_for_is_a_problem(tmp_path):
  boxed_sets.coco(tmp_path, objects={1: [(3, 1, 1, 5, 5, 0, 25), (1, 1, 1, 5, 5, 0, 25)]})
  (tmp_path / 'train2017/000000000001.jpg').write_bytes(boxed_sets.jpeg(0, (20, 31)))
  problem, = check_boxes.check(tmp_path, 'coco').problems
  assert 'was made for an image of (20, 30) (height, width), but' in problem


def test_splits_with_the_same_classes_in_another_order_are_a_problem(tmp_path):
  boxed_sets.coco(tmp_path, objects={1: [(3, 1, 1, 5, 5, 0, 25), (1, 1, 1, 5, 5, 0, 25)]})
  boxed_sets.coco(tmp_path, 'val', seed=50, objects={1: [(3, 1, 1, 5, 5, 0, 25)]},
                  categories=[{'id': 1, 'name': 'dog'}, {'id': 3, 'name': 'cat'}])
  problem, = check_boxes.check(tmp_path, 'coco').problems
  assert 'val has the classes dog, cat, and another split cat, dog' in problem


def test_colours_of_classes_whose_own_are_not_listed_are_not_strange(tmp_path):
  archives.folder(tmp_path, num_classes=5)
  (tmp_path / 'classes.txt').write_text('bg #c80000\nroad  #00c800\ncar\nsky\ntree')
  stored = {0: (0, 200, 0), 1: (200, 0, 0), 2: (1, 1, 1), 3: (2, 2, 2), 4: (3, 3, 3)}
  palette = np.zeros((256, 3), np.uint8)
  palette[list(stored)] = list(stored.values())
  label = np.arange(np.prod(archives.SIZE), dtype=np.uint8).reshape(archives.SIZE) % 5
  for path in (tmp_path / 'labels').rglob('*.png'):
    files.write_palette_png(path, label, palette)
  problem, = check.check(tmp_path).problems
  assert 'label 0 (bg) has #00c800, the colour of road; label 1 (road) has' in problem
