"""Rematerialised blocks: equal values, gradients and parameters, less that is kept."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kdseg_jax import models, parallel
from kdseg_jax.models.layers import ConvNorm
from kdseg_jax.models.rematerialization import POLICIES, rematerialized
from kdseg_jax.models.resnet import BasicBlock
from tests import toys


def _block(policy, axis_name=None):
  conv = functools.partial(ConvNorm, axis_name=axis_name)
  return rematerialized(BasicBlock, policy)(8, 2, 1, 1, conv)


def _data():
  rng = np.random.default_rng(0)
  return (rng.standard_normal((8, 6, 5, 4)) + np.arange(8)[:, None, None, None]).astype(np.float32)


def _step(block, variables, x):
  """The mean of sin, its gradient and the new statistics."""
  def loss(params):
    y, updated = block.apply({**variables, 'params': params}, x, True, mutable=['batch_stats'])
    return jnp.mean(jnp.sin(y)), updated['batch_stats']
  (value, statistics), gradient = parallel.value_and_grad(
      loss, axis_name=block.conv.keywords['axis_name'])(variables['params'])
  return value, statistics, gradient


@functools.cache
def _expected():
  """Variables of a block, and its step without rematerialisation."""
  block = _block('none')
  variables = toys.variables(block, _data(), False)
  return variables, jax.jit(functools.partial(_step, block))(variables, _data())


def _assert_equal(actual, expected):
  assert jax.tree.structure(actual) == jax.tree.structure(expected)
  for ours, theirs in zip(jax.tree.leaves(actual), jax.tree.leaves(expected)):
    np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize('policy', ['everything', 'dots_saveable', 'everything_saveable'])
def test_values_and_gradients(policy):
  variables, expected = _expected()
  _assert_equal(jax.jit(functools.partial(_step, _block(policy)))(variables, _data()), expected)


@pytest.mark.parametrize('mode', parallel.MODES)
def test_eight_devices_equal_one(mode):
  variables, expected = _expected()
  step = parallel.data_parallel(
      lambda _, variables, x: _step(_block('everything', parallel.AXIS), variables, x),
      parallel.create_mesh(), mode=mode)
  _assert_equal(step({}, variables, _data()), expected)


def test_policies():
  assert rematerialized(BasicBlock, 'none') is BasicBlock
  wrapped = {rematerialized(BasicBlock, policy) for policy in POLICIES[1:]}
  assert len(wrapped) == len(POLICIES) - 1 and BasicBlock not in wrapped
  with pytest.raises(ValueError, match="remat policy: 'all'"):
    rematerialized(BasicBlock, 'all')


def test_what_a_policy_keeps():
  """Everything, matrix products alone, nothing."""
  x = jax.ShapeDtypeStruct((8, 6, 5, 4), jnp.float32)
  variables, _ = _expected()

  def kept(policy):
    apply = lambda x: _block(policy).apply(variables, x, True, mutable=['batch_stats'])
    return sum(leaf.size for leaf in jax.tree.leaves(jax.eval_shape(
        lambda x: jax.vjp(apply, x)[1], x)))

  everything, products, nothing = map(kept, ('everything_saveable', 'dots_saveable', 'everything'))
  assert everything > products > nothing


IMAGE = jax.ShapeDtypeStruct((8, 64, 64, 3), jnp.float32)


def _kept(backbone, variables):
  """How many numbers are kept for the backward pass."""
  def backward(params, batch_stats, image):
    apply = lambda params: backbone.apply(
        {'params': params, 'batch_stats': batch_stats}, image, True, mutable=['batch_stats'])
    return jax.vjp(apply, params)[1]

  kept = jax.eval_shape(backward, variables['params'], variables['batch_stats'], IMAGE)
  return sum(x.size for x in jax.tree.leaves(kept))


@pytest.mark.parametrize('name', ['pspnet_resnet18', 'pspnet_mobilenetv2', 'espnet_c'])
def test_backbones_keep_less_with_the_same_parameters(name):
  create = lambda remat: models.create(name, 5, width=0.125, remat=remat).backbone
  init = lambda backbone: jax.eval_shape(
      lambda image: backbone.init(jax.random.key(0), image, False), IMAGE)
  variables = init(create('none'))
  assert init(create('everything')) == variables
  assert _kept(create('everything'), variables) < 0.7 * _kept(create('none'), variables)
