"""The segmentation task: its loss, predictions, counts and metrics."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec as P

from kdseg_jax import losses, parallel, tasks

TASK = tasks.SegmentationTask(num_classes=3)


def batch_of():
  label = np.random.default_rng(0).integers(0, 3, (2, 8, 8)).astype(np.uint8)
  label[0, :3] = 255
  return {'label': label, 'index': np.arange(2, dtype=np.int32)}


def logits_of(seed):
  return jax.random.normal(jax.random.key(seed), (2, 4, 4, 3))


@pytest.mark.parametrize('align_corners', [True, False])
def test_loss_adds_the_auxiliary_head_by_its_weight(align_corners):
  task = tasks.SegmentationTask(num_classes=3, align_corners=align_corners)
  batch, taps = batch_of(), {'logits': logits_of(0), 'aux_logits': logits_of(1)}
  main, auxiliary = (losses.cross_entropy(x, batch['label'], align_corners=align_corners)
                     for x in taps.values())
  loss, (targets, terms) = task.loss(taps, batch)
  np.testing.assert_allclose(loss, main + 0.4 * auxiliary, rtol=1e-6)
  assert targets == {} and terms == {'cross_entropy': main, 'auxiliary': auxiliary}
  del taps['aux_logits']
  np.testing.assert_allclose(task.loss(taps, batch)[0], main, rtol=1e-6)


def test_the_main_head_alone_mines_hard_pixels():
  task = tasks.SegmentationTask(num_classes=3, supervised_loss='ohem_cross_entropy',
                                ohem_threshold=0.1, ohem_min_kept=20)
  batch, taps = batch_of(), {'logits': logits_of(0), 'aux_logits': logits_of(1)}
  main = losses.ohem_cross_entropy(taps['logits'], batch['label'], threshold=0.1, min_kept=20)
  auxiliary = losses.cross_entropy(taps['aux_logits'], batch['label'])
  loss, (_, terms) = task.loss(taps, batch)
  np.testing.assert_allclose(loss, main + 0.4 * auxiliary, rtol=1e-6)
  assert main > losses.cross_entropy(taps['logits'], batch['label'])
  assert terms.keys() == {'ohem_cross_entropy', 'auxiliary'}


@pytest.mark.parametrize('task', [
    tasks.SegmentationTask(3), tasks.SegmentationTask(3, supervised_loss='ohem_cross_entropy'),
    tasks.create('classification', 3)], ids=['cross_entropy', 'ohem', 'classification'])
def test_the_loss_is_the_same_on_every_device(task):
  """Traced alone: the map refuses what a lost collective leaves to one device."""
  sides = (4, 4) if task.name == 'segmentation' else ()
  taps = {name: jax.ShapeDtypeStruct((8, *sides, 3), jnp.float32)
          for name in ('logits', 'aux_logits')}
  batch = {'label': jax.ShapeDtypeStruct((8, *(2 * side for side in sides)), jnp.int32)}
  loss = jax.shard_map(
      lambda *given: task.loss(*given, axis_name=parallel.AXIS), mesh=parallel.create_mesh(),
      in_specs=P(parallel.AXIS), out_specs=P())
  assert jax.eval_shape(loss, taps, batch)[0].shape == ()


@pytest.mark.parametrize('fields,message', [
    ({'supervised_loss': 'ohem'}, "Unknown supervised loss: 'ohem'"),
    ({'num_classes': 1}, 'The data have 1 class. Segmentation needs at least 2'),
    ({'ohem_threshold': 70}, r'ohem_threshold=70 must be in \[0, 1\]'),
    ({'ohem_threshold': -0.1}, r'ohem_threshold=-0.1 must be in \[0, 1\]'),
    ({'ohem_min_kept': -1}, 'ohem_min_kept=-1 at least 0')])
def test_fields_that_cannot_be_used_are_refused(fields, message):
  with pytest.raises(ValueError, match=message):
    tasks.SegmentationTask(**{'num_classes': 3} | fields)


@pytest.mark.parametrize('align_corners', [True, False])
def test_predictions_are_the_argmax_of_upsampled_logits(align_corners):
  logits = logits_of(0)
  task = tasks.SegmentationTask(num_classes=3, align_corners=align_corners)
  resized = losses.resize_bilinear(logits, (9, 7), align_corners=align_corners)
  np.testing.assert_array_equal(task.upsample(logits, (9, 7)), resized)
  np.testing.assert_array_equal(task.predict(logits, (9, 7)), jnp.argmax(resized, -1))
  assert TASK.predict(logits, (9, 7)).dtype == jnp.int32
  found = task.predictions(logits, {'image': np.zeros((2, 9, 7, 3), np.uint8)})
  np.testing.assert_array_equal(found['label'], task.predict(logits, (9, 7)))
  assert found['label'].dtype == jnp.uint8


def test_perfect_logits_score_one_and_ignored_pixels_and_padding_count_nowhere():
  batch = batch_of()
  logits = 10 * jax.nn.one_hot(np.where(batch['label'] == 255, 0, batch['label']), 3)
  batch['label'][1], batch['index'][1] = 255, -1  # a padding example
  outputs = TASK.outputs(logits, batch)
  assert outputs.sums['images'] == 1 and outputs.sums['confusion_matrix'].sum() == 5 * 8
  assert outputs.examples == {}
  found = TASK.accumulator()
  found.add(jax.device_get(outputs))
  assert found.summarize() == {
      'mean_iou': 1.0, 'per_class_iou': [1.0] * 3, 'pixel_accuracy': 1.0, 'images': 1}


@pytest.mark.parametrize('absent_as_zero,expected', [(False, 0.5), (True, 1 / 3)])
def test_classes_that_occur_nowhere(absent_as_zero, expected):
  task = tasks.SegmentationTask(num_classes=3, absent_as_zero=absent_as_zero)
  matrix = np.array([[2, 1, 0], [1, 2, 0], [0, 0, 0]])
  found = task.accumulator()
  for images in (1, 2):
    found.add(tasks.Outputs({'confusion_matrix': matrix, 'images': images}))
  metrics = found.summarize()
  assert metrics['images'] == 3
  np.testing.assert_allclose(metrics['mean_iou'], expected)
  np.testing.assert_equal(metrics['per_class_iou'][2], 0.0 if absent_as_zero else np.nan)
