"""Shapes, taps, padding, training mode and devices, of whole models."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kdseg_jax import models, parallel
from kdseg_jax.models.deeplab import DeepLabV3Head, DeepLabV3PlusHead, PlainHead
from kdseg_jax.models.dropout import Dropout
from kdseg_jax.models.pspnet import PSPNetHead
from tests import toys
from tests.models import parts

CLASSES = 5
STAGES = [f'stage{i}{suffix}' for i in range(1, 5) for suffix in ('', '_preactivation')]


@functools.cache
def _small(name, **options):
  """A narrow model, and made-up variables."""
  model = models.create(name, CLASSES, width=0.125, **options)
  return model, toys.variables(model, _images(1))


def _images(count, size=(32, 40)):
  rng = np.random.default_rng(0)
  return rng.integers(0, 256, (count, *size, 3), dtype=np.uint8)


@functools.cache
def _apply(model):
  return jax.jit(model.apply)


@pytest.mark.parametrize('size', [(64, 64), (33, 47), (61, 8)])
@pytest.mark.parametrize('output_stride', [8, 16, 32])
@pytest.mark.parametrize('name, channels', [
    ('deeplabv3_resnet18', (16, 32, 64, 128)), ('deeplabv3_mobilenetv2', (8, 8, 24, 80))])
def test_shapes(name, channels, output_stride, size):
  model = models.create(name, CLASSES, width=0.25, output_stride=output_stride, aux=True)
  image = jax.ShapeDtypeStruct((2, *size, 3), jnp.uint8)
  (logits, taps), _ = jax.eval_shape(model.init_with_output, {'params': jax.random.key(0)}, image)
  at = lambda stride: tuple(-(-length // stride) for length in size)
  assert logits.shape == (2, *at(output_stride), CLASSES)
  assert set(taps) == {*STAGES, 'embedding', 'logits', 'aux_logits'}
  for i, (stride, width) in enumerate(zip((4, 8, 16, 32), channels), start=1):
    expected = (2, *at(min(stride, output_stride)), width)
    assert taps[f'stage{i}'].shape == taps[f'stage{i}_preactivation'].shape == expected
  assert taps['aux_logits'].shape == (2, *at(min(16, output_stride)), CLASSES)
  assert taps['embedding'].shape == (2, *at(output_stride), 32)


def test_taps_of_resnet():
  model, variables = _small('deeplabv3_resnet18', aux=True)
  logits, taps = _apply(model)(variables, _images(2))
  for i in range(1, 5):
    assert np.min(taps[f'stage{i}_preactivation']) < 0
    np.testing.assert_array_equal(
        taps[f'stage{i}'], np.maximum(taps[f'stage{i}_preactivation'], 0))
  classifier = variables['params']['head']['classifier']
  np.testing.assert_allclose(
      taps['embedding'] @ classifier['kernel'][0, 0] + classifier['bias'], logits,
      rtol=1e-4, atol=1e-5)
  np.testing.assert_array_equal(taps['logits'], logits)


def test_taps_of_mobilenet_are_linear():
  model, variables = _small('deeplabv3_mobilenetv2')
  _, taps = _apply(model)(variables, _images(2))
  assert 'aux_logits' not in taps
  for i in range(1, 5):
    assert np.min(taps[f'stage{i}']) < 0
    np.testing.assert_array_equal(taps[f'stage{i}'], taps[f'stage{i}_preactivation'])


def test_padding_is_irrelevant_and_an_empty_image_is_finite():
  model, variables = _small('deeplabv3_resnet18', aux=True)
  image = _images(3).astype(np.float32)
  mask = np.ones(image.shape[:3], bool)
  mask[1, 20:], mask[2] = False, False
  other = np.where(mask[..., None], image, 255 - image)
  logits, _ = _apply(model)(variables, image, mask)
  np.testing.assert_array_equal(_apply(model)(variables, other, mask)[0], logits)
  assert np.all(np.isfinite(logits))
  assert not np.array_equal(_apply(model)(variables, image)[0][1], logits[1])


def _step(model, variables, image, mask, index):
  """Mean loss of a training step, its gradient and the new statistics."""
  def loss(params):
    (logits, taps), updated = model.apply(
        {**variables, 'params': params}, image, mask=mask, index=index, train=True,
        mutable=['batch_stats'], rngs={'dropout': jax.random.key(7)})
    value = jnp.mean(jnp.sin(logits)) + jnp.mean(jnp.cos(taps['aux_logits']))
    return value, updated['batch_stats']
  axis_name = model.backbone.axis_name
  (value, statistics), gradient = parallel.value_and_grad(loss, axis_name=axis_name)(
      variables['params'])
  return value, statistics, gradient


_jitted_step = jax.jit(_step, static_argnums=0)


@pytest.mark.slow
@pytest.mark.parametrize('name, mode', [
    ('deeplabv3_resnet18', 'pmap'), ('deeplabv3_mobilenetv2', 'shard_map')])
def test_training_on_eight_devices_equals_one(name, mode):
  model, variables = _small(name, aux=True)
  synchronised = models.create(name, CLASSES, width=0.125, aux=True, axis_name=parallel.AXIS)
  image = _images(8)
  mask = np.arange(40) < np.array([40, 10, 25, 40, 0, 33, 40, 7])[:, None, None]
  mask = np.broadcast_to(mask, image.shape[:3])
  index = np.array([5, 3, 90, 1, 0, 17, 2, 8], np.int32)
  expected = _jitted_step(model, variables, image, mask, index)
  step = parallel.data_parallel(
      lambda _, variables, batch: _step(synchronised, variables, *batch),
      parallel.create_mesh(), mode=mode)
  actual = step({}, variables, (image, mask, index))
  scale = max(float(jnp.max(jnp.abs(g))) for g in jax.tree.leaves(expected[2]))
  for ours, theirs in zip(jax.tree.leaves(actual), jax.tree.leaves(expected), strict=True):
    assert np.all(np.isfinite(ours))
    np.testing.assert_allclose(ours, theirs, rtol=1e-3, atol=1e-4 * max(scale, 1))


@pytest.mark.slow
def test_training_with_nothing_but_padding_is_finite():
  model, variables = _small('deeplabv3_resnet18', aux=True)
  image = _images(8)
  step = _jitted_step(
      model, variables, image, np.zeros(image.shape[:3], bool), np.arange(8, dtype=np.int32))
  assert all(np.all(np.isfinite(x)) for x in jax.tree.leaves(step))


@pytest.mark.parametrize('name, deepest', [
    ('deeplabv3_mobilenetv2', 'stage4'), ('deeplabv3plus_resnet18', 'stage4'),
    ('pspnet_mobilenetv2', 'stage4'), ('espnet', 'stage3'), ('espnet_c', 'stage3')])
def test_types_in_half_precision(name, deepest):
  model = models.create(name, CLASSES, width=0.125, aux=True, dtype='bfloat16')
  (logits, taps), variables = jax.eval_shape(
      model.init_with_output, {'params': jax.random.key(0)}, _images(2))
  assert logits.dtype == taps['aux_logits'].dtype == jnp.float32
  assert taps[deepest].dtype == taps['embedding'].dtype == jnp.bfloat16
  (logits, _), updated = jax.eval_shape(
      lambda variables: model.apply(
          variables, _images(2), train=True, mutable=['batch_stats'],
          rngs={'dropout': jax.random.key(0)}), variables)
  assert logits.dtype == jnp.float32
  assert {x.dtype for x in jax.tree.leaves((variables, updated))} == {jnp.dtype('float32')}


def test_values_in_half_precision():
  model, variables = _small('deeplabv3_resnet18', aux=True)
  exact, _ = _apply(model)(variables, _images(2))
  half, _ = _apply(_small('deeplabv3_resnet18', aux=True, dtype='bfloat16')[0])(
      variables, _images(2))
  error = np.sqrt(np.mean((half - exact) ** 2)) / np.std(exact)
  assert 1e-4 < error < 0.05  # 2**-8 is the rounding of one operation


@pytest.mark.parametrize('name', [
    'pspnet_resnet50', 'pspnet_mobilenetv2', 'deeplabv3_resnet18', 'deeplabv3plus_resnet34',
    'deeplabv3plus_mobilenetv2', 'deeplabv3plus_xception41', 'plain_mobilenetv2', 'espnet',
    'espnet_c'])
def test_every_normalisation_is_synchronised_and_every_layer_in_the_given_precision(name):
  model = models.create(
      name, CLASSES, width=0.125, aux=True, axis_name='somewhere', dtype=jnp.bfloat16)
  _, _, layers = parts.traced(model, _images(1))
  assert {norm[:2] for norm in layers.norms} == {('somewhere', jnp.bfloat16)}
  assert layers.exact == {'classifier'}


@pytest.mark.parametrize('head, rates', [
    (PSPNetHead(CLASSES, 8, dropout=0.3), [0.3]), (PlainHead(CLASSES, 8, dropout=0.3), [0.3]),
    *((head(CLASSES, 8, project_dropout=0.2, dropout=0.3), [0.2, 0.3])
      for head in (DeepLabV3Head, DeepLabV3PlusHead))])
def test_embedding_is_what_the_last_dropout_leaves(head, rates):
  taps = {'stage1': jnp.ones((2, 8, 8, 8)), 'stage4': jnp.ones((2, 4, 4, 8))}
  found, left = [], []

  def record(next_function, args, kwargs, context):
    output = next_function(*args, **kwargs)
    if isinstance(context.module, Dropout):
      assert args[-1]  # in training
      found.append(context.module.rate)
      left.append(output)
    return output

  def run():
    rngs = {'params': jax.random.key(0), 'dropout': jax.random.key(1)}
    (logits, embedding), _ = head.init_with_output(rngs, taps, jnp.arange(2), True)
    assert found == rates and embedding is left[-1]
    return logits

  with nn.intercept_methods(record):
    assert jax.eval_shape(run).shape[-1] == CLASSES


@pytest.mark.parametrize('size', [(64, 48), (33, 47)])
@pytest.mark.parametrize('name, options, stride', [
    ('pspnet_resnet34', {}, 8), ('pspnet_mobilenetv2', {'output_stride': 32}, 32),
    ('deeplabv3_resnet50', {'deep_stem': True}, 8), ('deeplabv3plus_resnet18', {}, 4),
    ('deeplabv3plus_mobilenetv2', {'output_stride': 16}, 4), ('espnet_c', {}, 8),
    ('deeplabv3plus_xception41', {'output_stride': 16}, 4),
    ('plain_mobilenetv2', {'output_stride': 4}, 4),
    ('plain_mobilenetv2', {'output_stride': 32}, 32)])
def test_logits_of_every_head(name, options, stride, size):
  model = models.create(name, CLASSES, width=0.125, aux=True, **options)
  (logits, taps), _ = jax.eval_shape(
      model.init_with_output, {'params': jax.random.key(0)}, _images(2, size))
  at = lambda stride: tuple(-(-length // stride) for length in size)
  assert logits.shape == taps['logits'].shape == (2, *at(stride), CLASSES)
  assert taps['embedding'].shape[:3] == logits.shape[:3]
  assert taps['aux_logits'].shape == (2, *at(min(16, options.get('output_stride', 8))), CLASSES)


class Backbone(nn.Module):

  def __call__(self, x, train):
    return {'stage4': x}


class Head(nn.Module):

  def __call__(self, taps, index, train):
    return taps['stage4'], index


@pytest.mark.parametrize('index, expected', [(None, [0, 1, 2]), ([7, 5, 9], [7, 5, 9])])
def test_index_defaults_to_the_position_in_the_batch(index, expected):
  model = models.Segmenter(Backbone(), Head())
  index = None if index is None else jnp.array(index)
  _, taps = model.apply({}, _images(3), index=index)
  np.testing.assert_array_equal(taps['embedding'], expected)
