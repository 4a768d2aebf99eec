"""Everything in float64, where rounding would hide what is compared."""

import contextlib

import flax.linen as nn
import jax
import jax.numpy as jnp
import pytest


@contextlib.contextmanager
def float64():
  """Also what the models do in float32 whatever they are told."""
  def widen(call, args, kwargs, context):
    if hasattr(context.module, 'dtype'):
      object.__setattr__(context.module, 'dtype', jnp.float64)  # a frozen dataclass
    return call(*args, **kwargs)
  with jax.enable_x64(True), pytest.MonkeyPatch.context() as patch, nn.intercept_methods(widen):
    patch.setattr(jnp, 'float32', jnp.float64)
    yield
