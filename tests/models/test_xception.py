"""Xception: its modules by parts, and what the output stride dilates; see test_official_outputs."""

import functools

import flax.linen as nn
import jax
import numpy as np
import pytest

from kdseg_jax import models
from kdseg_jax.models.layers import ConvNorm, SeparableConvNorm
from kdseg_jax.models.xception import Xception, XceptionModule


@pytest.mark.parametrize('last', [False, True])
@pytest.mark.parametrize('strides, channels', [(2, 4), (1, 4), (1, 8)])
def test_a_module_by_parts(strides, channels, last):
  module = XceptionModule((4, 4, channels), strides, 2, functools.partial(ConvNorm), last=last)

  @jax.jit
  def run(x):
    (y, before), variables = module.init_with_output(jax.random.key(0), x, False)
    layer = lambda layer, name, x: layer.apply(
        {kind: tree[name] for kind, tree in variables.items()}, x, False)
    separable = functools.partial(
        SeparableConvNorm, dilation=2, activation=None,
        depthwise_activation=nn.relu if last else None)
    first = layer(separable(4), 'conv1', x if last else nn.relu(x))
    second = layer(separable(4), 'conv2', nn.relu(first))
    third = layer(separable(channels, strides), 'conv3', nn.relu(second))
    shortcut = 0 if last else x if (strides, channels) == (1, 4) else layer(
        ConvNorm(channels, 1, strides, activation=None), 'shortcut', x)
    return (y, before), (third + shortcut, second)

  x = np.random.default_rng(0).standard_normal((2, 7, 6, 4)).astype(np.float32)
  for ours, expected in zip(*run(x)):
    np.testing.assert_allclose(ours, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize('output_stride, strides, dilations', [
    (32, (4, 8, 16, 32), (1, 1, 1, 1, 1, 1)), (16, (4, 8, 16, 16), (1, 1, 1, 1, 1, 2)),
    (8, (4, 8, 8, 8), (1, 1, 1, 2, 2, 4)), (4, (4, 4, 4, 4), (1, 1, 2, 4, 4, 8))])
def test_stages(output_stride, strides, dilations):
  """Sizes, and dilations of the entry flow, of the middle and of both modules of the exit."""
  found = {}

  def note(call, args, kwargs, context):
    if isinstance(context.module, XceptionModule):
      found[context.module.name] = context.module.dilation
    return call(*args, **kwargs)

  model = models.create('deeplabv3plus_xception41', 3, width=0.125, output_stride=output_stride)
  with nn.intercept_methods(note):
    (_, taps), _ = jax.eval_shape(lambda: model.init_with_output(
        {'params': jax.random.key(0)}, np.zeros((1, 64, 64, 3), np.uint8)))
  shapes = [taps[f'stage{stage}'].shape[1:] for stage in (1, 2, 3, 4)]
  assert shapes == [(64 // stride, 64 // stride, channels)
                    for stride, channels in zip(strides, (16, 32, 88, 256), strict=True)]
  assert taps['low_level'].shape == (1, 16, 16, 32)
  of = [*found.values()]
  assert len(of) == 13 and (*of[:4], *of[11:]) == dilations


def test_unknown_depth():
  with pytest.raises(ValueError, match=r'depth=71 of Xception is unknown; .* \(41, 65\)'):
    jax.eval_shape(lambda: Xception(71).init(jax.random.key(0), np.zeros((1, 8, 8, 3)), False))
