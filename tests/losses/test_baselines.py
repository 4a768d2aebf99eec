"""The baselines' losses: values by hand, gradients, masks, zeros, dtypes, properties."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jax.test_util import check_grads

from kdseg_jax import losses

SHAPE = (2, 4, 5, 6)


def labels_of(where):
  """Three classes in stripes, 255 where masked."""
  return jnp.where(where, jnp.arange(where.shape[-1]) % 3, 255)


def taps_of(x):
  return [x[..., :4], x, x[..., 3:]]


def attention_transfer(student, teacher, where):
  return losses.attention_transfer(student, teacher, where=where)


def fitnets(student, teacher, where):
  return losses.fitnets(student, teacher, where=where)


def channel_wise(student, teacher, where):
  return losses.channel_wise(student, teacher, where=where)


def decoupled_kd(student, teacher, where):
  return losses.decoupled_kd(student, teacher, labels_of(where))


def intra_class_variation(student, teacher, where):
  return losses.intra_class_variation(student, teacher, labels_of(where), num_classes=6)


def double_similarity_pixel(student, teacher, where):
  return losses.double_similarity_pixel(taps_of(student), taps_of(teacher), where=where)


def double_similarity_category(student, teacher, where):
  del where
  return losses.double_similarity_category(student, teacher)


MASKED = [attention_transfer, fitnets, channel_wise, decoupled_kd, intra_class_variation,
          double_similarity_pixel]
ALL = MASKED + [double_similarity_category]
# Compiled once a loss for all tests: op by op, the first call of each shape takes a second.
COMPILED = {loss: jax.jit(jax.value_and_grad(loss, argnums=(0, 1))) for loss in ALL}



def compiled(loss, *inputs):
  """Value and the student's gradient; none may reach the teacher."""
  value, (gradient, teacher_gradient) = COMPILED[loss](*inputs)
  np.testing.assert_array_equal(teacher_gradient, 0)
  return value, gradient


every = pytest.mark.parametrize('loss', ALL, ids=lambda loss: loss.__name__)
every_masked = pytest.mark.parametrize('loss', MASKED, ids=lambda loss: loss.__name__)


def example(seed=0, dtype=np.float32):
  rng = np.random.default_rng(seed)
  student, teacher = rng.normal(size=(2, *SHAPE)).astype(dtype)
  return student, teacher, rng.random(SHAPE[:3]) < 0.6


def one_row(*pixels):
  return jnp.array(pixels, jnp.float32)[None, None]


def test_attention_transfer_by_hand():
  # Mean squares of the student's pixels: 12.5 and 0; of the teacher's: 3 and 4, of norm 5.
  loss = losses.attention_transfer(
      one_row([3, 4], [0, 0]), one_row([3, 0, 0], [2, 2, -2]))
  np.testing.assert_allclose(loss, ((1 - 0.6)**2 + 0.8**2) / 2, rtol=1e-6)
  assert loss.shape == () and loss.dtype == jnp.float32


def test_fitnets_by_hand():
  loss = losses.fitnets(
      one_row([1, 2], [3, 4]), one_row([1, 0], [0, 4]), where=jnp.array([[[True, False]]]))
  np.testing.assert_allclose(loss, 4 / 2)


def test_channel_wise_by_hand():
  # Over the pixels: p_s = (1/2, 1/2), p_t = (1/4, 3/4) in one channel, equal in the other.
  student, teacher = one_row([0, 5], [0, 1]), 2 * jnp.log(one_row([1, 1], [3, 1]))
  teacher = teacher.at[..., 1].set(student[..., 1])
  expected = 2**2 * (0.25 * np.log(0.5) + 0.75 * np.log(1.5)) / 2
  channel_wise = lambda **options: losses.channel_wise(
      student, teacher, temperature=2, **options)
  np.testing.assert_allclose(channel_wise(), expected, rtol=1e-5)
  np.testing.assert_allclose(
      channel_wise(official_channel_count=1), 2 * expected, rtol=1e-5)


def plain_channel_wise(student, teacher, where):
  """`channel_wise` as log-softmaxes over the pixels, one image and channel after the other."""
  values = []
  for image in range(student.shape[0]):
    inside = np.flatnonzero(where[image])
    for channel in range(student.shape[-1]) if inside.size else ():
      ours, theirs = (jax.nn.log_softmax(x[image, ..., channel].reshape(-1)[inside] / 4)
                      for x in (student, teacher))
      values.append(jnp.sum(jnp.where(
          jnp.isneginf(theirs), 0, jnp.exp(theirs) * (theirs - ours))))
  return 16 * sum(values) / len(values)


def test_channel_wise_equals_log_softmaxes():
  rng = np.random.default_rng(0)
  student, teacher = 3 * rng.standard_normal((2, 3, 5, 7, 3))
  where = rng.uniform(size=student.shape[:-1]) < 0.7
  where[1] = False                    # an image that counts nowhere
  student[0] += 1e4                   # an offset changes no softmax
  teacher[0, np.nonzero(where[0])[0][0], np.nonzero(where[0])[1][0], 1] = -np.inf  # excluded
  student[~where], teacher[~where] = np.nan, np.inf
  with jax.enable_x64(True):
    actual = jax.value_and_grad(losses.channel_wise)(
        jnp.asarray(student), jnp.asarray(teacher), where=jnp.asarray(where))
    expected = jax.value_and_grad(plain_channel_wise)(
        jnp.asarray(student), jnp.asarray(teacher), where)
  assert float(actual[0]) > 0.1
  for ours, theirs in zip(actual, expected, strict=True):
    np.testing.assert_allclose(np.asarray(ours), theirs, rtol=1e-9, atol=1e-12)


def test_intra_class_variation_by_hand():
  # The student's two pixels of class 1 are 45 degrees off their centre, the teacher's agree; a
  # pixel without a class contributes nothing and counts.
  student = one_row([2, 0], [0, 2], [3, 3])
  teacher = one_row([0, 0, 1], [0, 0, 2], [1, 0, 0])
  expected = 2 * (1 - np.sqrt(0.5))**2 / 3
  loss = jax.jit(lambda labels: losses.intra_class_variation(
      student, teacher, labels, num_classes=2))
  for stray in (255, -1, 2):
    np.testing.assert_allclose(loss(jnp.array([[[1, 1, stray]]])), expected, rtol=1e-5)
  # Labels of another size: the nearest of each pair of columns is the first.
  labels = jnp.array([[[1, 0, 1, 0, 255, 0]] * 2], jnp.uint8)
  np.testing.assert_allclose(loss(labels), expected, rtol=1e-5)


def test_double_similarity_by_hand():
  # Attention moves from the first pixel to the second, or back: residuals (-1, 1) / sqrt(2).
  first, second = one_row([1], [0]), one_row([0], [7])
  loss = losses.double_similarity_pixel([first, second], [second, first])
  np.testing.assert_allclose(loss, 2, rtol=1e-6)
  # Shares of the two pooled positions: (1/4, 3/4) and (1/2, 1/2), of the teacher all 1/2.
  student = jnp.repeat(4 * jnp.log(one_row([1, 2], [3, 2])), 2, axis=2)
  loss = losses.double_similarity_category(student, jnp.zeros_like(student))
  np.testing.assert_allclose(loss, (10 / 16 - 1 / 2)**2 / 4, rtol=1e-5)


def test_decoupled_kd_by_hand():
  student, teacher = jnp.log(one_row([0.5, 0.3, 0.2])), jnp.log(one_row([0.8, 0.1, 0.1]))
  kl = lambda p, q: np.sum(p * np.log(p / q))
  target = kl(np.array([0.8, 0.2]), np.array([0.5, 0.5]))
  others = kl(np.array([0.5, 0.5]), np.array([0.6, 0.4]))
  loss = jax.jit(lambda x: losses.decoupled_kd(
      x, teacher, jnp.zeros((1, 1, 1), jnp.uint8), alpha=2.0, beta=3.0, temperature=1.0))(student)
  np.testing.assert_allclose(loss, 2 * target + 3 * others, rtol=1e-5)


def test_decoupled_parts_make_up_the_whole():
  """Eq. 6 of the paper: KD = TCKD + (1 - p_t[label]) NCKD, for each pixel."""
  student, teacher, _ = example()
  labels = labels_of(np.ones(SHAPE[:3], bool))
  beta = 1 - jnp.take_along_axis(
      jax.nn.softmax(teacher / 4, axis=-1), labels[..., None], axis=-1)[..., 0]
  per_pixel = lambda s, t, label, b: losses.decoupled_kd(s, t, label, beta=b)
  for _ in range(3):
    per_pixel = jax.vmap(per_pixel)
  parts = jax.jit(per_pixel)(student, teacher, labels, beta)
  np.testing.assert_allclose(
      jnp.mean(parts), losses.pixelwise_kl(student, teacher, temperature=4), rtol=1e-5)


@every
def test_finite_differences(loss):
  with jax.enable_x64(True):
    student, teacher, where = example(dtype=np.float64)
    function = jax.jit(lambda x: loss(x, teacher, where))
    assert function(student).dtype == jnp.float64
    check_grads(function, (student,), order=1, modes=['rev'])


@every
def test_student_equal_to_the_teacher_is_a_minimum(loss):
  student, _, where = example()
  value, gradient = compiled(loss, student, student, where)
  np.testing.assert_allclose(value, 0, atol=1e-6)
  np.testing.assert_allclose(gradient, 0, atol=1e-6)


@every_masked
def test_all_masked_is_zero_with_zero_gradient(loss):
  student, teacher, where = example()
  value, gradient = compiled(loss, student, teacher, np.zeros_like(where))
  assert value == 0
  np.testing.assert_array_equal(gradient, 0)


@every_masked
def test_values_at_masked_pixels_are_irrelevant(loss):
  student, teacher, where = example()
  where[0] = False  # of one image nothing counts
  value, gradient = compiled(loss, student, teacher, where)
  spoilt = np.where(where[..., None], student, np.nan)
  again, same = compiled(loss, spoilt, np.where(where[..., None], teacher, np.inf), where)
  assert again == value and np.isfinite(value)
  np.testing.assert_array_equal(same, gradient)
  np.testing.assert_array_equal(gradient[~where], 0)


@every_masked
def test_masked_pixels_are_left_out(loss):
  student, teacher, where = example()
  where[:] = True
  where[:, 3] = False
  value, _ = compiled(loss, student, teacher, where)
  expected = jax.jit(loss)(student[:, :3], teacher[:, :3], where[:, :3])
  # Intra-class variation counts pixels without a class in its mean.
  share = 3 / 4 if loss is intra_class_variation else 1
  np.testing.assert_allclose(value, share * expected, rtol=1e-5)


@every
def test_zero_features_have_a_finite_gradient(loss):
  student, teacher, where = example()
  some = student.copy()
  some[:, 1:3] = 0
  for zeroed, reference in ((some, teacher), (0 * student, teacher), (0 * student, 0 * teacher)):
    value, gradient = compiled(loss, zeroed, reference, where)
    assert np.isfinite(value) and np.abs(gradient).max() < 10
  np.testing.assert_allclose(value, 0, atol=1e-7)
  tiny, gradient = compiled(loss, 1e-6 * student, teacher, where)
  assert np.isfinite(tiny) and np.abs(gradient).max() < 1e7


@pytest.mark.parametrize('loss', [channel_wise, decoupled_kd, double_similarity_category],
                         ids=lambda loss: loss.__name__)
def test_large_logits_stay_finite(loss):
  # A softmax is 0 here, so that its log would be -inf.
  student, teacher, where = example()
  value, gradient = compiled(loss, 1e4 * student, 1e4 * teacher, where)
  assert np.isfinite(value) and value > 0 and np.all(np.isfinite(gradient))


@every
def test_bfloat16_is_reduced_in_float32(loss):
  student, teacher, where = example()
  student, teacher = (jnp.asarray(x, jnp.bfloat16) for x in (student, teacher))
  value = jax.jit(loss)(student, teacher, where)
  assert value.dtype == jnp.float32
  expected, _ = compiled(loss, *(x.astype(jnp.float32) for x in (student, teacher)), where)
  np.testing.assert_allclose(value, expected, rtol=1e-6)


@every
def test_vmap(loss):
  student, teacher, where = example()
  where[:] = True
  expected, _ = compiled(loss, student, teacher, where)
  each = jax.jit(jax.vmap(loss))(student[:, None], teacher[:, None], where[:, None])
  np.testing.assert_allclose(each.mean(), expected, rtol=1e-5)


@settings(deadline=None, max_examples=15, database=None)
@given(st.integers(0, 10**6), st.sampled_from(ALL), st.floats(0.01, 100))
def test_properties(seed, loss, scale):
  student, teacher, where = example(seed)
  run = lambda *inputs: compiled(loss, *inputs)[0]
  value = run(student, teacher, where)
  assert value >= -1e-7  # of decoupled_kd, a difference of sums
  reverse = lambda x: x[::-1]  # of the images
  np.testing.assert_allclose(
      run(reverse(student), reverse(teacher), reverse(where)), value, rtol=1e-4, atol=1e-7)
  if loss is not double_similarity_category:  # which pools neighbours
    order = np.random.default_rng(seed).permutation(SHAPE[1])  # labels are stripes of columns
    np.testing.assert_allclose(
        run(student[:, order], teacher[:, order], where[:, order]), value, rtol=1e-4, atol=1e-7)
  if loss in (attention_transfer, intra_class_variation):
    np.testing.assert_allclose(
        run(np.float32(scale) * student, teacher / np.float32(scale), where), value, rtol=1e-3,
        atol=1e-7)


def test_errors_say_what_to_do():
  student, teacher, where = (jnp.asarray(x) for x in example())
  for loss in ALL:
    with pytest.raises(ValueError, match=r'\(2, 3, 5, '):
      loss(student[:, :3], teacher, where[:, :3])
  for loss in (fitnets, channel_wise):
    with pytest.raises(ValueError, match='same width.*project'):
      loss(student[..., :4], teacher, where)
  for loss, labels in ((losses.decoupled_kd, where * 1.0),
                       (lambda *x: losses.intra_class_variation(*x, num_classes=3), where)):
    with pytest.raises(ValueError, match='takes integer labels'):
      loss(student, teacher, labels)
  with pytest.raises(ValueError, match='at least 2 classes'):
    losses.decoupled_kd(student[..., :1], teacher[..., :1], labels_of(where))
  with pytest.raises(ValueError, match='as many taps.*3 and 2'):
    losses.double_similarity_pixel(taps_of(student), taps_of(teacher)[1:])
  with pytest.raises(ValueError, match='at least 2'):
    losses.double_similarity_pixel([student], [teacher])
  for loss in (losses.channel_wise, losses.double_similarity_category):
    with pytest.raises(ValueError, match='temperature=0'):
      loss(student, teacher, temperature=0)
  with pytest.raises(ValueError, match='official_channel_count=0'):
    losses.channel_wise(student, teacher, official_channel_count=0)
  for loss in (losses.attention_transfer, losses.fitnets, losses.channel_wise):
    with pytest.raises(ValueError, match='where must have the leading axes'):
      loss(student, teacher, where=where[:1])
