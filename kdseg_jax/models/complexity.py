"""Parameters and multiply-adds of a model, counted without running it."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from kdseg_jax.models.conv import Conv


class Complexity(NamedTuple):
  """Parameters, and multiply-adds of one image."""

  params: int
  macs: int


def complexity(model: Any, shape: tuple[int, int]) -> Complexity:
  """Counts what inference needs, from shapes alone.

  Convention: the multiply-adds of all convolutions for one image, taps that meet padding included
  (as the tables of the papers count; some of their tools enlarge dilated maps on top of that); no
  normalisation, activation or resizing; the auxiliary head is left out, since it is dropped after
  training.

  Args:
    model: of `kdseg_jax.models.create`.
    shape: (height, width) of the image.
  """
  model = model.clone(aux=False)
  image = jax.ShapeDtypeStruct((1, *shape, 3), jnp.uint8)
  variables = jax.eval_shape(lambda x: model.init({'params': jax.random.key(0)}, x), image)
  macs = 0

  def count(call, args, kwargs, context):
    nonlocal macs
    output = call(*args, **kwargs)
    module = context.module
    if isinstance(module, Conv) and context.method_name == '__call__':
      taps = module.kernel_size ** 2 * args[0].shape[-1] // module.groups
      macs += math.prod(output.shape[1:]) * taps
    return output

  with nn.intercept_methods(count):
    jax.eval_shape(model.apply, variables, image)
  params = sum(math.prod(x.shape) for x in jax.tree.leaves(variables['params']))
  return Complexity(params, macs)
