"""The pyramid pooling head against its parts, written out."""

import jax
import numpy as np

from kdseg_jax.losses.resizing import resize_bilinear
from kdseg_jax.models.layers import ConvNorm
from kdseg_jax.models.pspnet import PSPNetHead
from tests import toys


def test_head_by_parts():
  rng = np.random.default_rng(0)
  x = rng.standard_normal((2, 5, 4, 8)).astype(np.float32)
  index = np.arange(2)
  head = PSPNetHead(num_classes=3, channels=6)
  variables = toys.variables(head, {'stage4': x}, index, False)
  logits, embedding = jax.jit(head.apply, static_argnums=3)(
      variables, {'stage4': x}, index, False)
  part = lambda name: {kind: tree[name] for kind, tree in variables.items()}
  branches = [x]
  bins = {  # of 5 rows and of 4 columns
      1: ([(0, 5)], [(0, 4)]),
      2: ([(0, 3), (2, 5)], [(0, 2), (2, 4)]),
      3: ([(0, 2), (1, 4), (3, 5)], [(0, 2), (1, 3), (2, 4)]),
      6: ([(0, 1), (0, 2), (1, 3), (2, 4), (3, 5), (4, 5)],
          [(0, 1), (0, 2), (1, 2), (2, 3), (2, 4), (3, 4)]),
  }
  for size, (rows, columns) in bins.items():
    pooled = np.stack([
        np.stack([x[:, a:b, c:d].mean((1, 2)) for c, d in columns], 1) for a, b in rows], 1)
    pooled = ConvNorm(2, 1).apply(part(f'pool{size}'), pooled, False)
    assert pooled.shape == (2, size, size, 2)
    branches.append(resize_bilinear(pooled, (5, 4), align_corners=True))
  expected = ConvNorm(6, 3).apply(part('conv'), np.concatenate(branches, -1), False)
  np.testing.assert_allclose(embedding, expected, rtol=1e-4, atol=1e-5)
  classifier = variables['params']['classifier']
  np.testing.assert_allclose(
      logits, embedding @ classifier['kernel'][0, 0] + classifier['bias'], rtol=1e-4, atol=1e-5)
