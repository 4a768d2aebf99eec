"""The value and gradient of every loss are those of one device, however the batch is spread."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from jax.sharding import AxisType
from jax.sharding import PartitionSpec as P

from kdseg_jax import losses

AXIS = 'data'
DEVICES = 8


def cross_entropy(student, teacher, where, axis_name):
  del teacher
  labels = jnp.where(where, 2, 255)
  return losses.cross_entropy(student, labels, axis_name=axis_name)


def upsampled_cross_entropy(student, teacher, where, axis_name):
  labels = jnp.repeat(jnp.where(where, 1, 255), 2, axis=1)
  return cross_entropy(student, teacher, where, axis_name) + losses.cross_entropy(
      student, labels, axis_name=axis_name)


def ohem(student, teacher, where, axis_name):
  del teacher
  return losses.ohem_cross_entropy(
      student, jnp.where(where, 2, 255), threshold=0.1, min_kept=90, axis_name=axis_name)


def ohem_downsampled(student, teacher, where, axis_name):
  del teacher
  labels = jnp.repeat(jnp.where(where, 1, 255), 2, axis=1)
  return losses.ohem_cross_entropy(
      student, labels, threshold=0.1, min_kept=90, threshold_stride=2, axis_name=axis_name)


def pixelwise(student, teacher, where, axis_name):
  return losses.pixelwise_kl(student, teacher, where=where, axis_name=axis_name)


def pixelwise_unmasked(student, teacher, where, axis_name):
  del where
  return losses.pixelwise_kl(student, teacher, axis_name=axis_name)


def pixelwise_same_mask_everywhere(student, teacher, where, axis_name):
  where = jnp.ones(where.shape, bool).at[:, 0].set(False)
  return losses.pixelwise_kl(student, teacher, where=where, axis_name=axis_name)


def pixelwise_sum(student, teacher, where, axis_name):
  return losses.pixelwise_kl(
      student, teacher, where=where, reduction='sum_over_batch', axis_name=axis_name)


def gram(student, teacher, where, axis_name):
  del where
  return losses.pairwise_affinity(student, teacher, axis_name=axis_name)


def direct(student, teacher, where, axis_name):
  del where
  return losses.pairwise_affinity(student, teacher, node_size=3, axis_name=axis_name)


def near(student, teacher, where, axis_name):
  del where
  return losses.pairwise_affinity(student, teacher, neighbourhood=2, axis_name=axis_name)


def labels_of(where):
  return jnp.where(where, jnp.arange(where.shape[-1]) % 3, 255)


def one_map(student, teacher, where, axis_name):
  """Three baselines at once: compiling takes the time here."""
  return (
      losses.attention_transfer(student, teacher, where=where, axis_name=axis_name)
      + losses.fitnets(student, teacher, where=where, axis_name=axis_name)
      + losses.channel_wise(student, teacher, where=where, axis_name=axis_name))


def hierarchical(student, teacher, where, axis_name):
  return losses.hierarchical_context(
      [student, student[:, 0, 0]], [teacher, teacher[:, 0, 0]],
      where=[where, where[:, 0, 0]], axis_name=axis_name)


def adaptation(student, teacher, where, axis_name):
  return losses.feature_adaptation(student, teacher, where=where, axis_name=axis_name) + (
      losses.autoencoder_reconstruction(
          teacher, student, student[:, ::2, ::2]**2, alpha=0.01, where=where, axis_name=axis_name))


def decoupled(student, teacher, where, axis_name):
  return losses.decoupled_kd(student, teacher, labels_of(where), axis_name=axis_name)


def similarities(student, teacher, where, axis_name):
  taps = lambda x: [x[..., :3], x, x[..., 2:]]
  return (
      losses.intra_class_variation(
          student, teacher, labels_of(where), num_classes=3, axis_name=axis_name)
      + losses.double_similarity_pixel(
          taps(student), taps(teacher), where=where, axis_name=axis_name)
      + 100 * losses.double_similarity_category(student, teacher, axis_name=axis_name))


def scores(student, teacher, where, axis_name):
  """All losses of scores at once."""
  del where
  return (losses.wasserstein_critic(teacher, student**2, axis_name=axis_name)
          + losses.wasserstein_generator(student**3, axis_name=axis_name)
          + losses.hinge_critic(teacher, student, axis_name=axis_name))


def cross_image(student, teacher, where, axis_name):
  del where
  return losses.cross_image_pixel(student, teacher, axis_name=axis_name, block_size=20)


def of_channels(student, teacher, where, axis_name):
  del where
  student += teacher  # else a scale would not change the direction of a channel
  return (losses.cross_image_channel(student, teacher, axis_name=axis_name)
          + 100 * losses.channel_mse(student, teacher, axis_name=axis_name))


def memory(student, teacher, where, axis_name):
  contrast = np.random.default_rng(1).normal(size=(9, 5)).astype(np.float32)
  return losses.memory_similarity(
      student, teacher, contrast, where=where, axis_name=axis_name, block_size=20)


def cross_head(student, teacher, where, axis_name):
  """Losses of detectors and of cross-head distillation at once."""
  aligned = losses.cross_head_input(student, teacher, layer=1, axis_name=axis_name)
  count = jnp.sum(where, dtype=jnp.float32)
  normalizer = count if axis_name is None else lax.psum(count, axis_name)
  options = {'weights': where, 'normalizer': normalizer, 'axis_name': axis_name}
  boxes = lambda x: losses.decode_distances(jnp.zeros(2), jnp.exp(x[..., :4]))
  return (
      losses.cross_head_classification(aligned, teacher, **options)
      + losses.cross_head_distribution(
          student[..., :4].repeat(3, axis=-1) * jnp.arange(12), teacher[..., :4].repeat(3, axis=-1),
          weights=losses.score_weights(teacher, where), axis_name=axis_name)
      + losses.giou(boxes(student), boxes(teacher), **options)
      + losses.pearson_features(student, teacher, axis_name=axis_name))


SCALES = np.arange(1, 6, dtype=np.float32)  # parameters, the same on every device


def example():
  """Student, teacher and mask of an image a device."""
  rng = np.random.default_rng(0)
  student, teacher = (
      rng.normal(size=(DEVICES, 6, 7, 5)).astype(np.float32) for _ in range(2))
  # Unequal counts: the first device has no valid pixel at all.
  share = np.arange(DEVICES)[:, None, None] / DEVICES
  return student, teacher, rng.random((DEVICES, 6, 7)) < share


@functools.cache
def on_one_device(loss):
  student, *rest = example()
  return jax.jit(jax.value_and_grad(
      lambda scales: loss(scales * student, *rest, None)))(SCALES)


@pytest.mark.parametrize('mode', ['shard_map', 'pmap'])
@pytest.mark.parametrize('loss', [
    cross_entropy, upsampled_cross_entropy, ohem, ohem_downsampled, pixelwise,
    pixelwise_unmasked, pixelwise_same_mask_everywhere, pixelwise_sum, gram, direct, near, one_map,
    hierarchical, adaptation, decoupled, similarities, scores, cross_image, of_channels, memory,
    cross_head],
    ids=lambda loss: loss.__name__)
def test_eight_devices_equal_one(loss, mode):
  batch, expected = example(), on_one_device(loss)

  def step(scales, student, *rest):
    scales = lax.pcast(scales, AXIS, to='varying')
    one = lax.pcast(jnp.float32(1), AXIS, to='varying')
    value, gradient = jax.value_and_grad(
        lambda scales: one * loss(scales * student, *rest, AXIS))(scales)
    return value[None], lax.pmean(gradient, AXIS)

  if mode == 'shard_map':
    mesh = jax.make_mesh((DEVICES,), (AXIS,), axis_types=(AxisType.Auto,))
    values, gradient = jax.jit(jax.shard_map(
        step, mesh=mesh, in_specs=(P(), P(AXIS), P(AXIS), P(AXIS)), out_specs=(P(AXIS), P()),
        check_vma=True))(SCALES, *batch)
  else:
    values, gradient = jax.pmap(
        step, AXIS, in_axes=(None, 0, 0, 0), out_axes=(0, None))(
            SCALES, *(x[:, None] for x in batch))
  # The global value arrives on every device.
  np.testing.assert_allclose(
      np.ravel(values), np.full(DEVICES, expected[0]), rtol=1e-6)
  np.testing.assert_allclose(
      gradient, expected[1], atol=1e-6 * np.abs(expected[1]).max())
