"""Meaning of stored labels; which images and labels belong together; a source of both."""

import numpy as np
import pytest

from kdseg_jax.data import files, pairs
from kdseg_jax.errors import UserError


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


def write(folder, *names, value=0, size=(4, 6)):
  """Pictures of one grey, of any suffix."""
  for name in names:
    files.write_png(folder / 'picture.png', np.full(size, value, np.uint8))
    (folder / 'picture.png').rename(folder / name)


def find(root, **options):
  found, problems = pairs.find_pairs(root / 'images', root / 'labels', layout='L', **options)
  return [(pair.image.name, pair.label.name) for pair in found], problems


def test_pairs_are_sorted_and_every_other_file_is_one_problem(tmp_path):
  write(tmp_path / 'images', 'b.png', 'a.jpg', 'c.PNG', 'e.png', 'f.png', 'g.png', 'z.tif')
  write(tmp_path / 'labels', 'a.png', 'b.PNG', 'c.png', 'd.png', 'g.jpg')
  (tmp_path / 'images/more').mkdir()
  matched, problems = find(tmp_path)
  assert matched == [('a.jpg', 'a.png'), ('b.png', 'b.PNG'), ('c.PNG', 'c.png')]
  place = lambda folder, name: str(tmp_path / folder / name)
  # Of `g` only what is wrong with its label, not that its image has none.
  assert [problem.partition(': ')[0] for problem in problems] == [
      place('images', 'z.tif'), place('images', 'more'), place('labels', 'g.jpg'),
      place('labels', 'd.png'), place('images', 'e.png'), place('images', 'f.png')]
  assert f'has no image; expected {place("images", "d")}.png or .jpg.' in problems[3]
  assert f'has no label; expected {place("labels", "e")}.png.' in problems[4]


def test_what_is_alone_is_said_in_sorted_order():
  place = 'at {}'.format
  images, labels = ({key: f'{key}.{suffix}' for key in keys} for keys, suffix in (
      ('hgfedcba', 'jpg'), ('mgkjliba', 'png')))
  matched, problems = pairs.match(images, labels, image_place=place, label_place=place)
  assert list(matched.items()) == [(key, (f'{key}.jpg', f'{key}.png')) for key in 'abg']
  assert [problem.partition(':')[0] for problem in problems] == [
      'c.jpg', 'd.jpg', 'e.jpg', 'f.jpg', 'h.jpg', 'i.png', 'j.png', 'k.png', 'l.png', 'm.png']
  assert 'no label; expected at c.' in problems[0] and 'no image; expected at m.' in problems[-1]


def test_of_listed_stems_all_is_said_and_of_others_nothing(tmp_path):
  write(tmp_path / 'images', 'a.png', 'b.png', 'c.png', 'e\u0301.png')
  write(tmp_path / 'labels', 'a.png', 'd.png', '\xe9.png', 'f.jpg')
  matched, problems = find(tmp_path, stems=['c', 'e\u0301', 'a', 'd'])
  assert [image for image, _ in matched] == ['a.png', 'e\u0301.png']
  assert [problem.partition(': ')[0] for problem in problems] == [
      'd', str(tmp_path / 'images/c.png')]


def test_the_first_problem_is_raised_with_the_number_of_others():
  pairs.require_none([])
  for count, more in ((1, ''), (2, ' (1 more problem, see python -m kdseg_jax.data.check.)'),
                      (3, ' (2 more problems, see python -m kdseg_jax.data.check.)')):
    with pytest.raises(UserError) as caught:
      pairs.require_none(['first.', 'second.', 'third.'][:count])
    assert str(caught.value) == f'first.{more}'


def test_a_source_gives_what_its_files_hold_with_labels_mapped_and_both_resized(tmp_path):
  write(tmp_path, 'e\u0301.png', value=9)
  write(tmp_path, 'label.png', value=7)
  pair = pairs.Pair(tmp_path / 'e\u0301.png', tmp_path / 'label.png')
  label_map = pairs.LabelMap({7: 2}, 'label 7')
  for size in (None, (2, 5)):
    source = pairs.PairSource([pair], label_map=label_map, size=size)
    example, = source
    assert example.keys() == {'image', 'label', 'image_id'} and example['image_id'] == '\xe9'
    height, width = size or (4, 6)
    np.testing.assert_array_equal(example['image'], np.full((height, width, 3), 9, np.uint8))
    np.testing.assert_array_equal(example['label'], np.full((height, width), 2, np.uint8))
    assert source.size == size
  source.pairs.clear()
  assert source.pairs == [pair] and len(source) == 1
  for index in (-1, 1):
    with pytest.raises(IndexError, match=f'Image {index} does not exist: there are 1'):
      source[index]


def test_a_label_of_another_size_than_its_image_is_refused_even_where_both_are_resized(tmp_path):
  write(tmp_path, 'image.png')
  write(tmp_path, 'label.png', size=(6, 4))
  source = pairs.PairSource([pairs.Pair(tmp_path / 'image.png', tmp_path / 'label.png')],
                            label_map=pairs.LabelMap.identity(2), size=(4, 6))
  with pytest.raises(UserError, match=r'label\.png: is \(6, 4\) .*image\.png is \(4, 6\)'):
    source[0]
