"""Every field of every part of a model changes what the part computes: none goes nowhere."""

import dataclasses

import flax.linen as nn
import jax
import numpy as np
import pytest

from kdseg_jax import models
from kdseg_jax.distillers.cirkd import ProjectionHead
from kdseg_jax.distillers.cirkd_channels import ContextBlock
from kdseg_jax.models import adapters, conv, critic, espnet, fusion, layers, mobilenet, resnet
from kdseg_jax.models.classifier import ClassifierHead
from kdseg_jax.models.deeplab import DeepLabV3Head, DeepLabV3PlusHead, PlainHead
from kdseg_jax.models.dense_detector import ATSSHead, FCOSHead, GFLHead, RetinaNetHead, TowerLayer
from kdseg_jax.models.dropout import Dropout
from kdseg_jax.models.fpn import FeaturePyramid
from kdseg_jax.models.normalization import BatchNorm
from kdseg_jax.models.pspnet import AuxiliaryHead, PSPNetHead


def maps(*channels, size=(6, 4)):
  rng = np.random.default_rng(0)
  return [rng.standard_normal((2, *size, width)).astype(np.float32) for width in channels]


(X,), INDEX = maps(8), np.arange(2)
TAPS = dict(zip(('stage1', 'stage2', 'stage3', 'stage4'), maps(8, 8, 8, 8)))
TOWERS = {f'{branch}_tower_0': tuple(maps(8, 8, 8, 8, 8, size=(2, 1))) for branch in ('cls', 'reg')}
# A part, and what it is called with.
PARTS = [
    (PSPNetHead(3, 8), (TAPS, INDEX, True)), (AuxiliaryHead(3, 8), (X, INDEX, True)),
    (DeepLabV3Head(3, 8, rates=(1, 2)), (TAPS, INDEX, True)),
    (DeepLabV3PlusHead(3, 8, rates=(1, 2)), (TAPS, INDEX, True)),
    (PlainHead(3, 8), (TAPS, INDEX, True)), (espnet.ESPNetHead(6), (TAPS, INDEX, True)),
    (ClassifierHead(3, channels=8), (TAPS, INDEX, True)),
    (espnet.SpatialPyramid(8), (X, True)), (espnet.NormPReLU(), (X, True)),
    (conv.Conv(8, use_bias=True), (X,)),
    (layers.ConvNorm(8), (X, True)), (layers.SeparableConvNorm(8), (X, True)),
    (BatchNorm(), (X, True)), (Dropout(0.1), (X, INDEX, True)),
    (resnet.BasicBlock(8, 2, 1, 1, layers.ConvNorm), (X, True)),
    (resnet.Bottleneck(8, 2, 1, 1, layers.ConvNorm), (X, True)),
    (mobilenet.InvertedResidual(8, 6, 1, 1, layers.ConvNorm), (X, True)),
    (FeaturePyramid(8), (dict(zip(('stage2', 'stage3', 'stage4'), [
        *maps(8), *maps(8, size=(3, 2)), *maps(8, size=(2, 1))])),)),
    *[(head(3, 8, stacked_convs=1, **own), (TOWERS, 0)) for head, own in (
        (GFLHead, {}), (RetinaNetHead, {}), (ATSSHead, {}), (FCOSHead, {}))],
    (TowerLayer(8, 2, False), (X,)),
    (critic.Critic(1 / 8), (X, True)), (critic.SpectralConv(8, 3, 1, 1), (X, True)),
    (fusion.LinearConvNorm(8, 1), (X, True)),
    (adapters.Encoder(4), (X, True)), (adapters.Autoencoder(4), (X, True)),
    (adapters.FeatureAdapter(4), (X, True)), (adapters.AffinityAdapter(4), (X,)),
    (ProjectionHead(4), (X,)), (ContextBlock(), (X,))]
# What shapes and types tell in other tests, and initialisers.
NOT_HERE = {'parent', 'name', 'axis_name', 'conv', 'kernel_init', 'bias_init', 'num_classes',
            'channels', 'features', 'width', 'stacked_convs', 'dtype'}
# Where neither twice a number nor the opposite of a switch is another value.
OTHER = {
    'pool_sizes': (1, 2, 4, 6), 'rates': (1, 3), 'negative_slope': 0.1, 'strides': 2,
    'SpatialPyramid.strides': 3, 'padding': 2, 'BasicBlock.strides': 1, 'Bottleneck.strides': 1,
    'kernel_size': 5, 'project_dropout': 0.3, 'dropout': 0.3, 'activation': nn.gelu,
    'depthwise_activation': nn.gelu, 'tap': 'stage1', 'norm_groups': 4, 'extra_convs': 'on_input',
    'Encoder.strides': (2, 1, 1), 'Autoencoder.strides': (2, 1, 1)}
# Fields that say something only beside others.
BESIDE = {
    'always_expand': {'expansion': 1}, 'block_size': {'block_size': 2},
    'SpatialPyramid.strides': {'residual': False}, 'RetinaNetHead.tower_bias': {'norm_groups': 2},
    'Bottleneck.dilation': {'pooled_shortcut': True, 'strides': 1}}
CASES = [(part, given, field.name) for part, given in PARTS for field in dataclasses.fields(part)
         if field.init and field.name not in NOT_HERE]
PROGRAMS = {}  # of parts as they are in `PARTS`


def of(table, part, field, default=None):
  return table.get(f'{type(part).__name__}.{field}', table.get(field, default))


def another(part, field):
  value = getattr(part, field)
  found = of(OTHER, part, field)
  if found is not None:
    return found
  return not value if isinstance(value, bool) else 2 * value


def program(part, given):
  """The text of what it computes, with its initialisation, in training."""
  static = {i for i, one in enumerate(given) if isinstance(one, (bool, int))}
  arrays = [one for i, one in enumerate(given) if i not in static]

  def run(key, *arrays):
    arrays = iter(arrays)
    arguments = [one if i in static else next(arrays) for i, one in enumerate(given)]
    return part.init_with_output({'params': key, 'dropout': key}, *arguments)
  return str(jax.make_jaxpr(run)(jax.random.key(0), *arrays))


@pytest.mark.parametrize('part, given, field', [
    pytest.param(*case, id=f'{type(case[0]).__name__}-{case[2]}') for case in CASES])
def test_another_value_of_a_field_changes_what_is_computed(part, given, field):
  beside = of(BESIDE, part, field, {})
  base = part.clone(**beside)
  other = base.clone(**{field: another(base, field)})
  assert getattr(other, field) != getattr(base, field)
  if not beside and part not in PROGRAMS:
    PROGRAMS[part] = program(part, given)
  before = program(base, given) if beside else PROGRAMS[part]
  assert program(other, given) != before


def test_the_same_part_computes_the_same():
  for part, given in PARTS[:2]:
    assert program(part.clone(), given) == program(part, given)


@pytest.mark.parametrize('name', [
    'fcos_resnet50', 'gfl_resnet18', 'retinanet_mobilenetv2', 'pspnet_resnet18', 'resnet50',
    'espnet'])
def test_every_option_of_a_model_is_given_to_its_part(name):
  given = {'stem_channels': (8, 8, 16), 'blocks': (1, 1), 'norm_groups': 4,
           'extra_convs': 'on_output' if name.startswith('retinanet') else 'on_input'}
  parts_of = lambda model: [getattr(model, part) for part in (
      'backbone', 'fpn', 'head') if hasattr(model, part)] + [model]
  plain = models.create(name, 6)
  for option in models.options_of(name) - {'fpn_channels'}:
    i = next(i for i, part in enumerate(parts_of(plain)) if hasattr(part, option))
    value = given.get(option) or another(parts_of(plain)[i], option)
    made = parts_of(models.create(name, 6, **{option: value}))[i]
    assert getattr(made, option) == value != getattr(parts_of(plain)[i], option), option
