"""Backbones with one block a stage: their names, taps, channels and strides at half the compiling.

For runs that are about recipes and programs; depths are for tests/models/.
"""

from unittest import mock

from kdseg_jax import models
from kdseg_jax.models import cifar_resnet, mobilenet, resnet

# Lines that make the models of a program shallow, see `runs.run`.
PRELUDE = 'from tests import shallow\nshallow.models.create = shallow.create\n'


class ResNet(resnet.ResNet):
  """ResNet with one block a stage."""

  def __call__(self, x, train):
    block, counts = resnet._DEPTHS[self.depth]
    with mock.patch.dict(resnet._DEPTHS, {self.depth: (block, (1,) * len(counts))}):
      return super().__call__(x, train)


class MobileNetV1(mobilenet.MobileNetV1):
  """MobileNetV1 with the last block of each stage."""

  def __call__(self, x, train):
    stages = [stage[-1:] for stage in mobilenet._STAGES_V1]
    with mock.patch.object(mobilenet, '_STAGES_V1', stages):
      return super().__call__(x, train)


class MobileNetV2(mobilenet.MobileNetV2):
  """MobileNetV2 with the last block of each stage."""

  def __call__(self, x, train):
    stages = [stage[-1:] for stage in mobilenet._STAGES]
    with mock.patch.object(mobilenet, '_STAGES', stages):
      return super().__call__(x, train)


_SHALLOW = {deep: shallow for shallow in (ResNet, MobileNetV1, MobileNetV2)
            for deep in shallow.__bases__}
_create = models.create


def create(*args, **kwargs):
  """As `models.create`; other backbones, and the ESPNets, stay as they are."""
  module = _create(*args, **kwargs)
  deep = module.backbone
  if type(deep) is cifar_resnet.CifarResNet:
    return module.clone(backbone=deep.clone(depth=8))
  if type(deep) not in _SHALLOW:
    return module
  # Another class, not other counts in the module's: what is cached by modules stays right.
  fields = {name: getattr(deep, name) for name in deep.__dataclass_fields__
            if name not in ('parent', 'name')}
  return module.clone(backbone=_SHALLOW[type(deep)](**fields))
