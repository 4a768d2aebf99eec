"""Units of ShuffleNetV1 and V2 by parts; see test_cifar for whole nets."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kdseg_jax.models.layers import ConvNorm
from kdseg_jax.models.shufflenet import ShuffleUnitV1, ShuffleUnitV2, StridingUnitV2
from tests import toys

X = np.random.default_rng(0).standard_normal((2, 5, 6, 24)).astype(np.float32)
linear = functools.partial(ConvNorm, activation=None)


def check(unit, expected):
  """What a unit makes of `X` is what `expected(layer)` gives, `layer(conv, name, x)`."""
  variables = toys.variables(unit, X, False)

  @jax.jit
  def run(x):
    layer = lambda conv, name, x: conv.apply(
        {kind: tree[name] for kind, tree in variables.items()}, x, False)
    return unit.apply(variables, x, False), expected(layer, x)

  found, wanted = run(X)
  jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-5), found, wanted)


def shuffled(x, groups):
  """The first channels of all groups, then the second ones, ..."""
  each = x.shape[-1] // groups
  return x[..., [group * each + i for i in range(each) for group in range(groups)]]


def averages(x):
  """Of 3x3 pixels, those beyond the border being 0, at every second one."""
  x = np.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
  windows = np.lib.stride_tricks.sliding_window_view(x, (3, 3), axis=(1, 2))
  return windows[:, ::2, ::2].mean((-2, -1))


@pytest.mark.parametrize('strides, groups', [(1, 3), (2, 1), (2, 3)])
def test_a_unit_of_v1(strides, groups):
  channels = 24 if strides == 1 else 48  # half of which are the shortcut's

  def expected(layer, x):
    y = layer(ConvNorm(6, 1, groups=groups), 'conv1', x)
    y = layer(ConvNorm(6, 3, strides, groups=6), 'conv2', shuffled(y, groups))
    y = layer(linear(24, 1, groups=3), 'conv3', y)
    return x + y if strides == 1 else jnp.concatenate([y, averages(X)], axis=-1)
  check(ShuffleUnitV1(channels, strides, groups, ConvNorm), expected)


def test_a_unit_of_v2_keeps_its_first_half():
  def expected(layer, x):
    y = layer(ConvNorm(12, 1), 'conv1', x[..., 12:])
    y = layer(linear(12, 3, groups=12), 'conv2', y)
    y = layer(linear(12, 1), 'conv3', y)
    both = lambda y: jnp.concatenate([x[..., :12], y], axis=-1)
    return shuffled(both(nn.relu(y)), 2), both(y)
  check(ShuffleUnitV2(ConvNorm), expected)


def test_a_striding_unit_of_v2_has_two_branches_of_everything():
  def expected(layer, x):
    left = layer(linear(24, 3, 2, groups=24), 'left1', x)
    left = layer(ConvNorm(8, 1), 'left2', left)
    right = layer(ConvNorm(8, 1), 'right1', x)
    right = layer(linear(8, 3, 2, groups=8), 'right2', right)
    right = layer(ConvNorm(8, 1), 'right3', right)
    return shuffled(jnp.concatenate([left, right], axis=-1), 2)
  check(StridingUnitV2(16, ConvNorm), expected)
