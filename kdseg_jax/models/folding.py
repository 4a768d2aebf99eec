"""A frozen model with its BatchNorms folded into the convolutions before them.

`norm(conv(x)) = conv(x, kernel * f) + (bias - mean) * f + shift`, `f = scale / sqrt(var + eps)`.
Bias and activation are then one pass over the result of the convolution. Kernels that Winograd's
products need in another form can be kept in that: made in every pass anew, those of a ResNet-101
take a twentieth of its time, and room for most of them at once.
"""

from __future__ import annotations

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax import traverse_util
from jax import lax

from kdseg_jax.models import winograd
from kdseg_jax.models.layers import ConvNorm
from kdseg_jax.models.lowerings import Geometry, choose_lowering, lower_winograd

PyTree = Any
_FOLDED = 'folded'  # collection of kernels and biases, at the paths of the `ConvNorm`s
_TRANSFORMED = 'transformed'  # in place of a kernel


def fold(module: nn.Module, variables: PyTree, images: tuple[int, ...] | None = None, *,
         donate: bool = False) -> PyTree:
  """Variables for `Folded(module)`, in which every `ConvNorm` in float32 has one kernel and bias.

  What they hold instead of `params` and `batch_stats` of these layers is in the collection
  'folded'; all else is shared with what is given. A model without such layers keeps its variables.

  Args:
    module: a model.
    variables: its own.
    images: `(N, H, W, 3)`, the images that it will be run on: kernels that are convolved by
      Winograd there are kept as that takes them, 16/9 of their size. It runs on others all the
      same. None keeps all kernels as they are.
    donate: the kernels of these layers are given up, one after the other, so that at no time all of
      them are held twice: nothing can read them in `variables` afterwards. One whose memory numpy
      shares stays.
  """
  layers: dict[tuple[str, ...], ConvNorm] = {}
  shapes: dict[tuple[str, ...], list[tuple[int, ...]]] = {}

  def note(call, args, kwargs, context):
    if _is_foldable(context):
      layers[context.module.path] = context.module
      shapes.setdefault(context.module.path, []).append(args[0].shape)
    return call(*args, **kwargs)

  with nn.intercept_methods(note):
    jax.eval_shape(
        module.apply, variables, jax.ShapeDtypeStruct(images or (1, 64, 64, 3), jnp.uint8))
  params, statistics = (
      traverse_util.flatten_dict(variables.get(group, {})) for group in ('params', 'batch_stats'))
  folded = {}
  for path, layer in layers.items():
    of_conv = [params.pop((*path, 'conv', name), None) for name in ('kernel', 'bias')]
    of_norm = [params.pop((*path, 'norm', 'norm', name)) for name in ('scale', 'bias')]
    of_norm += [statistics.pop((*path, 'norm', 'norm', name)) for name in ('mean', 'var')]
    kernel, folded[(*path, 'bias')] = (_fold_donated if donate else _fold)(
        *of_conv, *of_norm, layer.epsilon)
    if images and all(_goes_by_winograd(layer, shape, kernel.shape) for shape in shapes[path]):
      folded[(*path, _TRANSFORMED)] = _transform(kernel)
    else:
      folded[(*path, 'kernel')] = kernel
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
  if not _is_foldable(context) or not layer.has_variable(_FOLDED, 'bias'):
    return call(*args, **kwargs)
  bias = layer.get_variable(_FOLDED, 'bias')
  if layer.has_variable(_FOLDED, _TRANSFORMED):
    x = winograd.convolve_transformed(
        args[0].astype(layer.dtype), layer.get_variable(_FOLDED, _TRANSFORMED),
        *_geometry(layer)[1:3]) + bias
  else:
    variables = {'kernel': layer.get_variable(_FOLDED, 'kernel'), 'bias': bias}
    x = layer.convolution(use_bias=True, parent=None).apply({'params': variables}, args[0])
  return x if layer.activation is None else layer.activation(x)


def _geometry(layer):
  """Of a layer that has the padding of its kernel."""
  padding = layer.kernel_size // 2 * layer.dilation
  return Geometry((layer.strides,) * 2, (layer.dilation,) * 2, (padding,) * 2, layer.groups)


def _goes_by_winograd(layer, x_shape, kernel_shape):
  return layer.padding is None and layer.groups == 1 and choose_lowering(
      x_shape, kernel_shape, _geometry(layer), 'cpu', layer.dtype) is lower_winograd


_transform = jax.jit(winograd.transform_kernel)


def _scaled(kernel, bias, scale, shift, mean, variance, epsilon):
  factor = scale * lax.rsqrt(variance + epsilon)
  return kernel * factor, ((0 if bias is None else bias) - mean) * factor + shift


_fold, _fold_donated = jax.jit(_scaled), jax.jit(_scaled, donate_argnums=0)
