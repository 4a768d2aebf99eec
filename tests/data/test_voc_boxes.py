"""Folders of Pascal VOC: what is read, and what is refused with its file and line."""

import logging
import pickle

import numpy as np
import pytest

from kdseg_jax import data
from kdseg_jax.data import voc_boxes
from kdseg_jax.errors import NotFoundError, UserError
from tests.data import archives, boxed_sets


def test_boxes_are_read_with_their_classes_and_difficult_ones_are_crowds(tmp_path):
  source = data.create('voc_boxes', 'train', root=boxed_sets.voc(tmp_path))
  assert source.classes == ('cat', 'dog') and source.palette.shape == (2, 3)
  first, empty, last = pickle.loads(pickle.dumps(source))
  assert [one['image_id'] for one in (first, empty, last)] == ['a', 'b', 'd']
  np.testing.assert_array_equal(first['boxes'], [[0, 0, 30, 20], [2, 3, 10, 12]])
  np.testing.assert_array_equal(first['classes'], [1, 0])
  np.testing.assert_array_equal(first['crowd'], [False, True])
  np.testing.assert_array_equal(first['area'], [600, 72])
  np.testing.assert_array_equal(first['scale'], [1, 1])
  assert first['image'].shape == (20, 30, 3) and first['image'].dtype == np.uint8
  assert {name: first[name].dtype for name in ('boxes', 'classes', 'crowd', 'area', 'scale')} == {
      'boxes': np.float32, 'classes': np.int32, 'crowd': bool, 'area': np.float32,
      'scale': np.float32}
  assert empty['boxes'].shape == (0, 4) and empty['classes'].shape == empty['area'].shape == (0,)


def test_sizes_are_those_of_the_annotations(tmp_path):
  root = boxed_sets.voc(tmp_path, objects={name: [('dog', 2, 2, 9, 9)] for name in 'abd'},
                        splits={'train': 'abd'}, upright='b')
  source = data.create('voc_boxes', 'train', root=root)
  sizes = [source.size_of(index) for index in range(3)]
  assert sizes == [example['image'].shape[:2] for example in source] == [(20, 30), (30, 20),
                                                                         (20, 30)]
  assert data.create('voc_boxes', 'train', root=root, size=(7, 5)).size_of(1) == (7, 5)


def test_resized_images_take_their_boxes_with_them(tmp_path):
  source = data.create('voc_boxes', 'train', root=boxed_sets.voc(tmp_path), size=(40, 15))
  example = source[0]
  assert example['image'].shape == (40, 15, 3) and source.size == (40, 15)
  np.testing.assert_allclose(example['boxes'], [[0, 0, 15, 40], [1, 6, 5, 24]])
  np.testing.assert_allclose(example['scale'], [0.5, 2])
  np.testing.assert_array_equal(example['area'], [600, 72])  # of the file's image


def test_the_classes_of_a_list_come_in_its_order(tmp_path):
  boxed_sets.voc(tmp_path)
  (tmp_path / 'classes.txt').write_text('dog\nhorse\ncat\n')
  source = data.create('voc_boxes', 'val', root=tmp_path)
  assert source.classes == ('dog', 'horse', 'cat')
  np.testing.assert_array_equal(source[0]['classes'], [2])
  (tmp_path / 'classes.txt').write_text('dog\n')
  with pytest.raises(ValueError, match=r"c.xml, line 3: the class 'cat' is not in .*classes.txt"):
    data.create('voc_boxes', 'val', root=tmp_path)


def test_without_lists_every_tenth_is_val(tmp_path):
  boxed_sets.voc(tmp_path, splits={}, objects={
      f'i{i:02d}': [('dog', 2, 2, 9, 9)] for i in range(21)})
  ids = {split: [one['image_id'] for one in data.create('voc_boxes', split, root=tmp_path)]
         for split in ('train', 'val')}
  assert ids['val'] == ['i00', 'i10', 'i20'] and len(ids['train']) == 18
  with pytest.raises(FileNotFoundError, match='test.txt: no such file; .* splits train, val'):
    data.create('voc_boxes', 'test', root=tmp_path)


def test_a_list_of_both_is_a_split_where_there_is_no_other(tmp_path):
  lists = {'train': ['a'], 'val': ['c'], 'trainval': ['a', 'c']}
  boxed_sets.voc(tmp_path, splits=lists)
  assert voc_boxes.Layout(tmp_path).splits == ['train', 'val']
  for split in ('train', 'val'):
    (tmp_path / f'ImageSets/Main/{split}.txt').unlink()
  assert voc_boxes.Layout(tmp_path).splits == ['trainval']


def test_boxes_without_an_area_are_left_out_and_counted(tmp_path, caplog):
  boxed_sets.voc(tmp_path, objects={'a': [('dog', 5, 5, 5, 5), ('dog', 1, 1, 9, 9),
                                          ('dog', 9, 1, 3, 5)]}, splits={'train': ['a']})
  with caplog.at_level(logging.INFO):
    source = data.create('voc_boxes', 'train', root=tmp_path)
  assert source.degenerate == 2
  np.testing.assert_array_equal(source[0]['boxes'], [[0, 0, 9, 9]])
  assert '2 boxes have no area and are left out; the first:' in caplog.text
  assert 'a.xml, line 3: x 5 to 5, y 5 to 5.' in caplog.text
  assert '1 images, 1 boxes, 0 of them crowds or difficult' in caplog.text


def test_corners_count_from_one_and_a_pixel_outside_is_cut_off(tmp_path):
  boxed_sets.voc(tmp_path, objects={'a': [('dog', 0, 1, 31, 20.5)]}, splits={'train': ['a']})
  np.testing.assert_array_equal(
      data.create('voc_boxes', 'train', root=tmp_path)[0]['boxes'], [[0, 0, 30, 20]])


def test_without_a_size_the_image_says_it(tmp_path):
  boxed_sets.voc(tmp_path)
  path = tmp_path / 'Annotations/c.xml'
  path.write_text(boxed_sets.annotation(boxed_sets.VOC['c'], None))
  assert len(data.create('voc_boxes', 'val', root=tmp_path)[0]['boxes']) == 1
  path.write_text(boxed_sets.annotation([('dog', 1, 1, 35, 9)], None))
  with pytest.raises(ValueError, match='c.xml, line 2: the box reaches from'):
    data.create('voc_boxes', 'val', root=tmp_path)


@pytest.mark.parametrize('text,message', [
    ('<annotation>\n<object>\n</annotation>', r'c.xml, line 3: is no whole XML file \(mismatched'),
    ('<annotation>\n<object>\n', r'c.xml, line 3: is no whole XML file \(no element found'),
    ('', 'c.xml, line 1: is no whole XML file'),
    ('<html>\n</html>', 'c.xml: is XML of <html>; expected <annotation>'),
    ('<?xml version="1.0" encoding="klingon"?>\n<annotation/>', 'c.xml.*: is no'),
    (boxed_sets.annotation([('', 1, 1, 9, 9)]), 'c.xml, line 3: the object has no name'),
    (boxed_sets.annotation([('cat', 'x', 1, 9, 9)]),
     "c.xml, line 3: bndbox/xmin is 'x'; expected a number"),
    (boxed_sets.annotation([('cat', 1, 'nan', 9, 9)]),
     'c.xml, line 3: holds a number that is not finite'),
    ('<annotation><object><name>cat</name></object></annotation>',
     'c.xml, line 1: the object has no bndbox/xmin'),
    *((boxed_sets.annotation([('cat', 1, 1, 9, 9), ('cat', 1, 1, 9, 9, value)]),
       f"c.xml, line 10: its difficult is '{value}'; expected 0 or 1")
      for value in ('true', 'yes', '1.0', '01')),
    (boxed_sets.annotation([('cat', .1, .2, .5, .6)]), 'c.xml: its coordinates, .* shares of the'),
    (boxed_sets.annotation([], ('9' * 5000, 30)), 'c.xml: its <size> has a side of 5000 digits'),
    (boxed_sets.annotation([], (20, '9' * 400)), 'c.xml: its <size> has a side of 400 digits'),
    (boxed_sets.annotation([('cat', 1, 1, 9, 9), ('cat', 1, 1, 32, 9)]),
     r'c.xml, line 10: the box reaches from \(0, 0\) to \(32, 9\), outside its image of 30x20'),
    (boxed_sets.annotation([('cat', 1, -4, 9, 9)]), r'c.xml, line 3: the box reaches from \(0, -4'),
    (boxed_sets.annotation([('cat', -4, 1, 9, 9)]), r'c.xml, line 3: the box reaches from \(-4, 0'),
    (boxed_sets.annotation([('cat', 1, 1, 32, 9)] * 3),
     r'c.xml, line 3: .* \(2 more problems, see python -m kdseg_jax.data.check.\)'),
])
def test_a_wrong_annotation_is_refused_with_its_file_and_line(tmp_path, text, message):
  boxed_sets.voc(tmp_path)
  (tmp_path / 'Annotations/c.xml').write_text(text)
  with pytest.raises(ValueError, match=message):
    data.create('voc_boxes', 'val', root=tmp_path)
  assert len(data.create('voc_boxes', 'train', root=tmp_path)) == 3  # whose files are right


def test_an_object_is_one_of_the_annotation_itself(tmp_path):
  boxed_sets.voc(tmp_path)
  path = tmp_path / 'Annotations/c.xml'
  nested = '<source><object>flickr</object></source><object>'
  path.write_text(boxed_sets.annotation([('cat', 5, 5, 15, 15)]).replace('<object>', nested, 1))
  np.testing.assert_array_equal(
      data.create('voc_boxes', 'val', root=tmp_path)[0]['boxes'], [[4, 4, 15, 15]])


@pytest.mark.parametrize('folder', ['JPEGImages', 'Annotations'])
def test_a_folder_that_is_missing_is_named_with_the_layout(folder, tmp_path):
  boxed_sets.voc(tmp_path)
  (tmp_path / folder).rename(tmp_path / 'elsewhere')
  with pytest.raises(NotFoundError, match=f'{folder}: no such folder; the layout is JPEGImages/'):
    data.create('voc_boxes', 'train', root=tmp_path)


@pytest.mark.parametrize('value', ['', ' 0 ', None])
def test_objects_are_not_difficult_unless_it_is_said(tmp_path, value):
  text = boxed_sets.annotation([('cat', 5, 5, 15, 15, value)])
  if value is None:
    text = text.replace('<difficult>None</difficult>', '')
  boxed_sets.voc(tmp_path)
  (tmp_path / 'Annotations/c.xml').write_text(text)
  assert not data.create('voc_boxes', 'val', root=tmp_path)[0]['crowd'].any()


def test_hidden_annotations_are_left_out_and_suffixes_may_be_of_any_case(tmp_path):
  boxed_sets.voc(tmp_path, splits={})
  (tmp_path / 'Annotations/._a.xml').write_bytes(b'\0\5\x16\7')  # as zips of macOS have them
  (tmp_path / 'Annotations/c.xml').rename(tmp_path / 'Annotations/c.XML')
  boxed_sets.archives.write(tmp_path, {'Annotations/d.Xml': boxed_sets.annotation(
      [('cow', 2, 2, 9, 9)])})
  (tmp_path / 'Annotations/d.xml').unlink()
  source = data.create('voc_boxes', 'train', root=tmp_path)
  assert [one['image_id'] for one in source] == ['b', 'c', 'd']
  assert source.classes == ('cat', 'cow', 'dog')


def test_two_annotations_of_one_name_are_refused(tmp_path):
  boxed_sets.voc(tmp_path)
  (tmp_path / 'Annotations/b.XML').write_text(boxed_sets.annotation([]))
  with pytest.raises(ValueError, match='b.xml: has the name of .*b.XML, and an annotation is of o'):
    data.create('voc_boxes', 'train', root=tmp_path)
  data.create('voc_boxes', 'val', root=tmp_path)


def test_entities_that_grow_are_refused():
  bomb = '<!DOCTYPE a [<!ENTITY a "aaaaaaaaaa">' + ''.join(
      f'<!ENTITY {new} "{10 * f"&{old};"}">' for old, new in zip('abcdefghi', 'bcdefghij')) + ']>'
  with pytest.raises(ValueError, match='x.xml, line 1: is no whole XML'):
    voc_boxes.parse((bomb + '<annotation><object><name>&j;</name></object></annotation>').encode(),
                    'x.xml')


def test_images_and_annotations_that_do_not_match_are_named(tmp_path):
  boxed_sets.voc(tmp_path)
  (tmp_path / 'JPEGImages/c.jpg').write_bytes(boxed_sets.jpeg(0, (30, 20)))
  with pytest.raises(ValueError, match=r'c.xml: was made for .* \(20, 30\).*c.jpg is \(30'):
    data.create('voc_boxes', 'val', root=tmp_path)[0]
  (tmp_path / 'JPEGImages/c.jpg').write_bytes(b'cut short')
  with pytest.raises(ValueError, match='c.jpg: cannot be decoded'):
    data.create('voc_boxes', 'val', root=tmp_path)[0]
  (tmp_path / 'JPEGImages/c.jpg').unlink()
  with pytest.raises(ValueError, match='val.txt, line 1: .*c.jpg does not exist'):
    data.create('voc_boxes', 'val', root=tmp_path)
  (tmp_path / 'Annotations/b.xml').unlink()
  with pytest.raises(ValueError, match='b.jpg: has no label; expected .*b.xml'):
    data.create('voc_boxes', 'train', root=tmp_path)


def test_two_images_of_one_name_are_refused(tmp_path):
  boxed_sets.voc(tmp_path)
  (tmp_path / 'JPEGImages/b.png').write_bytes(boxed_sets.jpeg(0))
  with pytest.raises(ValueError, match='b.png: has the name of .*b.jpg, and an annotation is of o'):
    data.create('voc_boxes', 'train', root=tmp_path)
  data.create('voc_boxes', 'val', root=tmp_path)


@pytest.mark.parametrize('orientation,message', [
    (3, 'EXIF data turn or mirror it .orientation 3., and its annotation .*c.xml may have been'),
    (6, r'c.xml: was made for an image of \(20, 30\)')])
def test_images_that_exif_data_turn_are_refused(tmp_path, orientation, message):
  boxed_sets.voc(tmp_path)
  (tmp_path / 'JPEGImages/c.jpg').write_bytes(boxed_sets.jpeg(0, orientation=orientation))
  with pytest.raises(ValueError, match=message):
    data.create('voc_boxes', 'val', root=tmp_path)[0]


def test_a_turned_image_is_read_where_the_size_tells_that_it_was_annotated_upright(tmp_path):
  boxed_sets.voc(tmp_path)
  content = boxed_sets.jpeg(0, size=(30, 20), orientation=6)
  (tmp_path / 'JPEGImages/c.jpg').write_bytes(content)
  assert data.create('voc_boxes', 'val', root=tmp_path)[0]['image'].shape == (20, 30, 3)


def test_missing_folders_and_classes_are_named(tmp_path):
  with pytest.raises(FileNotFoundError, match='JPEGImages: no such folder; the layout is'):
    data.create('voc_boxes', 'train', root=tmp_path)
  with pytest.raises(ValueError, match="split of voc_boxes: 'tran'. Did you mean 'train'"):
    data.create('voc_boxes', 'tran', root=tmp_path)
  boxed_sets.voc(tmp_path, objects={'a': []}, splits={'train': ['a']})
  with pytest.raises(ValueError, match='no file names the class of an object'):
    data.create('voc_boxes', 'train', root=tmp_path)
  boxed_sets.voc(tmp_path, objects={'a': [('dog', 1, 1, 9, 9)]}, splits={'test': ['a']})
  archives.write(tmp_path, {'JPEGImages/e.tif': b''})
  assert len(data.create('voc_boxes', 'test', root=tmp_path)) == 1


def test_of_a_list_the_order_does_not_matter_and_other_lists_and_roots_are_named(
    tmp_path, monkeypatch):
  monkeypatch.setenv('KDSEG_DATA', str(boxed_sets.voc(tmp_path, splits={'trainval': 'dac'})))
  source = data.create('voc_boxes', 'trainval')
  assert [one['image_id'] for one in source] == ['a', 'c', 'd']
  with pytest.raises(FileNotFoundError, match='val.txt: no such file; .* has the splits trainval'):
    data.create('voc_boxes', 'val')
  (tmp_path / 'ImageSets/Main/trainval.txt').unlink()
  with pytest.raises(FileNotFoundError, match='train.txt: no such file; .*the splits of no list'):
    data.create('voc_boxes', 'train')


def test_without_lists_every_image_counts_and_needs_an_annotation(tmp_path):
  boxed_sets.voc(tmp_path, splits={})
  archives.write(tmp_path, {'JPEGImages/e.tif': b''})
  with pytest.raises(UserError, match=r'e\.tif: pictures of this format are not read'):
    data.create('voc_boxes', 'train', root=tmp_path)
  (tmp_path / 'JPEGImages/e.tif').rename(tmp_path / 'JPEGImages/e.jpg')
  with pytest.raises(UserError, match=r'e\.jpg: has no label; expected .*e\.xml'):
    data.create('voc_boxes', 'train', root=tmp_path)


def test_of_several_entries_of_an_annotation_the_first_counts_and_those_of_parts_never():
  side = '<size><width> 30 </width><width>7</width><height>20</height></size>'
  corners = '<bndbox><xmin>{}</xmin><ymin>2</ymin></bndbox>'
  parsed = voc_boxes.parse((
      f'<annotation>{side}<size><height>9</height></size><name>of the file</name>\n<object>'
      f'<part><name>head</name>{corners.format(5)}</part><name>do<b/>g</name><name>cat</name>'
      f'{corners.format(3)}{corners.format(4)}</object>\n\n<object/></annotation>').encode(), 'a')
  assert parsed.size == (20, 30)
  (line, values), empty = parsed.objects
  assert (line, values['name'], values['bndbox/xmin'], values['bndbox/ymin']) == (2, 'g', '3', '2')
  assert empty == (4, {})


@pytest.mark.parametrize('size', [('20', '30.0'), ('', '30'), ('0', '30'), ('-20', '30')])
def test_a_size_that_is_none_is_asked_of_the_image(size, tmp_path):
  boxed_sets.voc(tmp_path)
  (tmp_path / 'Annotations/c.xml').write_text(
      boxed_sets.annotation([('cat', 1, 1, 30, 20)], size))
  source = data.create('voc_boxes', 'val', root=tmp_path)
  assert source.size_of(0) == (20, 30)
  np.testing.assert_array_equal(source[0]['boxes'], [[0, 0, 30, 20]])


def test_names_are_the_same_in_any_form_of_unicode_and_a_wrong_one_gets_the_nearest(tmp_path):
  boxed_sets.voc(tmp_path, splits={'train': ['\xe9']},
                 objects={'e\u0301': [('cafe\u0301', 1, 1, 9, 9)]})
  (tmp_path / 'classes.txt').write_text('caf\xe9\n', encoding='utf-8')
  example, = data.create('voc_boxes', 'train', root=tmp_path)
  assert example['image_id'] == '\xe9' and example['classes'].tolist() == [0]
  (tmp_path / 'classes.txt').write_text('caf\xe9s\n', encoding='utf-8')
  with pytest.raises(UserError, match="'caf\xe9' is not in .*Did you mean 'caf\xe9s'"):
    data.create('voc_boxes', 'train', root=tmp_path)
