"""The heads of DeepLabV3 and V3+: their layers, and those of V3+ and the plain one by parts."""

import jax
import numpy as np

from kdseg_jax.models.deeplab import DeepLabV3Head, DeepLabV3PlusHead, PlainHead
from kdseg_jax.models.layers import ConvNorm, SeparableConvNorm
from kdseg_jax.resizing import resize_bilinear
from tests import toys

PYRAMID = {'aspp0', 'aspp1', 'aspp2', 'aspp3', 'aspp_pooling', 'project'}


def _taps():
  rng = np.random.default_rng(0)
  shapes = {'stage1': (2, 7, 6, 5), 'stage4': (2, 4, 3, 9)}
  return {name: rng.standard_normal(shape).astype(np.float32) for name, shape in shapes.items()}


def _run(head, variables):
  return jax.jit(head.apply, static_argnums=3)(variables, _taps(), np.arange(2), False)


def _variables(head):
  return toys.variables(head, _taps(), np.arange(2), False)


def _layer(layer, variables, name, x):
  """A layer of a head, applied outside of it."""
  return jax.jit(layer.apply, static_argnums=2)(
      {kind: tree[name] for kind, tree in variables.items()}, x, False)


def _pooled(variables, x):
  """1x1 convolution and pooling of a map, concatenated."""
  pooled = _layer(ConvNorm(8, 1), variables, 'aspp_pooling', x.mean((1, 2), keepdims=True))
  pointwise = _layer(ConvNorm(8, 1), variables, 'aspp0', x)
  return pointwise, np.broadcast_to(pooled, pointwise.shape)


def _assert_classified(variables, logits, embedding, expected):
  np.testing.assert_allclose(embedding, expected, rtol=1e-4, atol=1e-5)
  classifier = variables['params']['classifier']
  np.testing.assert_allclose(
      logits, expected @ classifier['kernel'][0, 0] + classifier['bias'], rtol=1e-4, atol=1e-5)


def test_layers():
  assert set(_variables(DeepLabV3Head(3, 8))['params']) == PYRAMID | {'conv', 'classifier'}
  params = _variables(DeepLabV3PlusHead(3, 8))['params']
  assert set(params) == PYRAMID | {'low_level', 'decoder1', 'decoder2', 'classifier'}
  separable = {name for name in params if set(params[name]) == {'depthwise', 'pointwise'}}
  assert separable == {'aspp1', 'aspp2', 'aspp3', 'decoder1', 'decoder2'}


def test_decoder_by_parts():
  taps = _taps()
  head = DeepLabV3PlusHead(3, 8, low_level_channels=2, rates=(2,))
  variables = _variables(head)
  separable = lambda name, x, **options: _layer(
      SeparableConvNorm(8, **options), variables, name, x)
  pointwise, pooled = _pooled(variables, taps['stage4'])
  pyramid = [pointwise, separable('aspp1', taps['stage4'], dilation=2), pooled]
  x = _layer(ConvNorm(8, 1), variables, 'project', np.concatenate(pyramid, -1))
  low_level = _layer(ConvNorm(2, 1), variables, 'low_level', taps['stage1'])
  x = np.concatenate([resize_bilinear(x, (7, 6), align_corners=True), low_level], -1)
  _assert_classified(variables, *_run(head, variables),
                     separable('decoder2', separable('decoder1', x)))


def test_decoder_prefers_low_level_features_to_the_first_stage():
  head = DeepLabV3PlusHead(3, 8, low_level_channels=2, rates=(1,))
  taps = _taps()
  variables = _variables(head)
  run = jax.jit(lambda taps: head.apply(variables, taps, np.arange(2), False)[0])
  other = taps | {'stage1': taps['stage1'] + 1}
  np.testing.assert_array_equal(run(other | {'low_level': taps['stage1']}), run(taps))
  assert not np.allclose(run(other), run(taps))


def test_plain_head_by_parts():
  head = PlainHead(3, 8)
  variables = _variables(head)
  assert set(variables['params']) == {'aspp0', 'aspp_pooling', 'project', 'classifier'}
  x = np.concatenate(_pooled(variables, _taps()['stage4']), -1)
  _assert_classified(
      variables, *_run(head, variables), _layer(ConvNorm(8, 1), variables, 'project', x))
