"""State dicts to variables and back: everything is accounted for, and nothing else is taken."""

import jax.numpy as jnp
import numpy as np
import pytest
from flax import traverse_util

from kdseg_jax.interop import conversion
from kdseg_jax.interop.conversion import WeightsError
from kdseg_jax.interop.layers import Layer, conv_norm

LAYERS = [*conv_norm('conv1', 'bn1', 'backbone/stem'), Layer('extra', 'backbone/extra'),
          Layer('fc', 'head/classifier')]
HEAD = {'params/head/classifier/kernel', 'params/head/classifier/bias'}


def variables(classes=5, seed=0):
  rng = np.random.default_rng(seed)
  draw = lambda *shape: rng.normal(size=shape).astype(np.float32)
  norm = {'norm': {'scale': draw(4), 'bias': draw(4)}}
  return {
      'params': {'backbone': {'stem': {'conv': {'kernel': draw(3, 3, 3, 4)}, 'norm': norm}},
                 'head': {'classifier': {'kernel': draw(4, classes), 'bias': draw(classes)}}},
      'batch_stats': {'backbone': {'stem': {'norm': {'norm': {
          'mean': draw(4), 'var': np.abs(draw(4))}}}}}}


def source(**changes):
  return conversion.to_state_dict(variables(), LAYERS) | {
      'bn1.num_batches_tracked': np.array(7)} | changes


def test_there_and_back():
  state_dict = source()
  assert set(state_dict) == {
      'conv1.weight', 'bn1.weight', 'bn1.bias', 'bn1.running_mean', 'bn1.running_var',
      'bn1.num_batches_tracked', 'fc.weight', 'fc.bias'}
  assert state_dict['conv1.weight'].shape == (4, 3, 3, 3)
  assert state_dict['fc.weight'].shape == (5, 4)
  found = conversion.to_variables(state_dict, LAYERS, variables(seed=1))
  want = traverse_util.flatten_dict(variables(), sep='/')
  assert set(found.variables) == set(want) and not any(found[1:])
  for path, array in want.items():
    np.testing.assert_array_equal(found.variables[path], array, path)
  conversion.require_all(found, 'file')


def test_what_either_side_lacks_is_named():
  state_dict = source(**{'extra.weight': np.zeros(3), 'layer9.weight': np.zeros(3)})
  del state_dict['bn1.running_var'], state_dict['fc.bias']
  found = conversion.to_variables(state_dict, LAYERS, variables())
  assert sorted(found.absent) == [
      'batch_stats/backbone/stem/norm/norm/var', 'params/head/classifier/bias']
  assert found.left_out == ['extra.weight'] and found.unknown == ['layer9.weight']
  with pytest.raises(WeightsError, match=r'file: does not hold .* \(2\)(.|\n)*norm/var'):
    conversion.require_all(found, 'file')
  with pytest.raises(WeightsError, match=r'no part of the model \(1\)(.|\n)*layer9.weight'):
    conversion.require_all(found._replace(absent=[]), 'file')


def test_shapes_differ():
  found = conversion.to_variables(source(), LAYERS, variables(classes=7), head=HEAD)
  assert set(found.resized) == HEAD and not found.absent
  with pytest.raises(WeightsError, match=r'2 arrays are of another shape(.|\n)*fc.weight: \(5, 4\)'
                                         r'.*\(4, 5\) of params/head/classifier/kernel; expected'):
    conversion.to_variables(source(), LAYERS, variables(classes=7))
  with pytest.raises(WeightsError, match=r'conv1.weight: \(4, 1, 3, 3\)'):
    conversion.to_variables(
        source(**{'conv1.weight': np.zeros((4, 1, 3, 3))}), LAYERS, variables(), head=HEAD)


@pytest.mark.parametrize('array, message', [
    (np.full(4, np.nan, np.float32), 'bn1.bias holds numbers that are not finite'),
    (np.full(4, 1e300), 'bn1.bias holds numbers that are not finite'),
    (np.arange(4), 'bn1.bias holds int64')])
def test_no_weights(array, message):
  with pytest.raises(WeightsError, match=message), np.errstate(over='ignore'):
    conversion.to_variables(source(**{'bn1.bias': array}), LAYERS, variables())


@pytest.mark.parametrize('dtype', ['float16', 'float64', 'bfloat16'])
def test_other_precisions_become_float32(dtype):
  array = np.array([0.5, -1.0, 2.0, 0.0]).astype(jnp.dtype(dtype))
  found = conversion.to_variables(source(**{'bn1.bias': array}), LAYERS, variables())
  got = found.variables['params/backbone/stem/norm/norm/bias']
  assert got.dtype == np.float32 and got.tolist() == [0.5, -1.0, 2.0, 0.0]


def test_a_leaf_without_a_name_is_not_lost():
  with pytest.raises(WeightsError, match='no name in the scheme:\n  params/head/classifier/bias'):
    conversion.to_state_dict(variables(), LAYERS[:-1])


def test_a_summary_counts_what_is_many():
  paths = [*HEAD, *(f'params/backbone/{i}' for i in range(9))]
  assert conversion.summarized(paths) == (
      '9 arrays of backbone, params/head/classifier/bias, params/head/classifier/kernel')
  keys = ['fc.weight', *(f'abfs.{i}.weight' for i in range(8))]
  assert conversion.summarized(keys) == '8 arrays of abfs, fc.weight'
