"""mmdetection's names of dense detectors on ResNets, and so those of CrossKD's checkpoints.

FCOS is published with Caffe's ResNets: their images, and bottlenecks that stride in the first 1x1.
The other heads, and FCOS of the second scheme, go with torchvision's.
"""

from __future__ import annotations

from kdseg_jax.interop.layers import Layer, conv_norm
from kdseg_jax.interop.schemes import torchvision
from kdseg_jax.interop.schemes.base import Scheme
from kdseg_jax.models import detectors
from kdseg_jax.models.fpn import LEVELS

_DEEPEST_TOWER = 8  # convolutions that are named; most have 4
_OUTPUTS = {
    'gfl': ('gfl_cls', 'gfl_reg', ''), 'retinanet': ('retina_cls', 'retina_reg', ''),
    'fcos': ('conv_cls', 'conv_reg', 'conv_centerness'),
    'atss': ('atss_cls', 'atss_reg', 'atss_centerness')}
_STUDENT = {'mean': (122.7717, 115.9465, 102.9801), 'std': (1.0, 1.0, 1.0),
            'channel_order': 'bgr', 'stride_first': True}


def _layers(model):
  head, backbone = model.split('_')
  layers = [*conv_norm('backbone.conv1', 'backbone.bn1', 'backbone/stem'),
            *torchvision.resnet_stages(backbone, 'backbone.')]
  for i in range(3):  # a deep stem counts convolution, BatchNorm and ReLU one by one
    layers += conv_norm(f'backbone.stem.{3 * i}', f'backbone.stem.{3 * i + 1}',
                        f'backbone/stem{i + 1}')
  for i, level in enumerate(LEVELS):
    layers.append(Layer(f'neck.fpn_convs.{i}.conv', f'fpn/{level}'))
    if i < 3:
      layers.append(Layer(f'neck.lateral_convs.{i}.conv', f'fpn/{level}_lateral'))
    if head != 'retinanet':
      layers.append(Layer(f'bbox_head.scales.{i}', f'head/scales_{i}'))
  for branch in ('cls', 'reg'):
    for i in range(_DEEPEST_TOWER):
      source, ours = f'bbox_head.{branch}_convs.{i}', f'head/{branch}_convs_{i}'
      layers += [Layer(f'{source}.conv', f'{ours}/conv'), Layer(f'{source}.gn', f'{ours}/norm')]
  return layers + [Layer(f'bbox_head.{source}', f'head/{ours}')
                   for source, ours in zip(_OUTPUTS[head], ('cls', 'reg', 'centerness')) if source]


def _models(*heads):
  return tuple(f'{head}_{backbone}' for head in heads for backbone in torchvision.RESNETS)


SCHEMES = (
    Scheme('mmdetection_caffe', _models('fcos'), _layers, student=_STUDENT),
    Scheme('mmdetection', _models(*detectors.HEADS), _layers),
)
