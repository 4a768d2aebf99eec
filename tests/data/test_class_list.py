"""Class lists: names, colours, label maps, and the lists of other tools that are refused."""

import numpy as np
import pytest

from kdseg_jax import data
from kdseg_jax.data import class_list, files, palettes
from kdseg_jax.errors import UserError


def read(tmp_path, text):
  (tmp_path / 'classes.txt').write_text(text, encoding='utf-8')
  return class_list.read(tmp_path / 'classes.txt')


def test_names_alone_have_default_colours_and_plain_labels(tmp_path):
  classes = read(tmp_path, '_background_\nfire truck\ntree, bush\nC#\npump #1\nfaçade\n\n')
  assert classes.names == ('_background_', 'fire truck', 'tree, bush', 'C#', 'pump #1', 'façade')
  assert classes.colors == (None,) * 6
  np.testing.assert_array_equal(classes.palette, palettes.default_palette(6))
  stored = np.array([[0, 5, 255]], np.uint8)
  np.testing.assert_array_equal(classes.label_map(stored, 'a'), stored)


def test_colours_stand_behind_names_and_no_two_classes_share_one(tmp_path):
  default = palettes.default_palette(4)
  taken = class_list.hexadecimal(default[0])
  classes = read(tmp_path, f'sky\nroad  #804080\nfire truck\t{taken}\ntree')
  assert classes.names == ('sky', 'road', 'fire truck', 'tree')
  assert classes.colors == (None, (128, 64, 128), tuple(default[0]), None)
  palette = classes.palette
  assert palette.dtype == np.uint8 and len(np.unique(palette, axis=0)) == 4
  np.testing.assert_array_equal(palette[[1, 2, 3]], [(128, 64, 128), default[0], default[3]])


def test_a_default_colour_that_is_given_to_another_class_is_not_given_twice(tmp_path):
  first, second = map(class_list.hexadecimal, palettes.default_palette(3)[:2])
  palette = read(tmp_path, f'sky\nroad  {first}\ntree  {second}').palette
  assert len(np.unique(palette, axis=0)) == 3


def test_label_map_gives_stored_values_their_classes(tmp_path):
  classes = read(tmp_path, 'labels: 255=1, 11=255\nlabels: 7 = 0\nwall\ncrack  #D02020')
  assert classes.names == ('wall', 'crack') and classes.colors == (None, (208, 32, 32))
  stored = np.array([[0, 1, 255, 11, 7]], np.uint8)
  np.testing.assert_array_equal(classes.label_map(stored, 'a'), [[0, 1, 1, 255, 0]])
  with pytest.raises(UserError, match=r'a: holds label 9; expected class indices 0 to 1, 255 = ig'
                                      r'.*labels: 255=1, 11=255, 7=0 of classes\.txt'):
    classes.label_map(np.array([[9]], np.uint8), 'a')


def test_a_folder_is_read_by_colours_and_label_map(tmp_path):
  masks = np.random.default_rng(0).choice([0, 255], (3, 4, 5)).astype(np.uint8)
  for i, mask in enumerate(masks):
    files.write_png(tmp_path / f'images/{i}.png', np.zeros((4, 5, 3), np.uint8))
    files.write_png(tmp_path / f'labels/{i}.png', mask)
  (tmp_path / 'classes.txt').write_text('labels: 255=1\nwall  #102030\ncrack')
  source = data.create('folder', 'val', root=tmp_path)
  assert source.classes == ('wall', 'crack')
  np.testing.assert_array_equal(source.palette[0], (16, 32, 48))
  np.testing.assert_array_equal(source[0]['label'], masks[0] // 255)


@pytest.mark.parametrize(('text', 'message'), [
    ('__ignore__\n_background_\ncar', r"line 1, '__ignore__', is no class but what LabelMe"),
    ('# label:color_rgb:parts:actions\nbackground:0,0,0::\ncar:1,2,3::',
     r"line 1, '# label:color_rgb:parts:actions', is a comment or header.*Delete the line"),
    ('background:0,0,0::\ncar:1,2,3::', r"line 1, .*CVAT. Write \"background  #000000\""),
    ('sky\ncar:1,2,255', r"line 2, 'car:1,2,255', .*Write \"car  #0102ff\""),
    ('Animal,64,128,64\nCar,1,2,3', r"line 1, .*as numbers. Write \"Animal  #408040\""),
    ('64 128 64\tAnimal\n1 2 3\tCar', r"line 1, .*before the name. Write \"Animal  #408040\""),
    ('name,r,g,b\nAnimal,64,128,64', r"line 1, 'name,r,g,b', is a header"),
    ('Pixel Value, Class\n0, background', r"line 1, .*is a header"),
    ('r g b\tname\n1 2 3\tcar', r"line 1, .*is a header"),
    ('names:\n  0: sky\n  1: car', r"line 1, 'names:', is a header"),
    ('["sky",\n"car"]', r"line 1, .*is of a JSON"),
    ('- sky\n- car', r"line 1, .*YAML"),
    ('sky\n// cars\ncar', r"line 2, .*is a comment"),
    ('0 sky\n1 car', r".*numbered, from 0; expected names alone, such as 'sky' for '0 sky'"),
    ('1 sky\n2 car', r".*numbered, from 1"),
    ('7: sky\n20: car', r".*numbered, from 7; .*labels: <stored value>=<class>"),
    ('label\nsky\ncar', r"line 1, 'label', is a header"),
    ('Class Names\nsky\ncar', r"line 1, 'Class Names', is a header"),
    ('road:::\ncar:::', r"line 1, 'road:::', ends in the separators of another tool"),
    ('sky\nroad:0,0,0,255:', r"line 2, 'road:0,0,0,255:', ends in the separators"),
    ('road,\ncar,', r"line 1, 'road,', ends in the separators"),
    ('road (128, 64, 128)\ncar (1, 2, 3)', r"line 1, .*Write \"road  #804080\""),
    ('background=0\ncar=1', r"line 1, 'background=0', has a number behind"),
    ('"road"\n"car"', r"line 1, '\"road\"', is of a JSON"),
    ('road:1\ncar:2', r".*numbered, from 1; expected names alone, such as 'road' for 'road:1'"),
    ('road,0\ncar,1', r".*numbered, from 0"),
    ('id name\n0 background\n1 road', r"line 1, 'id name', is a header"),
    ('labels: 255=1\nindex class\n0 background\n1 road', r"line 2, 'index class', is a header"),
    ('class_id class_name\n0 background\n1 road', r"line 1, 'class_id class_name', is a header"),
    ('trainId name\nroad\ncar', r"line 1, 'trainId name', is a header"),
    ('train_id name\nroad\ncar', r"line 1, 'train_id name', is a header"),
    ('ID NAME COLOR\nroad\ncar', r"line 1, 'ID NAME COLOR', is a header"),
    ('name color\nroad  #804080\ncar', r"line 1, 'name color', is a header"),
    ('No,Category\n1,road\n2,car', r"line 1, 'No,Category', is a header"),
    ('label name\nroad\ncar', r"line 1, 'label name', is a header"),
    ('label_name\nroad\ncar', r"line 1, 'label_name', is a header"),
    ('categories\nroad\ncar', r"line 1, 'categories', is a header"),
    ('nc: 2\nnames: [road, car]', r"line 1, 'nc: 2', is of a JSON or YAML file"),
    (',name\n0,bg\n1,road', r"line 1, ',name', begins with the separator"),
    ('| id | name |\n| 0 | bg |', r"line 1, '| id | name |', begins with the separator"),
    ('; ids\nroad\ncar', r"line 1, '; ids', is a comment"),
    ('road\n% car\nsky', r"line 2, '% car', is a comment"),
    ('-- classes\nroad\ncar', r"line 1, '-- classes', is a comment"),
    ('---\nroad\ncar', r"line 1, '---', is a comment"),
    ('<classes>\nroad\ncar', r"line 1, '<classes>', is a comment"),
    ('7 road\n11 sidewalk', r".*numbered, from 7; .*such as 'road' for '7 road'"),
    ('background 0\nroad 1', r".*numbered, from 0; .*such as 'background' for 'background 0'"),
    ('sky 1  #0a0b0c\nroad 2', r".*numbered, from 1"),
    ('Nr Wert\n0 road\n1 car', r"its lines below 'Nr Wert' are numbered, from 0"),
    ('Wert Nr\nroad 1\ncar 2', r"its lines below 'Wert Nr' are numbered, from 1"),
    (f'labels: {"9" * 5000}=1\nsky\ncar', r".*holds '9+=1'; expected <stored value>=<class>"),
    ('sky\nlabels: 255=1\ncar', r"line 2, 'labels: 255=1', stands after a name"),
    ('labels: 255\nsky\ncar', r"'labels: 255' holds '255'; expected <stored value>=<class>"),
    ('labels: 256=1\nsky\ncar', r".*holds '256=1'"),
    ('labels: 3=1, 3=0\nsky\ncar', r".*the stored value 3 has a meaning already"),
    ('labels: 255=2\nsky\ncar', r"labels: maps to 2, but the classes are 0 to 1"),
    ('sky #fff\ncar', r"line 1, 'sky #fff', has the colour #fff; expected #rrggbb"),
    ('sky  #010203\ncar #010203', r"two classes have the colour #010203"),
    ('sky  #010203\nsky', r"two classes have the name sky"),
    ('labels: 255=1\nsky', r"names 1 classes"), ('labels: 255=1', r"names 0 classes"),
])
def test_lists_of_other_tools_and_mistakes_are_refused_with_the_line(tmp_path, text, message):
  with pytest.raises(UserError, match=rf'classes\.txt: {message}'):
    read(tmp_path, text)


def test_names_with_numbers_are_names(tmp_path):
  assert read(tmp_path, '2 euro\n50 cent\n1 euro').names == ('2 euro', '50 cent', '1 euro')
  long = tuple(f'{digit * 5000} x' for digit in '98')
  assert read(tmp_path, '\n'.join(long)).names == long
  assert read(tmp_path, 'class 0\nclass 1').names == ('class 0', 'class 1')
  assert read(tmp_path, 'area 51\nlevel: 3').names == ('area 51', 'level: 3')


@pytest.mark.parametrize('lines', [
    ('background', 'lane 1', 'lane 2', '2 wheeler'), ('2 wheeler', '4 wheeler'),
    ('background', '1 euro', '2 euro'), ('lane 0', 'lane 1', 'car 2'), ('2 euro', 'car 5'),
    ('3 seater', '2 seats'), ('object', 'road'), ('train', 'bus'), ('no_object', 'car'),
    ('no class', 'car'), ('road', 'label'), ('index', 'thumb'), ('colour chart', 'ruler')])
def test_real_classes_are_not_taken_for_headers_and_numbers(tmp_path, lines):
  assert read(tmp_path, '\n'.join(lines)).names == lines


def test_a_colour_may_stand_behind_a_separator(tmp_path):
  found = read(tmp_path, 'road:#804080\ncar: #010203\nsky, #0a0b0c')
  assert found.names == ('road', 'car', 'sky')
  assert found.colors == ((128, 64, 128), (1, 2, 3), (10, 11, 12))


def test_names_are_composed(tmp_path):
  assert read(tmp_path, 'facade\u0301\nsky').names == ('facad\xe9', 'sky')
