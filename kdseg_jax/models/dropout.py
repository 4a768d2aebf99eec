"""Dropout whose draws belong to an example, not to its place in a batch."""

from __future__ import annotations

import flax.linen as nn
import jax
import jax.numpy as jnp

Array = jax.Array


class Dropout(nn.Module):
  """Sets a share of the entries to 0 and scales the others by 1 / (1 - rate), in training.

  The mask of an example comes from the step's key and the example's global index, so that it does
  not depend on how many devices share the batch.

  Attributes:
    rate: share of the entries that are dropped, 0 to below 1.
  """

  rate: float

  @nn.compact
  def __call__(self, x: Array, index: Array, train: bool) -> Array:
    if not train or self.rate == 0:
      return x
    key = self.make_rng('dropout')
    keys = jax.vmap(jax.random.fold_in, (None, 0))(key, index)
    keep = jax.vmap(lambda k: jax.random.bernoulli(k, 1 - self.rate, x.shape[1:]))(keys)
    return jnp.where(keep, x / (1 - self.rate), 0)
