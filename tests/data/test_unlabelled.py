"""Images without labels, alone and behind a source of labelled ones."""

import itertools
import pickle

import numpy as np
import PIL.Image
import pytest

from configs import common
from kdseg_jax import data, tasks
from kdseg_jax.data import augmentation, pipeline, subset
from kdseg_jax.errors import UserError
from kdseg_jax.training import experiment
from tests.data import archives, classified_sets

FIELDS = tasks.SegmentationTask.fields


@pytest.fixture
def photos(tmp_path):
  """Five images of different sizes, PNG and JPEG."""
  rng = np.random.default_rng(0)
  archives.write(tmp_path / 'photos', {
      f'{i}{suffix}': archives.image(rng, suffix, (20 + i, 60 - i))
      for i, suffix in enumerate(('.png', '.jpg', '.jpg', '.png', '.jpg'))})
  return tmp_path / 'photos'


def test_every_pixel_is_ignored(photos):
  source = data.Unlabelled(photos, fields=FIELDS)
  assert [example['image_id'] for example in source] == ['0', '1', '2', '3', '4']
  for i, example in enumerate(source):
    assert example['image'].shape == (20 + i, 60 - i, 3)
    assert example['label'].shape == (20 + i, 60 - i) and (example['label'] == 255).all()
  assert data.Unlabelled(photos, size=(8, 12), fields=FIELDS)[3]['image'].shape == (8, 12, 3)


def test_fields_of_any_task_are_their_padding(photos):
  fields = {
      'pose': tasks.Field(shape=lambda size: (3, 4), dtype=np.float32, padding=0.5),
      'depth': tasks.Field(shape=lambda size: size, dtype=np.int16, padding=-7, geometry='map')}
  labelled = [{'image': np.zeros((5, 6, 3), np.uint8), 'image_id': 'a', 'label': 1, 'pose': 2}]
  for source in (data.Unlabelled(photos, fields=fields, size=(5, 6)),
                 data.WithoutLabels(labelled, fields=fields)):
    example = source[0]
    assert example.keys() == {'image', 'image_id', 'pose', 'depth'}
    np.testing.assert_array_equal(example['pose'], np.full((3, 4), 0.5, np.float32), strict=True)
    np.testing.assert_array_equal(example['depth'], np.full((5, 6), -7, np.int16), strict=True)


@pytest.mark.parametrize('views', [{}, {'crop': (8, 8), 'short_side': 10}])
def test_images_that_the_run_is_evaluated_on_are_refused_however_they_are_seen(views, tmp_path):
  archives.folder(tmp_path, counts=[('train', 2), ('val', 2)])
  config = common.segmentation()
  config.data.update(name='folder', root=str(tmp_path), unlabelled=str(tmp_path / 'images/val'))
  config.eval.update(split='val', **views)
  with pytest.raises(UserError, match='of the split val, on which the run is evaluated'):
    experiment._check_unlabelled(config, experiment.create_train_source(config),
                                 experiment.create_evaluation_source(config, 'val'))


def test_images_without_boxes_would_be_background_and_are_refused(photos):
  config = common.detection()
  config.data.update(name='scenes_detection', train_limit=4, unlabelled='rest')
  for unlabelled in ('rest', str(photos)):
    config.data.unlabelled = unlabelled
    with pytest.raises(ValueError, match='config.data.unlabelled: .* learned as background'):
      experiment.create_train_source(config)


@pytest.mark.parametrize('unlabelled', ['rest', 'folder'])
def test_images_without_a_class_join_a_classification(unlabelled, photos, tmp_path):
  config = common.classification()
  config.data.update(
      name='npz', root=str(classified_sets.npz(tmp_path / 'a.npz', counts=(12, 3))), size=(8, 8),
      train_limit=4, unlabelled=str(photos) if unlabelled == 'folder' else unlabelled,
      unlabelled_share=0.25)
  source = experiment.create_train_source(config)
  assert len(source) == 4 + (5 if unlabelled == 'folder' else 8)
  fields = tasks.find('classification').fields
  batch = next(pipeline.train_batches(
      source, batch_size=8, seed=0, num_threads=1,
      augmentation=augmentation.Augmentation(crop=(8, 8), scale=None, fields=fields)))
  assert batch['label'].shape == (8,) and batch['label'].dtype == np.int32
  assert (batch['label'] == -1).sum() == 2 and batch['label'].max() < 3


def test_subfolders_count_too_and_no_picture_is_skipped(photos):
  archives.write(photos, {'city/a.png': archives.image(np.random.default_rng(1))})
  source = data.Unlabelled(photos, fields=FIELDS)
  assert [example['image_id'] for example in source] == ['0', '1', '2', '3', '4', 'a']
  (photos / 'city/b.tiff').write_bytes(b'x')
  with pytest.raises(ValueError, match=r'city.b\.tiff: pictures of this format are not read'):
    data.Unlabelled(photos, fields=FIELDS)


def test_missing_or_empty_folder_is_named(tmp_path):
  with pytest.raises(FileNotFoundError, match='gone: no such file or folder'):
    data.Unlabelled(tmp_path / 'gone', fields=FIELDS)
  with pytest.raises(FileNotFoundError, match='holds no picture'):
    data.Unlabelled(tmp_path, fields=FIELDS)


def test_training_source_is_followed_by_the_unlabelled_images(photos):
  config = common.segmentation()
  config.data.unlabelled = str(photos)
  source = experiment.create_train_source(config)
  scenes = experiment.create_source(config, 'train')
  assert len(source) == len(scenes) + 5 and source.classes == scenes.classes
  np.testing.assert_array_equal(source[17]['label'], scenes[17]['label'])
  assert pickle.loads(pickle.dumps(source))[len(scenes) + 2]['image_id'] == '2'
  with pytest.raises(IndexError, match='there are 10005'):
    source[10005]
  assert len(experiment.create_source(config, 'val')) == 250  # evaluation has labelled images only


@pytest.mark.parametrize('folder, message', [
    ('', 'labels/train/.*.png is the label of'), ('labels', 'is the label of'),
    ('images', 'images/val/.*.png is of the split val, on which the run is evaluated')])
def test_labels_and_images_of_the_evaluation_are_no_unlabelled_images(folder, message, tmp_path):
  for split in ('train', 'val'):
    for kind, shape in (('images', (8, 8, 3)), ('labels', (8, 8))):
      (tmp_path / kind / split).mkdir(parents=True)
      for name in 'ab':
        file = tmp_path / kind / split / f'{name}.png'
        PIL.Image.fromarray(np.zeros(shape, np.uint8)).save(file)
  (tmp_path / 'classes.txt').write_text('road\nsky\n')
  config = common.segmentation()
  config.data.update(name='folder', root=str(tmp_path), unlabelled=str(tmp_path / folder))
  config.train.batch_size = 8
  with pytest.raises(UserError, match=f'config.data.unlabelled: .*{message}'):
    experiment.create_experiment(config)
  config.data.unlabelled = str(tmp_path / 'images' / 'train')
  assert len(experiment.create_experiment(config).train_source) == 4


def test_a_picture_is_known_behind_links_too(photos, tmp_path):
  label = tmp_path / 'label.png'
  (photos / '0.png').rename(label)
  (photos / 'linked.png').symlink_to(label)
  (tmp_path / 'other').symlink_to(photos)
  source = data.Unlabelled(photos, fields=FIELDS)
  source.require_none_of({photos / 'gone.png': 'the label of a.png'})
  for known in (label, tmp_path / 'other' / '1.jpg'):
    with pytest.raises(UserError, match=r'(linked\.png|1\.jpg) is the label of a\.png\. Na'):
      source.require_none_of({known: 'the label of a.png'})


class Named(list):
  """Examples by their names, and what a source has."""

  classes, palette = ('a', 'b'), np.zeros((2, 3), np.uint8)

  def __getitem__(self, index):
    name = super().__getitem__(index)
    return {'image': np.zeros((2, 3, 3), np.uint8), 'label': 1, 'image_id': name}


def test_both_parts_are_numbered_one_after_the_other_and_the_first_has_the_classes():
  first = Named('abc')
  source = data.Concatenated(first, data.WithoutLabels(Named('de'), fields=FIELDS))
  assert len(source) == 5 and source.share is None
  assert [source[i]['image_id'] for i in range(5)] == [*'abcde']
  assert source.classes is first.classes and source.palette is first.palette
  for part, length in ((source, 5), (source.second, 2)):
    for index in (-1, length):
      with pytest.raises(IndexError, match=f'Image {index} does not exist: there are {length}'):
        part[index]


def test_batches_mix_both_in_proportion_and_crop_all_sizes(photos):
  source = data.Concatenated(
      data.create('scenes', 'train', length=15), data.Unlabelled(photos, fields=FIELDS))
  batches = pipeline.train_batches(
      source, batch_size=4, seed=0, num_threads=1,
      augmentation=augmentation.Augmentation(crop=(48, 48), scale=None, fields=FIELDS))
  labels = np.concatenate([batch['label'] for batch in itertools.islice(batches, 5)])  # an epoch
  assert (labels == 255).all(axis=(1, 2)).sum() == 5


def test_the_rest_of_a_limited_split_joins_without_its_labels():
  config = common.segmentation()
  config.data.update(train_limit=300, unlabelled='rest', unlabelled_share=0.5)
  source = experiment.create_train_source(config)
  scenes = experiment.create_source(config, 'train')
  assert len(source) == len(scenes) and len(source.first) == 300 and source.share == 0.5
  ids = lambda part: {part[i]['image_id'] for i in range(0, len(part), 97)}
  assert not ids(source.first) & ids(source.second)
  labelled = {subset.spread(scenes, 300)[i]['image_id'] for i in range(300)}
  rest = [source.second[i] for i in (0, 1, 2, 31, 32, 33, 9_699)]
  assert not labelled & {example['image_id'] for example in rest}
  for example in rest:
    assert (example['label'] == 255).all() and example.keys() == {'image', 'label', 'image_id'}
  np.testing.assert_array_equal(rest[0]['image'], scenes[1]['image'])  # scene 0 is labelled
  config.data.train_limit = 0
  with pytest.raises(ValueError, match='no example of the 10000 of the training split is left'):
    experiment.create_train_source(config)


def mixture(share, batch_size=8, process_count=1, start=0):
  """Batches of scenes of two sources, by process: the names of the examples and what is ignored."""
  source = data.Concatenated(
      data.create('scenes', 'train', length=12),
      data.WithoutLabels(data.create('scenes', 'val', length=7), fields=FIELDS),
      share=share)
  plain = augmentation.Augmentation(crop=(64, 64), scale=None, flip=0, fields=FIELDS)
  batches = zip(*(pipeline.train_batches(
      source, batch_size=batch_size, seed=3, augmentation=plain, start=start, num_threads=1,
      process_index=process, process_count=process_count) for process in range(process_count)))
  return ({name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
          for parts in batches)


@pytest.mark.parametrize('share, unlabelled', [(0.5, 4), (0.25, 2), (0.8, 6), (0.1, 1)])
def test_every_batch_has_the_share_and_each_part_is_read_in_epochs(share, unlabelled):
  batches = list(itertools.islice(mixture(share), 21))
  ignored = np.stack([(batch['label'] == 255).all(axis=(1, 2)) for batch in batches])
  assert (ignored.sum(axis=1) == unlabelled).all()
  halves = ignored[0, :4].sum(), ignored[0, 4:].sum()
  assert abs(halves[0] - halves[1]) <= 1  # spread evenly over devices
  images = np.concatenate([batch['image'] for batch in batches])
  for mask, length in ((ignored.ravel(), 7), (~ignored.ravel(), 12)):
    names = [image.tobytes() for image in images[mask]]
    for epoch in range(len(names) // length):
      assert len(set(names[epoch * length:(epoch + 1) * length])) == length


def test_sources_of_one_length_are_shuffled_unlike():
  scenes = data.create('scenes', 'train', length=16)
  source = data.Concatenated(
      scenes, data.WithoutLabels(scenes, fields=FIELDS), share=0.5)
  batch = next(pipeline.train_batches(
      source, batch_size=32, seed=3, num_threads=1,
      augmentation=augmentation.Augmentation(
          crop=(64, 64), scale=None, flip=0, fields=FIELDS)))
  ignored = (batch['label'] == 255).all(axis=(1, 2))
  order = [[image.tobytes() for image in batch['image'][mask]] for mask in (ignored, ~ignored)]
  assert set(order[0]) == set(order[1]) and order[0] != order[1]


def test_a_mixture_is_the_same_on_any_number_of_processes_and_resumed():
  whole = list(itertools.islice(mixture(0.5), 5))
  for other in (itertools.islice(mixture(0.5, process_count=4), 5),
                whole[:2] + list(itertools.islice(mixture(0.5, start=2), 3))):
    for got, want in zip(other, whole, strict=True):
      for name in want:
        np.testing.assert_array_equal(got[name], want[name])


@pytest.mark.parametrize('share, message', [
    (0.0, 'unlabelled_share=0.0: expected a share'), (1.0, 'unlabelled_share=1.0: expected a'),
    (0.01, 'leaves 0 unlabelled and 8 labelled'), (0.99, 'leaves 8 unlabelled and 0 labelled')])
def test_a_share_that_leaves_one_part_out_is_refused(share, message):
  with pytest.raises(ValueError, match=message):
    next(mixture(share))
