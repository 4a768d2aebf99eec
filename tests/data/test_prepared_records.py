"""Which prepared data are read, and what a record of them means."""

import io
import json
import pathlib

import cv2
import numpy as np
import pytest
import tensorflow_datasets as tfds

from kdseg_jax import data
from kdseg_jax.data import files, prepare, prepared, tfds_builders
from kdseg_jax.data.tfds_builders import base, coco_voc, trees
from kdseg_jax.errors import UserError
from tests.data import archives


@pytest.fixture(scope='module')
def two_roots(tmp_path_factory):
  """CamVid, prepared twice: with 3 images of train, and with 1."""
  found = []
  for count in (3, 1):
    root = tmp_path_factory.mktemp('root')
    archives.camvid(root, counts=(('train', count),))
    prepare.prepare('camvid', root, root / 'data', allow_partial=True)
    found.append(root / 'data')
  return found


@pytest.mark.parametrize('name', ['camvid', 'tfds:kdseg_camvid'])
def test_a_root_that_is_given_goes_before_that_of_the_environment(
    name, two_roots, tmp_path, monkeypatch):
  options = {'num_classes': 11} if name.startswith('tfds:') else {}
  if name == 'camvid':  # the plain folders have this name too
    read = lambda root: len(prepared.create_prepared('camvid', 'train', root=root))
  else:
    read = lambda root: len(data.create(name, 'train', root=root, **options))
  for environment in (*two_roots, tmp_path):
    monkeypatch.setenv('KDSEG_DATA', str(environment))
    assert [read(root) for root in two_roots] == [3, 1]
  monkeypatch.setenv('KDSEG_DATA', str(two_roots[1]))
  assert read(None) == read('') == 1


def test_whether_a_root_holds_prepared_data_is_asked_of_it_before_the_environment(
    two_roots, tmp_path, monkeypatch):
  ask = lambda root: prepared.is_prepared('camvid', root)
  monkeypatch.delenv('KDSEG_DATA', raising=False)
  (tmp_path / 'kdseg_camvid' / '1.0.0.incomplete').mkdir(parents=True)
  assert [ask(root) for root in (None, '', tmp_path, two_roots[0])] == [False, False, False, True]
  monkeypatch.setenv('KDSEG_DATA', str(two_roots[0]))
  assert [ask(root) for root in (None, '', tmp_path)] == [True, True, False]
  assert not prepared.is_prepared('voc', two_roots[0])
  monkeypatch.setenv('KDSEG_DATA', str(tmp_path))
  assert not ask(None) and ask(two_roots[0])


@pytest.mark.parametrize('name', ['kdseg_camvid:1.0.0', 'kdseg_camvid/1.0.0'])
def test_names_of_tfds_may_have_more_than_the_data_set(name, two_roots):
  read = lambda name: data.create(f'tfds:{name}', 'train', root=two_roots[0], num_classes=11)
  if ':' in name:
    assert len(read(name)) == 3
  with pytest.raises(UserError, match="Unknown data set of TFDS: 'kdseg_camvit'. Did you mean"):
    read(name.replace('camvid', 'camvit'))


def test_sizes_are_those_that_are_asked_for(two_roots):
  for name, options in (('camvid', {}), ('tfds:kdseg_camvid', {'num_classes': 11})):
    source = data.create(name, 'train', root=two_roots[0], size=(8, 10), **options)
    assert source.size == (8, 10) and source[0]['image'].shape == (8, 10, 3)
    assert source[0]['label'].shape == (8, 10)


def test_data_in_a_format_without_random_access_are_refused(two_roots, tmp_path):
  source, target = two_roots[1] / 'kdseg_camvid' / '1.0.0', tmp_path / 'others' / '1.0.0'
  target.mkdir(parents=True)
  for path in source.iterdir():
    (target / path.name.replace('kdseg_camvid', 'others')).write_bytes(path.read_bytes())
  info = json.loads((target / 'dataset_info.json').read_text()) | {'name': 'others'}
  read = lambda: data.create('tfds:others', 'train', root=tmp_path, num_classes=11)
  for file_format in ('array_record', 'tfrecord'):
    (target / 'dataset_info.json').write_text(json.dumps(info | {'fileFormat': file_format}))
    if file_format == 'array_record':
      assert len(read()) == 1
  with pytest.raises(UserError, match='a format without random access; expected array_record'):
    read()


def test_the_image_and_label_of_tfds_are_those_that_are_named(tmp_path):
  with tfds.core.registered.skip_registration():

    class Pets(tfds.core.GeneratorBasedBuilder):
      VERSION = tfds.core.Version('1.0.0')

      def _info(self):
        picture = lambda channels: tfds.features.Image(
            shape=(None, None, channels), encoding_format='png')
        return tfds.core.DatasetInfo(builder=self, features=tfds.features.FeaturesDict({
            'image': picture(3), 'photo': picture(3), 'label': picture(1), 'mask': picture(1),
            'kind': tfds.features.ClassLabel(names=['cat', 'dog']),
            'file_name': tfds.features.Text()}))

      def _split_generators(self, dl_manager):
        return {'train': self._generate_examples()}

      def _generate_examples(self):
        grey = lambda value, *channels: io.BytesIO(
            cv2.imencode('.png', np.full((4, 5, *channels), value, np.uint8))[1].tobytes())
        yield 0, {'image': grey(10, 3), 'photo': grey(20, 3), 'label': grey(0), 'mask': grey(2),
                  'kind': 'dog', 'file_name': 'a.jpg'}

  Pets(data_dir=tmp_path, file_format='array_record').download_and_prepare()
  for image, photo in (({'image_key': 'photo'}, 20), ({}, 10)):
    for label, expected, classes in (
        ({'label_key': 'mask', 'num_classes': 3}, np.full((4, 5), 2), 3),
        ({'num_classes': 3}, np.zeros((4, 5)), 3), ({'label_key': 'kind'}, 1, ('cat', 'dog'))):
      source = data.create('tfds:pets', 'train', root=tmp_path, **image, **label)
      example, = source
      assert (example['image'] == photo).all() and example['image_id'] == 'a.jpg'
      np.testing.assert_array_equal(example['label'], expected)
      assert source.classes == classes or len(source.classes) == classes


IMAGE = archives.image(np.random.default_rng(0))


def record(**more):
  return {'image': IMAGE, 'label': files.encode_label(np.zeros(archives.SIZE, np.uint8))} | more


@pytest.mark.parametrize('more, expected', [
    ({'image_id': b'a', 'file_name': b'b', 'id': 3}, 'a'), ({'file_name': b'b', 'id': 3}, 'b'),
    ({'id': 3}, '3'), ({'id': 'c'}, 'c'), ({}, '0')])
def test_records_are_named_by_their_ids(more, expected):
  source = prepared.Records([record(**more)], where='here', classes=('a', 'b'), palette=())
  assert source[0]['image_id'] == expected


@pytest.mark.parametrize('more, message', [
    ({'label': files.encode_label(np.zeros((16, 23), np.uint8))},
     r'here, example 0 \(x\), label: is \(16, 23\) .*example 0 \(x\), image is \(16, 24\)'),
    ({'image': IMAGE[:90]}, r'here, example 0 \(x\), image: cannot be decoded')])
def test_a_record_that_is_wrong_is_named_even_where_it_would_be_resized(more, message):
  source = prepared.Records([record(image_id=b'x', **more)], where='here', classes=('a',),
                            palette=(), size=(8, 8))
  with pytest.raises(UserError, match=message):
    source[0]


def test_counts_that_differ_either_way_are_named_and_unknown_ones_never():
  expected = {'train': 3, 'val': None, 'test': 2}
  assert base.wrong_counts({'train': 3, 'val': 7, 'test': 2}, expected) == ''
  assert base.wrong_counts({'train': 4, 'test': 1}, expected) == (
      'train has 4 images instead of 3, test has 1 images instead of 2')
  assert base.wrong_counts({'train': 3}, expected) == 'test has 0 images instead of 2'


def test_lists_of_images_may_have_empty_lines_and_those_of_windows():
  tree = trees.Tree(pathlib.Path('here'), {'a.txt': trees.Member('a', lambda: b'x\r\n\n y \r\n')})
  assert base.stems_of(tree, 'a.txt') == ['x', 'y']


def test_a_shard_has_at_most_its_number_of_examples_and_all_are_about_as_long(tmp_path):
  builder = tfds_builders.BUILDERS['camvid'](data_dir=tmp_path)
  builder.EXAMPLES_PER_SHARD = 4
  shards = builder._shards({f'{i:02d}': i for i in reversed(range(13))}, None)
  parts = [shard.args[0] for shard in shards]
  assert [len(part) for part in parts] == [3, 3, 3, 4]
  assert [i for part in parts for _, i in part] == list(range(13))


def rectangle(top, bottom, left, right):
  return [[left, top, right, top, right, bottom, left, bottom]]


def drawn(*objects, size=(6, 8)):
  """The label of `(class, segmentation)`s."""
  member = trees.Member('instances.json', None)
  return files.decode_label(coco_voc._label(
      [(index, {'id': 7, 'segmentation': one}) for index, one in objects], size, member), 'a')


def test_objects_of_coco_that_overlap_are_ignored_there_unless_they_are_of_one_class():
  person, other, dog = rectangle(0, 4, 0, 4), rectangle(2, 6, 2, 6), rectangle(3, 5, 0, 8)
  label = np.zeros((6, 8), np.uint8)
  label[:4, :4] = label[2:, 2:6] = 15
  np.testing.assert_array_equal(drawn((15, person), (15, other)), label)
  mixed = label.copy()
  mixed[3:5] = np.where(label[3:5] == 15, 255, 12)
  for objects in (((15, person), (15, other), (12, dog)), ((12, dog), (15, other), (15, person)),
                  ((15, person), (12, dog), (15, other))):
    np.testing.assert_array_equal(drawn(*objects), mixed)
  with pytest.raises(UserError, match=r'instances\.json, annotation 7'):
    drawn((15, 'rubbish'))


def test_the_classes_of_voc_in_coco_have_their_places():
  assert coco_voc._coco_names() == [
      'airplane', 'bicycle', 'bird', 'boat', 'bottle', 'bus', 'car', 'cat', 'chair', 'cow',
      'dining table', 'dog', 'horse', 'motorcycle', 'person', 'potted plant', 'sheep', 'couch',
      'train', 'tv']


@pytest.mark.parametrize('area, is_trained_on', [(1000, False), (1000.5, True)])
def test_training_images_of_coco_have_more_than_1000_pixels_of_its_classes(
    area, is_trained_on, tmp_path):
  names = coco_voc._coco_names()
  content = {'categories': [{'id': i, 'name': name} for i, name in enumerate([*names, 'kite'])],
             'images': [{'id': 5, 'file_name': '5.jpg', 'height': 4, 'width': 6}],
             'annotations': [
                 {'id': i, 'image_id': 5, 'category_id': category, 'segmentation': [], 'area': one}
                 for i, (category, one) in enumerate(((0, area - 400), (3, 400), (20, 9999)))]}
  archives.write_zip(tmp_path / 'annotations_trainval2017.zip', {
      f'annotations/instances_{split}2017.json': json.dumps(content) for split in ('train', 'val')})
  for split in ('train', 'val'):
    archives.write_zip(tmp_path / f'{split}2017.zip', {f'{split}2017/5.jpg': IMAGE})
  found = coco_voc.CocoVoc(data_dir=tmp_path, allow_partial=True).find(tmp_path)
  assert list(found['train']) == ['000000000005'] * is_trained_on
  assert list(found['val']) == ['000000000005']
  assert files.decode_label(found['val']['000000000005'].label.read(), 'a').shape == (4, 6)
