"""Classifiers of small images, against their official code; see tests/golden/README.md."""

import re

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kdseg_jax import models
from kdseg_jax.models import cifar
from kdseg_jax.models.shufflenet import shuffle
from tests import official
from tests.models import parts

GOLDEN = official.FOLDER / 'cifar.npz'
FAMILIES = ('cifar_resnet8', 'cifar_wrn_16_1', 'cifar_vgg8', 'cifar_mobilenetv2_half',
            'cifar_shufflenetv1', 'cifar_shufflenetv2')


def slow(*cases):
  return [pytest.param(*case, marks=pytest.mark.slow) for case in cases]


def abstract(name, size=32, **options):
  """Shapes of what a model returns, and of its variables."""
  model = models.create(name, 7, **options)
  image = jax.ShapeDtypeStruct((2, size, size, 3), jnp.uint8)
  return jax.eval_shape(
      lambda x: model.init_with_output({'params': jax.random.key(0)}, x), image)


@pytest.mark.parametrize('name, parameters', [  # with 100 classes
    ('cifar_resnet8', 83_892), ('cifar_resnet14', 181_108), ('cifar_resnet20', 278_324),
    ('cifar_resnet8x4', 1_233_540), ('cifar_wrn_16_1', 180_916), ('cifar_wrn_16_2', 703_284),
    ('cifar_vgg8', 3_965_028), ('cifar_vgg13', 9_462_180), ('cifar_mobilenetv2_half', 812_836),
    ('cifar_shufflenetv1', 949_258), ('cifar_shufflenetv2', 1_355_528), *slow(
        ('cifar_resnet32', 472_756), ('cifar_resnet44', 667_188), ('cifar_resnet56', 861_620),
        ('cifar_resnet110', 1_736_564), ('cifar_resnet32x4', 7_433_860),
        ('cifar_wrn_40_1', 569_780), ('cifar_wrn_40_2', 2_255_156))])
def test_parameters(name, parameters):
  assert models.complexity(models.create(name, 100), (32, 32)).params == parameters


# Where the official outputs are compared in slow tests alone; None is linear.
ACTIVATIONS = {
    'cifar_mobilenetv2_half': {'stem': nn.relu, 'expand': nn.relu, 'depthwise': nn.relu,
                               'project': None, 'conv': nn.relu},
    'cifar_shufflenetv1': {'stem': nn.relu, 'conv1': nn.relu, 'conv2': nn.relu, 'conv3': None},
    'cifar_shufflenetv2': {
        'stem': nn.relu, 'conv1': nn.relu, 'conv2': None, 'conv3': None, 'left1': None,
        'left2': nn.relu, 'right1': nn.relu, 'right2': None, 'right3': nn.relu, 'conv': nn.relu}}


@pytest.mark.parametrize('name', FAMILIES)
def test_shapes_are_those_of_the_registry_and_options_reach_every_layer(name):
  model = models.create(
      name, 7, axis_name='somewhere', dtype='bfloat16', remat='dots_saveable')
  (logits, taps), variables, layers = parts.traced(
      model, jax.ShapeDtypeStruct((2, 32, 32, 3), jnp.uint8))
  assert layers.norms == {('somewhere', jnp.bfloat16, 1e-5)} and layers.exact == {'classifier'}
  assert layers.rematerialized == {
      block for block in variables['params']['backbone'] if block.startswith('stage')
      or block == 'stem_block' or name == 'cifar_vgg8'}
  for layer, activation in ACTIVATIONS.get(name, {}).items():
    assert layers.activations[layer] == {activation}
  spec = cifar.BACKBONES[name]
  stages = [taps[f'stage{i}'] for i in range(1, len(spec.channels) + 1)]
  assert logits.shape == (2, 7) and logits.dtype == jnp.float32
  assert tuple(stage.shape[-1] for stage in stages) == spec.channels
  assert (32 // stages[-1].shape[1],) == spec.output_strides
  for i, stage in enumerate(stages, start=1):
    assert taps[f'stage{i}_preactivation'].shape == stage.shape
  assert {'stem', 'pooled', 'embedding', 'logits'} <= set(taps)


@pytest.mark.parametrize('case', [
    'reviewkd_resnet8x4', 'reviewkd_wrn_16_2', 'mdistiller_vgg8', *slow(
        ('reviewkd_resnet20',), ('mdistiller_mobilenetv2_half',), ('reviewkd_shufflev1',),
        ('reviewkd_shufflev2',), ('reviewkd_imagenet_mobilenet',))])
def test_equals_the_official_net(case):
  """Logits, and the means over positions of both lists of features."""
  with np.load(GOLDEN) as golden:
    expected = {key.removeprefix(f'{case}/'): array for key, array in golden.items()
                if key.startswith(f'{case}/')}
  model, variables = official.load(
      case, official.state_dict(case, official.drawn), mean=(0, 0, 0), std=(1, 1, 1))
  image = np.moveaxis(expected.pop('x'), 1, -1).astype(np.float32)
  _, taps = jax.jit(model.apply)(variables, image)
  stages = {tap for tap in taps if re.fullmatch(r'stage\d', tap)}
  assert {'logits', 'pooled'} | stages <= set(expected)
  for key, array in expected.items():
    tap, _, whole = key.partition('/')
    found = np.asarray(taps[tap])
    if whole:
      found = np.moveaxis(found, -1, 1)[..., 4:12, 4:12]
    elif found.ndim == 4:
      found = found.mean((1, 2))
    np.testing.assert_allclose(found, array, rtol=0, atol=2e-5 * array.std(), err_msg=key)


def test_features_of_the_wide_resnet():
  """Sums; what is after the next BatchNorm, here of the batch; and what is pooled."""
  model = models.create('cifar_wrn_16_1', 7, width=0.5)
  image = np.random.default_rng(0).integers(0, 256, (4, 16, 16, 3), np.uint8)
  variables = jax.jit(model.init)({'params': jax.random.key(0)}, image)
  (_, taps), _ = jax.jit(
      lambda x: model.apply(variables, x, train=True, mutable=['batch_stats']))(image)
  for i in (1, 2, 3):
    x = np.asarray(taps[f'stage{i}'])
    mean, deviation = x.mean((0, 1, 2)), np.sqrt(x.var((0, 1, 2)) + 1e-5)
    np.testing.assert_allclose(taps[f'stage{i}_preactivation'], (x - mean) / deviation, atol=1e-4)
  np.testing.assert_array_equal(taps['activated'], np.maximum(taps['stage3_preactivation'], 0))
  np.testing.assert_allclose(taps['pooled'], np.mean(taps['activated'], (1, 2)), rtol=1e-5)
  np.testing.assert_array_equal(taps['embedding'], taps['pooled'])  # there is no Dropout


@pytest.mark.parametrize('name', [*FAMILIES[:3], *slow(*((name,) for name in FAMILIES[3:]))])
def test_rematerialization_and_precision_change_no_shape(name):
  (logits, taps), variables = abstract(name)
  (low, low_taps), low_variables = abstract(name, remat='everything', dtype='bfloat16')
  assert low == logits and low_variables == variables
  assert {tap: x.shape for tap, x in low_taps.items()} == {tap: x.shape for tap, x in taps.items()}
  assert low_taps['stage1_preactivation'].dtype == jnp.bfloat16


@pytest.mark.parametrize('name, channels', [
    ('cifar_resnet8', (8, 16, 32)), ('cifar_wrn_16_2', (16, 32, 64)),
    ('cifar_vgg8', (64, 128, 256, 256))])
def test_width(name, channels):
  (_, taps), _ = abstract(name, width=0.5)
  assert tuple(taps[f'stage{i}'].shape[-1] for i in range(1, len(channels) + 1)) == channels
  if name == 'cifar_wrn_16_2':  # stages of equal channels still stride
    (_, taps), _ = abstract(name, width=0.125)
    assert [taps[f'stage{i}'].shape[1:] for i in (1, 2, 3)] == [
        (32, 32, 8), (16, 16, 8), (8, 8, 16)]


@pytest.mark.parametrize('name, options, message', [
    ('cifar_shufflenetv1', {'width': 0.5}, 'width=0.5: the channels of cifar_shufflenetv1 are fix'),
    ('cifar_mobilenetv2_half', {'width': 2}, 'width=2: the channels of cifar_mobilenetv2_half'),
    ('cifar_resnet20', {'output_stride': 8}, r'output_stride=8 is unknown to .*one of \(4,\)'),
    ('cifar_vgg8', {'aux': True}, 'cifar_vgg8 is a classifier: it has no auxiliary head'),
    ('cifar_wrn_16_2', {'head_channels': 64}, 'cifar_wrn_16_2 is a classifier'),
    ('cifar_resnet20', {'deep_stem': True}, 'Unknown option of cifar_resnet20'),
    ('cifar_resnet20', {'depth': 8}, 'Unknown option of cifar_resnet20'),
    ('cifar_resnet21', {}, "Unknown model: 'cifar_resnet21'. Did you mean 'cifar_resnet")])
def test_what_they_do_not_have_is_refused(name, options, message):
  with pytest.raises(ValueError, match=message):
    models.create(name, 7, **options)


def test_defaults():
  model = models.create('cifar_resnet20', 7)
  assert model.preprocessing == cifar.PREPROCESSING == models.preprocessing_of('cifar_resnet20')
  assert model.head.dropout == 0 and models.output_stride_of('cifar_resnet20') == 4
  assert models.create('cifar_resnet20', 7, output_stride=4, dropout=0.0) == model
  other = models.create('cifar_resnet20', 7, mean=(1, 2, 3), dropout=0.2)
  assert other.preprocessing == cifar.PREPROCESSING._replace(mean=(1, 2, 3))
  assert other.head.dropout == 0.2


def test_they_carry_no_head_of_segmentation():
  with pytest.raises(ValueError, match='cifar_mobilenetv2_half has a backbone of its own'):
    models.backbone_of('cifar_mobilenetv2_half')
  assert not any(name.endswith('half') for name in models.NAMES if name not in models.CLASSIFIERS)


@pytest.mark.parametrize('size, last', [(32, 4), (48, 6), (64, 4)])
def test_vgg_pools_once_more_for_images_of_64_rows(size, last):
  (_, taps), _ = abstract('cifar_vgg8', size)
  assert [taps[f'stage{i}'].shape[1] for i in (1, 2, 3, 4)] == [
      size // 2, size // 4, size // 8, last]


def test_shuffle():
  x = np.arange(2 * 6).reshape(1, 1, 2, 6)
  np.testing.assert_array_equal(shuffle(x, 3)[0, 0], [[0, 2, 4, 1, 3, 5], [6, 8, 10, 7, 9, 11]])
  np.testing.assert_array_equal(shuffle(x, 1), x)
