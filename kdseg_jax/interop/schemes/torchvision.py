"""torchvision's names: ResNet and MobileNetV2, as classifiers; those of others build on them."""

from __future__ import annotations

from collections.abc import Sequence

from kdseg_jax.interop.layers import Layer, conv_norm
from kdseg_jax.interop.schemes.base import Scheme

# By name: blocks of each stage, and convolutions of a block.
RESNETS = {'resnet18': ((2, 2, 2, 2), 2), 'resnet34': ((3, 4, 6, 3), 2),
           'resnet50': ((3, 4, 6, 3), 3), 'resnet101': ((3, 4, 23, 3), 3)}
_MOBILENET_STAGES = (2, 3, 7, 4)  # blocks, after the stem's


def resnet(backbone: str, prefix: str = '') -> list[Layer]:
  """The layers of a ResNet; a deep stem is `conv1` to `conv3`, which torchvision itself lacks."""
  layers = conv_norm(f'{prefix}conv1', f'{prefix}bn1', 'backbone/stem')
  for i in (1, 2, 3):
    layers += conv_norm(f'{prefix}conv{i}', f'{prefix}bn{i}', f'backbone/stem{i}')
  return [*layers, *resnet_stages(backbone, prefix)]


def resnet_stages(
    backbone: str, prefix: str = '', shortcut: tuple[str, str] = ('downsample.0', 'downsample.1'),
) -> list[Layer]:
  """The layers of the four stages; `shortcut` names a block's convolution and BatchNorm there."""
  return residual_stages(*RESNETS[backbone], prefix, shortcut)


def residual_stages(
    blocks: Sequence[int], convolutions: int, prefix: str = '',
    shortcut: tuple[str, str] = ('downsample.0', 'downsample.1'),
) -> list[Layer]:
  """As `resnet_stages`, of so many blocks in each stage, and convolutions in each block."""
  layers = []
  for stage, count in enumerate(blocks, 1):
    for block in range(count):
      source, ours = f'{prefix}layer{stage}.{block}', f'backbone/stage{stage}_block{block}'
      for i in range(1, convolutions + 1):
        layers += conv_norm(f'{source}.conv{i}', f'{source}.bn{i}', f'{ours}/conv{i}')
      layers += conv_norm(
          f'{source}.{shortcut[0]}', f'{source}.{shortcut[1]}', f'{ours}/shortcut')
  return layers


def mobilenetv2_blocks() -> list[tuple[str, tuple[str, ...]]]:
  """Our name of each block, and of its convolutions, in the order of `features.1` onwards."""
  blocks = [('stem_block', ('depthwise', 'project'))]
  for stage, count in enumerate(_MOBILENET_STAGES, 1):
    blocks += [(f'stage{stage}_block{i}', ('expand', 'depthwise', 'project'))
               for i in range(count)]
  return blocks


def mobilenetv2(prefix: str = '') -> list[Layer]:
  """The layers of MobileNetV2; a block's are (convolution, norm) groups, the last one bare."""
  features = f'{prefix}features'
  layers = conv_norm(f'{features}.0.0', f'{features}.0.1', 'backbone/stem')
  for number, (block, names) in enumerate(mobilenetv2_blocks(), 1):
    source = f'{features}.{number}.conv'
    for i, name in enumerate(names):
      bare = name == 'project'
      layers += conv_norm(f'{source}.{i}' if bare else f'{source}.{i}.0',
                          f'{source}.{i + 1}' if bare else f'{source}.{i}.1',
                          f'backbone/{block}/{name}')
  return layers


SCHEMES = (
    Scheme('torchvision_resnet', tuple(RESNETS),
           lambda model: [*resnet(model), Layer('fc', 'head/classifier')]),
    Scheme('torchvision_mobilenetv2', ('mobilenetv2',),
           lambda model: [*mobilenetv2(), *conv_norm('features.18.0', 'features.18.1', 'head/conv'),
                          Layer('classifier.1', 'head/classifier')]),
)
