"""The pyramid pooling head against its parts, written out."""

import jax
import numpy as np

from kdseg_jax.models.layers import ConvNorm
from kdseg_jax.models.pspnet import AuxiliaryHead, PSPNetHead
from kdseg_jax.resizing import resize_bilinear
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


def test_the_auxiliary_head_drops_out_before_its_classifier_in_training_alone():
  x = np.random.default_rng(0).standard_normal((2, 5, 4, 8)).astype(np.float32)
  head, index = AuxiliaryHead(num_classes=3, channels=6, dropout=0.5), np.arange(2)
  variables = toys.variables(head, x, index, False)
  train = lambda key: head.apply(
      variables, x, index, True, mutable=['batch_stats'], rngs={'dropout': jax.random.key(key)})[0]
  assert not np.allclose(train(0), train(1))
  part = lambda name: {kind: tree[name] for kind, tree in variables.items() if name in tree}
  embedding = ConvNorm(6, 3).apply(part('conv'), x, False)
  classifier = variables['params']['classifier']
  np.testing.assert_allclose(
      head.apply(variables, x, index, False),
      embedding @ classifier['kernel'][0, 0] + classifier['bias'], rtol=1e-4, atol=1e-5)
