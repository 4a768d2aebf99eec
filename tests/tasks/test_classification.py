"""The classification task: its loss, ranks, counts and metrics."""

import logging

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kdseg_jax import tasks
from kdseg_jax.data import crops, files
from kdseg_jax.errors import UserError
from kdseg_jax.inference.views import Inference
from kdseg_jax.tasks.classification import ranks

CLASSES = tuple('abcdefg')
TASK = tasks.create('classification', len(CLASSES))


def logits_of(seed, count=6):
  return jax.random.normal(jax.random.key(seed), (count, len(CLASSES)))


def batch_of(labels):
  labels = np.asarray(labels, np.int32)
  index = np.where(labels < 0, -1, np.arange(len(labels))).astype(np.int32)
  return {'label': labels, 'index': index}


def metrics_of(scores, labels):
  found = TASK.accumulator()
  for part in (slice(0, 2), slice(2, None)):
    found.add(jax.device_get(TASK.outputs(scores[part], jax.tree.map(
        lambda x, part=part: x[part], batch_of(labels)))))
  return found.summarize(), found


def test_the_loss_is_the_mean_cross_entropy_of_those_with_a_label():
  logits, labels = logits_of(0), [3, 0, -1, 6, 1, 2]
  loss, (targets, terms) = TASK.loss({'logits': logits}, batch_of(labels))
  log_p = jax.nn.log_softmax(logits)
  want = -np.mean([log_p[i, label] for i, label in enumerate(labels) if label >= 0])
  np.testing.assert_allclose(loss, want, rtol=1e-6)
  assert targets == {} and terms == {'cross_entropy': loss}


def test_the_class_of_number_255_is_learned_and_counted_as_others_are():
  """255 stands for ignored pixels in the maps of segmentation alone."""
  task = tasks.create('classification', 300)
  logits = np.random.default_rng(0).normal(size=(4, 300)).astype(np.float32)
  batch = batch_of([255, 7, -1, 255])
  log_p = logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))
  own = log_p[[0, 1, 3], [255, 7, 255]]
  np.testing.assert_allclose(task.loss({'logits': logits}, batch)[0], -np.mean(own), rtol=1e-6)
  sums = jax.device_get(task.outputs(logits, batch).sums)
  assert sums['labelled'] == 3 and sums['images'] == 3
  np.testing.assert_array_equal(
      sums['confusion_matrix'].sum(axis=1), np.bincount([255, 7, 255], minlength=300))


def test_ranks_are_those_of_sorting_and_argmax_breaks_ties():
  logits = logits_of(1)
  for label in range(len(CLASSES)):
    want = [list(np.argsort(-row, kind='stable')).index(label) for row in np.asarray(logits)]
    np.testing.assert_array_equal(ranks(logits, jnp.full(6, label)), want)
  tied = jnp.float32([[1, 2, 2], [1, 2, 2]])
  assert ranks(tied, jnp.array([1, 2])).tolist() == [0, 1]
  broken = jnp.float32([[jnp.nan, 1, 0], [0, 1, jnp.nan]])
  assert ranks(broken, jnp.array([0, 1])).tolist() == [3, 1]


def test_metrics_of_batches_and_padding():
  labels = [0, 0, 1, 2, 3, -1]
  scores = np.zeros((6, 7), np.float32)
  for i, order in enumerate(([0], [1, 2, 3, 4, 0], [1], [0, 1, 3, 4, 5, 2], [3], [3])):
    scores[i, order] = np.arange(len(order), 0, -1)
  metrics, found = metrics_of(scores, labels)
  assert metrics['top1'] == 3 / 5 and metrics['top5'] == 4 / 5 and metrics['images'] == 5
  np.testing.assert_equal(metrics['per_class_accuracy'], [0.5, 1.0, 0.0, 1.0] + 3 * [np.nan])
  assert found.matrix.sum() == 5 and found.matrix[0, 1] == found.matrix[2, 0] == 1
  assert TASK.main_metric.with_unit(metrics['top1']) == '60.0 %'


def test_of_five_classes_the_first_five_say_nothing():
  task = tasks.create('classification', 5)
  found = task.accumulator()
  found.add(jax.device_get(task.outputs(logits_of(2)[:, :5], batch_of([0, 1, 2, 3, 4, 0]))))
  assert found.summarize().keys() == {'top1', 'per_class_accuracy', 'images'}
  assert np.isnan(task.accumulator().summarize()['top1'])


def test_predictions_are_the_first_class_and_its_probability():
  scores = logits_of(3)
  found = TASK.predictions(scores, batch_of([0] * 6))
  probabilities = jax.nn.softmax(scores)
  np.testing.assert_array_equal(found['label'], np.argmax(probabilities, -1))
  np.testing.assert_allclose(found['probability'], np.max(probabilities, -1), rtol=1e-6)
  assert found['label'].dtype == jnp.int32


@pytest.mark.parametrize('views', [
    Inference(flip=True), Inference(window=(4, 4)), Inference(scales=(0.5, 1.0))])
def test_images_are_seen_whole(views):
  with pytest.raises(UserError, match='whole images only'):
    TASK.scorer(None, views)


@pytest.mark.parametrize('size', [(), (30, 24)])
@pytest.mark.parametrize('views', [Inference(), Inference(short_side=20, crop=(16, 18))])
def test_an_image_is_predicted_at_the_size_of_the_data_and_of_it_the_centre(size, views):
  image = np.random.default_rng(0).integers(0, 256, (40, 50, 3), np.uint8)
  seen = []

  class Model:

    def apply(self, variables, images):
      jax.debug.callback(lambda found: seen.append(np.asarray(found)), images)
      return jnp.float32([[0, 2, 1]]), {}
  prediction, = TASK.predictor(Model(), views, size=size)({}, image[None], scores=False)
  jax.effects_barrier()
  shown = files.resize_image(image, size) if size else image
  if views.crop:
    shown = crops.centre(shown, 20, (16, 18))
  np.testing.assert_array_equal(seen, [shown[None]])
  assert prediction.label == 1
  np.testing.assert_allclose(prediction.probabilities, jax.nn.softmax(np.float32([0, 2, 1])),
                             rtol=1e-6)


def test_segmentation_has_no_centre():
  views = Inference(short_side=20, crop=(16, 18))
  with pytest.raises(UserError, match=r'crop=\(16, 18\) is for classifiers'):
    tasks.create('segmentation', 3).predictor(None, views)
  with pytest.raises(UserError, match='is for classifiers'):
    tasks.create('segmentation', 3).scorer(None, views)


def test_one_class_and_other_options_are_refused():
  with pytest.raises(UserError, match='1 class. Classification needs'):
    tasks.create('classification', 1)
  with pytest.raises(UserError, match='field of config.task for the task classification'):
    tasks.create('classification', 3, align_corners=True)


def total_of(labels, classes='abc'):
  check = tasks.create('classification', 3).data_check(classes)
  return check, sum(check.tally({'label': label, 'image_id': 'x'}) for label in labels)


def test_a_label_that_is_no_class_is_refused():
  for label in (-1, 3):
    with pytest.raises(UserError, match=f'x: its label {label} is no class; expected 0 to 2'):
      total_of([label])


def test_what_the_data_lack_is_said(caplog):
  caplog.set_level(logging.WARNING)
  check, total = total_of([0, 0, 2])
  assert not check.is_complete(total) and check.is_complete(total + 1)
  check.check_evaluation(total, 'val')
  check.check_training(total, 'train', read=3, length=9, evaluated=None, has_teacher=False)
  said = [record.getMessage() for record in caplog.records]
  assert 'val has no image of b' in said[0] and 'train has, in 3 of its 9, no image of b' in said[1]
  check, total = total_of([1, 1])
  given = {'read': 2, 'length': 2, 'evaluated': None}
  with pytest.raises(UserError, match='train: all 2 images are of one class, b'):
    check.check_training(total, 'train', **given, has_teacher=False)
  caplog.clear()
  check.check_training(total, 'train', **given, has_teacher=True)
  check.check_training(total, 'train', **given | {'length': 9}, has_teacher=False)
  said = [record.getMessage() for record in caplog.records]
  assert 'all 2 images are of one class, b' in said[0]
  assert 'train has, in 2 of its 9, no image of a, c: it cannot be learned' in said[1]
