"""CIRKD's names, of both versions: DeepLabV3 and PSPNet on ResNet and MobileNetV2.

A ResNet has the deep stem, or one convolution (the second version's `*_vanilla`), and an auxiliary
head; MobileNetV2 has none. The second version's heads are of other widths under the same names.
"""

from __future__ import annotations

from kdseg_jax.interop.layers import Layer, conv_norm
from kdseg_jax.interop.schemes import torchvision
from kdseg_jax.interop.schemes.base import CAFFE_BGR, Scheme

_BACKBONES = (*torchvision.RESNETS, 'mobilenetv2')


def _layers(model):
  head, backbone = model.split('_')
  layers = _mobilenetv2() if backbone == 'mobilenetv2' else _resnet(backbone)
  return layers + (_deeplabv3() if head == 'deeplabv3' else _pspnet())


def _resnet(backbone):
  return [*torchvision.resnet(backbone, 'pretrained.'),
          *conv_norm('auxlayer.block.0', 'auxlayer.block.1', 'auxiliary_head/conv'),
          Layer('auxlayer.block.4', 'auxiliary_head/classifier')]


def _mobilenetv2():
  """As torchvision's, but a block counts convolution, BatchNorm and activation one by one."""
  features = 'pretrained.net.features'
  layers = conv_norm(f'{features}.0.0', f'{features}.0.1', 'backbone/stem')
  for number, (block, names) in enumerate(torchvision.mobilenetv2_blocks(), start=1):
    source = f'{features}.{number}.conv'
    for i, name in enumerate(names):
      layers += conv_norm(f'{source}.{3 * i}', f'{source}.{3 * i + 1}', f'backbone/{block}/{name}')
  return layers


def _deeplabv3():
  layers = conv_norm('head.aspp.b0.0', 'head.aspp.b0.1', 'head/aspp0')
  for i in (1, 2, 3):
    layers += conv_norm(f'head.aspp.b{i}.block.0', f'head.aspp.b{i}.block.1', f'head/aspp{i}')
  return [*layers,
          *conv_norm('head.aspp.b4.gap.1', 'head.aspp.b4.gap.2', 'head/aspp_pooling'),
          *conv_norm('head.aspp.project.0', 'head.aspp.project.1', 'head/project'),
          *conv_norm('head.block.0', 'head.block.1', 'head/conv'),
          Layer('head.block.4', 'head/classifier')]


def _pspnet():
  layers = []
  for i, size in enumerate((1, 2, 3, 6), start=1):
    layers += conv_norm(f'head.psp.conv{i}.0', f'head.psp.conv{i}.1', f'head/pool{size}')
  return [*layers, *conv_norm('head.block.0', 'head.block.1', 'head/conv'),
          Layer('head.classifier', 'head/classifier')]


SCHEMES = (
    Scheme('cirkd', tuple(f'{head}_{backbone}' for head in ('deeplabv3', 'pspnet')
                          for backbone in _BACKBONES),
           _layers, student=CAFFE_BGR, config={'task': {'align_corners': True}}),
)
