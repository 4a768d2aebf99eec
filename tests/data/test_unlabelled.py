"""Images without labels, alone and behind a source of labelled ones."""

import itertools
import pickle

import numpy as np
import pytest

from configs import common
from kdseg_jax import data
from kdseg_jax.data import augmentation, pipeline
from kdseg_jax.training import experiment
from tests.data import archives


@pytest.fixture
def photos(tmp_path):
  """Five images of different sizes, PNG and JPEG."""
  rng = np.random.default_rng(0)
  archives.write(tmp_path / 'photos', {
      f'{i}{suffix}': archives.image(rng, suffix, (20 + i, 60 - i))
      for i, suffix in enumerate(('.png', '.jpg', '.jpg', '.png', '.jpg'))})
  return tmp_path / 'photos'


def test_every_pixel_is_ignored(photos):
  source = data.Unlabelled(photos)
  assert [example['image_id'] for example in source] == ['0', '1', '2', '3', '4']
  for i, example in enumerate(source):
    assert example['image'].shape == (20 + i, 60 - i, 3)
    assert example['label'].shape == (20 + i, 60 - i) and (example['label'] == 255).all()
  assert data.Unlabelled(photos, size=(8, 12))[3]['image'].shape == (8, 12, 3)


def test_subfolders_count_too_and_no_picture_is_skipped(photos):
  archives.write(photos, {'city/a.png': archives.image(np.random.default_rng(1))})
  source = data.Unlabelled(photos)
  assert [example['image_id'] for example in source] == ['0', '1', '2', '3', '4', 'a']
  (photos / 'city/b.tiff').write_bytes(b'x')
  with pytest.raises(ValueError, match=r'city.b\.tiff: pictures of this format are not read'):
    data.Unlabelled(photos)


def test_missing_or_empty_folder_is_named(tmp_path):
  with pytest.raises(FileNotFoundError, match='gone: no such file or folder'):
    data.Unlabelled(tmp_path / 'gone')
  with pytest.raises(FileNotFoundError, match='holds no picture'):
    data.Unlabelled(tmp_path)


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


def test_batches_mix_both_in_proportion_and_crop_all_sizes(photos):
  source = data.Concatenated(data.create('scenes', 'train', length=15), data.Unlabelled(photos))
  batches = pipeline.train_batches(
      source, batch_size=4, seed=0, num_threads=1,
      augmentation=augmentation.Augmentation(crop=(48, 48), scale=None))
  labels = np.concatenate([batch['label'] for batch in itertools.islice(batches, 5)])  # an epoch
  assert (labels == 255).all(axis=(1, 2)).sum() == 5
