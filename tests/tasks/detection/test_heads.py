"""Heads' losses, targets and detections, and CrossKD's losses, against official outputs."""

import functools
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kdseg_jax import losses
from kdseg_jax.tasks.detection import heads

FOLDER = pathlib.Path(__file__).parents[2] / 'golden'
GOLDEN = {}
for name in ('dense_heads', 'cross_head'):
  with np.load(FOLDER / f'{name}.npz') as file:
    GOLDEN |= {key: file[key] for key in file.files}
SIZES = np.int32([[128, 128], [96, 128]])
TERMS = {'gfl': {'quality_focal': 'cls', 'giou': 'bbox', 'distribution_focal': 'dfl'},
         'fcos': {'focal': 'cls', 'iou_log': 'bbox', 'centerness': 'centerness'}}
SHAPES = [(16, 16), (8, 8), (4, 4), (2, 2), (1, 1)]


def of(head, name):
  return GOLDEN[f'cross_det_{head}/{name}']


def levels(head, name):
  """An output of all levels from `<name>0` on, channels last."""
  return [np.moveaxis(of(head, f'{name}{level}'), 1, -1) for level in range(5)]


def raw(head, who):
  outputs = {'cls': levels(head, f'{who}_cls'), 'reg': levels(head, f'{who}_reg')}
  return outputs | ({'centerness': levels(head, f'{who}_ctr')} if head == 'fcos' else {})


def truth(head='gfl', rows=6):
  """Ground truth of both images, padded."""
  boxes, classes = np.zeros((2, rows, 4), np.float32), np.zeros((2, rows), np.int32)
  valid = np.zeros((2, rows), bool)
  for i in range(2):
    count = len(of(head, f'gt_labels{i}'))
    boxes[i, :count], classes[i, :count] = of(head, f'gt_boxes{i}'), of(head, f'gt_labels{i}')
    valid[i, :count] = True
  return heads.GroundTruth(boxes, classes, valid)


@functools.cache
def trained(head):
  made = heads.HEADS[head](5)
  return jax.jit(lambda outputs, truth: made.loss(outputs, truth, sizes=SIZES))(
      raw(head, 'stu'), truth(head))


def joined(head, name):
  return np.concatenate(
      [of(head, f'{name}{level}').reshape(2, size[0] * size[1], -1)[..., 0]
       for level, size in enumerate(SHAPES)], axis=1)


@pytest.mark.parametrize('head', TERMS)
def test_losses_and_targets(head):
  loss, (targets, metrics) = trained(head)
  for term, official in TERMS[head].items():
    np.testing.assert_allclose(metrics[term], of(head, f'loss.loss_{official}').sum(), rtol=1e-5)
  np.testing.assert_allclose(loss, sum(metrics[term] for term in TERMS[head]), rtol=1e-6)
  np.testing.assert_array_equal(targets['assigned_classes'], joined(head, 'tgt_labels'))
  if head == 'gfl':
    np.testing.assert_array_equal(targets['counts'], joined(head, 'tgt_label_weights'))
    assert targets['normalizer'] == of(head, 'avg_factor')
    assert targets['valuable'].any() and not (targets['valuable'] & ~targets['counts']).any()
  else:
    distances = losses.encode_distances(targets['priors'], targets['assigned_boxes'])
    wanted = np.concatenate([of(head, f'tgt_boxes{i}').reshape(2, -1, 4) for i in range(5)], 1)
    positive = np.asarray(targets['positive'])
    np.testing.assert_allclose(np.asarray(distances)[positive], wanted[positive], rtol=1e-6)


@pytest.mark.parametrize('head', TERMS)
def test_detections(head):
  made = heads.HEADS[head](5)
  found = jax.jit(lambda outputs: made.detections(
      outputs, sizes=np.int32([[128, 128], [92, 120]]), score_threshold=0.3, iou_threshold=0.6,
      max_detections=30))(raw(head, 'stu'))
  for i in range(2):
    count = int(found.valid[i].sum())
    np.testing.assert_array_equal(found.classes[i, :count], of(head, f'det_labels{i}'))
    np.testing.assert_allclose(found.scores[i, :count], of(head, f'det_scores{i}'), rtol=1e-5)
    np.testing.assert_allclose(found.boxes[i, :count], of(head, f'det_boxes{i}'), atol=1e-4)


def test_cross_head_losses_of_gfl_by_level():
  _, (targets, _) = trained('gfl')
  counts = np.split(np.asarray(targets['counts']), [256, 320, 336, 340], axis=1)
  flat = lambda x: x.reshape(2, -1, x.shape[-1])
  weights = [losses.score_weights(flat(cls), where)
             for cls, where in zip(levels('gfl', 'tea_cls'), counts)]
  total = sum(np.sum(w) for w in weights)
  for level in range(5):
    last = lambda name, level=level: flat(np.moveaxis(of('gfl', f'{name}{level}'), 1, -1))
    np.testing.assert_allclose(losses.cross_head_classification(
        last('reused_cls'), last('tea_cls'), weights=counts[level],
        normalizer=targets['normalizer']), of('gfl', 'loss.loss_cls_kd')[level], rtol=1e-5)
    if level:
      share = np.sum(weights[level]) / total
      np.testing.assert_allclose(4 * share * losses.cross_head_distribution(
          last('reused_reg'), last('tea_reg'), weights=weights[level]),
          of('gfl', 'loss.loss_reg_kd')[level], rtol=1e-5, atol=1e-8)  # P7's is 2e-5, of 1.35


def test_cross_head_losses_of_fcos():
  _, (targets, _) = trained('fcos')
  made = heads.FCOS(5)
  cross, teacher = (made.flatten(raw('fcos', who)) for who in ('reused', 'tea'))
  normalizer = targets['centerness_normalizer']
  boxes = lambda flat: made.decode(flat.reg, targets['priors'], targets['prior_strides'])
  np.testing.assert_allclose(0.4 * losses.cross_head_classification(
      cross.cls, teacher.cls, normalizer=normalizer), of('fcos', 'loss.loss_cls_kd')[0], rtol=1e-5)
  np.testing.assert_allclose(0.75 * losses.iou_log(
      boxes(cross), boxes(teacher), weights=losses.score_weights(teacher.cls),
      normalizer=normalizer), of('fcos', 'loss.loss_reg_kd')[0], rtol=1e-5)


def drawn(made, seed=0):
  """Raw outputs of any head."""
  rng = np.random.default_rng(seed)
  numbers = 68 if isinstance(made, heads.GFL) else 4
  channels = {'cls': 5 * made.per_position, 'reg': numbers * made.per_position}
  if isinstance(made, (heads.FCOS, heads.ATSS)):
    channels['centerness'] = 1
  draw = lambda name, shape: rng.normal(size=(2, *shape, channels[name])).astype(np.float32)
  outputs = {name: [draw(name, shape) for shape in SHAPES] for name in channels}
  if isinstance(made, heads.FCOS):
    outputs['reg'] = [20 * np.exp(x) for x in outputs['reg']]
  return outputs


@pytest.mark.parametrize('name', heads.HEADS)
def test_without_boxes_there_is_only_background_and_the_gradient_is_finite(name):
  made = heads.HEADS[name](5)
  empty = truth()._replace(valid=np.zeros((2, 6), bool))
  grad = jax.jit(jax.value_and_grad(
      lambda outputs, truth: made.loss(outputs, truth, sizes=SIZES), has_aux=True))
  for given in (empty, truth()):
    (loss, (targets, metrics)), gradient = grad(drawn(made), given)
    assert np.isfinite(loss) and all(np.all(np.isfinite(x)) for x in jax.tree.leaves(gradient))
    assert all(map(np.any, gradient['cls']))
    some = given is not empty
    assert bool(np.any(targets['positive'])) == (metrics['positives'] > 0) == some
    assert any(map(np.any, gradient['reg'])) == some
    if 'centerness' in gradient:
      assert any(map(np.any, gradient['centerness'])) == some


@pytest.mark.parametrize('name', heads.HEADS)
def test_the_order_and_the_padding_of_boxes_do_not_matter(name):
  made = heads.HEADS[name](5)
  loss = jax.jit(lambda outputs, truth: made.loss(outputs, truth, sizes=SIZES)[0])
  shuffled = jax.tree.map(lambda x: x[:, [5, 3, 0, 4, 2, 1]], truth())
  np.testing.assert_allclose(
      loss(drawn(made), shuffled), loss(drawn(made), truth()), rtol=1e-6)
  np.testing.assert_allclose(
      loss(drawn(made), truth(rows=9)), loss(drawn(made), truth()), rtol=1e-6)


def test_channels_of_another_head_are_refused():
  with pytest.raises(ValueError, match='cls has maps of 5 channels; RetinaNet takes 9 x 5'):
    heads.RetinaNet(5).flatten(drawn(heads.GFL(5)))
  with pytest.raises(ValueError, match='4 maps, but 5 strides'):
    heads.GFL(5).joined_priors(SHAPES[:4])


def test_half_precision_outputs_are_computed_in_float32():
  made = heads.GFL(5)
  half = jax.tree.map(lambda x: jnp.asarray(x, jnp.bfloat16), drawn(made))
  assert made.flatten(half).cls.dtype == jnp.float32
