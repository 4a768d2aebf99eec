"""Folders of COCO: what is read, and what is refused with its file and annotation."""

import json
import logging
import pickle
import unicodedata

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


def test_a_crowd_alone_is_an_annotation_and_what_is_said_to_be_none_is_no_crowd(tmp_path):
  content = boxed_sets.instances(objects={5: [], 7: [(1, 0, 0, 30, 20, 1, 400)],
                                          9: [(3, 1, 1, 9, 9, 0, None)]})
  del content['annotations'][1]['iscrowd']
  boxed_sets.coco(tmp_path)
  (tmp_path / 'annotations/instances_train2017.json').write_text(json.dumps(content))
  for number in (5, 9):
    (tmp_path / f'train2017/{number:012d}.jpg').write_bytes(boxed_sets.jpeg(number))
  source = data.create('coco', 'train_with_boxes', root=tmp_path)
  assert [one['image_id'] for one in source] == ['000000000007', '000000000009']
  assert [one['crowd'].tolist() for one in source] == [[True], [False]]


def test_the_first_annotations_that_exist_are_read(tmp_path):
  places = ('annotations/instances_val2017.json', 'annotations/instances_val.json',
            'annotations/val.json', 'val.json')
  archives.write(tmp_path, {place: json.dumps(boxed_sets.instances(
      objects={3: []}, categories=[{'id': 1, 'name': place}])) for place in places} | {
          'images/000000000003.jpg': boxed_sets.jpeg(0)})
  for place in places:
    assert data.create('coco', 'val', root=tmp_path).classes == (place,)
    (tmp_path / place).unlink()


def test_boxes_without_an_area_are_left_out_and_a_pixel_outside_is_cut_off(tmp_path, caplog):
  boxed_sets.coco(tmp_path, objects={5: [(1, 3, 3, 0, 9, 0, 0), (1, -0.5, 0, 31, 20.25, 0, 99),
                                         (3, 30, 2, 0.5, 4, 0, None)]})
  with caplog.at_level(logging.WARNING):
    source = data.create('coco', 'train', root=tmp_path)
  assert source.degenerate == 2 and '2 boxes have no area' in caplog.text
  assert 'instances_train2017.json, annotation 100: x 3 to 3' in caplog.text
  np.testing.assert_array_equal(source[0]['boxes'], [[0, 0, 30, 20]])


@pytest.mark.parametrize('boxes', [
    [(.1, .2, .5, .6)], [(0, 0, 1, 1), (.75, .5, .25, .125)], [(.5, .5, 1, .9), (.9, .8, .2, .4)]])
def test_boxes_in_shares_of_the_image_are_refused(tmp_path, boxes):
  objects = {7: [], 9: [(3, *box, 0, None) for box in boxes]}
  boxed_sets.coco(tmp_path, objects=objects)
  with pytest.raises(ValueError, match=r'train2017.json, image 9: its coordinates, and those of al'
                                       rf'l {len(boxes)} boxes .* shares .*; expected pixels'):
    data.create('coco', 'train', root=tmp_path)
  objects[12] = [(1, 4, 4, 2, 1.5, 0, None)]  # so the others are small
  boxed_sets.coco(tmp_path, objects=objects)
  assert len(data.create('coco', 'train', root=tmp_path)) == 3


@pytest.mark.parametrize('boxes', [[], [(0, 0, 0, 0)], [(20, 9, 1, 1)], [(0, 0, 1.5, 1)]])
def test_few_and_small_boxes_in_pixels_are_read(tmp_path, boxes):
  boxed_sets.coco(tmp_path, objects={9: [(3, *box, 0, None) for box in boxes]})
  assert len(data.create('coco', 'train', root=tmp_path)) == 1


@pytest.mark.parametrize('forms', [('NFC', 'NFD'), ('NFD', 'NFC')])
@pytest.mark.parametrize('folder', ['', 'fa\xe7ades/'])
def test_names_of_images_are_found_in_any_form_of_unicode(tmp_path, forms, folder):
  in_json, on_disk = (unicodedata.normalize(form, f'{folder}caf\xe9.jpg') for form in forms)
  content = boxed_sets.instances(objects={9: [(3, 1, 1, 9, 9, 0, None)]})
  content['images'][0]['file_name'] = in_json
  archives.write(tmp_path, {'val.json': json.dumps(content), 'images/val/other.jpg': b'',
                            f'images/{on_disk}': boxed_sets.jpeg(0)})
  source = data.create('coco', 'val', root=tmp_path)  # of the first folder that has its images
  assert source[0]['image'].shape == (20, 30, 3)
  content['images'][0]['file_name'] = f'{folder}cafe.jpg'
  (tmp_path / 'val.json').write_text(json.dumps(content))
  with pytest.raises(ValueError, match='cafe.jpg: no such file, and image 9 of'):
    data.create('coco', 'val', root=tmp_path)


def test_names_of_classes_are_composed_and_an_area_may_be_0(tmp_path):
  boxed_sets.coco(tmp_path, objects={7: [(3, 1, 1, 5, 5, 0, 0)]}, categories=[
      {'id': 3, 'name': 'cafe\u0301'}])
  source = data.create('coco', 'train', root=tmp_path)
  assert source.classes == ('caf\xe9',) and source[0]['area'].tolist() == [0]


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
    (change('categories', id='3'), r'categories\[0\] has not both an id and a name'),
    (change('categories', id=None), r'categories\[0\] has not both an id and a name'),
    (change('categories', id=2.5), r'categories\[0\] has not both an id and a name'),
    (change('categories', id=1), "the category 1 'cat' has the id or the name of another"),
    (edited(lambda content: content.update(categories=[
        {'id': 1, 'name': 'caf\xe9'}, {'id': 3, 'name': 'cafe\u0301'}])),
     'the category 3 .* has the id or the name of another'),
    (change('images', file_name=4), r'images\[0\] has not both a numeric id and a file_name'),
    (change('images', height=0), r'images\[0\] \(id 7\) is \(0, 30\)'),
    (change('images', height=20.5), r'images\[0\] \(id 7\) is \(20.5, 30\) .*; expected whole'),
    (change('images', id=True), r'images\[0\] has not both a numeric id and a file_name'),
    (change('images', id=3), r'images\[1\] has the id 3 of another'),
    (change('images', file_name='none.jpg'), 'train2017/none.jpg: no such file, and image 7 of'),
    (change('annotations', image_id=99), 'annotation 100: its image_id is 99, which is no image'),
    (change('annotations', category_id=2), 'annotation 100: its category_id is 2, which is no cat'),
    (change('annotations', bbox=[1, 2, 3]), r'annotation 100: its bbox is \[1, 2, 3\]; expected'),
    (change('annotations', bbox=None), 'annotation 100: its bbox is None'),
    (change('annotations', area=-1), 'annotation 100: its area is -1'),
    (change('annotations', image_id=[7]), r'annotation 100: its image_id is \[7\], which is no'),
    (change('annotations', iscrowd=2), 'annotation 100: its iscrowd is 2; expected 0 or 1'),
    (change('annotations', iscrowd='no'), "annotation 100: its iscrowd is 'no'"),
    (change('annotations', bbox=[1, 2, float('inf'), 3]), 'annotation 100: holds a number'),
    (change('annotations', bbox=[1, 2, 10**400, 3]), r'annotation 100: its bbox is \[1, 2, 10+\.'),
    (change('annotations', bbox=[1e308, 2, 1e308, 3]), 'annotation 100: holds a number'),
    (change('annotations', area=10**400), r'annotation 100: its area is 10+\.\.\.0+; expected'),
    (change('annotations', area=1e300), 'annotation 100: holds a number .* too large'),
    (change('images', width=10**400), r'images\[0\] \(id 7\) is \(20, 10+\.\.\.0+\) \(height'),
    (f'{{"images": [{"1" * 5000}]}}', 'train2017.json: is no JSON file that can be read .*digits'),
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
