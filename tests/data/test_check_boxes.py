"""The check of a folder with boxes counts them and finds every problem."""

import json

import pytest

from kdseg_jax.data import check, check_boxes
from tests import runs
from tests.data import boxed_sets


def test_classes_sizes_crowds_and_boxes_without_an_area_are_counted(tmp_path):
  boxed_sets.voc(tmp_path, objects=boxed_sets.VOC | {'e': [('cat', 4, 4, 4, 9)]},
                 splits={'train': ['a', 'b', 'c'], 'val': ['d', 'e']})
  report = check_boxes.check(tmp_path, 'voc_boxes')
  assert report.classes == ('cat', 'dog') and report.problems == []
  train, val = report.splits['train'], report.splits['val']
  assert (train.images, train.without, train.crowd, train.most) == (3, 1, 1, 2)
  assert train.boxes.tolist() == [[1, 0, 0], [1, 0, 0]] and train.occurrences.tolist() == [1, 1]
  assert train.sizes == {(20, 30): 3} and train.degenerate == []
  assert val.boxes.tolist() == [[0, 0, 0], [1, 0, 0]] and (val.images, val.without) == (2, 1)
  assert len(val.degenerate) == 1 and 'e.xml, line 3: x 4 to 4' in val.degenerate[0]
  text = check_boxes.describe(report)
  assert 'Note: val has no box of cat.' in text and text.endswith('\n0 problems.')
  assert 'boxes of val without an area, 1, are left out:' in text and '20x30 (3)' in text


def test_areas_decide_on_the_size(tmp_path):
  areas = (1, 32**2, 32**2 + 1, 96**2, 96**2 + 1, 10**6)
  boxed_sets.coco(tmp_path, objects={1: [(3, 1, 1, 2, 2, 0, area) for area in areas],
                                     2: [(1, 1, 1, 2, 2, 0, 5)]})
  report = check_boxes.check(tmp_path, 'coco')
  assert report.splits['train'].boxes.tolist() == [[1, 0, 0], [2, 2, 2]]


def test_all_problems_of_all_files_are_found(tmp_path):
  boxed_sets.voc(tmp_path, splits={'train': ['a', 'b', 'd', 'x'], 'val': ['c', 'b']})
  (tmp_path / 'Annotations/a.xml').write_text('<annotation>')
  (tmp_path / 'Annotations/d.xml').write_text(boxed_sets.annotation(
      [('dog', 1, 1, 99, 9), ('dog', 1, 1, 9, 9), ('dog', 1, 1, 9, 99)]))
  (tmp_path / 'JPEGImages/c.jpg').write_bytes(b'')
  problems = check_boxes.check(tmp_path, 'voc_boxes').problems
  assert len(problems) == 7
  for part in ('train.txt, line 4: ', 'a.xml, line 1: is no whole XML', 'd.xml, line 3: the box',
               'd.xml, line 17: the box', 'c.jpg: cannot be decoded',
               'train: has no box of cat, so that nothing can be learned of it, but val has',
               'b.jpg of train and '):
    assert sum(part in problem for problem in problems) == 1, part


def test_boxes_in_shares_of_the_image_are_one_problem_of_a_split(tmp_path):
  shares = [('dog', .1, .2, .5, .6), ('cat', 0, 0, 1, 1)]
  boxed_sets.voc(tmp_path, objects={'a': shares, 'b': shares, 'c': [('dog', 1, 1, 9, 9), *shares]},
                 splits={'train': ['a', 'b'], 'val': ['c']})
  problem, = check_boxes.check(tmp_path, 'voc_boxes').problems
  assert problem.startswith(f'{tmp_path}/Annotations/a.xml: its coordinates, and those of all 4 ')
  assert 'shares of the image, 0 to 1; expected pixels. Multiply x by' in problem


def test_pictures_that_cannot_be_read_are_not_taken_for_one_another(tmp_path):
  boxed_sets.voc(tmp_path)
  for name in 'abc':
    (tmp_path / f'JPEGImages/{name}.jpg').write_bytes(b'')
  problems = check_boxes.check(tmp_path, 'voc_boxes').problems
  assert sum('cannot be decoded' in problem for problem in problems) == 3
  assert not any('same picture' in problem for problem in problems)


def test_damaged_annotations_of_a_split_are_a_problem_and_the_other_is_counted(tmp_path):
  boxed_sets.coco(tmp_path)
  boxed_sets.coco(tmp_path, 'val', seed=50)
  (tmp_path / 'annotations/instances_val2017.json').write_text('{')
  report = check_boxes.check(tmp_path, 'coco')
  assert 'instances_val2017.json, line 1, column 2: is no whole JSON' in report.problems[0]
  assert report.classes == ('cat', 'dog') and report.splits.keys() == {'train'}


def test_the_report_has_each_number_in_its_column(tmp_path):
  box = (1, 1, 9, 9)
  boxed_sets.coco(tmp_path, objects={
      1: [(3, *box, 0, 5), *[(3, *box, 0, 2000)] * 2, *[(3, *box, 0, 10**4)] * 4],
      2: [(1, *box, 0, 5), *[(1, *box, 1, 5)] * 8],
      3: [], 4: [], 5: [(1, 4, 4, 0, 2, 0, None)] * 5})
  text = check_boxes.describe(check_boxes.check(tmp_path, 'coco'))
  rows = [[cell.strip() for cell in line.strip('|').split('|')] for line in text.splitlines()]
  assert ['split', 'images', 'without boxes', 'boxes', 'small', 'medium', 'large', 'crowd',
          'no area', 'most in one', 'sizes (height x width)'] in rows
  assert ['train', '5', '3', '8', '2', '2', '4', '8', '5', '9', '20x30 (5)'] in rows
  assert ['0 cat', '1', '1'] in rows and ['1 dog', '7', '1'] in rows


@pytest.mark.parametrize('count,more', [(5, []), (6, ['  ... and 1 more'])])
def test_a_few_boxes_without_an_area_are_named(tmp_path, count, more):
  boxed_sets.coco(tmp_path, objects={1: [(1, 4, 4, 0, 2, 0, None)] * count})
  text = check_boxes.describe(check_boxes.check(tmp_path, 'coco'))
  assert text.count(': x 4 to 4, y 4 to 6.') == 5
  assert [line for line in text.splitlines() if '...' in line] == more


@pytest.mark.parametrize('count,more', [(5, []), (7, ['train and val share 2 more pictures.'])])
def test_a_few_pictures_of_two_splits_are_named(count, more):
  lines = check_boxes.in_two_splits({
      split: {bytes([i]): f'{split}/{i}.jpg' for i in range(count)} for split in ('train', 'val')})
  assert [line[:37] for line in lines[:5]] == [
      f'train/{i}.jpg of train and val/{i}.jpg of' for i in range(5)] and lines[5:] == more


def test_pictures_in_two_splits_or_twice_in_one_are_found_whatever_their_names(tmp_path):
  boxed_sets.coco(tmp_path)
  boxed_sets.coco(tmp_path, 'val')
  content = (tmp_path / 'train2017/000000000003.jpg').read_bytes()
  (tmp_path / 'train2017/000000000007.jpg').write_bytes(content)
  problems = check_boxes.check(tmp_path, 'coco').problems
  assert len(problems) == 4 and 'the same picture twice in train' in problems[0]
  assert sum('results on one split would tell nothing' in problem for problem in problems) == 2


def test_a_picture_that_is_two_images_is_found(tmp_path):
  content = boxed_sets.instances()
  content['images'][1]['file_name'] = content['images'][0]['file_name']
  boxed_sets.coco(tmp_path)
  (tmp_path / 'annotations/instances_train2017.json').write_text(json.dumps(content))
  problem, = check_boxes.check(tmp_path, 'coco').problems[:1]
  assert 'the same picture twice in train' in problem


def test_splits_of_other_classes_and_empty_ones_are_problems(tmp_path):
  boxed_sets.coco(tmp_path)
  boxed_sets.coco(tmp_path, 'val', seed=50, objects={1: []},
                  categories=[*boxed_sets.CATEGORIES, {'id': 9, 'name': 'cow'}])
  problems = check_boxes.check(tmp_path, 'coco').problems
  assert len(problems) == 3
  assert 'val has the classes cat, dog, cow, and another split cat, dog' in problems[0]
  assert 'val: none of its 1 images has a box that counts' in problems[1]
  assert 'train: has no box of cat, so' in problems[2]  # but a crowd
  text = check_boxes.describe(check_boxes.check(tmp_path, 'coco'))
  assert 'Note: val has no box of cat, dog.' in text and 'Note: train' not in text


def test_a_folder_of_another_layout_is_refused(tmp_path):
  with pytest.raises(FileNotFoundError, match='JPEGImages: no such folder'):
    check_boxes.check(tmp_path, 'voc_boxes')
  assert check_boxes.check(tmp_path, 'coco').problems == [f'{tmp_path}: has no split.']


def test_the_program_prints_the_report_and_says_with_its_status_whether_it_is_good(
    tmp_path, capsys):
  boxed_sets.coco(tmp_path, objects={1: [(3, 1, 1, 2, 2, 0, 4), (1, 1, 1, 5, 5, 0, 25)]})
  status, text = runs.run_here(capsys, check.PROGRAM, tmp_path, '--layout=coco')
  assert status == 0 and '| 1 dog |' in text and '0 problems.' in text
  (tmp_path / 'train2017/000000000001.jpg').write_bytes(b'')
  status, text = runs.run_here(capsys, check.PROGRAM, tmp_path, '--layout=coco')
  assert status == 1 and 'cannot be decoded' in text and '\n1 problem.' in text
