"""Rematerialisation: activations recomputed in the backward pass instead of kept in memory."""

from __future__ import annotations

import flax.linen as nn
import jax

from kdseg_jax import names

# Those of `jax.checkpoint_policies` that take no arguments of their own.
_JAX_POLICIES = (
    'everything_saveable', 'nothing_saveable', 'dots_saveable', 'checkpoint_dots',
    'dots_with_no_batch_dims_saveable', 'checkpoint_dots_with_no_batch_dims')
POLICIES = ('none', 'everything', *_JAX_POLICIES)


def check_policy(policy: str) -> None:
  """Raises ValueError, naming the nearest, if a policy is unknown."""
  names.require(policy, POLICIES, 'remat policy')


def rematerialized(block: type[nn.Module], policy: str) -> type[nn.Module]:
  """A block `(x, train)` that gives the same values and gradients in less memory.

  Training keeps the block's input, and of its inside only what the policy allows; the rest is
  computed again in the backward pass, at the cost of up to one more forward pass. Parameters and
  their names stay as they are.

  Args:
    block: class of the block, called as `block(...)(x, train)`.
    policy: 'none' keeps everything; 'everything' recomputes everything; or the name of one of
      `jax.checkpoint_policies`. The 'dots' among those are matrix products, to which convolutions
      do not belong, other than the 1x1 on the CPU backend.

  Raises:
    ValueError: unknown policy.
  """
  check_policy(policy)
  if policy == 'none':
    return block
  saveable = None if policy == 'everything' else getattr(jax.checkpoint_policies, policy)
  return nn.remat(block, static_argnums=(2,), policy=saveable)  # (self, x, train)
