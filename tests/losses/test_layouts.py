"""Channels first, one class, no pixel, logits of integers, labels of floats: refused.

Wherever shapes and dtypes can tell.
"""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kdseg_jax import losses
from kdseg_jax.losses import _common, queues

LABELS = (2, 32, 48)
LAST = (2, 8, 12, 5)   # at stride 4
FIRST = (2, 5, 16, 24)


def zeros(*shape, dtype=np.float32):
  return np.zeros(shape, dtype)


def labels_of(shape, dtype=np.uint8):
  return np.zeros(shape, dtype)


def memory(width):
  return queues.init(3, 4, width, jax.random.key(0))


# Every loss that compares maps with labels: of logits or features, and of labels.
WITH_LABELS = {
    'cross_entropy': losses.cross_entropy,
    'ohem_cross_entropy': losses.ohem_cross_entropy,
    'intra_class_variation': lambda x, labels: losses.intra_class_variation(
        x, x, labels, num_classes=5),
    'push_pixels': lambda x, labels: queues.push_pixels(
        memory(x.shape[-1]), x, labels, jax.random.key(0)),
    'push_regions': lambda x, labels: queues.push_regions(memory(x.shape[-1]), x, labels),
}
# Every loss whose softmax is over classes, of logits alone.
OF_CLASSES = {
    'cross_entropy': lambda x: losses.cross_entropy(x, labels_of(x.shape[:-1])),
    'ohem_cross_entropy': lambda x: losses.ohem_cross_entropy(x, labels_of(x.shape[:-1])),
    'pixelwise_kl': lambda x: losses.pixelwise_kl(x, x),
    'decoupled_kd': lambda x: losses.decoupled_kd(x, x, labels_of(x.shape[:-1])),
    'double_similarity_category': lambda x: losses.double_similarity_category(x, x),
}
# Every loss of a student's and a teacher's maps.
OF_PAIRS = {
    'pixelwise_kl': losses.pixelwise_kl,
    'pairwise_affinity': losses.pairwise_affinity,
    'cross_image_pixel': losses.cross_image_pixel,
    'cross_image_channel': losses.cross_image_channel,
    'channel_mse': losses.channel_mse,
    'memory_similarity': lambda s, t: losses.memory_similarity(s, t, zeros(4, t.shape[-1])),
    'attention_transfer': losses.attention_transfer,
    'fitnets': losses.fitnets,
    'channel_wise': losses.channel_wise,
    'hierarchical_context': losses.hierarchical_context,
    'intra_class_variation': lambda s, t: losses.intra_class_variation(
        s, t, labels_of(s.shape[:-1]), num_classes=5),
    'double_similarity_pixel': lambda s, t: losses.double_similarity_pixel([s, s], [t, t]),
    'double_similarity_category': losses.double_similarity_category,
    'decoupled_kd': lambda s, t: losses.decoupled_kd(s, t, labels_of(s.shape[:-1])),
    'gradient_penalty': lambda s, t: losses.gradient_penalty(
        lambda x: jnp.sum(x, (1, 2, 3)), s, t, np.ones(len(s), np.float32)),
}


@pytest.mark.parametrize('loss', WITH_LABELS.values(), ids=WITH_LABELS)
@pytest.mark.parametrize('shape', [
    (2, 5, *LABELS[1:]), (2, 21, *LABELS[1:]), (2, 1, *LABELS[1:]), FIRST, (2, 21, 16, 24),
    (2, 150, 4, 6)])
def test_channels_first_is_refused(loss, shape):
  with pytest.raises(ValueError, match='channels (go )?last|at least 2 classes'):
    jax.eval_shape(loss, zeros(*shape), labels_of(LABELS))


@pytest.mark.parametrize('loss', WITH_LABELS.values(), ids=WITH_LABELS)
@pytest.mark.parametrize('shape, labels', [
    (LAST, LABELS), ((2, *LABELS[1:], 5), LABELS), ((2, 8, 8, 8), (2, 8, 8)),
    ((2, 8, 8, 32), (2, 32, 32)), ((2, 32, 32, 32), (2, 32, 32)), ((2, 9, 13, 5), (2, 65, 97)),
    ((2, 9, 12, 9), (2, 33, 47)), ((2, 1, 8, 64), (2, 8, 64)), ((2, 16, 32, 64), (2, 32, 64))])
def test_channels_last_is_taken(loss, shape, labels):
  assert jax.tree.leaves(jax.eval_shape(loss, zeros(*shape), labels_of(labels)))  # or a queue


sides = st.integers(1, 300)
roundings = st.sampled_from([math.ceil, math.floor])


@settings(max_examples=300, deadline=None)
@given(sides, sides, st.integers(1, 400), st.floats(1, 40), roundings)
def test_maps_at_a_stride_are_never_refused(height, width, channels, stride, rounded):
  maps = (2, *(max(1, rounded(side / stride)) for side in (height, width)), channels)
  _common.check_channels_last('loss', maps, (2, height, width))


@settings(max_examples=300, deadline=None)
@given(st.integers(1, 60), st.integers(1, 16), st.sampled_from([1, 2, 4, 8]), roundings)
def test_nor_are_maps_of_as_many_channels_as_columns(rows, stride, shared, rounded):
  """The hardest case: the last two axes are the labels' size, or that over `shared`."""
  height, width = shared * rows, stride * rows
  maps = (2, max(1, rounded(height / stride)), rows, -(-width // shared))
  _common.check_channels_last('loss', maps, (2, height, width))


@settings(max_examples=300, deadline=None)
@given(st.integers(32, 300), st.integers(32, 300), st.integers(2, 400),
       st.sampled_from([1, 2, 4, 8, 16]))
def test_what_can_only_be_channels_first_is_refused(height, width, channels, stride):
  rows, columns = (-(-side // stride) for side in (height, width))
  vertical, horizontal = height / channels, width / rows  # factors, were it channels last
  maps, labels = (2, channels, rows, columns), (2, height, width)
  if max(vertical, horizontal) > 2 * min(vertical, horizontal) and min(channels, rows) > 2:
    with pytest.raises(ValueError, match='moveaxis'):
      _common.check_channels_last('loss', maps, labels)


@pytest.mark.parametrize('loss', OF_CLASSES.values(), ids=OF_CLASSES)
def test_one_class_is_refused(loss):
  with pytest.raises(ValueError, match='at least 2 classes'):
    loss(zeros(2, 3, 4, 1))
  assert np.isfinite(loss(zeros(2, 3, 4, 2)))


@pytest.mark.parametrize('loss', OF_PAIRS.values(), ids=OF_PAIRS)
@pytest.mark.parametrize('student, teacher', [
    (LAST, (2, 5, 8, 12)), ((2, 5, 8, 12), LAST), ((2, 8, 8, 5), (2, 5, 8, 8))])
def test_layouts_that_differ_are_refused(loss, student, teacher):
  with pytest.raises(ValueError):
    jax.eval_shape(loss, zeros(*student), zeros(*teacher))


@pytest.mark.parametrize('name', [
    'pairwise_affinity', 'cross_image_pixel', 'attention_transfer', 'double_similarity_pixel'])
def test_maps_of_two_widths_with_channels_first_are_told_so(name):
  with pytest.raises(ValueError, match='moveaxis'):
    OF_PAIRS[name](zeros(2, 5, 8, 12), zeros(2, 7, 8, 12))
  with pytest.raises(ValueError) as error:
    OF_PAIRS[name](zeros(2, 8, 12, 5), zeros(2, 4, 6, 5))
  assert 'moveaxis' not in str(error.value)


def of_one(loss):
  """A loss of one array, where it is of a student's and a teacher's."""
  return lambda x: loss(x, x)


# Every loss, of one array of logits, features or scores.
OF_ONE = {
    **{name: of_one(loss) for name, loss in OF_PAIRS.items()}, **OF_CLASSES,
    'wasserstein_critic': of_one(losses.wasserstein_critic),
    'wasserstein_generator': losses.wasserstein_generator,
    'hinge_critic': of_one(losses.hinge_critic),
    'feature_adaptation': of_one(losses.feature_adaptation),
    'autoencoder_reconstruction': lambda x: losses.autoencoder_reconstruction(x, x, x),
    'pearson_features': of_one(losses.pearson_features),
}
# Every loss of logits or scores; of detectors too, whose anchors may be none.
OF_LOGITS = OF_CLASSES | {
    name: OF_ONE[name] for name in ('wasserstein_critic', 'wasserstein_generator', 'hinge_critic')
} | {
    'quality_focal': lambda x: losses.quality_focal(x, zeros(*x.shape)),
    'sigmoid_focal': lambda x: losses.sigmoid_focal(x, labels_of(x.shape)),
    'distribution_focal': lambda x: losses.distribution_focal(x, zeros(*x.shape[:-1])),
    'distribution_kl': of_one(losses.distribution_kl),
    'binary_cross_entropy': lambda x: losses.binary_cross_entropy(x, zeros(*x.shape)),
    'cross_head_classification': of_one(losses.cross_head_classification),
    'cross_head_distribution': of_one(losses.cross_head_distribution),
    'localization_distillation': of_one(losses.localization_distillation),
    'score_weights': losses.score_weights,
    'integral': losses.integral,
}


@pytest.mark.parametrize('loss', OF_LOGITS.values(), ids=OF_LOGITS)
def test_what_is_no_float_is_refused(loss):
  for dtype in ('int32', 'uint8', 'bool', 'complex64'):
    with pytest.raises(ValueError, match=f'takes logits or scores of a float dtype, got {dtype}'):
      jax.eval_shape(loss, jnp.zeros((2, 8, 8, 4), dtype))
  for dtype in ('float16', 'bfloat16', 'float32'):
    assert jax.eval_shape(loss, jnp.zeros((2, 8, 8, 4), dtype)).dtype == jnp.float32
  assert jax.eval_shape(lambda: loss(zeros(2, 8, 8, 4, dtype=np.float64))).dtype == jnp.float32


@pytest.mark.parametrize('loss', [losses.distribution_kl, losses.cross_head_classification,
                                  losses.localization_distillation, losses.pixelwise_kl])
def test_a_teacher_of_integers_is_refused(loss):
  with pytest.raises(ValueError, match='float dtype, got int32'):
    loss(zeros(2, 8), zeros(2, 8, dtype=np.int32))


@pytest.mark.parametrize('name', sorted(OF_ONE.keys() - OF_LOGITS.keys()))
def test_features_are_real_numbers(name):
  for dtype in ('int32', 'bfloat16', 'float32'):
    assert jax.eval_shape(OF_ONE[name], jnp.zeros((2, 8, 8, 4), dtype)).dtype == jnp.float32
  with pytest.raises(ValueError, match='Expected real numbers, got complex64'):
    jax.eval_shape(OF_ONE[name], jnp.zeros((2, 8, 8, 4), 'complex64'))


@pytest.mark.parametrize('loss', OF_ONE.values(), ids=OF_ONE)
@pytest.mark.parametrize('shape', [(2, 0, 0, 4), (2, 8, 0, 4), (0, 8, 8, 4)])
def test_what_has_no_elements_is_refused(loss, shape):
  with pytest.raises(ValueError, match='have elements'):
    loss(zeros(*shape))


@pytest.mark.parametrize('loss', [losses.cross_entropy, losses.ohem_cross_entropy])
def test_no_pixel_cannot_be_resized_to_the_labels(loss):
  with pytest.raises(ValueError, match=r'have elements, got shape \(2, 0, 0, 3\)'):
    loss(zeros(2, 0, 0, 3), labels_of((2, 8, 8)))


def test_detectors_may_have_no_anchor_and_targets_and_boxes_of_integers():
  assert losses.quality_focal(zeros(0, 3), zeros(0, 3)) == 0
  assert losses.giou(zeros(0, 4), zeros(0, 4)) == 0
  one_hot = np.eye(3, dtype=np.float32)
  logits = np.float32([[1, -2, 0.5], [0, 1, 2], [-1, 0, 3]])
  for dtype in ('uint8', 'bool', 'int32'):
    np.testing.assert_array_equal(losses.sigmoid_focal(logits, one_hot.astype(dtype)),
                                  losses.sigmoid_focal(logits, one_hot))
  boxes = np.array([[0, 0, 4, 4]])
  assert losses.box_overlaps(boxes, boxes + [0, 0, 0, 4]) == 0.5
  with pytest.raises(ValueError, match='real numbers, got complex64'):
    losses.box_overlaps(boxes * 1j, boxes)


@pytest.mark.parametrize('loss', [
    *WITH_LABELS.values(),
    lambda x, labels: losses.decoupled_kd(x, x, labels[:, :8, :12]),
    lambda x, labels: queues.push(memory(5), x[0, 0], labels[0, 0, :12], np.ones(12, bool)),
], ids=[*WITH_LABELS, 'decoupled_kd', 'push'])
@pytest.mark.parametrize('dtype', ['float32', 'bfloat16', 'bool'])
def test_labels_that_are_no_integers_are_refused(loss, dtype):
  with pytest.raises(ValueError, match='integer'):
    loss(zeros(*LAST), jnp.zeros(LABELS, dtype))
