"""Names of the nets for CIFAR in the codes of knowledge review, mdistiller and RepDistiller.

All three give the same names. Published weights are RepDistiller's, which mdistiller took over; so
images are by default normalised as there (mdistiller, `dataset/cifar100.py`). What was trained by
the code of knowledge review has another mean and deviation, those of `models.cifar.PREPROCESSING`.
"""

from __future__ import annotations

from kdseg_jax.interop.layers import Layer, conv_norm
from kdseg_jax.interop.schemes import torchvision
from kdseg_jax.interop.schemes.base import Scheme
from kdseg_jax.models import cifar

_STEM = conv_norm('conv1', 'bn1', 'backbone/stem')
_SHUFFLENET_BLOCKS = (4, 8, 4)
# Of each group of blocks there the stage here that it is part of, and its blocks.
_MOBILENET_GROUPS = ((1, 2), (2, 3), (3, 4), (3, 3), (4, 3), (4, 1))


def _layers(model):
  for start, layers in (('cifar_resnet', _resnet), ('cifar_wrn', _wide_resnet),
                        ('cifar_vgg', _vgg)):
    if model.startswith(start):
      return layers(**cifar.BACKBONES[model].build.keywords)
  return {'cifar_mobilenetv2_half': _mobilenetv2, 'cifar_shufflenetv1': _shufflenetv1,
          'cifar_shufflenetv2': _shufflenetv2}[model]()


def _resnet(depth, channels):
  del channels
  return [*_STEM, *torchvision.residual_stages(3 * [(depth - 2) // 6], convolutions=2),
          Layer('fc', 'head/classifier')]


def _wide_resnet(depth, widen_factor):
  del widen_factor
  layers = [Layer('conv1', 'backbone/stem'), Layer('bn1', 'backbone/norm/norm'),
            Layer('fc', 'head/classifier')]
  for stage in (1, 2, 3):
    for block in range((depth - 4) // 6):
      source, ours = f'block{stage}.layer.{block}', f'backbone/stage{stage}_block{block}'
      for i in (1, 2):
        layers += [Layer(f'{source}.bn{i}', f'{ours}/norm{i}/norm'),
                   Layer(f'{source}.conv{i}', f'{ours}/conv{i}')]
      layers.append(Layer(f'{source}.convShortcut', f'{ours}/shortcut'))
  return layers


def _vgg(convolutions):
  layers = [Layer('classifier', 'head/classifier')]
  for stage in range(5):
    for i in range(convolutions):
      layers += conv_norm(f'block{stage}.{3 * i}', f'block{stage}.{3 * i + 1}',
                          f'backbone/stage{stage}_conv{i}')
  return layers


def _mobilenetv2():
  blocks, counts = [('blocks.0.0', 'stem_block')], [0] * 5
  for group, (stage, count) in enumerate(_MOBILENET_GROUPS, start=1):
    for i in range(count):
      blocks.append((f'blocks.{group}.{i}', f'stage{stage}_block{counts[stage]}'))
      counts[stage] += 1
  layers = [*conv_norm('conv1.0', 'conv1.1', 'backbone/stem'),
            *conv_norm('conv2.0', 'conv2.1', 'head/conv'), Layer('classifier.0', 'head/classifier')]
  for source, ours in blocks:
    for i, name in enumerate(('expand', 'depthwise', 'project')):
      layers += conv_norm(f'{source}.conv.{3 * i}', f'{source}.conv.{3 * i + 1}',
                          f'backbone/{ours}/{name}')
  return layers


def _shufflenetv1():
  return [*_STEM, *_shufflenet(first=('conv1', 'conv2', 'conv3')),
          Layer('linear', 'head/classifier')]


def _shufflenetv2():
  return [*_STEM, *_shufflenet(first=('left1', 'left2', 'right1', 'right2', 'right3')),
          *conv_norm('conv2', 'bn2', 'head/conv'), Layer('linear', 'head/classifier')]


def _shufflenet(first):
  """The three stages; `first` are our names of a first block's convolutions 1, 2, ... there."""
  layers = []
  for stage, count in enumerate(_SHUFFLENET_BLOCKS, start=1):
    for block in range(count):
      source, ours = f'layer{stage}.{block}', f'backbone/stage{stage}_block{block}'
      for i, name in enumerate(('conv1', 'conv2', 'conv3') if block else first, start=1):
        layers += conv_norm(f'{source}.conv{i}', f'{source}.bn{i}', f'{ours}/{name}')
  return layers


SCHEMES = (
    Scheme('cifar', tuple(cifar.BACKBONES), _layers,
           student={'mean': (129.3105, 124.1085, 112.404), 'std': (68.2125, 65.4075, 70.4055),
                    'dropout': 0.0}),
)
