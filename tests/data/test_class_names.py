"""Classes of public data sets without their images."""

import pytest

from kdseg_jax.data import camvid, class_names, palettes, scenes
from kdseg_jax.errors import UserError


def test_imagenet():
  names = class_names.imagenet()
  assert len(names) == len(set(names)) == 1000
  assert (names[0], names[207], names[698], names[985], names[-1]) == (
      'tench', 'golden retriever', 'palace', 'daisy', 'toilet tissue')
  assert class_names.of(None, 1000)[0] == names == class_names.of('imagenet', 1000)[0]


def test_of_a_data_set():
  classes, palette = class_names.of('camvid', 11)
  assert classes == camvid.CLASSES and (palette == palettes.CAMVID).all()
  assert class_names.of('cityscapes', 19)[0][:2] == ('road', 'sidewalk')
  assert class_names.count_of('voc') == 21 and class_names.count_of('cifar100') == 100
  for count in (19, 10, 2):
    with pytest.raises(UserError, match=f'--data=camvid has 11 classes, and the model {count}'):
      class_names.of('camvid', count)
  with pytest.raises(UserError, match="'camvdi'. Did you mean 'camvid'"):
    class_names.of('camvdi', 11)


def test_of_nothing_known_and_of_a_list(tmp_path):
  classes, palette = class_names.of(None, 3)
  assert classes == ('class 0', 'class 1', 'class 2') and palette.shape == (3, 3)
  assert class_names.of(None, 300)[1].shape == (0, 3)
  (tmp_path / 'classes.txt').write_text('road  #010203\ncar\n')
  classes, palette = class_names.of(str(tmp_path / 'classes.txt'), 2)
  assert classes == ('road', 'car') and palette[0].tolist() == [1, 2, 3]


def test_the_names_of_scenes_and_of_imagenet_are_those_of_their_labels():
  classes, palette = class_names.of('scenes', 11)
  assert classes == scenes.CLASSES and (palette == palettes.SCENES).all()
  assert class_names.of('imagenet', 1000)[0] == class_names.imagenet()
  assert class_names.of('imagenet', 1000)[1].shape == (0, 3)


def test_a_list_in_the_home_folder_is_found(tmp_path, monkeypatch):
  monkeypatch.setenv('HOME', str(tmp_path))
  (tmp_path / 'classes.txt').write_text('road\ncar\nsky')
  assert class_names.of('~/classes.txt', 3)[0] == ('road', 'car', 'sky')
  assert class_names.count_of('~/classes.txt') == 3


def test_folders_have_the_names_of_imagenet_only_if_they_are_all_of_its_synsets_in_order():
  synsets = class_names.synsets()
  assert class_names.of_folders(synsets) == class_names.imagenet()
  for folders in (synsets[:3], synsets[:-1], synsets[::-1], ('cat', 'dog')):
    assert class_names.of_folders(list(folders)) == tuple(folders)
