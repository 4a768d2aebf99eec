"""Folders of COCO: what is read, and what is refused with its file and annotation."""

import json
import logging
import pickle

import numpy as np
import pytest

from kdseg_jax import data
from kdseg_jax.data import coco
from tests.data import archives, boxed_sets


def test_images_come_in_the_order_of_their_ids_with_boxes_areas_and_crowds(tmp_path):
  source = data.create('coco', 'train', root=boxed_sets.coco(tmp_path))
  assert source.classes == ('cat', 'dog')  # by category id
  empty, first, last = pickle.loads(pickle.dumps(source))
  assert [one['image_id'] for one in (empty, first, last)] == [
      '000000000003', '000000000007', '000000000012']
  np.testing.assert_array_equal(first['boxes'], [[1.5, 2, 11.5, 14.25], [0, 0, 30, 20]])
  np.testing.assert_array_equal(first['classes'], [1, 0])
  np.testing.assert_array_equal(first['crowd'], [False, True])
  np.testing.assert_array_equal(first['area'], [80.5, 400])
  np.testing.assert_array_equal(last['area'], [30])  # of the box, as it has none of its own
  assert empty['boxes'].shape == (0, 4) and first['image'].shape == (20, 30, 3)
  with_boxes = data.create('coco', 'train_with_boxes', root=tmp_path)
  assert [one['image_id'] for one in with_boxes] == ['000000000007', '000000000012']
  resized = data.create('coco', 'train', root=tmp_path, size=(10, 15))[1]
  np.testing.assert_allclose(resized['boxes'][0], [0.75, 1, 5.75, 7.125])


@pytest.mark.parametrize('annotations,images', [
    ('annotations/instances_val.json', 'val'), ('annotations/val.json', 'images/val2017'),
    ('val.json', 'images/val'), ('val.json', 'images')])
def test_folders_of_ones_own_have_shorter_names(tmp_path, annotations, images):
  content = boxed_sets.instances()
  archives.write(tmp_path, {annotations: json.dumps(content)} | {
      f'{images}/{one["file_name"]}': boxed_sets.jpeg(0) for one in content['images']})
  assert len([*data.create('coco', 'val', root=tmp_path)]) == 3
  with pytest.raises(FileNotFoundError, match='has no annotations of train; expected one of anno'):
    data.create('coco', 'train', root=tmp_path)


def test_boxes_without_an_area_are_left_out_and_a_pixel_outside_is_cut_off(tmp_path, caplog):
  boxed_sets.coco(tmp_path, objects={5: [(1, 3, 3, 0, 9, 0, 0), (1, -0.5, 0, 31, 20.25, 0, 99),
                                         (3, 30, 2, 0.5, 4, 0, None)]})
  with caplog.at_level(logging.WARNING):
    source = data.create('coco', 'train', root=tmp_path)
  assert source.degenerate == 2 and '2 boxes have no area' in caplog.text
  assert 'instances_train2017.json, annotation 100: x 3 to 3' in caplog.text
  np.testing.assert_array_equal(source[0]['boxes'], [[0, 0, 30, 20]])


def edited(edit):
  content = boxed_sets.instances()
  edit(content)
  return json.dumps(content)


def change(key, **values):
  return edited(lambda content: content[key][0].update(values))


@pytest.mark.parametrize('content,message', [
    ('{"images": [\n1, }', r'train2017.json, line 2, column 4: is no whole JSON file \(Expecting'),
    ('', 'train2017.json, line 1, column 1: is no whole JSON file'),
    ('[' * 100_000, 'train2017.json: is no JSON file that can be read'),
    ('[]', 'expected the lists images, annotations, categories'),
    (edited(lambda content: content.pop('categories')), 'is no file of instances'),
    (edited(lambda content: content['categories'].clear()), 'has no category'),
    (change('categories', name=None), r'categories\[0\] has not both an id and a name'),
    (change('categories', id=1), "the category 1 'cat' has the id or the name of another"),
    (change('images', file_name=4), r'images\[0\] has not both a numeric id and a file_name'),
    (change('images', height=0), r'images\[0\] \(id 7\) is \(0, 30\)'),
    (change('images', id=3), r'images\[1\] has the id 3 of another'),
    (change('images', file_name='none.jpg'), 'train2017/none.jpg: no such file, and image 7 of'),
    (change('annotations', image_id=99), 'annotation 100: its image_id is 99, which is no image'),
    (change('annotations', category_id=2), 'annotation 100: its category_id is 2, which is no cat'),
    (change('annotations', bbox=[1, 2, 3]), r'annotation 100: its bbox is \[1, 2, 3\]; expected'),
    (change('annotations', bbox=None), 'annotation 100: its bbox is None'),
    (change('annotations', area=-1), 'annotation 100: its area is -1'),
    (change('annotations', iscrowd='no'), "annotation 100: its iscrowd is 'no'"),
    (change('annotations', bbox=[1, 2, float('inf'), 3]), 'annotation 100: holds a number'),
    (change('annotations', bbox=[25, 2, 10, 3]),
     r'annotation 100: the box reaches from \(25, 2\) to \(35, 5\), outside its image of 30x20'),
    (edited(lambda content: content['annotations'].insert(0, 'x')), 'annotation number 0: is no'),
])
def test_a_wrong_file_is_refused_with_its_place(tmp_path, content, message):
  boxed_sets.coco(tmp_path)
  (tmp_path / 'annotations/instances_train2017.json').write_text(content)
  with pytest.raises(ValueError, match=message):
    data.create('coco', 'train', root=tmp_path)


def test_text_that_is_none_is_refused():
  with pytest.raises(ValueError, match='x.json.*: is no'):
    coco.parse(b'\xff\xfe\x00{"', 'x.json')


def test_damaged_and_foreign_images_are_named_when_they_are_read(tmp_path):
  source = data.create('coco', 'train', root=boxed_sets.coco(tmp_path))
  path = tmp_path / 'train2017/000000000003.jpg'
  path.write_bytes(boxed_sets.jpeg(0)[:200])
  with pytest.raises(ValueError, match='000000000003.jpg: cannot be decoded'):
    source[0]
  path.write_bytes(boxed_sets.jpeg(0, (8, 8)))
  with pytest.raises(ValueError, match=r'json, image 3: was made for an image of \(20, 30\)'):
    source[0]


def test_missing_folders_are_named(tmp_path):
  boxed_sets.coco(tmp_path)
  (tmp_path / 'train2017').rename(tmp_path / 'elsewhere')
  with pytest.raises(FileNotFoundError, match='no folder of the images of train; expected one of'):
    data.create('coco', 'train', root=tmp_path)
  with pytest.raises(ValueError, match='needs its place'):
    data.create('coco', 'train')
