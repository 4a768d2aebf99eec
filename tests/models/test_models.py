"""The registry."""

import re
import types
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kdseg_jax import models
from kdseg_jax.models import layers, resnet


def test_defaults():
  model = models.create('deeplabv3_resnet18', 11)
  assert model.head.channels == 128 and model.head.rates == (12, 24, 36)
  assert model.backbone.output_stride == 8 and model.auxiliary_head is None
  assert model.preprocessing.mean == pytest.approx(255 * np.array([0.485, 0.456, 0.406]))
  assert model.preprocessing.std == pytest.approx(255 * np.array([0.229, 0.224, 0.225]))


@pytest.mark.parametrize('name, head, auxiliary', [
    ('deeplabv3_resnet18', 64, 32), ('deeplabv3_resnet50', 128, 128),
    ('deeplabv3_mobilenetv2', 64, 16)])
def test_width_reaches_the_heads(name, head, auxiliary):
  model = models.create(name, 11, width=0.5, aux=True)
  assert (model.head.channels, model.auxiliary_head.channels) == (head, auxiliary)
  assert models.create(name, 11, width=0.5, head_channels=40).head.channels == 40


def test_dropout_rates():
  model = models.create('deeplabv3_resnet18', 11, aux=True, dropout=0.2, project_dropout=0.0)
  assert (model.head.project_dropout, model.head.dropout, model.auxiliary_head.dropout) == (
      0.0, 0.2, 0.2)


def test_structured_distillation_has_other_heads():
  create = lambda **options: models.create(
      'pspnet_resnet18', 11, width=0.125, aux=True, **options)
  model = create(aux_channels=24, aux_bias=True, negative_slope=0.01)
  assert model.auxiliary_head.channels == 24 and model.auxiliary_head.use_bias
  assert model.head.negative_slope == model.auxiliary_head.negative_slope == 0.01
  assert create().auxiliary_head.channels == 8 and not create().auxiliary_head.use_bias
  assert create().head.negative_slope == create().auxiliary_head.negative_slope == 0


def test_options_of():
  assert {'deep_stem', 'ceil_mode', 'dilate_first'} <= models.options_of('pspnet_resnet18')
  # ResNet-D always has what makes it one.
  assert models.options_of('resnet18d') == models.options_of('resnet18') - {
      'deep_stem', 'stem_channels', 'pooled_shortcuts'}
  assert models.options_of('espnet_c') == {'blocks'}
  assert models.options_of('mobilenetv2') == set()


GIVEN = {
    'width': 0.5, 'output_stride': 16, 'aux': True, 'axis_name': 'somewhere',
    'dtype': jnp.bfloat16, 'remat': 'everything', 'mean': (1., 2., 3.), 'std': (4., 5., 6.),
    'channel_order': 'bgr', 'head_channels': 40, 'aux_channels': 24, 'aux_bias': True,
    'negative_slope': 0.01, 'project_dropout': 0.3, 'dropout': 0.2}


def everything(num_classes, width, output_stride, aux, axis_name, dtype, remat, mean, std,
               channel_order, head_channels, aux_channels, aux_bias, negative_slope,
               project_dropout, dropout, own=1):
  """A factory of models that takes all there is."""
  return types.SimpleNamespace(init=None, apply=None, given=locals())


def test_a_model_from_elsewhere_is_given_every_option_that_it_names():
  reference = f'{__name__}:everything'
  made = models.create(reference, 7, **GIVEN | {'dtype': 'bfloat16'}, own=2)
  assert made.given == {'num_classes': 7, 'own': 2} | GIVEN


def test_models_are_hashable_and_equal():
  create = lambda: models.create('deeplabv3_mobilenetv2', 11, mean=[1, 2, 3], std=[1, 1, 1])
  assert create() == create() and hash(create()) == hash(create())


@pytest.mark.parametrize('options', [
    {'deep_stem': True}, {'output_stride': 16}, {'aux': True}, {'ceil_mode': True}])
def test_options_change_the_model(options):
  create = lambda **kw: models.create('deeplabv3_resnet18', 11, width=0.125, **kw)
  shapes = lambda model: jax.tree.map(lambda x: x.shape, jax.eval_shape(
      model.init_with_output, {'params': jax.random.key(0)}, np.zeros((1, 64, 64, 3), np.uint8)))
  assert shapes(create(**options)) != shapes(create())


@pytest.mark.parametrize('ceil_mode', [False, True])
def test_pooling_of_the_stem_keeps_a_partial_last_window_in_ceil_mode(ceil_mode):
  """PyTorch's rule: windows from -1 in steps of 2, in ceil mode all that begin within the map."""
  for size in range(2, 9):
    x = -np.random.default_rng(size).uniform(1, 2, (1, size, size, 1)).astype(np.float32)
    starts = range(-1, size if ceil_mode else size - 1, 2)
    expected = [[x[0, max(i, 0):i + 3, max(j, 0):j + 3, 0].max() for j in starts] for i in starts]
    np.testing.assert_array_equal(resnet._pool(x, ceil_mode)[0, :, :, 0], expected)


@pytest.mark.parametrize('rows, columns', [(6, 5), (1, 4)])
def test_averages_of_pooled_shortcuts(rows, columns):
  """Of what there is in each 2x2; at stride 1, as timm has it, with zeros beyond the border."""
  x = np.random.default_rng(0).uniform(1, 2, (1, rows, columns, 1)).astype(np.float32)
  image = x[0, :, :, 0]
  halves = [[image[i:i + 2, j:j + 2].mean() for j in range(0, columns, 2)]
            for i in range(0, rows, 2)]
  np.testing.assert_allclose(resnet._average(x, 2)[0, :, :, 0], halves, rtol=1e-6)
  same = [[image[i:i + 2, j:j + 2].sum() / 4 for j in range(columns)] for i in range(rows)]
  np.testing.assert_allclose(resnet._average(x, 1)[0, :, :, 0], same, rtol=1e-6)


class Passed(nn.Module):
  """In place of a `ConvNorm`: the shortcut's input as it is, and 0 of the other branch."""

  features: int
  kernel_size: int = 3
  strides: int = 1
  dilation: int = 1
  activation: Any = None

  def __call__(self, x, train):
    x = x[:, ::self.strides, ::self.strides, :1]
    return x if self.name == 'shortcut' else 0 * x


@pytest.mark.parametrize('strides, dilation, pooled', [(1, 1, 0), (1, 2, 1), (2, 1, 2)])
@pytest.mark.parametrize('pooled_shortcut', [False, True])
def test_shortcuts_average_where_the_stage_strides_or_would(
    strides, dilation, pooled, pooled_shortcut):
  x = np.random.default_rng(0).standard_normal((1, 6, 5, 3)).astype(np.float32)
  y = resnet.BasicBlock(1, strides, dilation, 1, Passed, pooled_shortcut).apply({}, x, False)
  expected = resnet._average(x, pooled) if pooled and pooled_shortcut else (
      x[:, ::strides, ::strides])
  np.testing.assert_allclose(y, expected[..., :1], rtol=1e-6)


@pytest.mark.parametrize('options, dilations', [
    ({}, [1, 1, 1, 2]), ({'dilate_first': True}, [1, 1, 2, 4])])
def test_dilation_of_first_blocks(options, dilations):
  found = {}

  def note(call, args, kwargs, context):
    if isinstance(context.module, resnet.BasicBlock):
      found[context.module.name] = context.module.first_dilation
    return call(*args, **kwargs)

  model = models.create('pspnet_resnet18', 3, width=0.125, **options)
  with nn.intercept_methods(note):
    jax.eval_shape(lambda: model.init(jax.random.key(0), np.zeros((1, 64, 64, 3), np.uint8)))
  assert [found[f'stage{stage}_block0'] for stage in (1, 2, 3, 4)] == dilations
  assert found['stage4_block1'] == 4


@pytest.mark.parametrize('output_stride, strides, dilations', [
    (8, (4, 8, 8, 8), [1, 1, 2, 4]), (32, (4, 8, 16, 32), [1, 1, 1, 1])])
def test_stages_of_mobilenetv1(output_stride, strides, dilations):
  """Sizes, and the dilation of each stage's last block; that of its first is half."""
  found = {}

  def note(call, args, kwargs, context):
    if isinstance(context.module, layers.SeparableConvNorm):
      found[context.module.name] = context.module.dilation
    return call(*args, **kwargs)

  model = models.create('deeplabv3_mobilenetv1', 3, width=0.25, output_stride=output_stride)
  with nn.intercept_methods(note):
    (_, taps), _ = jax.eval_shape(lambda: model.init_with_output(
        {'params': jax.random.key(0)}, np.zeros((1, 64, 64, 3), np.uint8)))
  shapes = [taps[f'stage{stage}'].shape[1:] for stage in (1, 2, 3, 4)]
  assert shapes == [(64 // stride, 64 // stride, channels)
                    for stride, channels in zip(strides, (32, 64, 128, 256), strict=True)]
  assert [found[block] for block in (
      'stage1_block1', 'stage2_block1', 'stage3_block5', 'stage4_block1')] == dilations
  assert [found[f'stage{stage}_block0'] for stage in (1, 2, 3, 4)] == [
      max(dilation // 2, 1) for dilation in dilations]


@pytest.mark.parametrize('name, stem, blocks', [
    ('mobilenetv2', 32, [16, 24, 24, 32, 32, 32, 64, 64, 64, 64, 96, 96, 96, 160, 160, 160, 320]),
    ('mobilenetv1', 32, [64, 128, 128, 256, 256, *[512] * 6, 1024, 1024])])
@pytest.mark.parametrize('width', [0.5, 1.5])
def test_every_block_of_a_mobilenet_is_scaled(name, stem, blocks, width):
  """To multiples of 8, by no less than 0.9 (table 2 of MobileNetV2, 1 of MobileNetV1)."""
  variables = jax.eval_shape(lambda: models.create(name, 3, width=width).init(
      jax.random.key(0), np.zeros((1, 32, 32, 3), np.uint8)))['params']['backbone']
  last = 'project' if name == 'mobilenetv2' else 'pointwise'
  order = ['stem_block', *sorted((block for block in variables if block.startswith('stage')),
                                 key=lambda block: [*map(int, re.findall(r'\d+', block))])]
  found = [variables[block][last]['conv']['kernel'].shape[-1] for block in order]
  assert variables['stem']['conv']['kernel'].shape[-1] == layers.scale_channels(stem, width)
  assert found == [layers.scale_channels(channels, width) for channels in blocks]


def test_shortcuts_of_resnet_d_have_the_size_of_its_maps():
  shapes = lambda **options: [taps[f'stage{stage}'].shape for stage in (1, 2, 3, 4) for taps in [
      jax.eval_shape(lambda: models.create('resnet18d', 3, width=0.125, **options).init_with_output(
          jax.random.key(0), np.zeros((1, 70, 64, 3), np.uint8))[0][1])]]
  assert [shape[1:3] for shape in shapes()] == [(18, 16), (9, 8), (5, 4), (3, 2)]
  assert [shape[1:3] for shape in shapes(output_stride=8)] == [(18, 16), (9, 8), (9, 8), (9, 8)]


@pytest.mark.parametrize('options, sizes', [
    ({}, {512: 64, 513: 65, 360: 45, 63: 8}),
    ({'ceil_mode': True}, {512: 65, 513: 65, 360: 46, 63: 9, 62: 8})])
def test_size_of_the_maps(options, sizes):
  model = models.create('pspnet_resnet18', 11, width=0.125, deep_stem=True, **options)
  for size, expected in sizes.items():
    logits, taps = jax.eval_shape(
        lambda x: model.init_with_output({'params': jax.random.key(0)}, x)[0],
        np.zeros((1, size, size, 3), np.uint8))
    assert logits.shape == (1, expected, expected, 11)
    assert taps['stage4'].shape[1:3] == taps['embedding'].shape[1:3] == (expected, expected)


def test_names():
  heads = 'pspnet', 'deeplabv3', 'deeplabv3plus', 'plain'
  dense = 'gfl', 'retinanet', 'fcos', 'atss'
  backbones = {'xception41', 'xception65', 'mobilenetv1', 'mobilenetv2',
               *(f'efficientnet_lite{i}' for i in range(5)),
               *(f'resnet{depth}{kind}' for depth in (18, 34, 50, 101) for kind in ('', 'd'))}
  small = {name for name in models.NAMES if name.startswith('cifar_')}
  assert len(small) == 18 and len(models.NAMES) == len(set(models.NAMES))
  assert set(models.NAMES) == {
      'espnet', 'espnet_c', *backbones, *small,
      *(f'{head}_{backbone}' for head in heads + dense for backbone in backbones)}
  assert set(models.CLASSIFIERS) == backbones | small
  assert set(models.DETECTORS) == {
      f'{head}_{backbone}' for head in dense for backbone in backbones}


@pytest.mark.parametrize('name, channels', [
    ('pspnet_resnet34', 128), ('pspnet_mobilenetv2', 128), ('pspnet_resnet50', 512),
    ('pspnet_resnet101', 512), ('deeplabv3_resnet101', 256), ('deeplabv3plus_resnet50', 256),
    ('deeplabv3plus_xception41', 256), ('deeplabv3plus_resnet18', 256), ('plain_mobilenetv2', 256)])
def test_head_channels(name, channels):
  assert models.create(name, 19).head.channels == channels


@pytest.mark.parametrize('output_stride, rates', [
    (4, (24, 48, 72)), (8, (12, 24, 36)), (16, (6, 12, 18)), (32, (3, 6, 9))])
def test_atrous_rates_follow_the_output_stride(output_stride, rates):
  for name in 'deeplabv3_resnet18', 'deeplabv3plus_mobilenetv2':
    assert models.create(name, 11, output_stride=output_stride).head.rates == rates


def test_width_reaches_the_low_level_features():
  assert models.create('deeplabv3plus_resnet18', 11, width=0.5).head.low_level_channels == 24


def test_dtype_by_name():
  for dtype in 'float32', 'bfloat16':
    assert models.create('espnet_c', 11, dtype=dtype) == (
        models.create('espnet_c', 11, dtype=getattr(jnp, dtype)))


@pytest.mark.parametrize('name, options, message', [
    ('pspnet_resnet18', {'dtype': 'bfloat32'}, "Unknown dtype: 'bfloat32'. Did you mean"),
    ('pspnet_resnet18', {'remat': 'dots_savable'},
     "Unknown remat policy: 'dots_savable'. Did you mean 'dots_saveable'"),
    ('pspnet_resnet18', {'deepstem': True},
     "Unknown option of pspnet_resnet18: 'deepstem'. Did you mean 'deep_stem'"),
    ('pspnet_mobilenetv2', {'deep_stem': True}, 'Unknown option of pspnet_mobilenetv2'),
    ('espnet', {'output_stride': 16}, r'output_stride=16 is unknown to espnet; .* \(8,\)'),
    ('pspnet_resnet18d', {'deep_stem': True}, 'Unknown option of pspnet_resnet18d'),
    ('deeplabv3_resnet18', {'negative_slope': 0.01}, 'deeplabv3_resnet18 has no leaky activations'),
    ('resnet18', {'negative_slope': 0.01}, 'resnet18 has no leaky activations'),
    ('espnet_c', {'head_channels': 64}, 'head_channels=64: the channels of espnet_c follow')])
def test_bad_options(name, options, message):
  with pytest.raises(ValueError, match=message):
    models.create(name, 11, **options)


@pytest.mark.parametrize('name, nearest', [
    ('deeplabv3_resnet', 'deeplabv3_resnet18'), ('deeplab_mobilenet', 'deeplabv3_mobilenetv2'),
    ('espnetc', 'espnet_c')])
def test_unknown_name(name, nearest):
  with pytest.raises(ValueError, match=f"Unknown model: '{name}'. Did you mean.*'{nearest}'"):
    models.create(name, 11)


def test_bad_values():
  with pytest.raises(ValueError, match='width=0 .* must be positive'):
    models.create('deeplabv3_resnet18', 11, width=0)
  with pytest.raises(ValueError, match='output_stride=2'):
    models.create('deeplabv3_resnet18', 11, output_stride=2)
