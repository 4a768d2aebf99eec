"""What a model is shown of an image by `Model.predict`: as its config and its views say."""

import dataclasses

import jax.numpy as jnp
import numpy as np
import pytest
from ml_collections import ConfigDict

from kdseg_jax import default_config
from kdseg_jax.inference import Inference
from kdseg_jax.tasks.detection import task
from tests import toys

IMAGE = np.random.default_rng(0).integers(0, 256, (9, 7, 3), np.uint8)
CENTRE = Inference(short_side=5, crop=(4, 3))


class Network:
  """Notes the shapes of what it is shown; its logits are colours, of pixels or of the image."""

  def __init__(self, of_pixels):
    self.shapes, self._of_pixels = [], of_pixels

  def apply(self, variables, image, mask=None, index=None):
    self.shapes.append(image.shape)
    colors = jnp.asarray(image, jnp.float32)
    return colors if self._of_pixels else colors.mean(axis=(1, 2)), {}


def predict(student, fields, views, **options):
  """What is predicted of images, and the shapes that the model was shown."""
  network = Network(of_pixels=student == 'espnet_c')
  model = toys.loaded(network, views=views)
  config = ConfigDict(model.config)
  config.student.name = student
  config.update_from_flattened_dict(fields)
  found = dataclasses.replace(model, config=config).predict([IMAGE] * 3, **options)
  return found, network.shapes


@pytest.mark.parametrize('fields, views, size', [
    ({}, {}, (9, 7)), ({'data.size': (8, 6)}, {}, (8, 6)),
    ({'eval.pad_multiple': 16}, {}, (16, 16)),
    ({'data.size': (8, 6), 'eval.pad_multiple': 16}, {}, (8, 6)),
    ({}, {'window': (6, 5)}, (6, 5)), ({}, {'scales': (2.0,)}, (18, 14)),
    ({'data.size': (8, 6)}, {'scales': (0.5,)}, (4, 3)),
    ({'eval.pad_multiple': 16}, {'scales': (2.0,)}, (32, 32)),
    ({'eval.window': (5, 5)}, {}, (9, 7)), ({}, {'flip': True}, (9, 7))])
def test_a_segmenter_sees_images_by_its_config_and_views(fields, views, size):
  found, shapes = predict('espnet_c', fields, Inference(**views))
  assert set(shapes) == {(2 if views.get('flip') else 1, *size, 3)}
  assert [one.labels.shape for one in found] == [(9, 7)] * 3
  assert [one.scores.shape for one in found] == [(9, 7, 3)] * 3


@pytest.mark.parametrize('fields, views, size', [
    ({}, Inference(), (9, 7)), ({'data.size': (8, 6)}, Inference(), (8, 6)),
    ({}, CENTRE, (4, 3)), ({'data.size': (6, 12)}, CENTRE, (4, 3)),
    ({'eval.pad_multiple': 16}, Inference(), (9, 7))])
def test_a_classifier_sees_images_by_its_config_and_views(fields, views, size):
  found, shapes = predict('resnet18', fields, views)
  assert set(shapes) == {(1, *size, 3)} and len(found) == 3


@pytest.mark.parametrize('fields, views, size, multiple', [
    ({}, {}, (), 1), ({'data.size': (8, 6)}, {}, (8, 6), 1),
    ({'eval.pad_multiple': 16}, {}, (), 16),
    ({}, {'canvas': (32, 64), 'by_orientation': True}, (), 1), ({}, {'sides': (4, 8)}, (), 1)])
def test_a_detector_sees_images_by_its_config_and_views(fields, views, size, multiple, monkeypatch):
  class Seen(Exception):
    """Ends the prediction before the model."""

  def seen(images, *given):
    raise Seen(*given)
  monkeypatch.setattr(task, 'seen', seen)
  config = default_config.detection()
  config.update_from_flattened_dict(fields)
  model = dataclasses.replace(toys.loaded('network', views=Inference(**views)), config=config)
  with pytest.raises(Seen) as found:
    model.predict(IMAGE)
  assert found.value.args == (Inference(**views), size, multiple)


@pytest.mark.parametrize('student', ['espnet_c', 'resnet18'])
@pytest.mark.parametrize('batch_size', [1, 2, 4])
def test_it_sees_as_many_images_at_once_as_asked_for(student, batch_size):
  _, shapes = predict(student, {}, Inference(), batch_size=batch_size)
  assert {shape[0] for shape in shapes} == {min(batch_size, 3)}


@pytest.mark.parametrize('scores', [False, True])
def test_scores_are_there_where_asked_for(scores):
  found, _ = predict('espnet_c', {}, Inference(), scores=scores)
  assert [one.scores is not None for one in found] == [scores] * 3
