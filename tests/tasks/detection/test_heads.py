"""Heads' losses, targets and detections, and CrossKD's losses, against official outputs."""

import functools
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kdseg_jax import losses
from kdseg_jax.tasks.detection import heads, rows

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


def test_an_image_without_positive_anchors_counts_as_one():
  positive = jnp.array([[False] * 4, [True, True, True, False], [False, True, False, False]])
  assert heads.positives_by_image(positive, None) == 1 + 3 + 1


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


@pytest.mark.parametrize('head', TERMS)
def test_rows_of_an_export_are_detected_as_the_outputs_are(head):
  made, sizes = heads.HEADS[head](5), np.int32([[128, 128], [92, 120]])
  outputs = raw(head, 'stu')
  found = jax.jit(lambda: rows.detections(
      made, rows.rows(made, outputs, (128, 128)), (128, 128), sizes))()
  assert found.valid.any(axis=1).all()
  expected = jax.jit(lambda: made.detections(outputs, sizes=sizes))()
  jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-4), found, expected)


def test_distances_beyond_the_bins_are_a_tenth_less_than_the_last():
  made = heads.HEADS['gfl'](5, strides=(8,))
  outputs = {'cls': [jnp.full((1, 36, 36, 5), 9.0)],
             'reg': [jnp.tile(jnp.arange(17) == 16, 4) * jnp.full((1, 36, 36, 1), 2.0)]}
  box = heads.GroundTruth(np.float32([[[0, 0, 288, 288]]]), np.zeros((1, 1), np.int32),
                          np.ones((1, 1), bool))  # 18 strides to every side
  _, (targets, metrics) = jax.jit(lambda: made.loss(outputs, box))()
  assert targets['positive'].any()
  # Of the last two bins the weights are 0.1 and 0.9, and the last has the logit 2, others 0.
  np.testing.assert_allclose(
      metrics['distribution_focal'], 0.25 * (np.log(16 + np.exp(2)) - 0.9 * 2), rtol=1e-4)


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
    if 'centerness_normalizer' in targets and not some:
      assert targets['centerness_normalizer'] == np.float32(1e-6 if name == 'fcos' else 1)


@pytest.mark.parametrize('name', heads.HEADS)
def test_the_order_and_the_padding_of_boxes_do_not_matter(name):
  made = heads.HEADS[name](5)
  loss = jax.jit(lambda outputs, truth: made.loss(outputs, truth, sizes=SIZES)[0])
  shuffled = jax.tree.map(lambda x: x[:, [5, 3, 0, 4, 2, 1]], truth())
  np.testing.assert_allclose(
      loss(drawn(made), shuffled), loss(drawn(made), truth()), rtol=1e-6)
  np.testing.assert_allclose(
      loss(drawn(made), truth(rows=9)), loss(drawn(made), truth()), rtol=1e-6)


@functools.cache
def learned(name, **options):
  """A head, and what it is said of two images of which one has a box that is not learned."""
  made = heads.HEADS[name](5, **options)
  given = truth()
  given.valid[:, 1] = False
  # At the rim, where anchors beyond it overlap as much as those within.
  given.boxes[1, 5], given.valid[1, 5] = (40, 94, 72, 96), True
  return made, given, jax.device_get(jax.jit(
      lambda outputs, given: made.loss(outputs, given, sizes=SIZES))(drawn(made), given))


@pytest.mark.parametrize('name, options', [
    ('retinanet', {}), ('atss', {}), ('fcos', {'box_loss': 'giou', 'center_sampling': True})])
def test_the_terms_equal_their_definitions_on_what_is_assigned(name, options):
  made, _, (loss, (targets, metrics)) = learned(name, **options)
  centers = lambda x: x if x.shape[-1] == 2 else (x[..., :2] + x[..., 2:]) / 2

  @jax.jit  # one program is compiled sooner than each step of it
  def terms_of(outputs, targets):
    flat, positive, boxes = made.flatten(outputs), targets['positive'], targets['assigned_boxes']
    each_image = jnp.sum(positive, axis=1)
    count = jnp.float32(
        jnp.sum(each_image) if name == 'fcos' else jnp.sum(jnp.maximum(each_image, 1)))
    terms = {'focal': losses.sigmoid_focal(
        flat.cls, jax.nn.one_hot(targets['assigned_classes'], 5), gamma=2.0, alpha=0.25,
        weights=targets['counts'], normalizer=count)}
    if name == 'retinanet':
      apart = jnp.abs(flat.reg - losses.encode_deltas(targets['priors'], boxes))
      return terms | {'l1': jnp.sum(jnp.where(positive[..., None], apart, 0)) / count}
    centerness = jnp.where(positive, losses.centerness(centers(targets['priors']), boxes), 0)
    predicted = made.decode(flat.reg, targets['priors'], targets['prior_strides'])
    overlap = 1 - losses.box_overlaps(predicted, boxes, form='giou')
    return terms | {
        'giou': (1.0 if name == 'fcos' else 2.0) * jnp.sum(
            jnp.where(positive, centerness * overlap, 0)) / jnp.sum(centerness),
        'centerness': losses.binary_cross_entropy(
            flat.centerness, centerness, weights=positive, normalizer=count)}
  wanted = terms_of(drawn(made), targets)
  assert targets['positive'].any() and metrics.keys() == {*wanted, 'positives'}
  for term, value in wanted.items():
    np.testing.assert_allclose(metrics[term], value, rtol=1e-4, err_msg=term)
  np.testing.assert_allclose(loss, sum(wanted.values()), rtol=1e-4)
  if name == 'fcos':
    near = np.max(np.abs(targets['priors'] - centers(targets['assigned_boxes'])), axis=-1)
    assert (near < 1.5 * targets['prior_strides'])[targets['positive']].all()
  elif name == 'atss':
    assert targets['centerness_normalizer'] > 1  # else it would be 1


@pytest.mark.parametrize('name', ['retinanet', 'atss'])
def test_targets_leave_out_what_is_ignored_beyond_the_image_or_not_to_be_learned(name):
  made, given, (_, (targets, _)) = learned(name)
  counted, priors = np.asarray(made.counted(SHAPES, SIZES, 2)), targets['priors']
  centers = (priors[:, :2] + priors[:, 2:]) / 2
  for i in range(2):
    boxes = given.boxes[i][given.valid[i]]
    inside = (centers > boxes[:, None, :2]).all(-1) & (centers < boxes[:, None, 2:]).all(-1)
    np.testing.assert_array_equal(targets['inside'][i], inside.any(axis=0) & counted[i])
    assert not (targets['positive'][i] & ~counted[i]).any()
    if name == 'retinanet':
      overlap = np.where(counted[i], np.max(losses.pairwise_overlaps(boxes, priors), axis=0), 0)
      ignored = (overlap >= 0.4) & (overlap < 0.5) & ~targets['positive'][i]
      np.testing.assert_array_equal(targets['counts'][i], counted[i] & ~ignored)
  assert name != 'retinanet' or (counted & ~targets['counts']).any()


@pytest.mark.parametrize('name', heads.HEADS)
def test_the_loss_is_that_of_all_devices(name):
  made = heads.HEADS[name](5)

  def of(raw, truth, sizes, axis_name=None):
    loss, (targets, metrics) = made.loss(raw, truth, sizes=sizes, axis_name=axis_name)
    return {'loss': loss, 'normalizer': targets['normalizer']} | metrics

  @jax.jit
  def both(*images):
    parts = jax.tree.map(lambda x: x[:, None], images)
    return of(*images), jax.vmap(functools.partial(of, axis_name='devices'),
                                 axis_name='devices')(*parts)
  whole, each = jax.device_get(both(drawn(made), truth(), SIZES))
  assert whole['positives'] > 1
  for term, value in whole.items():
    np.testing.assert_allclose(each[term], [value] * 2, rtol=1e-5, err_msg=term)


@pytest.mark.parametrize('name', heads.HEADS)
def test_how_far_detections_of_a_class_may_overlap(name):
  made = heads.HEADS[name](2)
  count = 5 * made.per_position
  boxes, scores = np.zeros((2, count, 4), np.float32), np.zeros((2, count, 2), np.float32)
  boxes[:, :2] = [[0, 0, 10, 20], [0, 0, 10, 11]]  # their IoU is 0.55
  scores[:, 0, 0] = scores[0, 1, 0] = scores[1, 1, 1] = 0.9
  found = made.select(heads.suppression.Decoded(boxes, scores), [(1, 1)] * 5, max_detections=3)
  assert found.valid.sum(axis=1).tolist() == [2 if name in ('gfl', 'atss') else 1, 2]


def test_channels_of_another_head_are_refused():
  with pytest.raises(ValueError, match='cls has maps of 5 channels; RetinaNet takes 9 x 5'):
    heads.RetinaNet(5).flatten(drawn(heads.GFL(5)))
  with pytest.raises(ValueError, match='4 maps, but 5 strides'):
    heads.GFL(5).joined_priors(SHAPES[:4])


def test_half_precision_outputs_are_computed_in_float32():
  made = heads.GFL(5)
  half = jax.tree.map(lambda x: jnp.asarray(x, jnp.bfloat16), drawn(made))
  assert made.flatten(half).cls.dtype == jnp.float32


@pytest.mark.parametrize('name, first, side', [
    ('gfl', 0, 8), ('atss', 0, 8), ('retinanet', 0, 4), ('fcos', 0.5, None)])
def test_a_head_of_other_strides_has_its_anchors_there(name, first, side):
  made = heads.HEADS[name](5, strides=(4, 20))
  priors, strides = map(np.asarray, made.joined_priors([(2, 3), (1, 1)]))
  each = made.per_position
  assert len(priors) == len(strides) == 7 * each
  np.testing.assert_array_equal(strides, [4] * 6 * each + [20] * each)
  if side is not None:
    square = priors[each // 3::each]  # of RetinaNet the first of ratio 1
    np.testing.assert_allclose(square[:, 2] - square[:, 0], [4 * side] * 6 + [20 * side])
    priors = (square[:, :2] + square[:, 2:]) / 2
  places = [(x, y) for y in range(2) for x in range(3)]
  wanted = [*(4 * (np.array(place) + first) for place in places), [20 * first] * 2]
  np.testing.assert_allclose(priors, wanted, atol=1e-5)
