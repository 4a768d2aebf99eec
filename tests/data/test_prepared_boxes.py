"""Preparing COCO with its boxes from its archives and reading it back, without TensorFlow."""

import json
import pickle
import shutil
import sys
import zipfile

import numpy as np
import pytest

from kdseg_jax import data
from kdseg_jax.data import prepare, prepared, tfds_builders
from kdseg_jax.errors import UserError
from tests.data import archives, boxed_sets


@pytest.fixture(scope='module')
def coco(tmp_path_factory):
  """COCO prepared: `(manual_dir, data_dir, image ids of each split)`."""
  manual_dir, data_dir = (tmp_path_factory.mktemp(name) for name in ('coco', 'prepared_coco'))
  expected = boxed_sets.coco_archives(manual_dir)
  prepare.prepare('coco', manual_dir, data_dir, allow_partial=True)
  return manual_dir, data_dir, expected


def test_prepared_coco_is_what_its_folder_is(coco, tmp_path):
  manual_dir, data_dir, expected = coco
  for archive in manual_dir.iterdir():
    zipfile.ZipFile(archive).extractall(tmp_path)
  expected['train_with_boxes'] = [one for one in expected['train'] if one != '000000000003']
  for split, ids in expected.items():
    made, folder = (data.create('coco', split, root=root) for root in (data_dir, tmp_path))
    assert made.classes == folder.classes and len(made.classes) == len(made.palette) == 80
    last = '000000000003'  # of train, as it has no box
    ids = sorted(ids, key=lambda one: (one == last, one))
    assert [one['image_id'] for one in pickle.loads(pickle.dumps(made))] == ids
    assert [made.size_of(i) for i in range(len(made))] == [
        one['image'].shape[:2] for one in made]
    for one, other in zip(
        made, sorted(folder, key=lambda one: ids.index(one['image_id'])), strict=True):
      assert one.keys() == other.keys()
      for name, value in one.items():
        np.testing.assert_array_equal(value, other[name])
        assert getattr(value, 'dtype', str) == getattr(other[name], 'dtype', str)
  resized = data.create('coco', 'train', root=data_dir, size=(10, 15))
  assert resized.size_of(0) == (10, 15)
  resized = resized[0]
  np.testing.assert_allclose(resized['boxes'][0], [0.75, 1, 5.75, 7.125])
  assert 'tensorflow' not in sys.modules


def test_train_is_what_there_is_of_images_with_and_without_boxes(tmp_path, caplog):
  boxed_sets.coco_archives(tmp_path, {9: [(1, 0, 0, 30, 20, 1, 400)]})
  prepare.prepare('coco', tmp_path, tmp_path / 'data', allow_partial=True)
  assert [one['image_id'] for one in data.create('coco', 'train', root=tmp_path / 'data')] == [
      '000000000009']
  assert 'train_without_boxes has 0 images instead of 1021' in caplog.text
  with pytest.raises(FileNotFoundError, match='prepared without the split train_without_boxes'):
    data.create('coco', 'train_without_boxes', root=tmp_path / 'data')
  with pytest.raises(ValueError, match='Known: train, train_with_boxes, .*val'):
    data.create('coco', 'test', root=tmp_path / 'data')


def test_splits_are_read_in_the_order_in_which_they_are_named(coco):
  ids = lambda split: [one['image_id'] for one in data.create('coco', split, root=coco[1])]
  assert ids('val+train') == ids('val') + ids('train')
  assert ids('train+val') == ids('train') + ids('val')


def test_a_missing_archive_of_coco_is_an_error_unless_it_is_allowed(coco, tmp_path):
  manual_dir = tmp_path / 'coco'
  shutil.copytree(coco[0], manual_dir)
  (manual_dir / 'val2017.zip').unlink()
  builder = tfds_builders.BUILDERS['coco']
  with pytest.raises(FileNotFoundError, match='val2017'):
    builder(data_dir=tmp_path / 'data').find(manual_dir)
  assert 'val' not in builder(data_dir=tmp_path / 'data', allow_partial=True).find(manual_dir)


def test_prepared_coco_is_found_by_the_environment_and_has_no_negative_index(coco, monkeypatch):
  monkeypatch.setenv('KDSEG_DATA', str(coco[1]))
  source = data.create('coco', 'val')
  assert isinstance(source, prepared.BoxRecords) and source[0]['image_id'] == '000000001000'
  for index in (-1, len(source)):
    with pytest.raises(IndexError, match=f'Image {index} does not exist: there are 1'):
      source[index]


def test_boxes_without_an_area_are_left_out_of_prepared_coco_others_that_are_wrong_refused(
    tmp_path, caplog):
  good, flat, outside = ((1, *box, 0, None) for box in (
      (0, 0, 30, 20), (5, 5, 0, 4), (500, 0, 30, 20)))
  for folder, objects in (('flat', [good, flat]), ('outside', [good, outside])):
    (tmp_path / folder).mkdir()
    boxed_sets.coco_archives(tmp_path / folder, {9: objects})
  prepare.prepare('coco', tmp_path / 'flat', tmp_path / 'data', allow_partial=True)
  boxes = data.create('coco', 'train', root=tmp_path / 'data')[0]['boxes']
  np.testing.assert_array_equal(boxes, [[0, 0, 30, 20]])
  assert 'A box without an area is left out: ' in caplog.text and 'x 5 to 5' in caplog.text
  with pytest.raises(ValueError, match=r'outside its image of \d+x\d+'):
    prepare.prepare('coco', tmp_path / 'outside', tmp_path / 'other', allow_partial=True)


def test_coco_with_other_categories_or_without_an_image_is_refused(coco, tmp_path):
  manual_dir = tmp_path / 'coco'
  shutil.copytree(coco[0], manual_dir)
  with pytest.raises(ValueError, match='train_with_boxes has 2 images instead of 117266, train_wi'
                     'thout_boxes has 1 images instead of 1021, val has 1 images instead of 5000'):
    prepare.prepare('coco', manual_dir, tmp_path / 'data')
  archives.write_zip(manual_dir / 'val2017.zip', {'val2017/x.jpg': b''})
  with pytest.raises(FileNotFoundError, match='val2017.zip: lacks 000000001000.jpg'):
    prepare.prepare('coco', manual_dir, tmp_path / 'data')
  archives.write_zip(manual_dir / 'annotations_trainval2017.zip', {
      'annotations/instances_train2017.json': json.dumps(boxed_sets.instances())})
  with pytest.raises(ValueError, match='train2017.json: its categories are not the 80 of COCO'):
    prepare.prepare('coco', manual_dir, tmp_path / 'data')
  assert not list(tmp_path.rglob('*.array_record*'))


ONE = {9: [(1, 0, 0, 30, 20, 0, None)]}


@pytest.mark.parametrize('content, message', [
    (boxed_sets.jpeg(0)[:200], r'000000000009\.jpg: cannot be decoded'),
    (boxed_sets.jpeg(0, (20, 31)), r'000000000009: was made for an image of \(20, 30\)'),
    (boxed_sets.jpeg(0, orientation=3), r'000000000009\.jpg: its EXIF data turn or mirror it')])
def test_an_image_that_does_not_fit_its_boxes_is_refused_when_it_is_prepared(
    tmp_path, content, message):
  boxed_sets.coco_archives(tmp_path, ONE)
  archives.write_zip(tmp_path / 'train2017.zip', {'train2017/000000000009.jpg': content})
  with pytest.raises(UserError, match=message):
    prepare.prepare('coco', tmp_path, tmp_path / 'data', allow_partial=True)
  assert not list(tmp_path.rglob('*.array_record*'))


def test_images_that_an_archive_lacks_are_left_out_where_that_is_allowed(tmp_path):
  boxed_sets.coco_archives(tmp_path, ONE | {11: [], 12: [(1, 1, 1, 5, 5, 0, None)]})
  archives.write_zip(tmp_path / 'train2017.zip', {
      f'train2017/{number:012d}.jpg': boxed_sets.jpeg(0) for number in (9, 11)})
  builder = tfds_builders.BUILDERS['coco']
  found = builder(data_dir=tmp_path / 'data', allow_partial=True).find(tmp_path)
  assert {split: list(part) for split, part in found.items()} == {
      'train_with_boxes': ['000000000009'], 'train_without_boxes': ['000000000011'],
      'val': ['000000001000']}
  with pytest.raises(FileNotFoundError, match='train2017.zip: lacks 000000000012.jpg'):
    builder(data_dir=tmp_path / 'data').find(tmp_path)


def test_wrong_annotations_are_refused_when_coco_is_prepared(tmp_path):
  boxed_sets.coco_archives(tmp_path, {9: [(77777, 0, 0, 30, 20, 0, None)]})
  with pytest.raises(UserError, match='instances_train2017.json.*77777'):
    prepare.prepare('coco', tmp_path, tmp_path / 'data', allow_partial=True)
