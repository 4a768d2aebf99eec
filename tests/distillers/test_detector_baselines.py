"""What cross-head distillation is compared with."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kdseg_jax import distillers, losses
from kdseg_jax.distillers import dense_predictions, methods
from kdseg_jax.errors import UserError
from tests import toys

IMAGES, WIDTH = 2, 4
PYRAMID = ('p3', 'p4', 'p5', 'p6', 'p7')


def inputs_of(teacher_width=WIDTH, numbers=None, **targets):
  rng = np.random.default_rng(0)
  return distillers.DistillInputs(
      student=toys.detector_taps(IMAGES, WIDTH, rng),
      teacher=toys.detector_taps(IMAGES, teacher_width, rng, numbers),
      targets=toys.detector_targets(toys.detector_masks(IMAGES, rng)) | targets,
      rng=jax.random.key(0))


def value(method, inputs):
  distillers.check_requires(method.requires, inputs)
  return method.loss(method.init(jax.random.key(0), inputs), inputs)


def flat(levels):
  return jnp.concatenate([x.reshape(IMAGES, -1, x.shape[-1]) for x in levels], axis=1)


@pytest.mark.parametrize('region, mask', [
    ('all', 'counts'), ('positive', 'positive'), ('inside', 'inside'), ('valuable', 'valuable')])
def test_mimicking_compares_the_anchors_of_a_region(region, mask):
  inputs = inputs_of()
  where = inputs.targets[mask]
  (student, teacher), (reg, wanted) = (
      (flat(inputs.student[name]), flat(inputs.teacher[name])) for name in ('cls', 'reg'))
  _, (_, terms) = value(distillers.prediction_mimicking(region=region), inputs)
  np.testing.assert_allclose(terms['cls'], losses.cross_head_classification(
      student, teacher, weights=where, normalizer=5.0), rtol=1e-5)
  scores = np.where(where, jax.nn.sigmoid(teacher).max(-1), 0)
  np.testing.assert_allclose(terms['boxes'], 4 * losses.cross_head_distribution(
      reg, wanted, weights=scores), rtol=1e-5)


def test_weights_and_uniform_boxes_of_mimicking():
  inputs = inputs_of()
  _, (_, terms) = value(distillers.prediction_mimicking(), inputs)
  loss, (_, uniform) = value(distillers.prediction_mimicking(
      uniform=True, cls_weight=3.0, box_weight=2.0), inputs)
  np.testing.assert_allclose(uniform['cls'], 3 * terms['cls'], rtol=1e-6)
  np.testing.assert_allclose(loss, uniform['cls'] + uniform['boxes'], rtol=1e-6)
  reg, wanted = (flat(taps['reg']) for taps in (inputs.student, inputs.teacher))
  np.testing.assert_allclose(uniform['boxes'], 2 * losses.cross_head_distribution(
      reg, wanted, weights=inputs.targets['counts']), rtol=1e-5)


def test_mimicking_of_unlike_heads():
  inputs = inputs_of(numbers={'reg': 4})
  assert np.isfinite(value(distillers.prediction_mimicking(teacher_head='atss'), inputs)[0])
  inputs = inputs_of(numbers={'reg': 36, 'cls': 36})
  with pytest.raises(UserError, match='1 anchors a position and a retinanet head 9.*crosskd'):
    value(distillers.prediction_mimicking(teacher_head='retinanet'), inputs)
  with pytest.raises(ValueError, match="region of prediction_mimicking: 'al'"):
    distillers.prediction_mimicking(region='al')


@pytest.mark.parametrize('teacher', ['gfl', 'atss', 'fcos'])
def test_mimicking_is_normalized_as_the_teachers_loss(teacher, monkeypatch):
  of = []
  monkeypatch.setattr(dense_predictions, 'normalizer_of', lambda head, targets: (
      of.append(head), targets['normalizer'])[1])
  inputs = inputs_of(numbers={} if teacher == 'gfl' else {'reg': 4})
  value(distillers.prediction_mimicking(teacher_head=teacher), inputs)
  assert of == [teacher]


def test_without_its_own_loss_boxes_have_the_weight_of_giou():
  inputs = inputs_of()
  taps = inputs.student | {'reg': [x[..., :4] for x in inputs.student['reg']]}
  student, teacher = (dense_predictions.predictions(head, x) for head, x in (
      ('atss', taps), ('gfl', inputs.teacher)))
  where = inputs.targets['counts']
  terms = dense_predictions.compare(
      student, teacher, where=where, normalizer=5.0, uniform=True,
      weights=dense_predictions.Weights(), axis_name=None)
  np.testing.assert_allclose(terms['boxes'], losses.giou(
      student.boxes, teacher.boxes, weights=where, normalizer=5.0), rtol=1e-6)


@pytest.mark.parametrize('head, official', [
    ('gfl', (1, 4)), ('retinanet', (1, 1)), ('fcos', (0.4, 0.75)), ('atss', (1, 1))])
def test_each_head_has_its_official_weights_and_loss_of_boxes(head, official):
  rng, anchors = np.random.default_rng(0), 9 if head == 'retinanet' else 1
  numbers = {'cls': 4 * anchors, 'reg': {'gfl': 8}.get(head, 4) * anchors}
  student, teacher = (dense_predictions.predictions(head, taps | {
      'reg': [4 + x for x in taps['reg']]}) for taps in (
          toys.detector_taps(IMAGES, WIDTH, rng, numbers) for _ in range(2)))
  where = rng.random(student.cls.shape[:2]) < 0.5
  of = lambda **weights: dense_predictions.compare(
      student, teacher, where=where, normalizer=5.0, uniform=False,
      weights=dense_predictions.Weights(**weights), axis_name=None)
  terms, own = of(cls=1.0, boxes=1.0), of()
  for name, weight in zip(('cls', 'boxes'), official):
    np.testing.assert_allclose(own[name], weight * terms[name], rtol=1e-6)
  scores = np.where(where, jax.nn.sigmoid(teacher.cls).max(-1), 0)
  if head != 'gfl':
    overlap = losses.iou_log if head == 'fcos' else losses.giou
    np.testing.assert_allclose(terms['boxes'], overlap(
        student.boxes, teacher.boxes, weights=scores, normalizer=5.0), rtol=1e-5)


def test_a_batch_without_a_positive_point_is_divided_by_one():
  targets = lambda centerness: {'normalizer': jnp.float32(2),
                                'centerness_normalizer': jnp.float32(centerness)}
  assert dense_predictions.normalizer_of('fcos', targets(1e-6)) == 1  # of heads.FCOS
  assert dense_predictions.normalizer_of('fcos', targets(0.25)) == 0.25
  assert dense_predictions.normalizer_of('atss', targets(1e-6)) == 2


def test_localization_distillation():
  inputs = inputs_of()
  reg, wanted = (flat(taps['reg']) for taps in (inputs.student, inputs.teacher))
  weights = np.where(inputs.targets['positive'],
                     jax.nn.sigmoid(flat(inputs.student['cls'])).max(-1), 0)
  np.testing.assert_allclose(
      value(distillers.localization_distillation(), inputs)[0],
      losses.localization_distillation(reg, wanted, weights=weights), rtol=1e-5)
  twice = lambda x: jnp.concatenate([x, x]) if x.shape[:1] == (IMAGES,) else x
  batch = dataclasses.replace(inputs, **{name: jax.tree.map(twice, getattr(inputs, name))
                                         for name in ('student', 'teacher', 'targets')})
  np.testing.assert_allclose(*(value(distillers.localization_distillation(), x)[0]
                               for x in (inputs, batch)), rtol=1e-5)
  with pytest.raises(UserError, match='distributions of two GFL heads'):
    value(distillers.localization_distillation(), inputs_of(numbers={'reg': 12}))


@pytest.mark.parametrize('factory', [
    distillers.localization_distillation, distillers.prediction_mimicking, distillers.pkd,
    functools.partial(distillers.pyramid_fitnets, projection=False), distillers.crosskd])
def test_the_images_of_all_devices_count(factory):
  inputs = dataclasses.replace(inputs_of(), teacher_head=toys.detector_head(WIDTH))
  of_images = lambda x: jnp.shape(x)[:1] == (IMAGES,)
  parts = jax.tree.map(lambda x: x[:, None] if of_images(x) else x, inputs)
  axes = jax.tree.map(lambda x: 0 if of_images(x) else None, inputs)
  whole, each = jax.jit(lambda inputs, parts: (value(factory(), inputs)[0], jax.vmap(
      lambda part: value(factory(axis_name='devices'), part)[0], (axes,),
      axis_name='devices')(parts)))(inputs, parts)
  np.testing.assert_allclose(each, np.full(IMAGES, whole), rtol=1e-5)


def test_features_of_the_pyramid():
  inputs = inputs_of()
  np.testing.assert_allclose(value(distillers.pkd(), inputs)[0], losses.pearson_features(
      *([taps[name] for name in PYRAMID] for taps in (inputs.student, inputs.teacher))), rtol=1e-5)
  with pytest.raises(UserError, match='pkd: p3 is .* Give both pyramids one width'):
    value(distillers.pkd(), inputs_of(8))
  method = distillers.pyramid_fitnets(projection=False)
  np.testing.assert_allclose(value(method, inputs)[0], sum(
      losses.fitnets(inputs.student[name], inputs.teacher[name]) for name in PYRAMID), rtol=1e-5)
  state = distillers.pyramid_fitnets().init(jax.random.key(0), inputs_of(8))
  assert set(state.params) == set(PYRAMID)


def test_review_takes_the_pyramid():
  inputs = inputs_of(8)
  terms = distillers.terms_of('review+pkd')
  methods.take_pyramid(terms)
  assert terms['pkd'] == distillers.terms_of('pkd')['pkd']
  method = distillers.create({'review': terms['review']})
  distillers.check_requires(method.requires, inputs)
  assert method.requires.student == method.requires.teacher == PYRAMID
  state = jax.eval_shape(method.init, jax.random.key(0), inputs)
  assert 256 in {x.shape[-1] for x in jax.tree.leaves(state.params)}
  assert jax.eval_shape(method.loss, state, inputs)[0].shape == ()


def test_masks_of_a_head_with_another_number_of_anchors():
  """An anchor counts if any of the student's at its position does."""
  where = np.zeros((1, 18), bool)
  where[0, 12] = True
  np.testing.assert_array_equal(
      dense_predictions.on_anchors_of('gfl', where, 'retinanet'), [[False, True]])
  spread = dense_predictions.on_anchors_of('retinanet', np.array([[True, False]]), 'atss')
  np.testing.assert_array_equal(spread, [[True] * 9 + [False] * 9])
