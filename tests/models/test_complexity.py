"""Counts against published architectures and by hand."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import pytest

from kdseg_jax import models
from kdseg_jax.models import conv
from kdseg_jax.models.conv import Conv
from kdseg_jax.models.mobilenet import MobileNetV2
from kdseg_jax.models.resnet import ResNet


class Small(nn.Module):

  @nn.compact
  def __call__(self, image):
    x = Conv(8, 3, strides=2, name='a')(image / 255)     # 9 * 3 * 8 on 4x3 outputs
    x = Conv(8, 3, groups=8, dilation=12, name='b')(x)   # 9 * 8, taps on padding included
    x = Conv(4, 1, use_bias=True, name='c')(x)           # 8 * 4, a bias is no multiply-add
    return nn.Dense(5)(nn.relu(x).mean((1, 2)))          # 4 * 5


def test_by_hand():
  params, macs = models.complexity(Small(), (7, 5))
  assert macs == 4 * 3 * (216 + 72 + 32) + 20
  assert params == 216 + 72 + (32 + 4) + (20 + 5)


def test_lowering_does_not_matter(monkeypatch):
  before = models.complexity(Small(), (7, 5))
  monkeypatch.setattr(conv, 'choose_lowering', lambda *_: conv.lower_general)
  assert models.complexity(Small(), (7, 5)) == before


# Parameters of the official code of CIRKD without auxiliary heads; its multiply-adds, counted by
# hooks on the layers, are 517.5e9 with the auxiliary head (4.87e9) and 106.5e9.
@pytest.mark.parametrize('name, options, params, macs', [
    ('deeplabv3_resnet18', {'deep_stem': True, 'aux': True}, 13_459_155, 512_623_706_112),
    ('deeplabv3_mobilenetv2', {}, 3_233_171, 106_540_081_152)])
def test_published_models(name, options, params, macs):
  model = models.create(name, 19, **options)
  assert models.complexity(model, (1024, 2048)) == models.Complexity(params, macs)


# torchvision, without the classifier; MobileNetV2 also without its last 1x1 convolution.
@pytest.mark.parametrize('backbone, params', [
    (ResNet(18), 11_176_512), (ResNet(34), 21_284_672), (ResNet(50), 23_508_032),
    (MobileNetV2(), 1_811_712)])
def test_published_backbones(backbone, params):
  variables = jax.eval_shape(
      lambda: backbone.init(jax.random.key(0), jnp.zeros((1, 32, 32, 3)), False))
  assert sum(x.size for x in jax.tree.leaves(variables['params'])) == params
