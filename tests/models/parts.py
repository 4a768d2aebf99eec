"""What the layers of a model are made with, without running it."""

from typing import Any, NamedTuple

import flax.linen as nn
import jax
import numpy as np

from kdseg_jax.models.conv import Conv, ConvTranspose
from kdseg_jax.models.layers import ConvNorm
from kdseg_jax.models.normalization import BatchNorm


class Parts(NamedTuple):
  """Of all layers.

  Attributes:
    norms: `(axis_name, dtype, epsilon)` of the BatchNorms.
    exact: names of the convolutions and dense layers that compute in float32.
    rematerialized: paths of the blocks that are.
    activations: of the `ConvNorm`s by their own names.
  """

  norms: set[tuple[str | None, Any, float]]
  exact: set[str]
  rematerialized: set[str]
  activations: dict[str, set[Any]]


def traced(model, image):
  """`(shapes of what a model or backbone returns, of its variables, Parts)` of an image."""
  parts = Parts(set(), set(), set(), {})

  def note(call, args, kwargs, context):
    module = context.module
    if isinstance(module, BatchNorm):
      parts.norms.add((module.axis_name, module.dtype, module.epsilon))
    if isinstance(module, (Conv, ConvTranspose, nn.Dense)) and module.dtype in (None, np.float32):
      parts.exact.add(module.name)
    if isinstance(module, ConvNorm):
      parts.activations.setdefault(module.name, set()).add(module.activation)
    if type(module).__name__.startswith('Checkpoint'):  # as flax calls what `nn.remat` makes
      parts.rematerialized.add(module.name)
    return call(*args, **kwargs)

  with nn.intercept_methods(note):
    outputs, variables = jax.eval_shape(
        lambda x: model.init_with_output({'params': jax.random.key(0)}, x), image)
  return outputs, variables, parts
