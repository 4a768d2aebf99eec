"""A frozen model with its BatchNorms folded into the convolutions before them.

`norm(conv(x)) = conv(x, kernel * f) + (bias - mean) * f + shift`, `f = scale / sqrt(var + eps)`.
Bias and activation are then one pass over the result of the convolution.
"""

from __future__ import annotations

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax import traverse_util
from jax import lax

from kdseg_jax.models.layers import ConvNorm

PyTree = Any
_FOLDED = 'folded'  # collection of kernels and biases, at the paths of the `ConvNorm`s


def fold(module: nn.Module, variables: PyTree) -> PyTree:
  """Variables for `Folded(module)`, in which every `ConvNorm` in float32 has one kernel and bias.

  What they hold instead of `params` and `batch_stats` of these layers is in the collection
  'folded'; all else is shared with what is given. A model without such layers keeps its variables.
  """
  layers: dict[tuple[str, ...], ConvNorm] = {}

  def note(call, args, kwargs, context):
    if _is_foldable(context):
      layers[context.module.path] = context.module
    return call(*args, **kwargs)

  with nn.intercept_methods(note):
    jax.eval_shape(module.apply, variables, jax.ShapeDtypeStruct((1, 64, 64, 3), jnp.uint8))
  params, statistics = (
      traverse_util.flatten_dict(variables.get(group, {})) for group in ('params', 'batch_stats'))
  folded = {}
  for path, layer in layers.items():
    of_conv = [params.pop((*path, 'conv', name), None) for name in ('kernel', 'bias')]
    of_norm = [params.pop((*path, 'norm', 'norm', name)) for name in ('scale', 'bias')]
    of_norm += [statistics.pop((*path, 'norm', 'norm', name)) for name in ('mean', 'var')]
    folded[(*path, 'kernel')], folded[(*path, 'bias')] = _fold(*of_conv, *of_norm, layer.epsilon)
  groups = {'params': params, 'batch_stats': statistics} | ({_FOLDED: folded} if folded else {})
  return {name: traverse_util.unflatten_dict(group) for name, group in groups.items()}


class Folded:
  """A model as a frozen one is run: on variables of `fold`, and as well on those that it has.

  Args:
    module: a model of `kdseg_jax.models`, or any other of Flax.
  """

  def __init__(self, module: nn.Module):
    self._module = module

  def apply(self, variables: PyTree, *args, **kwargs):
    """As `module.apply`; `train` must be False where variables are folded."""
    with nn.intercept_methods(_run_folded):
      return self._module.apply(variables, *args, **kwargs)

  # Equal where the modules are: functions of it are compiled once.
  def __eq__(self, other):
    return isinstance(other, Folded) and self._module == other._module

  def __hash__(self):
    return hash(self._module)


def _is_foldable(context):
  module = context.module
  return (isinstance(module, ConvNorm) and context.method_name == '__call__'
          and module.dtype == jnp.float32)


def _run_folded(call, args, kwargs, context):
  layer = context.module
  if not _is_foldable(context) or not layer.has_variable(_FOLDED, 'kernel'):
    return call(*args, **kwargs)
  variables = {name: layer.get_variable(_FOLDED, name) for name in ('kernel', 'bias')}
  x = layer.convolution(use_bias=True, parent=None).apply({'params': variables}, args[0])
  return x if layer.activation is None else layer.activation(x)


@jax.jit
def _fold(kernel, bias, scale, shift, mean, variance, epsilon):
  factor = scale * lax.rsqrt(variance + epsilon)
  return kernel * factor, ((0 if bias is None else bias) - mean) * factor + shift
