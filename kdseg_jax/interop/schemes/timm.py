"""timm's names: its plain ResNets have torchvision's, its ResNet-Ds others."""

from __future__ import annotations

from kdseg_jax.interop.layers import Layer, conv_norm
from kdseg_jax.interop.schemes import torchvision
from kdseg_jax.interop.schemes.base import Scheme

# Stem: convolutions 0, 3 and 6 of one module, of whose BatchNorms the last stands outside.
_DEEP_STEM = (('conv1.0', 'conv1.1'), ('conv1.3', 'conv1.4'), ('conv1.6', 'bn1'))
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


SCHEMES = (Scheme('timm_resnet', tuple(_MODELS), _layers),)
