"""Masks, numbers and targets that cannot be meant are refused as far as they are known."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kdseg_jax import losses
from kdseg_jax.losses import queues

STUDENT, TEACHER = np.random.default_rng(0).normal(size=(2, 2, 3, 4, 5)).astype(np.float32)
WHERE = np.arange(24).reshape(2, 3, 4) % 3 > 0
OF_MASKS = {
    'pixelwise_kl': lambda where: losses.pixelwise_kl(STUDENT, TEACHER, where=where),
    'attention_transfer': lambda where: losses.attention_transfer(STUDENT, TEACHER, where=where),
    'fitnets': lambda where: losses.fitnets(STUDENT, TEACHER, where=where),
    'channel_wise': lambda where: losses.channel_wise(STUDENT, TEACHER, where=where),
    'hierarchical_context': lambda where: losses.hierarchical_context(
        STUDENT, TEACHER, where=where),
    'double_similarity_pixel': lambda where: losses.double_similarity_pixel(
        [STUDENT, TEACHER], [TEACHER, STUDENT], where=where),
    'feature_adaptation': lambda where: losses.feature_adaptation(STUDENT, TEACHER, where=where),
    'autoencoder_reconstruction': lambda where: losses.autoencoder_reconstruction(
        STUDENT, TEACHER, STUDENT, where=where),
    'memory_similarity': lambda where: losses.memory_similarity(
        STUDENT, TEACHER, STUDENT[0, 0], where=where),
    'contrast_where': lambda where: losses.memory_similarity(
        STUDENT, TEACHER, STUDENT[0, 0], contrast_where=where[0, 0]),
    'score_weights': lambda where: losses.score_weights(STUDENT, where),
    'push': lambda where: queues.push(
        queues.init(2, 3, 5, jax.random.key(0)), STUDENT[0, 0], np.zeros(4, int), where[0, 0]),
}


@pytest.mark.parametrize('loss', OF_MASKS.values(), ids=OF_MASKS)
@pytest.mark.parametrize('where', [np.full(WHERE.shape, 0.4, np.float32), WHERE * 255])
def test_a_mask_that_is_not_bool_is_refused(loss, where):
  for call in (loss, jax.jit(loss)):
    with pytest.raises(ValueError, match=f'where must be bool, got {jnp.asarray(where).dtype}'):
      call(where)


@pytest.mark.parametrize('loss', OF_MASKS.values(), ids=OF_MASKS)
def test_zeros_and_ones_are_a_mask_where_they_are_known(loss):
  jax.tree.map(np.testing.assert_array_equal, loss(WHERE.astype(np.float32)), loss(WHERE))
  with pytest.raises(ValueError, match='where must be bool, got uint8'):
    jax.jit(loss)(WHERE.astype(np.uint8))


@pytest.mark.parametrize('loss', OF_MASKS.values(), ids=OF_MASKS)
def test_a_mask_of_bool_is_taken_traced_or_not(loss):
  shapes = jax.eval_shape(loss, WHERE)
  assert shapes == jax.eval_shape(lambda: loss(WHERE)) == jax.eval_shape(
      lambda: loss(jnp.asarray(WHERE)))


# Every number that must be positive: its name, and a loss of it.
OF_POSITIVE = {
    ('temperature', 'pixelwise_kl'): lambda x: losses.pixelwise_kl(
        STUDENT, TEACHER, temperature=x),
    ('temperature', 'channel_wise'): lambda x: losses.channel_wise(
        STUDENT, TEACHER, temperature=x),
    ('temperature', 'decoupled_kd'): lambda x: losses.decoupled_kd(
        STUDENT, TEACHER, WHERE.astype(int), temperature=x),
    ('temperature', 'cross_image_pixel'): lambda x: losses.cross_image_pixel(
        STUDENT, TEACHER, temperature=x),
    ('kd_temperature', 'memory_similarity'): lambda x: losses.memory_similarity(
        STUDENT, TEACHER, STUDENT[0, 0], kd_temperature=x),
    ('temperature', 'distribution_kl'): lambda x: losses.distribution_kl(
        STUDENT, TEACHER, temperature=x),
    ('official_channel_count', 'channel_wise'): lambda x: losses.channel_wise(
        STUDENT, TEACHER, official_channel_count=x),
    ('eps', 'pairwise_affinity'): lambda x: losses.pairwise_affinity(STUDENT, TEACHER, eps=x),
    ('beta', 'quality_focal'): lambda x: losses.quality_focal(
        STUDENT, jax.nn.sigmoid(TEACHER), beta=x),
    ('gamma', 'sigmoid_focal'): lambda x: losses.sigmoid_focal(
        STUDENT, jax.nn.sigmoid(TEACHER), gamma=x),
}
of_positive = pytest.mark.parametrize(
    'name, loss', [(name, loss) for (name, _), loss in OF_POSITIVE.items()],
    ids=['-'.join(key) for key in OF_POSITIVE])


@of_positive
@pytest.mark.parametrize('value, message', [
    (np.array(-1.), 'be positive'), (jnp.float32(-1), 'be positive'), (-1, 'be positive'),
    (np.float16(0), 'be positive'), (jnp.bfloat16(-2), 'be positive'), (np.nan, 'be positive'),
    (jnp.float32(jnp.nan), 'be positive'), (np.inf, 'be positive and finite'),
    (np.array(np.inf), 'be positive and finite'), ('4', 'be a number'), (True, 'be a number'),
    ((1,), 'be a number'), (np.ones(1), 'be a number'), (jnp.ones((2, 1)), 'be a number'),
    (2j, 'be a number')])
def test_what_is_no_positive_number_is_refused(name, loss, value, message):
  with pytest.raises(ValueError, match=rf'{name}=[\s\S]* must {message}'):
    loss(value)


@of_positive
def test_a_positive_number_is_taken_of_any_kind_and_traced(name, loss):
  for value in (2, 2.5, np.float32(2), np.array(2.), np.int64(3)):
    assert jax.eval_shape(functools.partial(loss, value)).shape == ()
  for value in (jnp.float32(2), jnp.bfloat16(2), -1.0):  # traced: what is not known passes
    assert jax.eval_shape(loss, value).shape == ()
  with pytest.raises(ValueError, match=f'{name}=[\\s\\S]* must be a number'):
    jax.eval_shape(loss, np.ones(2, np.float32))


@pytest.mark.parametrize('options, message', [
    ({'threshold': np.array(1.5)}, 'threshold=1.5 must be in'),
    ({'threshold': np.nan}, 'threshold=nan must be in'),
    ({'min_kept': np.inf}, r'min_kept=inf must be in \[0, inf\)'),
    ({'threshold_stride': '2'}, "threshold_stride='2' must be a number")])
def test_numbers_of_a_range_are_refused_alike(options, message):
  with pytest.raises(ValueError, match=message):
    losses.ohem_cross_entropy(STUDENT, WHERE.astype(int), **options)


def test_a_normalizer_is_one_number_and_may_be_found_to_be_zero():
  loss = functools.partial(losses.quality_focal, STUDENT, jax.nn.sigmoid(TEACHER))
  for value in (np.array(-1.), jnp.float32(-1), 0, np.float32(0), np.nan, np.inf):
    with pytest.raises(ValueError, match='normalizer=.* must be positive'):
      loss(normalizer=value)
  for value in ('4', np.ones(1), True):
    with pytest.raises(ValueError, match='normalizer=.* must be a number'):
      loss(normalizer=value)
  whole = loss()
  for value in (2, np.float32(2), np.array(2), jnp.float32(2)):
    np.testing.assert_allclose(loss(normalizer=value), whole / 2, rtol=1e-6)
  for value in (np.array(0), jnp.float32(0)):  # counted: nothing has a weight
    np.testing.assert_allclose(loss(normalizer=value), whole, rtol=1e-6)


OF_TARGETS = {'quality_focal': losses.quality_focal, 'sigmoid_focal': losses.sigmoid_focal,
              'binary_cross_entropy': losses.binary_cross_entropy}
of_targets = pytest.mark.parametrize('loss', OF_TARGETS.values(), ids=OF_TARGETS)
LOGITS = STUDENT[0, 0]


@of_targets
@pytest.mark.parametrize('targets', [
    np.full(LOGITS.shape, 50.), np.full(LOGITS.shape, -0.1, np.float32),
    np.arange(20).reshape(LOGITS.shape), jnp.full(LOGITS.shape, 1.5, jnp.bfloat16)])
def test_targets_that_are_known_to_be_no_probabilities_are_refused(loss, targets):
  with pytest.raises(ValueError, match=r'takes targets in \[0, 1\], got .* to '):
    loss(LOGITS, targets)
  with pytest.raises(ValueError, match='takes targets in'):
    jax.grad(loss)(LOGITS, targets)
  assert np.isfinite(jax.jit(loss)(LOGITS, targets))


@of_targets
def test_targets_within_rounding_and_those_without_weight_are_taken(loss):
  ones = np.ones_like(LOGITS)
  np.testing.assert_allclose(loss(LOGITS, ones * (1 + 1e-6)), loss(LOGITS, ones), rtol=1e-4)
  weights = np.float32([1, 0, 1, 1])
  if loss is losses.binary_cross_entropy:
    weights = np.broadcast_to(weights[:, None], LOGITS.shape)
  for spoilt in (50, np.nan):
    targets = ones.copy()
    targets[1] = spoilt
    assert loss(LOGITS, targets, weights=weights) == loss(LOGITS, ones, weights=weights)
  inside = jax.jit(lambda x: loss(x, ones))  # constants of a program
  np.testing.assert_allclose(inside(LOGITS), loss(LOGITS, ones), rtol=1e-6)


@pytest.mark.parametrize('alpha', [5, -0.1, np.nan, np.array(1.5)])
def test_the_balance_of_focal_loss_is_a_share(alpha):
  with pytest.raises(ValueError, match=r'alpha=.* must be in \[0, 1\]'):
    losses.sigmoid_focal(LOGITS, np.zeros_like(LOGITS), alpha=alpha)


def test_smooth_l1_has_no_negative_beta():
  with pytest.raises(ValueError, match=r'beta=-1 must be in \[0'):
    losses.smooth_l1(LOGITS, LOGITS + 1, beta=-1)
