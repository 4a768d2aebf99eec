"""Parameters and multiply-adds of a model, counted without running it."""

from __future__ import annotations

import math
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from kdseg_jax.models.conv import Conv, ConvTranspose


class Complexity(NamedTuple):
  """Attributes: `params`, trained parameters; `macs`, multiply-adds of one image."""

  params: int
  macs: int


def complexity(model: nn.Module, shape: tuple[int, int]) -> Complexity:
  """Parameters and multiply-adds of one forward pass, as papers count them.

  Multiply-adds are those of convolutions and dense layers, taps on padding included; BatchNorm,
  activations, pooling and resizing are not counted. An auxiliary head counts in neither figure, as
  it is dropped after training. How a convolution is lowered does not matter.

  Args:
    model: of this package.
    shape: (H, W) of the image.
  """
  if getattr(model, 'auxiliary_head', None) is not None:
    model = model.clone(auxiliary_head=None)
  macs = []

  def count(next_function, args, kwargs, context):
    outputs = next_function(*args, **kwargs)
    if context.method_name == '__call__' and isinstance(
        context.module, (Conv, ConvTranspose, nn.Dense)):
      module = context.module
      reads = args[0].shape[-1]  # of the input, by each number of the output
      if isinstance(module, Conv):
        reads = module.kernel_size ** 2 * reads // module.groups
      macs.append(math.prod(args[0].shape) * module.kernel_size ** 2 * module.features
                  if isinstance(module, ConvTranspose) else math.prod(outputs.shape) * reads)
    return outputs

  image = jax.ShapeDtypeStruct((1, *shape, 3), jnp.uint8)
  with nn.intercept_methods(count):
    variables = jax.eval_shape(model.init, {'params': jax.random.key(0)}, image)
  params = sum(math.prod(x.shape) for x in jax.tree.leaves(variables['params']))
  return Complexity(params=params, macs=sum(macs))
