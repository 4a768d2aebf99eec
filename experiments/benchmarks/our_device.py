"""A GPU as jax sees it."""

from __future__ import annotations

import jax


def start():
  """The peak of memory is that of the process: jax forgets none."""
  assert jax.default_backend() == 'gpu', jax.default_backend()


def wait():
  """Every side of ours waits for its own results."""


def peak_bytes() -> int:
  """Most bytes that arrays and programs took at a time, with those of choosing among kernels."""
  return jax.local_devices()[0].memory_stats()['peak_bytes_in_use']
