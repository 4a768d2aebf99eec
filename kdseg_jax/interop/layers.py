"""One layer's name in PyTorch and here, and how its arrays are laid out in either.

| layer | PyTorch | here |
|---|---|---|
| convolution | `weight (O, I, h, w)`, `bias` | `kernel (h, w, I, O)`, `bias` |
| transposed convolution | `weight (I, O, h, w)` | `kernel (h, w, I, O)` |
| linear | `weight (O, I)`, `bias` | `kernel (I, O)`, `bias` |
| BatchNorm | `weight`, `bias`, `running_mean`, `running_var` | `scale`, `bias`; `mean`, `var` |
| GroupNorm | `weight`, `bias` | `scale`, `bias` |
| PReLU | `weight (C)` | `slope (C)` |
| mmcv's Scale | `scale` | `factor` |
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from kdseg_jax.errors import UserError

_LEAVES = {'kernel': 'weight', 'scale': 'weight', 'slope': 'weight', 'bias': 'bias',
           'factor': 'scale', 'mean': 'running_mean', 'var': 'running_var'}
_STATISTICS = ('mean', 'var')


class Layer(NamedTuple):
  """A layer there and here.

  Attributes:
    source: its name in PyTorch, as 'layer1.0.conv1'.
    ours: its path, as 'backbone/stage1_block0/conv1/conv'.
    transposed: it is a transposed convolution.
    roll: input channels that stand behind the others there and before them here.
    magnitude: there, the scale of a BatchNorm is |weight| + this (InPlaceABN); None is the weight.
  """

  source: str
  ours: str
  transposed: bool = False
  roll: int = 0
  magnitude: float | None = None

  def key(self, leaf: str) -> str:
    """The key in a state dict of one of our leaves, 'kernel', 'scale', ..."""
    return f'{self.source}.{_LEAVES[leaf]}'

  def path(self, leaf: str) -> str:
    """Where our leaf is among the variables."""
    return f'{"batch_stats" if leaf in _STATISTICS else "params"}/{self.ours}/{leaf}'

  def to_ours(self, leaf: str, array: np.ndarray) -> np.ndarray:
    """A source's array in our layout."""
    if leaf == 'kernel':
      array = _transposed(array, self.transposed)
      return np.roll(array, self.roll, axis=-2) if self.roll else array
    if leaf == 'scale' and self.magnitude is not None:
      return np.abs(array) + np.float32(self.magnitude)
    return array

  def to_source(self, leaf: str, array: np.ndarray) -> np.ndarray:
    """The inverse of `to_ours`; of a magnitude the weight that is not negative.

    Raises:
      UserError: a negative scale, which no magnitude is.
    """
    if leaf == 'kernel':
      return _untransposed(np.roll(array, -self.roll, axis=-2) if self.roll else array,
                           self.transposed)
    if leaf == 'scale' and self.magnitude is not None:
      if (array < 0).any():
        raise UserError(
            f'{self.path(leaf)} has negative numbers, and the scale of {self.source} is |weight| + '
            f'{self.magnitude}: a model that was trained on here need not fit back into the '
            "source's code. Export it under another naming scheme.")
      return np.maximum(array - np.float32(self.magnitude), 0)
    return array


def _transposed(array, of_transposed_convolution):
  if array.ndim == 2:
    return array.T
  return array.transpose((2, 3, 0, 1) if of_transposed_convolution else (2, 3, 1, 0))


def _untransposed(array, of_transposed_convolution):
  if array.ndim == 2:
    return array.T
  return array.transpose((2, 3, 0, 1) if of_transposed_convolution else (3, 2, 0, 1))


def conv_norm(source: str, norm: str, ours: str) -> list[Layer]:
  """A convolution and the BatchNorm after it, which are one `ConvNorm` here."""
  return [Layer(source, f'{ours}/conv'), Layer(norm, f'{ours}/norm/norm')]
