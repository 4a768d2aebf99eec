"""Dropout whose masks belong to examples, not to positions in a batch."""

from __future__ import annotations

import flax.linen as nn
import jax
import jax.numpy as jnp

from kdseg_jax.errors import UserError


class Dropout(nn.Module):
  """Zeroes elements with probability `rate` and scales the others by `1 / (1 - rate)`.

  The mask of an example is drawn from the module's key folded with the example's global index,
  so it does not depend on what else is in the batch or on how many devices share it.

  Attributes:
    rate: probability in [0, 1).
  """

  rate: float

  @nn.compact
  def __call__(self, x: jax.Array, index: jax.Array, train: bool) -> jax.Array:
    """Drops out in training, returns x otherwise.

    Args:
      x: `(N, ...)`.
      index: `(N,)` int32, global indices of the examples.
      train: whether to drop; needs the key `rngs={'dropout': key}`.

    Raises:
      ValueError: rate is not in [0, 1).
    """
    if not 0 <= self.rate < 1:
      raise UserError(f'dropout={self.rate} is no rate of Dropout; expected 0 <= rate < 1.')
    if not train or self.rate == 0:
      return x
    keys = jax.vmap(jax.random.fold_in, (None, 0))(self.make_rng('dropout'), index)
    keep = jax.vmap(lambda key: jax.random.bernoulli(key, 1 - self.rate, x.shape[1:]))(keys)
    return jnp.where(keep, x / (1 - self.rate), 0)
