"""EfficientNet-Lite: sizes, paddings, dilation, training."""

import functools
import math

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kdseg_jax.models.conv import Conv
from kdseg_jax.models.efficientnet_lite import EfficientNetLite
from kdseg_jax.models.normalization import BatchNorm
from tests import toys


def _images(size=(32, 32)):
  return np.random.default_rng(0).standard_normal((2, *size, 3)).astype(np.float32)


def _shapes(backbone, image):
  return jax.eval_shape(
      lambda: backbone.init_with_output(jax.random.key(0), image, False))


@functools.cache
def _variables(variant):
  return toys.variables(EfficientNetLite(variant, width=0.125), _images(), False)


@functools.partial(jax.jit, static_argnums=0)
def _apply(backbone, variables, image):
  return backbone.apply(variables, image, False)


@pytest.mark.parametrize('size', [(64, 64), (33, 47), (61, 8)])
@pytest.mark.parametrize('output_stride', [8, 16, 32])
def test_shapes(output_stride, size):
  taps, _ = _shapes(EfficientNetLite(0, output_stride=output_stride), _images(size))
  assert set(taps) == {
      f'stage{i}{suffix}' for i in range(1, 5) for suffix in ('', '_preactivation')}
  for i, (stride, channels) in enumerate(zip((4, 8, 16, 32), (24, 40, 112, 320)), start=1):
    rows, columns = (math.ceil(length / min(stride, output_stride)) for length in size)
    assert taps[f'stage{i}'].shape == (2, rows, columns, channels)
    assert taps[f'stage{i}_preactivation'] == taps[f'stage{i}']


@pytest.mark.parametrize('variant, channels, millions', [
    (0, (24, 40, 112, 320), 4.652), (1, (24, 40, 112, 320), 5.417), (2, (24, 48, 120, 352), 6.092),
    (3, (32, 48, 136, 384), 8.197), (4, (32, 56, 160, 448), 13.007)])
def test_channels_and_published_parameter_counts(variant, channels, millions):
  taps, variables = _shapes(EfficientNetLite(variant), _images())
  assert tuple(taps[f'stage{i}'].shape[-1] for i in range(1, 5)) == channels
  head = channels[-1] * 1280 + 2 * 1280 + 1280 * 1000 + 1000  # of the 1000 classes of ImageNet
  count = head + sum(math.prod(x.shape) for x in jax.tree.leaves(variables['params']))
  assert round(count / 1e6, 3) == millions


def test_width_reaches_the_stem_and_every_stage():
  taps, variables = _shapes(EfficientNetLite(2, width=0.5), _images())
  assert [taps[f'stage{i}'].shape[-1] for i in range(1, 5)] == [16, 24, 64, 176]
  assert variables['params']['stem']['conv']['kernel'].shape[-1] == 16


def test_taps_are_linear():
  taps = _apply(EfficientNetLite(0, width=0.125), _variables(0), _images())
  assert all(np.min(taps[f'stage{i}']) < 0 for i in range(1, 5))


# Maps at strides 1, 2, 4, 8, 16 of images of 224, 240, 260, 300, 380: where they are even.
@pytest.mark.parametrize('variant, even', [
    (0, (1, 1, 1, 1, 1)), (1, (1, 1, 1, 1, 0)), (2, (1, 1, 0, 0, 0)), (3, (1, 1, 0, 1, 0)),
    (4, (1, 1, 0, 1, 1))])
def test_strided_convolutions_are_padded_as_in_training(variant, even):
  padding, epsilons = [], set()

  def record(next_function, args, kwargs, context):
    if isinstance(context.module, Conv) and context.module.strides == 2:
      padding.append(context.module.padding)
    if isinstance(context.module, BatchNorm):
      epsilons.add(context.module.epsilon)
    return next_function(*args, **kwargs)

  with nn.intercept_methods(record):
    _shapes(EfficientNetLite(variant, output_stride=32), _images())
  assert padding == ['same' if flag else None for flag in even] and epsilons == {1e-3}


@pytest.mark.slow
@pytest.mark.parametrize('variant, first, second', [(0, 1, 1), (2, 0, 0), (3, 1, 0)])
def test_dilation_computes_the_strided_network_at_more_positions(variant, first, second):
  """At those that the strides of stages 3 and 4 keep, by their paddings the even or odd ones."""
  dilated, strided = (
      _apply(EfficientNetLite(variant, width=0.125, output_stride=output_stride),
             _variables(variant), _images((64, 128)))
      for output_stride in (8, 32))
  for stage, kept in ((2, slice(None)), (3, slice(first, None, 2)),
                      (4, slice(2 * second + first, None, 4))):
    expected = strided[f'stage{stage}']
    np.testing.assert_allclose(
        dilated[f'stage{stage}'][:, kept, kept], expected, rtol=1e-4,
        atol=1e-5 * np.std(expected))


def test_half_precision():
  exact = _apply(EfficientNetLite(0, width=0.125), _variables(0), _images())['stage4']
  half = _apply(
      EfficientNetLite(0, width=0.125, dtype=jnp.bfloat16), _variables(0), _images())['stage4']
  assert half.dtype == jnp.bfloat16
  assert 1e-4 < np.sqrt(np.mean((half - exact) ** 2)) / np.std(exact) < 0.1


@pytest.mark.slow
def test_rematerialised_training_has_the_same_finite_gradients():
  def step(backbone):
    def loss(params):
      taps, updated = backbone.apply(
          {**_variables(0), 'params': params}, _images(), True, mutable=['batch_stats'])
      return jnp.mean(jnp.sin(taps['stage4'])), updated
    return jax.jit(jax.value_and_grad(loss, has_aux=True))(_variables(0)['params'])

  expected, actual = (step(EfficientNetLite(0, width=0.125, remat=remat))
                      for remat in ('none', 'everything'))
  assert jax.tree.structure(actual) == jax.tree.structure(expected)
  for ours, theirs in zip(jax.tree.leaves(actual), jax.tree.leaves(expected)):
    assert np.all(np.isfinite(ours))
    np.testing.assert_allclose(ours, theirs, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize('variant', [-1, 5])
def test_unknown_variant(variant):
  with pytest.raises(ValueError, match=rf'variant={variant} of EfficientNet-Lite .* 0 to 4'):
    _shapes(EfficientNetLite(variant), _images())
