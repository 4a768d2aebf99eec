"""A detector that compiles at once: one convolution on the image at every stride."""

import flax.linen as nn
import jax.numpy as jnp

STRIDES = (8, 16, 32, 64, 128)
_ANCHORS = {'retinanet': 9}
_NUMBERS = {'gfl': 4 * 17}


class Tiny(nn.Module):
  """Raw outputs of a head, and taps."""

  num_classes: int
  head: str = 'gfl'

  @nn.compact
  def __call__(self, image, mask=None, index=None, train=False):
    image = image / 127.5 - 1
    if mask is not None:
      image = image * mask[..., None]
    anchors = _ANCHORS.get(self.head, 1)
    channels = {'cls': anchors * self.num_classes, 'reg': anchors * _NUMBERS.get(self.head, 4)}
    if self.head in ('fcos', 'atss'):
      channels['centerness'] = 1
    convs = {name: nn.Conv(width, (3, 3), name=name) for name, width in channels.items()}
    hidden = nn.Conv(16, (3, 3), name='hidden')
    raw = {name: [] for name in channels}
    for stride in STRIDES:
      size = image.shape[1:3]
      padded = jnp.pad(image, ((0, 0), *((0, -side % stride) for side in size), (0, 0)))
      level = nn.relu(hidden(nn.avg_pool(padded, (stride, stride), (stride, stride))))
      for name, conv in convs.items():
        raw[name].append(conv(level) * (8. if name == 'reg' and self.head == 'fcos' else 1.))
    raw = {name: tuple(maps) for name, maps in raw.items()}
    return raw, dict(raw)
