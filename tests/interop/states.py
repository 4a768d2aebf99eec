"""State dicts for tests: the names and shapes of a scheme, drawn by the rule of tests/golden."""

from __future__ import annotations

import functools
import zlib

import jax
import numpy as np

from kdseg_jax import models
from kdseg_jax.interop import conversion, schemes


def drawn(key: str, shape: tuple[int, ...]) -> np.ndarray:
  """The weight of an official key; the rule is in tests/golden/README.md."""
  draws = np.random.RandomState(zlib.crc32(key.encode()))
  kind = key.rpartition('.')[2]
  if kind == 'running_var':
    return (0.5 + draws.random_sample(shape)).astype(np.float32)
  normal = draws.standard_normal(shape)
  if len(shape) > 1:
    return (normal * np.sqrt(2 / np.prod(shape[1:]))).astype(np.float32)
  return (1 + 0.2 * normal if kind == 'weight' else 0.1 * normal).astype(np.float32)


@functools.cache
def state_dict(model: str, scheme: str, classes: int, **options) -> dict[str, np.ndarray]:
  """A state dict of a model of ours under a scheme's names."""
  module = models.create(model, classes, **options)
  shapes = jax.eval_shape(lambda: module.init(
      {'params': jax.random.key(0)}, np.zeros((1, 64, 64, 3), np.uint8)))
  zeros = jax.tree.map(lambda x: np.zeros(x.shape, np.float32), shapes)
  found = conversion.to_state_dict(zeros, schemes.named(scheme).layers(model))
  return {key: drawn(key, array.shape) for key, array in found.items()} | {
      key.replace('running_mean', 'num_batches_tracked'): np.zeros((), np.int64)
      for key in found if key.endswith('running_mean')}
