"""State dicts of any number of classes: the names and shapes of a scheme."""

from __future__ import annotations

import functools

import jax
import numpy as np

from kdseg_jax import models
from kdseg_jax.interop import conversion, schemes
from tests import official


@functools.cache
def state_dict(model: str, scheme: str, classes: int, **options) -> dict[str, np.ndarray]:
  """A state dict of a model of ours under a scheme's names."""
  module = models.create(model, classes, **options)
  shapes = jax.eval_shape(lambda: module.init(
      {'params': jax.random.key(0)}, np.zeros((1, 64, 64, 3), np.uint8)))
  zeros = jax.tree.map(lambda x: np.zeros(x.shape, np.float32), shapes)
  found = conversion.to_state_dict(zeros, schemes.named(scheme).layers(model))
  drawn = {key: np.asarray(official.drawn(key, array.shape), np.float32)
           for key, array in found.items()}
  return drawn | {
      key.replace('running_mean', 'num_batches_tracked'): np.zeros((), np.int64)
      for key in found if key.endswith('running_mean')}
