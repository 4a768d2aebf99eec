"""Losses, coders and anchors of detectors against official outputs; see tests/golden/README.md."""

import functools
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kdseg_jax import losses

with np.load(pathlib.Path(__file__).parents[1] / 'golden' / 'detection.npz') as file:
  GOLDEN = {name: file[name] for name in file.files}
SQUARE = [(16, 16), (8, 8), (4, 4), (2, 2), (1, 1)]


def of(case, name):
  return GOLDEN[f'cross_{case}/{name}']


def one_hot(case, label):
  return np.eye(6, dtype=np.float32)[of(case, label)][:, :5]  # 5 is background


def quality_scores():
  return one_hot('qfl', 'target0') * of('qfl', 'target1')[:, None]


# Case, loss, its weight, the targets, the normalizers of the weighted and the plain variant.
VARIANTS = [
    ('kd_qfl', losses.cross_head_classification, 1, lambda: of('kd_qfl', 'target'), (3, 60)),
    ('kldiv_crosskd', losses.distribution_kl, 4, lambda: of('kldiv_crosskd', 'target'), (4, 20)),
    ('giou', losses.giou, 2, lambda: of('giou', 'target'), (3, 10)),
    ('qfl', functools.partial(losses.quality_focal, beta=2.0), 1, quality_scores, (4, 15)),
    ('dfl', losses.distribution_focal, 0.25, lambda: of('dfl', 'target'), (4, 16)),
    ('focal', losses.sigmoid_focal, 1, lambda: one_hot('focal', 'target'), (4, 75))]


@pytest.mark.parametrize('variant', ['weighted', 'plain'])
@pytest.mark.parametrize('case, loss, weight, target, normalizers', VARIANTS,
                         ids=[variant[0] for variant in VARIANTS])
def test_losses(case, loss, weight, target, normalizers, variant):
  plain = variant == 'plain'
  value, gradient = jax.value_and_grad(lambda x: weight * loss(
      x, target(), weights=None if plain else of(case, 'weight'),
      normalizer=normalizers[plain]))(of(case, 'pred'))
  np.testing.assert_allclose(value, of(case, f'{variant}.loss'), rtol=1e-5)
  expected = of(case, f'{variant}.grad')
  np.testing.assert_allclose(gradient, expected, rtol=0, atol=1e-5 * np.abs(expected).max())


def test_giou_of_each_box_equal_apart_or_empty():
  value = 2 * (1 - losses.box_overlaps(of('giou', 'pred'), of('giou', 'target'), form='giou'))
  np.testing.assert_allclose(value, of('giou', 'none.loss'), rtol=1e-5, atol=1e-6)
  gradient = jax.grad(lambda x: 2 * losses.giou(x, of('giou', 'target')))(of('giou', 'pred'))
  np.testing.assert_allclose(gradient, of('giou', 'none.grad'), atol=1e-6)


def test_centerness():
  value, gradient = jax.value_and_grad(losses.binary_cross_entropy)(
      of('bce_centerness', 'pred'), of('bce_centerness', 'target'), normalizer=3)
  np.testing.assert_allclose(value, of('bce_centerness', 'avg.loss'), rtol=1e-5)
  np.testing.assert_allclose(gradient, of('bce_centerness', 'avg.grad'), atol=1e-6)


def channels_last(x):
  return jnp.moveaxis(x, 1, -1)


def test_pearson_features():
  value, gradient = jax.value_and_grad(lambda x: 6 * losses.pearson_features(
      channels_last(x), channels_last(of('pkd', 'target'))))(of('pkd', 'pred'))
  np.testing.assert_allclose(value, of('pkd', 'plain.loss'), rtol=1e-5)
  expected = of('pkd', 'plain.grad')
  np.testing.assert_allclose(gradient, expected, rtol=0, atol=1e-5 * np.abs(expected).max())


@pytest.mark.parametrize('case, function, argument', [
    ('align_scale', lambda x: jnp.moveaxis(losses.align_statistics(
        channels_last(x), channels_last(of('align_scale', 'tea'))), -1, 1), 'stu'),
    ('integral', losses.integral, 'x')])
def test_maps(case, function, argument):
  x = of(case, argument)
  np.testing.assert_allclose(function(x), of(case, 'out'), rtol=1e-5, atol=1e-5)
  gradient = jax.grad(lambda x: jnp.sum(function(x) * of(case, 'probe')))(x)
  expected = of(case, 'grad')
  np.testing.assert_allclose(gradient, expected, rtol=0, atol=1e-5 * np.abs(expected).max())


def test_pairwise_overlaps():
  for form in ('iou', 'giou'):
    np.testing.assert_allclose(
        losses.pairwise_overlaps(of('iou_matrix', 'a'), of('iou_matrix', 'b'), form=form),
        of('iou_matrix', form), atol=1e-6)


def test_distances():
  points, boxes = of('distance_coder', 'points'), of('distance_coder', 'gt')
  for name, value in {
      'decoded': losses.decode_distances(points, of('distance_coder', 'dist')),
      'decoded_clip': losses.decode_distances(points, of('distance_coder', 'dist'), size=(12, 10)),
      'encoded': losses.encode_distances(points, boxes),
      'encoded_max16': losses.encode_distances(points, boxes, largest=15.9)}.items():
    np.testing.assert_allclose(value, of('distance_coder', name), rtol=1e-6)


@pytest.mark.parametrize('head, stds', [('retina', (1, 1, 1, 1)), ('atss', (0.1, 0.1, 0.2, 0.2))])
def test_deltas(head, stds):
  anchors, boxes = of('delta_coder', 'anchors'), of('delta_coder', 'gt')
  encoded = losses.encode_deltas(anchors, boxes, stds=stds)
  np.testing.assert_allclose(encoded, of('delta_coder', f'{head}.encoded'), rtol=1e-5, atol=1e-6)
  decoded = losses.decode_deltas(anchors, of('delta_coder', 'deltas'), stds=stds)
  np.testing.assert_allclose(decoded, of('delta_coder', f'{head}.decoded'), rtol=1e-5, atol=1e-4)
  np.testing.assert_allclose(
      losses.decode_deltas(anchors, encoded, stds=stds), boxes, rtol=1e-4, atol=1e-3)


def test_anchors_and_points():
  retina = [(3, 5), (2, 3), (1, 2), (1, 1), (1, 1)]
  for name, levels in {
      'gfl': losses.anchors(SQUARE), 'fcos_points': losses.points(SQUARE),
      'retina': losses.anchors(retina, octave_base_scale=4, scales_per_octave=3,
                               ratios=(0.5, 1, 2))}.items():
    for level, value in enumerate(levels):
      np.testing.assert_array_equal(value, of('anchors', f'{name}{level}'))
