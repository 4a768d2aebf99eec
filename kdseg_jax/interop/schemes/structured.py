"""The structured-distillation code's names: PSPNet (journal) and the ESPNets (conference).

PSPNet's BatchNorm is InPlaceABN, whose scale is |weight| + eps, followed by a leaky ReLU outside of
the ResNet. The auxiliary head, `dsn`, has half of stage 3's channels and a bias in its 3x3.
"""

from __future__ import annotations

from kdseg_jax import models
from kdseg_jax.interop.layers import Layer, conv_norm
from kdseg_jax.interop.schemes import torchvision
from kdseg_jax.interop.schemes.base import CAFFE_BGR, Scheme

_EPSILON = 1e-5  # of InPlaceABN
_DILATIONS = (1, 2, 4, 8, 16)


def _pspnet(model):
  backbone, spec = models.backbone_of(model)
  layers = torchvision.resnet(backbone)
  for i, size in enumerate((1, 2, 3, 6)):
    layers += conv_norm(
        f'pspmodule.stages.{i}.1', f'pspmodule.stages.{i}.2', f'head/pool{size}')
  layers += [
      # The map is concatenated behind its averages there.
      Layer('pspmodule.bottleneck.0', 'head/conv/conv', roll=spec.channels[3]),
      Layer('pspmodule.bottleneck.1', 'head/conv/norm/norm'),
      Layer('head', 'head/classifier'),
      *conv_norm('dsn.0', 'dsn.1', 'auxiliary_head/conv'),
      Layer('dsn.3', 'auxiliary_head/classifier')]
  return [layer._replace(magnitude=_EPSILON) for layer in layers]


def _espnet_encoder():
  layers = [Layer('level1.conv', 'backbone/stem'), *_norm_prelu('level1', 'backbone/stem_norm/')]
  for stage in (1, 2, 3):
    layers += _norm_prelu(f'b{stage}', f'backbone/stage{stage}_')
  for stage, blocks in ((2, 2), (3, 8)):
    layers += _pyramid(f'level{stage}_0', f'backbone/stage{stage}_down', norm=f'level{stage}_0')
    for i in range(blocks):
      layers += _pyramid(f'level{stage}.{i}', f'backbone/stage{stage}_block{i}')
  return layers


def _espnet(model):
  if model == 'espnet_c':
    return [*_espnet_encoder(), Layer('classifier.conv', 'head/classifier')]
  return [*_espnet_encoder(), *_espnet_decoder()]


def _espnet_decoder():
  return [
      Layer('classifier_1.conv', 'head/stage3_scores'),
      Layer('br', 'head/stage3_norm/norm'),
      Layer('up_l3.0', 'head/stage3_up', transposed=True),
      Layer('level3_C.conv', 'head/stage2_scores'),
      *_norm_prelu('combine_l2_l3.0', 'head/stage2_norm/'),
      *_pyramid('combine_l2_l3.1', 'head/stage2_pyramid'),
      Layer('up_l2.0', 'head/stage2_up', transposed=True),
      *_norm_prelu('up_l2.1', 'head/stage1_norm/'),
      Layer('conv.conv', 'head/conv'),
      *_norm_prelu('conv', 'head/conv_norm/'),
      Layer('classifier', 'head/classifier', transposed=True)]


def _pyramid(source, ours, norm=None):
  """An ESP module; `norm` has its BatchNorm and PReLU, by default its own module `bn`."""
  return [Layer(f'{source}.c1.conv', f'{ours}/reduce'),
          *(Layer(f'{source}.d{dilation}.conv', f'{ours}/dilated{dilation}')
            for dilation in _DILATIONS),
          *_norm_prelu(norm or f'{source}.bn', f'{ours}/norm/')]


def _norm_prelu(source, ours):
  return [Layer(f'{source}.bn', f'{ours}norm/norm'), Layer(f'{source}.act', f'{ours}prelu')]


# Cityscapes' mean and deviation as the code has them, on CamVid too; as all here in RGB.
_ESPNET = {'mean': (72.41519599, 82.93553322, 73.18188461), 'std': (44.9148, 46.1528, 45.3199),
           'channel_order': 'bgr'}

SCHEMES = (
    Scheme('skd_pspnet', tuple(f'pspnet_{backbone}' for backbone in torchvision.RESNETS),
           _pspnet, config={'task': {'align_corners': True}},
           student=CAFFE_BGR | {'ceil_mode': True, 'dilate_first': True, 'negative_slope': 0.01}),
    Scheme('skd_espnet', ('espnet', 'espnet_c'), _espnet, student=_ESPNET,
           config={'task': {'align_corners': True}}),
)
