"""Channels first, one class, labels of floats: refused wherever shapes and dtypes can tell."""

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


@pytest.mark.parametrize('loss', [
    *WITH_LABELS.values(),
    lambda x, labels: losses.decoupled_kd(x, x, labels[:, :8, :12]),
    lambda x, labels: queues.push(memory(5), x[0, 0], labels[0, 0, :12], np.ones(12, bool)),
], ids=[*WITH_LABELS, 'decoupled_kd', 'push'])
@pytest.mark.parametrize('dtype', ['float32', 'bfloat16', 'bool'])
def test_labels_that_are_no_integers_are_refused(loss, dtype):
  with pytest.raises(ValueError, match='integer'):
    loss(zeros(*LAST), jnp.zeros(LABELS, dtype))
