"""A model, a source and an optimiser, and what is none of these."""

import flax.linen as nn
import numpy as np
import optax


class Tiny(nn.Module):
  """A segmenter of one layer."""

  num_classes: int
  axis_name: str | None = None
  width: float = 1.0
  features: int = 4

  @nn.compact
  def __call__(self, image, mask=None, index=None, train=False):
    x = nn.Conv(self.features, (3, 3), (4, 4))(image / 255)
    logits = nn.Conv(self.num_classes, (1, 1))(x)
    return logits, {'embedding': x, 'logits': logits}


class Regularized(Tiny):
  """With defaults of its own for what configs have too."""

  dropout: float = 0.1
  aux: bool = True
  aux_bias: bool = True
  dtype: type = np.float64


class Stripes:
  """Images of stripes; one class is left of the middle, one right of it."""

  classes = ('left', 'right')
  palette = np.array([[0, 0, 0], [255, 255, 255]], np.uint8)

  def __init__(self, split: str, *, count: int = 9):
    self.split, self._count = split, count

  def __len__(self):
    return self._count

  def __getitem__(self, index):
    label = np.zeros((16, 16), np.uint8)
    label[:, 8:] = 1
    image = np.repeat(label[..., None] * (200 + index % 8), 3, axis=-1).astype(np.uint8)
    return {'image': image, 'label': label, 'image_id': f'{self.split}{index}'}


class Turned(Stripes):
  """Wide images, of which every third is turned upright; their sizes are known before."""

  def size_of(self, index):
    return (20, 16) if index % 3 == 2 else (16, 20)

  def __getitem__(self, index):
    size = self.size_of(index)
    image = np.full((*size, 3), index, np.uint8)
    return {'image': image, 'label': image[..., 0] % 2, 'image_id': f'{self.split}{index}'}


class Untapped(nn.Module):
  """Returns its prediction alone."""

  num_classes: int

  @nn.compact
  def __call__(self, image, mask=None, index=None, train=False):
    return nn.Conv(self.num_classes, (3, 3), (4, 4))(image / 255)


class Unnamed(Untapped):
  """Returns a list of taps."""

  @nn.compact
  def __call__(self, image, mask=None, index=None, train=False):
    x = nn.Conv(self.num_classes, (3, 3), (4, 4))(image / 255)
    return x, [x]


class Pairs(Stripes):
  """Examples of another form."""

  def __getitem__(self, index):
    return tuple(super().__getitem__(index).values())


def signed(learning_rate, *, scale: float = 1.0):
  """The sign of the gradient."""
  return optax.chain(
      optax.scale_by_sign(), optax.scale(scale), optax.scale_by_learning_rate(learning_rate))


def nothing(first=None, **_):
  """Makes no part of a run."""
  del first
  return 3
