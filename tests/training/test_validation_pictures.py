"""Pictures of an evaluation: of which images, on any number of devices; no result changes."""

import io
import struct

import jax
import jax.numpy as jnp
import numpy as np
import PIL.Image
import pytest
from tensorboardX.proto import event_pb2

from configs import quickstart
from kdseg_jax import parallel
from kdseg_jax.data import palettes
from kdseg_jax.inference.evaluation import Evaluator
from kdseg_jax.tasks.segmentation import SegmentationTask
from kdseg_jax.training import experiment, loop
from kdseg_jax.training.writers import MetricWriter

TASK = SegmentationTask(num_classes=3)


class Brightness:
  """Predicts a class from the red of each pixel alone; what is padded is class 2."""

  def apply(self, variables, image, *, mask, index):
    label = jnp.where(mask, (image[..., 0] > 127).astype(int), 2)
    return jax.nn.one_hot(label, 3), {}


def examples():
  rng = np.random.default_rng(0)
  sizes = [(7, 9), (13, 11), (7, 9), (7, 9), (13, 11), (7, 9), (7, 9)]
  return [{'image': rng.integers(0, 256, (*size, 3), np.uint8),
           'label': rng.integers(0, 3, size).astype(np.uint8)} for size in sizes]


@pytest.mark.parametrize('multiple', [1, 8])
@pytest.mark.parametrize('devices,mode', [(1, 'shard_map'), (4, 'shard_map'), (4, 'pmap')])
def test_an_evaluation_hands_out_its_first_images_as_they_were_predicted(devices, mode, multiple):
  source = examples()
  mesh = parallel.create_mesh(jax.devices()[:devices])
  evaluator = lambda pictures: Evaluator(
      TASK, Brightness(), mesh, mode=mode, batch_size=4, multiple=multiple, pictures=pictures)
  shown = []
  metrics = evaluator(5)({}, source, shown=shown)
  assert metrics == evaluator(0)({}, source, shown=[])  # to the last bit
  assert len(shown) == 5
  # A batch has images of one size: four of the one, then those that are left.
  order = [0, 2, 3, 5, 1]
  for (image, fields, predicted), index in zip(shown, order, strict=True):
    np.testing.assert_array_equal(image, source[index]['image'])
    np.testing.assert_array_equal(fields['label'], source[index]['label'])
    np.testing.assert_array_equal(predicted['label'], image[..., 0] > 127)
    assert predicted['label'].dtype == np.uint8


def test_fewer_images_than_pictures_and_none():
  mesh = parallel.create_mesh(jax.devices()[:1])
  shown, none = [], []
  Evaluator(TASK, Brightness(), mesh, limit=3, pictures=5)({}, examples(), shown=shown)
  assert len(shown) == 3  # no padding examples
  Evaluator(TASK, Brightness(), mesh, limit=3)({}, examples(), shown=none)
  assert none == []


def read_events(folder):
  """The events of the event files in a folder."""
  for path in sorted(folder.glob('events*')):
    content = io.BytesIO(path.read_bytes())
    while header := content.read(12):  # length, checksum, event, checksum
      yield event_pb2.Event.FromString(content.read(struct.unpack('<Q', header[:8])[0]))
      content.read(4)


def events(folder):
  """Of the event files in a folder: {tag: {step: picture}}."""
  found = {}
  for event in read_events(folder):
    for value in event.summary.value:
      if value.HasField('image'):
        picture = PIL.Image.open(io.BytesIO(value.image.encoded_image_string))
        found.setdefault(value.tag, {})[event.step] = np.asarray(picture)
  return found


def test_pictures_are_events_of_the_first_process(tmp_path, monkeypatch):
  picture = np.random.default_rng(0).integers(0, 256, (5, 8, 3), np.uint8)
  for process in (0, 1):
    monkeypatch.setattr(jax, 'process_index', lambda process=process: process)
    writer = MetricWriter(str(tmp_path / str(process)), start=0)
    assert writer.is_writing == (process == 0)
    writer.write_pictures('evaluation', 20, [picture, picture[:3]])
    writer.close()
  found = events(tmp_path / '0' / 'tensorboard')
  assert found.keys() == {'evaluation/picture_0', 'evaluation/picture_1'}
  np.testing.assert_array_equal(found['evaluation/picture_0'][20], picture)
  assert not (tmp_path / '1').exists()


@pytest.mark.usefixtures('toy_models')
@pytest.mark.parametrize('pictures', [2, 0])
def test_a_run_writes_image_label_and_prediction_at_each_evaluation(pictures, tmp_path):
  config = quickstart.get_config('role=teacher,runlocal')
  assert config.eval.pictures == 4
  config.eval.update(every_steps=1, pictures=pictures)
  loop.train(config, str(tmp_path))
  found = events(tmp_path / 'tensorboard')
  assert sorted(found) == [f'evaluation/picture_{i}' for i in range(pictures)]
  source = experiment.create_source(config, config.eval.split)
  for i in range(pictures):
    assert sorted(found[f'evaluation/picture_{i}']) == [1, 2]
    example = source[i]
    want = palettes.comparison(example['image'], example['label'], {'prediction': example['label']},
                               source.classes, source.palette)
    got = found[f'evaluation/picture_{i}'][2]
    assert got.shape == want.shape
    two_panels = 2 * want.shape[1] // 3
    np.testing.assert_array_equal(got[:, :two_panels][:290], want[:, :two_panels][:290])
    assert not np.array_equal(got, want)  # the model of two steps is not perfect
