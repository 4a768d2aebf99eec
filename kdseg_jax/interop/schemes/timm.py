"""timm's names: its plain ResNets have torchvision's, its ResNet-Ds and Xceptions others."""

from __future__ import annotations

from kdseg_jax.interop.layers import Layer, conv_norm
from kdseg_jax.interop.schemes import torchvision
from kdseg_jax.interop.schemes.base import Scheme
from kdseg_jax.models.xception import MIDDLE_MODULES

# Stem: convolutions 0, 3 and 6 of one module, of whose BatchNorms the last stands outside.
_DEEP_STEM = (('conv1.0', 'conv1.1'), ('conv1.3', 'conv1.4'), ('conv1.6', 'bn1'))
_XCEPTION = 'xception'
_MODELS = {name: name for name in torchvision.RESNETS} | {
    f'{name}d': name for name in torchvision.RESNETS}


def _layers(model):
  backbone = _MODELS[model]
  classifier = Layer('fc', 'head/classifier')
  if model == backbone:
    return [*torchvision.resnet(backbone), classifier]
  stem = [layer for i, (conv, norm) in enumerate(_DEEP_STEM, start=1)
          for layer in conv_norm(conv, norm, f'backbone/stem{i}')]
  # A shortcut's first module is the average, which has no arrays.
  stages = torchvision.resnet_stages(backbone, shortcut=('downsample.1', 'downsample.2'))
  return [*stem, *stages, classifier]


def _xception(model):
  layers = [Layer('head.fc', 'head/classifier')]
  for i in (1, 2):
    layers += conv_norm(f'stem.{i - 1}.conv', f'stem.{i - 1}.bn', f'backbone/stem{i}')
  counts = (1, 1, 1 + MIDDLE_MODULES[int(model.removeprefix(_XCEPTION))], 2)
  modules = [f'stage{stage}_block{i}' for stage, count in enumerate(counts, start=1)
             for i in range(count)]
  for number, module in enumerate(modules):
    source, ours = f'blocks.{number}', f'backbone/{module}'
    layers += conv_norm(f'{source}.shortcut.conv', f'{source}.shortcut.bn', f'{ours}/shortcut')
    for i in (1, 2, 3):
      theirs = f'{source}.stack.conv{i}'
      for part, name in (('dw', 'depthwise'), ('pw', 'pointwise')):
        layers += conv_norm(
            f'{theirs}.conv_{part}', f'{theirs}.bn_{part}', f'{ours}/conv{i}/{name}')
  return layers


SCHEMES = (Scheme('timm_resnet', tuple(_MODELS), _layers),
           Scheme('timm_xception', tuple(f'{_XCEPTION}{depth}' for depth in MIDDLE_MODULES),
                  _xception))
