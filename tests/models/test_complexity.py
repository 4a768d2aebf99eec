"""Counts against published architectures and by hand."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import pytest

from kdseg_jax import models
from kdseg_jax.models import conv, lowerings
from kdseg_jax.models.conv import Conv, ConvTranspose
from kdseg_jax.models.mobilenet import MobileNetV2
from kdseg_jax.models.resnet import ResNet


class Small(nn.Module):

  @nn.compact
  def __call__(self, image):
    x = Conv(8, 3, strides=2, name='a')(image / 255)     # 9 * 3 * 8 on 4x3 outputs
    x = Conv(8, 3, groups=8, dilation=12, name='b')(x)   # 9 * 8, taps on padding included
    x = Conv(4, 1, use_bias=True, name='c')(x)           # 8 * 4, a bias is no multiply-add
    x = ConvTranspose(6, name='d')(x)                    # 4 * 6 to each of 4 pixels
    return nn.Dense(5)(nn.relu(x).mean((1, 2)))          # 6 * 5


def test_by_hand():
  params, macs = models.complexity(Small(), (7, 5))
  assert macs == 4 * 3 * (216 + 72 + 32 + 4 * 24) + 30
  assert params == 216 + 72 + (32 + 4) + 4 * 24 + (30 + 5)


def test_lowering_does_not_matter(monkeypatch):
  before = models.complexity(Small(), (7, 5))
  monkeypatch.setattr(conv, 'choose_lowering', lambda *_: lowerings.lower_general)
  assert models.complexity(Small(), (7, 5)) == before


# Parameters of the official code of CIRKD without auxiliary heads, and its multiply-adds in 1e9,
# counted by hooks on its layers; those of the ResNets with their auxiliary heads.
@pytest.mark.parametrize('name, params, giga_macs', [
    ('deeplabv3_resnet18', 13_459_155, 517.5), ('deeplabv3_resnet50', 39_762_131, 1443),
    ('deeplabv3_resnet101', 58_754_259, 2063), ('pspnet_resnet18', 12_770_515, 488.5),
    ('pspnet_resnet101', 65_707_475, 2171), ('deeplabv3_mobilenetv2', 3_233_171, 106.5),
    ('pspnet_mobilenetv2', 2_654_739, 85.6)])
def test_models_of_cirkd(name, params, giga_macs):
  resnet = 'resnet' in name
  model = models.create(name, 19, aux=True, **({'deep_stem': True} if resnet else {}))
  auxiliary = 0
  if resnet:  # on a quarter of stage 3's channels
    channels = model.auxiliary_head.channels
    auxiliary = 128 * 256 * channels * (9 * 4 * channels + 19)
  complexity = models.complexity(model, (1024, 2048))
  assert complexity.params == params
  assert (complexity.macs + auxiliary) / 1e9 == pytest.approx(giga_macs, rel=1e-3)


# The official code of structured distillation (conference version), p = 2, q = 8, likewise.
@pytest.mark.parametrize('name, classes, params, giga_macs', [
    ('espnet', 19, 363_462, 18.7), ('espnet_c', 19, 349_193, 13.9),
    ('espnet', 11, 353_437, None), ('espnet_c', 11, 347_145, None)])
def test_espnets(name, classes, params, giga_macs):
  complexity = models.complexity(models.create(name, classes), (1024, 2048))
  assert complexity.params == params
  if giga_macs is not None:
    assert complexity.macs / 1e9 == pytest.approx(giga_macs, rel=3e-3)


# On 513x513 and 21 classes, output stride 16. MobileNetV2 (Sandler et al., 2018), table 7, without
# ASPP: 2.11 M and 2.75 B. Multiply-adds of the Xception in DeepLab's model zoo, of
# xception65_coco_voc_trainaug; its parameters, and those of the others, are what is usually quoted.
@pytest.mark.parametrize('name, params, giga_macs', [
    ('plain_mobilenetv2', 2.11e6, 2.75), ('deeplabv3plus_xception65', 41.05e6, 54.17),
    ('deeplabv3plus_resnet50', 26.7e6, None)])
def test_models_of_knowledge_adaptation(name, params, giga_macs):
  complexity = models.complexity(models.create(name, 21, output_stride=16), (513, 513))
  assert complexity.params == pytest.approx(params, rel=3e-3)
  if giga_macs is not None:
    assert complexity.macs / 1e9 == pytest.approx(giga_macs, rel=4e-3)


def test_output_strides_cost_multiply_adds_alone():
  """Halved, from the stage on that no longer strides it has four times the positions."""
  counts = [models.complexity(models.create('plain_mobilenetv2', 19, output_stride=stride),
                              (256, 512)) for stride in (4, 8, 16, 32)]
  assert len({params for params, _ in counts}) == 1
  macs = [macs for _, macs in counts]
  assert macs[0] > 3.5 * macs[1] and macs[1] > 3 * macs[2] and macs[2] > 1.5 * macs[3]


@pytest.mark.parametrize('name', ['deeplabv3plus_resnet18', 'pspnet_mobilenetv2', 'espnet'])
def test_rematerialisation_and_precision_do_not_count(name):
  create = functools.partial(models.create, name, 19, width=0.25)
  assert models.complexity(create(remat='everything', dtype='bfloat16'), (64, 64)) == (
      models.complexity(create(), (64, 64)))


# The parameter counts that torchvision's documentation states for its weights (11,689,512;
# 21,797,672; 25,557,032; 44,549,160; 3,504,872), less those of the classifier (1000 outputs on
# 512 or 2048 channels); MobileNetV2 (on 1280) also less its last 1x1 convolution and BatchNorm.
@pytest.mark.parametrize('backbone, params', [
    (ResNet(18), 11_176_512), (ResNet(34), 21_284_672), (ResNet(50), 23_508_032),
    (ResNet(101), 42_500_160), (MobileNetV2(), 1_811_712)])
def test_published_backbones(backbone, params):
  variables = jax.eval_shape(
      lambda: backbone.init(jax.random.key(0), jnp.zeros((1, 32, 32, 3)), False))
  assert sum(x.size for x in jax.tree.leaves(variables['params'])) == params
