"""Preparing CIFAR and ImageNet from their archives and reading them back, without TensorFlow."""

import io
import logging
import pickle
import sys

import numpy as np
import PIL.Image
import pytest
import tensorflow_datasets as tfds

from kdseg_jax import data
from kdseg_jax.data import class_names, prepare, tfds_builders
from kdseg_jax.errors import NotFoundError, UserError
from tests.data import classified_sets


@pytest.fixture(scope='module')
def imagenet(tmp_path_factory):
  """The tiny archives, where they were prepared, and what they hold."""
  manual_dir, data_dir = (tmp_path_factory.mktemp(name) for name in ('archives', 'prepared'))
  expected = classified_sets.imagenet(manual_dir)
  prepare.prepare('imagenet', manual_dir, data_dir, allow_partial=True)
  return manual_dir, data_dir, expected


def test_the_synsets_are_those_of_the_classes():
  synsets = class_names.synsets()
  assert len(set(synsets)) == 1000 and list(synsets) == sorted(synsets)
  names = class_names.imagenet()
  assert [names[synsets.index(synset)] for synset in (
      'n01440764', 'n02099601', 'n11939491', 'n15075141')] == [
          'tench', 'golden retriever', 'daisy', 'toilet tissue']


def test_imagenet_comes_back_as_its_archives_say(imagenet):
  _, data_dir, expected = imagenet
  for split, contents in expected.items():
    source = data.create('imagenet', split, root=data_dir)
    assert [example['image_id'] for example in source] == sorted(contents)
    assert source.classes == class_names.imagenet() and source.palette.shape == (0, 3)
    for example in source:
      content, label = contents[example['image_id']]
      assert example['label'] == label and example['label'].dtype == np.int32
      # Decoders of JPEG differ by roundings.
      want = np.asarray(PIL.Image.open(io.BytesIO(content)).convert('RGB'), np.int32)
      assert example['image'].shape == want.shape and example['image'].dtype == np.uint8
      np.testing.assert_allclose(example['image'], want, atol=3)
  assert len({label for _, label in expected['train'].values()}) == 3
  assert 'tensorflow' not in sys.modules


def test_a_jpeg_is_stored_as_it_is_and_a_source_can_be_pickled(imagenet):
  _, data_dir, expected = imagenet
  builder = tfds_builders.BUILDERS['imagenet'](data_dir=data_dir)
  records = builder.as_data_source(
      split='train', decoders={'image': tfds.decode.SkipDecoding()})
  stored = {record['image_id'].decode(): bytes(record['image']) for record in records}
  changed = [name for name, (content, _) in expected['train'].items() if stored[name] != content]
  assert changed == ['n02105855_2933']  # the PNG with alpha
  source = pickle.loads(pickle.dumps(data.create('imagenet', 'val', root=data_dir, size=(8, 6))))
  assert source[1]['image'].shape == (8, 6, 3) and source.size == (8, 6)
  with pytest.raises(IndexError):
    source[3]


def test_counts_are_required_unless_allowed(imagenet, tmp_path, caplog):
  manual_dir, data_dir, _ = imagenet
  with pytest.raises(UserError, match=r'ground_truth\.txt: holds 3 labels; expected 50000, one of'):
    prepare.prepare('imagenet', manual_dir, tmp_path)
  assert not list(tmp_path.rglob('*.array_record*'))
  with caplog.at_level(logging.WARNING):
    data.create('imagenet', 'val', root=data_dir)
  assert 'val has 3 images instead of 50000' in caplog.text


def test_a_missing_archive_is_named_and_may_be_left_out(imagenet, tmp_path):
  manual_dir, _, _ = imagenet
  for name in ('ILSVRC2012_img_train.tar', 'ILSVRC2012_img_val.tar'):
    partial = tmp_path / name
    partial.mkdir()
    for path in manual_dir.iterdir():
      if path.name != name:
        (partial / path.name).symlink_to(path)
    with pytest.raises(NotFoundError, match=rf'lacks {name}. Download ILSVRC2012_img_train.tar'):
      tfds_builders.BUILDERS['imagenet'](data_dir=tmp_path).find(partial)
    info = prepare.prepare('imagenet', partial, partial / 'data', allow_partial=True)
    assert list(info.splits) == [{'ILSVRC2012_img_train.tar': 'val'}.get(name, 'train')]
  (tmp_path / 'none').mkdir()
  with pytest.raises(NotFoundError, match='manual_dir=.*none: is empty. Download ILSVRC2012_img_t'):
    prepare.prepare('imagenet', tmp_path / 'none', tmp_path / 'data', allow_partial=True)
  (tmp_path / 'none' / 'a.txt').write_text('x')
  with pytest.raises(NotFoundError, match='holds no image of kdseg_imagenet'):
    prepare.prepare('imagenet', tmp_path / 'none', tmp_path / 'data', allow_partial=True)


TRAIN = classified_sets.imagenet_train()


@pytest.mark.parametrize('fields,message', [
    ({'train': {'n0144076': TRAIN['n01440764']}},
     r"train\.tar/n0144076\.tar: is no synset .*Did you mean 'n01440764\.tar'"),
    ({'train': {'n01440764': TRAIN['n15075141']}},
     r'train\.tar/n01440764\.tar/n15075141_1\.JPEG: does not belong there; .*n01440764_<number>'),
    ({'train': {'n01440764': {'n01440764_1': b'no picture'}}},
     r'n01440764\.tar/n01440764_1\.JPEG: cannot be decoded'),
    ({'truth': (1, 2)}, r'val_00000003\.JPEG: has no label: .*holds those of images 1 to 2'),
    ({'truth': (1, 4, 2)}, r"ground_truth\.txt: line 2, '4', is no class; .* 1 to 3"),
    ({'ids': {'n01440764': 1, 'n01440765': 2, 'n02105855': 3}},
     r'meta\.mat: synset n01440765 of ILSVRC2012_ID 2 is none of the 1000')])
def test_wrong_content_is_refused_and_named(tmp_path, fields, message):
  classified_sets.imagenet(tmp_path / 'archives', **fields)
  with pytest.raises(UserError, match=message):
    prepare.prepare('imagenet', tmp_path / 'archives', tmp_path / 'data', allow_partial=True)
  assert not list(tmp_path.rglob('*.array_record*'))


@pytest.mark.parametrize('name,keep,message', [
    ('ILSVRC2012_img_train.tar', 0.5, r'train\.tar.*(cut short|cannot be read)'),
    ('ILSVRC2012_img_val.tar', 0.2, r'val\.tar.*(cut short|cannot be read)'),
    ('ILSVRC2012_devkit_t12.tar.gz', 0.5, r'devkit_t12\.tar\.gz: cannot be read')])
def test_damaged_archives_are_named(imagenet, tmp_path, name, keep, message):
  for path in imagenet[0].iterdir():
    content = path.read_bytes()
    (tmp_path / path.name).write_bytes(
        content[:int(keep * len(content))] if path.name == name else content)
  with pytest.raises(UserError, match=message):
    prepare.prepare('imagenet', tmp_path, tmp_path / 'data', allow_partial=True)


def test_a_devkit_without_its_table_is_named(tmp_path):
  classified_sets.imagenet(tmp_path)
  (tmp_path / 'ILSVRC2012_devkit_t12.tar.gz').unlink()
  with pytest.raises(NotFoundError, match='holds neither ILSVRC2012_devkit_t12.tar.gz nor'):
    prepare.prepare('imagenet', tmp_path, tmp_path / 'data', allow_partial=True)
  folder = tmp_path / 'ILSVRC2012_devkit_t12' / 'data'
  folder.mkdir(parents=True)
  (folder / 'ILSVRC2012_validation_ground_truth.txt').write_text('1\n')
  with pytest.raises(NotFoundError, match=r'lacks data/meta\.mat'):
    prepare.prepare('imagenet', tmp_path, tmp_path / 'data', allow_partial=True)
  (folder / 'meta.mat').write_bytes(b'nothing of MATLAB')
  with pytest.raises(UserError, match=r'meta\.mat: is no MATLAB file with synsets'):
    prepare.prepare('imagenet', tmp_path, tmp_path / 'data', allow_partial=True)


@pytest.fixture(scope='module')
def cifar(tmp_path_factory):
  """CIFAR-10's tiny archive, and where it was prepared."""
  manual_dir, data_dir = (tmp_path_factory.mktemp(name) for name in ('archives', 'prepared'))
  classified_sets.cifar10(manual_dir / 'cifar-10-batches-py', classified_sets.CIFAR10)
  prepare.prepare('cifar10', manual_dir, data_dir, allow_partial=True)
  return manual_dir, data_dir


@pytest.mark.parametrize('name', ['cifar10', 'tfds:kdseg_cifar10'])
def test_prepared_cifar_is_what_its_archive_holds(cifar, name):
  manual_dir, data_dir = cifar
  for split, count in (('train', 10), ('test', 2)):
    plain, prepared = (data.create(source, split, root=root) for source, root in (
        ('cifar10', manual_dir), (name, data_dir)))
    assert type(prepared) is not type(plain) and len(prepared) == len(plain) == count
    assert tuple(prepared.classes) == plain.classes
    np.testing.assert_array_equal(prepared.palette, plain.palette)
    for got, want in zip(prepared, plain, strict=True):
      np.testing.assert_array_equal(got['image'], want['image'])
      assert (got['label'], got['image_id']) == (want['label'], want['image_id'])


def test_an_archive_of_other_classes_is_refused(tmp_path):
  classified_sets.cifar10(tmp_path / 'cifar-10-batches-py')
  with pytest.raises(UserError, match='classes of its cifar10 are cat, dog.*airplane, automobile'):
    prepare.prepare('cifar10', tmp_path, tmp_path / 'data', allow_partial=True)
  with pytest.raises(NotFoundError, match='holds neither cifar-100-python.tar.gz nor'):
    prepare.prepare('cifar100', tmp_path, tmp_path / 'data')


def test_the_classes_of_cifar100_are_its_fine_ones():
  builder = tfds_builders.BUILDERS['cifar100']
  assert len(set(builder.CLASSES)) == 100 and list(builder.CLASSES) == sorted(builder.CLASSES)
  assert builder.DATA == 'cifar100' and builder.COUNTS == {'train': 50_000, 'test': 10_000}


def test_cifar100_is_read_as_it_is_and_prepared(tmp_path):
  folder = tmp_path / 'cifar-100-python'
  folder.mkdir()
  rows = np.random.default_rng(0).integers(0, 256, (3, 3072), np.uint8)
  for split, labels in (('train', [99, 0, 7]), ('test', [8, 98, 1])):
    (folder / split).write_bytes(classified_sets.cifar_batch(rows, labels, 'fine_labels'))
  names = tfds_builders.BUILDERS['cifar100'].CLASSES
  (folder / 'meta').write_bytes(pickle.dumps({'fine_label_names': list(names)}, protocol=2))
  prepare.prepare('cifar100', tmp_path, tmp_path / 'data', allow_partial=True)
  for split, labels in (('train', [99, 0, 7]), ('test', [8, 98, 1])):
    for root in (tmp_path, tmp_path / 'data'):
      source = data.create('cifar100', split, root=root)
      assert [int(example['label']) for example in source] == labels and source.classes == names
      for example, row in zip(source, rows, strict=True):  # red, green, blue, line by line
        np.testing.assert_array_equal(example['image'], row.reshape(3, 32, 32).transpose(1, 2, 0))


def test_cifar_as_tfds_prepares_it_is_read(tmp_path):
  with tfds.core.registered.skip_registration():  # TFDS's own builder needs TensorFlow for that

    class Cifar10(tfds.core.GeneratorBasedBuilder):
      name = 'cifar10'
      VERSION = tfds.core.Version('3.0.2')

      def _info(self):
        return tfds.core.DatasetInfo(builder=self, features=tfds.features.FeaturesDict({
            'id': tfds.features.Text(), 'image': tfds.features.Image(shape=(32, 32, 3)),
            'label': tfds.features.ClassLabel(names=classified_sets.CIFAR10)}))

      def _split_generators(self, dl_manager):
        return {'train': self._generate_examples()}

      def _generate_examples(self):
        rng = np.random.default_rng(0)
        for i in range(4):
          content = classified_sets.encoded(rng, 'PNG', size=(32, 32))
          yield i, {'image': io.BytesIO(content), 'label': 9 - i, 'id': f'train_{i}'}

  Cifar10(data_dir=tmp_path, file_format='array_record').download_and_prepare()
  source = data.create('tfds:cifar10', 'train', root=tmp_path)
  assert tuple(source.classes) == classified_sets.CIFAR10 and len(source) == 4
  assert {(example['image_id'], int(example['label'])) for example in source} == {
      ('train_0', 9), ('train_1', 8), ('train_2', 7), ('train_3', 6)}
  assert source[0]['image'].shape == (32, 32, 3) and source[0]['label'].dtype == np.int32
  with pytest.raises(UserError, match="label_key='id' is no image and no class; it has image, lab"):
    data.create('tfds:cifar10', 'train', root=tmp_path, label_key='id')
  with pytest.raises(UserError, match="image_key='label' is no image; it has image"):
    data.create('tfds:cifar10', 'train', root=tmp_path, image_key='label')
  few = data.create('tfds:cifar10', 'train', root=tmp_path, num_classes=6)
  with pytest.raises(UserError, match=r'example \d \(train_\d\), label: is \d; .*0 to 5'):
    list(few)
