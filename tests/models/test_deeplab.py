"""The heads of DeepLabV3 and V3+: their layers, and the decoder against its parts."""

import jax
import numpy as np

from kdseg_jax.models.deeplab import DeepLabV3Head, DeepLabV3PlusHead
from kdseg_jax.models.layers import ConvNorm
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


def test_layers():
  assert set(_variables(DeepLabV3Head(3, 8))['params']) == PYRAMID | {'conv', 'classifier'}


def test_decoder_by_parts():
  taps = _taps()
  head = DeepLabV3PlusHead(3, 8, low_level_channels=2, rates=(1,))
  variables = _variables(head)
  logits, embedding = _run(head, variables)
  assert set(variables['params']) == (
      PYRAMID - {'aspp2', 'aspp3'} | {'low_level', 'decoder1', 'decoder2', 'classifier'})
  part = lambda name: {kind: tree[name] for kind, tree in variables.items()}
  # The same pyramid, in a head without decoder whose 3x3 convolution passes its input on.
  plain = DeepLabV3Head(3, 8, rates=head.rates)
  kernel = np.zeros((3, 3, 8, 8), np.float32)
  kernel[1, 1] = np.eye(8)
  norm = {'scale': np.ones(8, np.float32), 'bias': np.zeros(8, np.float32)}
  identity = {'conv': {'kernel': kernel}, 'norm': {'norm': norm}}
  statistics = {'norm': {'norm': {'mean': np.zeros(8), 'var': np.ones(8) - 1e-5}}}
  _, pyramid = _run(plain, {'params': variables['params'] | {'conv': identity},
                            'batch_stats': variables['batch_stats'] | {'conv': statistics}})
  low_level = ConvNorm(2, 1).apply(part('low_level'), taps['stage1'], False)
  x = np.concatenate([resize_bilinear(pyramid, (7, 6), align_corners=True), low_level], -1)
  x = ConvNorm(8, 3).apply(part('decoder1'), x, False)
  x = ConvNorm(8, 3).apply(part('decoder2'), x, False)
  np.testing.assert_allclose(embedding, x, rtol=1e-4, atol=1e-5)
  classifier = variables['params']['classifier']
  np.testing.assert_allclose(
      logits, x @ classifier['kernel'][0, 0] + classifier['bias'], rtol=1e-4, atol=1e-5)
