"""Backbones with a classifier."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kdseg_jax import models
from kdseg_jax.models.backbones import BACKBONES
from kdseg_jax.models.classifier import ClassifierHead
from tests.models import parts

# Where the official outputs are compared in slow tests alone; None is linear.
ACTIVATIONS = {
    'mobilenetv1': {'stem': nn.relu, 'depthwise': nn.relu, 'pointwise': None},
    'efficientnet_lite0': {'stem': nn.relu6, 'expand': nn.relu6, 'depthwise': nn.relu6,
                           'project': None, 'conv': nn.relu6}}


@pytest.mark.parametrize('name', BACKBONES)
def test_shapes_and_what_every_layer_is_given(name):
  """Channels are those of the registry; axis, precision and rematerialisation reach all."""
  model = models.create(
      name, 7, axis_name='somewhere', dtype='bfloat16', remat='dots_saveable')
  (logits, taps), variables, layers = parts.traced(
      model, jax.ShapeDtypeStruct((2, 64, 64, 3), jnp.uint8))
  epsilon = 1e-3 if name.startswith(('xception', 'efficientnet')) else 1e-5
  assert layers.norms == {('somewhere', jnp.bfloat16, epsilon)}
  assert layers.exact == {'classifier'}
  blocks = {block for block in variables['params']['backbone'] if 'block' in block}
  assert len(blocks) >= 8 and layers.rematerialized == blocks
  assert {x.dtype for x in jax.tree.leaves(variables)} == {jnp.dtype('float32')}
  for layer, activation in ACTIVATIONS.get(name, {}).items():
    assert layers.activations[layer] == {activation}
  assert logits.shape == (2, 7) and logits.dtype == jnp.float32
  assert tuple(taps[f'stage{i}'].shape for i in (1, 2, 3, 4)) == tuple(
      (2, 64 // stride, 64 // stride, channels)
      for stride, channels in zip((4, 8, 16, 32), BACKBONES[name].channels, strict=True))
  assert taps['pooled'].shape == taps['embedding'].shape and taps['logits'].shape == (2, 7)


@pytest.mark.parametrize('name, parameters', [  # of torchvision and timm, with 1000 classes
    ('resnet18', 11_689_512), ('resnet34', 21_797_672), ('resnet50', 25_557_032),
    ('resnet101', 44_549_160), ('resnet18d', 11_708_744), ('xception41', 26_969_560),
    ('xception65', 39_916_312), ('mobilenetv1', 4_231_976),
    ('mobilenetv2', 3_504_872), ('efficientnet_lite0', 4_652_008)])
def test_parameters(name, parameters):
  assert models.complexity(models.create(name, 1000), (64, 64)).params == parameters


def test_logits_are_linear_in_the_mean_over_positions():
  model = models.create('resnet18', 7, width=0.125, dropout=0.3)
  image = np.random.default_rng(0).integers(0, 256, (2, 40, 48, 3), np.uint8)
  (logits, taps), variables = jax.jit(model.init_with_output)(
      {'params': jax.random.key(0)}, image)
  classifier = variables['params']['head']['classifier']
  mean = np.mean(taps['stage4'], axis=(1, 2))
  np.testing.assert_allclose(taps['pooled'], mean, rtol=1e-5, atol=1e-6)
  np.testing.assert_allclose(
      logits, mean @ classifier['kernel'] + classifier['bias'], rtol=1e-4, atol=1e-5)
  dropped = jax.jit(lambda key: model.apply(
      variables, image, train=True, rngs={'dropout': key}, mutable=['batch_stats'])[0][1])(
          jax.random.key(1))
  np.testing.assert_allclose(
      dropped['logits'], dropped['embedding'] @ classifier['kernel'] + classifier['bias'],
      rtol=1e-4, atol=1e-5)
  share = np.mean(np.asarray(dropped['embedding']) == 0) - np.mean(
      np.asarray(dropped['pooled']) == 0)
  assert 0.05 < share < 0.6
  kept = np.asarray(dropped['embedding']) != 0
  np.testing.assert_allclose(np.asarray(dropped['embedding'])[kept],
                             np.asarray(dropped['pooled'])[kept] / 0.7, rtol=1e-5)


def test_the_mean_is_not_rounded_to_the_precision_of_the_map():
  x = jax.random.uniform(jax.random.key(0), (2, 7, 7, 8), jnp.bfloat16)
  _, pooled, _ = ClassifierHead(3, dtype=jnp.bfloat16).init_with_output(
      jax.random.key(0), {'stage4': x}, jnp.arange(2), False)[0]
  assert pooled.dtype == jnp.float32
  np.testing.assert_allclose(pooled, np.mean(x.astype(np.float32), axis=(1, 2)), rtol=1e-6)


@pytest.mark.parametrize('options', [{'aux': True}, {'head_channels': 64}])
def test_what_only_segmenters_have_is_refused(options):
  with pytest.raises(ValueError, match='resnet18 is a classifier'):
    models.create('resnet18', 7, **options)


def test_the_last_convolution_stays_wide():
  assert models.create('mobilenetv2', 7, width=0.5).head.channels == 1280
  assert models.create('mobilenetv2', 7, width=1.5).head.channels == 1920


def test_the_logits_of_an_untrained_model_are_small():
  """Kernels are uniform in +-1 / sqrt(fan_in), and biases 0."""
  head = ClassifierHead(300)
  taps = {'stage4': jnp.ones((1, 1, 1, 64))}
  params = head.init(jax.random.key(0), taps, jnp.arange(1), False)['params']['classifier']
  assert 0.99 / 8 < np.abs(params['kernel']).max() <= 1 / 8
  np.testing.assert_allclose(np.std(params['kernel']), 1 / 8 / np.sqrt(3), rtol=0.02)
  np.testing.assert_array_equal(params['bias'], 0)


def test_what_the_registry_says_of_published_weights():
  assert {name: spec.size for name, spec in BACKBONES.items() if spec.size != 224} == {
      'efficientnet_lite1': 240, 'efficientnet_lite2': 260, 'efficientnet_lite3': 280,
      'efficientnet_lite4': 300}
  same = {f'resnet{depth}{kind}' for depth in (18, 34, 50, 101) for kind in ('', 'd')} | {
      'xception41', 'xception65'}
  assert {name: spec.timm for name, spec in BACKBONES.items() if spec.timm} == {
      name: name for name in same} | {
          f'efficientnet_lite{i}': f'tf_efficientnet_lite{i}' for i in range(5)}
  for name, spec in BACKBONES.items():
    for published in spec.weights.values():
      number = ''.join(filter(str.isdigit, name.removesuffix('_lite')))
      assert number in published.file and published.classes == 1000
      assert published.preprocessing == spec.preprocessing
      assert published.sha256.startswith(published.file.rpartition('-')[2].partition('.')[0])
      assert published.url or published.package
      assert published.url in ('', *(f'https://{folder}/{published.file}' for folder in (
          'download.pytorch.org/models', 'github.com/huggingface/pytorch-image-models/releases/'
          'download/v0.1-weights')))


@pytest.mark.parametrize('name, backbone', [
    ('deeplabv3_efficientnet_lite0', 'efficientnet_lite0'), ('pspnet_resnet50', 'resnet50'),
    ('mobilenetv2', 'mobilenetv2')])
def test_backbone_of(name, backbone):
  assert models.backbone_of(name) == (backbone, BACKBONES[backbone])


def test_espnets_have_no_backbone_of_the_registry():
  with pytest.raises(ValueError, match='espnet_c has a backbone of its own; the others are resnet'):
    models.backbone_of('espnet_c')


def test_channels_in_the_other_order():
  image = np.random.default_rng(0).integers(0, 256, (1, 8, 8, 3), np.uint8)
  make = lambda order: models.create('resnet18', 7, channel_order=order, mean=(1, 2, 3),
                                     std=(4, 5, 6)).preprocessing
  np.testing.assert_array_equal(make('bgr')(image), make('rgb')(image)[..., ::-1])
  np.testing.assert_allclose(make('rgb')(image)[0, 0, 0], (image[0, 0, 0] - [1., 2, 3]) / [4, 5, 6],
                             rtol=1e-6)
  with pytest.raises(ValueError, match="Did you mean 'bgr'"):
    make('bgrr')
