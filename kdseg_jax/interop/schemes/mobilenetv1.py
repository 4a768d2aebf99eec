"""Names of MobileNetV1 in the codes of knowledge review and mdistiller, for ImageNet."""

from __future__ import annotations

from kdseg_jax.interop.layers import Layer, conv_norm
from kdseg_jax.interop.schemes.base import Scheme

_BLOCKS = ('stem_block', *(f'stage{stage}_block{i}' for stage, count in enumerate((2, 2, 6, 2), 1)
                           for i in range(count)))


def _layers(model):
  del model
  layers = [*conv_norm('model.0.0', 'model.0.1', 'backbone/stem'), Layer('fc', 'head/classifier')]
  for number, block in enumerate(_BLOCKS, start=1):
    for i, name in ((0, 'depthwise'), (3, 'pointwise')):
      layers += conv_norm(f'model.{number}.{i}', f'model.{number}.{i + 1}',
                          f'backbone/{block}/{name}')
  return layers


SCHEMES = (Scheme('reviewkd_mobilenet', ('mobilenetv1',), _layers),)
