"""A detector that compiles at once: one convolution on the image at every stride; data, configs."""

import flax.linen as nn
import jax.numpy as jnp

from kdseg_jax import data, default_config

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


class Mixed:
  """Scenes of three sizes."""

  classes, palette = data.SceneBoxes.classes, data.SceneBoxes.palette
  sizes = ((64, 64), (48, 80), (96, 40))

  def __init__(self, length=7):
    self.parts = [data.SceneBoxes('val', size=size, length=length) for size in self.sizes]

  def __len__(self):
    return len(self.parts[0])

  def __getitem__(self, index):
    return self.parts[index % 3][index]


def config_of(head='gfl', **fields):
  config = default_config.detection()
  default_config.set_name(config, 'student.name', f'{__name__}:Tiny')
  config.student.options.head = config.task.head = head
  config.augmentation.crop = (64, 64)
  config.task.max_boxes = 6
  config.train.update(steps=4, batch_size=8, compile_level=0)
  config.eval.update(every_steps=2, batch_size=8, limit=11, pictures=2)
  config.checkpoint.update(every_steps=1, keep=5)
  config.log.every_steps = 1
  config.optimizer.update(learning_rate=0.01, clip_norm=1.0)
  config.update_from_flattened_dict(fields)
  return config
