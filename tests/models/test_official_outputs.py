"""Models against outputs of the official implementations; see tests/golden/README.md.

Both sides take weights drawn from the official names of the parameters, so that what is compared
is the architecture: paddings, strides, dilations, epsilons, order of layers.
"""

import functools
import json
import pathlib
import zlib

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import traverse_util

from kdseg_jax import models
from kdseg_jax.models import pspnet as pspnet_module
from kdseg_jax.models import resnet as resnet_module

FOLDER = pathlib.Path(__file__).parents[1] / 'golden'
GOLDEN, MORE = FOLDER / 'models.npz', FOLDER / 'more_models.npz'


def convolution(ours, official):
  return {f'params/{ours}/kernel': f'{official}.weight', f'params/{ours}/bias': f'{official}.bias'}


def norm(ours, official):
  return {f'params/{ours}/scale': f'{official}.weight', f'params/{ours}/bias': f'{official}.bias',
          f'batch_stats/{ours}/mean': f'{official}.running_mean',
          f'batch_stats/{ours}/var': f'{official}.running_var'}


def conv_norm(ours, official, official_norm):
  return convolution(f'{ours}/conv', official) | norm(f'{ours}/norm/norm', official_norm)


def resnet(blocks, convolutions=2, prefix='pretrained.', deep_stem=True):
  """The backbone of `blocks` blocks a stage; of the shortcuts, some have no layers."""
  stem = [f'{i}' for i in (1, 2, 3)] if deep_stem else ['']
  names = {}
  for i in stem:
    number = i or '1'
    names |= conv_norm(f'backbone/stem{i}', f'{prefix}conv{number}', f'{prefix}bn{number}')
  for stage, count in enumerate(blocks, 1):
    for block in range(count):
      ours, official = f'backbone/stage{stage}_block{block}', f'{prefix}layer{stage}.{block}'
      for i in range(1, convolutions + 1):
        names |= conv_norm(f'{ours}/conv{i}', f'{official}.conv{i}', f'{official}.bn{i}')
      names |= conv_norm(f'{ours}/shortcut', f'{official}.downsample.0', f'{official}.downsample.1')
  return names


def auxiliary():
  names = conv_norm('auxiliary_head/conv', 'auxlayer.block.0', 'auxlayer.block.1')
  return names | convolution('auxiliary_head/classifier', 'auxlayer.block.4')


def resnet18():
  return resnet((2, 2, 2, 2)) | auxiliary()


def mobilenetv2():
  names = {}
  blocks = ['stem_block'] + [f'stage{stage}_block{i}' for stage, count in (
      (1, 2), (2, 3), (3, 7), (4, 4)) for i in range(count)]
  names |= conv_norm('backbone/stem', 'pretrained.net.features.0.0', 'pretrained.net.features.0.1')
  for number, block in enumerate(blocks, 1):
    layers = ('depthwise', 'project') if number == 1 else ('expand', 'depthwise', 'project')
    for i, layer in enumerate(layers):
      official = f'pretrained.net.features.{number}.conv'
      names |= conv_norm(
          f'backbone/{block}/{layer}', f'{official}.{3 * i}', f'{official}.{3 * i + 1}')
  return names


def deeplabv3():
  names = conv_norm('head/aspp0', 'head.aspp.b0.0', 'head.aspp.b0.1')
  for i in (1, 2, 3):
    names |= conv_norm(
        f'head/aspp{i}', f'head.aspp.b{i}.block.0', f'head.aspp.b{i}.block.1')
  for ours, official, first in (('aspp_pooling', 'head.aspp.b4.gap', 1),
                                ('project', 'head.aspp.project', 0), ('conv', 'head.block', 0)):
    names |= conv_norm(f'head/{ours}', f'{official}.{first}', f'{official}.{first + 1}')
  return names | convolution('head/classifier', 'head.block.4')


def pspnet():
  """The head of CIRKD."""
  names = conv_norm('head/conv', 'head.block.0', 'head.block.1')
  for i, size in enumerate((1, 2, 3, 6), 1):
    names |= conv_norm(f'head/pool{size}', f'head.psp.conv{i}.0', f'head.psp.conv{i}.1')
  return names | convolution('head/classifier', 'head.classifier')


def skd_pspnet():
  """That of structured distillation."""
  names = conv_norm('head/conv', 'pspmodule.bottleneck.0', 'pspmodule.bottleneck.1')
  for i, size in enumerate((1, 2, 3, 6)):
    names |= conv_norm(
        f'head/pool{size}', f'pspmodule.stages.{i}.1', f'pspmodule.stages.{i}.2')
  return names | convolution('head/classifier', 'head')


def torchvision_mobilenetv2():
  """Layers of blocks as (convolution with its BatchNorm)s, the last one bare."""
  official = {}
  for ours, name in mobilenetv2().items():
    parts = name.removeprefix('pretrained.net.').split('.')
    if parts[2] == 'conv' and len(parts) == 5:
      number, last = int(parts[3]), 3 if parts[1] == '1' else 6
      parts[3:4] = [str(number // 3), str(number % 3)] if number < last else [
          str(last // 3 + number % 3)]
    official[ours] = '.'.join(parts)
  return official


def norm_prelu(ours, official):
  return norm(f'{ours}norm/norm', f'{official}.bn') | {
      f'params/{ours}prelu/slope': f'{official}.act.weight'}


def espnet_c():
  names = convolution('backbone/stem', 'level1.conv')
  names |= norm_prelu('backbone/stem_norm/', 'level1')
  for stage in (1, 2, 3):
    names |= norm_prelu(f'backbone/stage{stage}_', f'b{stage}')
  for stage, count in ((2, 2), (3, 8)):
    blocks = [('down', f'level{stage}_0', '')] + [
        (f'block{i}', f'level{stage}.{i}', '.bn') for i in range(count)]
    for ours, official, inner in blocks:
      ours = f'backbone/stage{stage}_{ours}'
      names |= convolution(f'{ours}/reduce', f'{official}.c1.conv')
      for dilation in (1, 2, 4, 8, 16):
        names |= convolution(f'{ours}/dilated{dilation}', f'{official}.d{dilation}.conv')
      names |= norm_prelu(f'{ours}/norm/', official + inner)
  return names | convolution('head/classifier', 'classifier.conv')


def espnet():
  names = {ours: name for ours, name in espnet_c().items() if not ours.startswith('params/head')}
  for ours, official in (('stage3_scores', 'classifier_1.conv'), ('stage2_scores', 'level3_C.conv'),
                         ('conv', 'conv.conv'), ('stage3_up', 'up_l3.0'), ('stage2_up', 'up_l2.0'),
                         ('classifier', 'classifier')):
    names |= convolution(f'head/{ours}', official)
  names |= norm('head/stage3_norm/norm', 'br')
  for ours, official in (('stage2', 'combine_l2_l3.0'), ('stage1', 'up_l2.1'), ('conv', 'conv')):
    names |= norm_prelu(f'head/{ours}_norm/', official)
  pyramid = 'combine_l2_l3.1'
  names |= convolution('head/stage2_pyramid/reduce', f'{pyramid}.c1.conv')
  for dilation in (1, 2, 4, 8, 16):
    names |= convolution(f'head/stage2_pyramid/dilated{dilation}', f'{pyramid}.d{dilation}.conv')
  return names | norm_prelu('head/stage2_pyramid/norm/', f'{pyramid}.bn')


TRANSPOSED = ('up_l3.0.weight', 'up_l2.0.weight', 'classifier.weight')  # of ESPNet: IOHW


def drawn(name, shape):
  """The weight of an official name, in the official layout; the rule is in the README."""
  draws = np.random.RandomState(zlib.crc32(name.encode()))
  kind = name.rpartition('.')[2]
  if kind == 'running_mean':
    return 0.1 * draws.standard_normal(shape)
  if kind == 'running_var':
    return 0.5 + draws.random_sample(shape)
  if len(shape) > 1:
    return draws.standard_normal(shape) * np.sqrt(2 / np.prod(shape[1:]))
  return 1 + 0.2 * draws.standard_normal(shape) if kind == 'weight' else (
      0.1 * draws.standard_normal(shape))


def variables_of(shapes, names):
  found = {}
  for path, leaf in traverse_util.flatten_dict(shapes, sep='/').items():
    if names[path] in TRANSPOSED:
      weight = drawn(names[path], tuple(leaf.shape[i] for i in (2, 3, 0, 1)))
      weight = weight.transpose(2, 3, 0, 1)
    elif leaf.ndim == 4:  # HWIO, officially OIHW
      weight = drawn(names[path], tuple(leaf.shape[i] for i in (3, 2, 0, 1)))
      weight = weight.transpose(2, 3, 1, 0)
    else:
      weight = drawn(names[path], leaf.shape)
    found[path] = weight.astype(np.float32)
  return traverse_util.unflatten_dict(found, sep='/')


@pytest.mark.parametrize('case, name, options, names, tap, tolerance', [
    ('deeplabv3_resnet18', 'deeplabv3_resnet18', {'deep_stem': True, 'aux': True},
     lambda: resnet18() | deeplabv3(), 'aux_logits', 2e-5),
    ('deeplabv3_mobilenetv2', 'deeplabv3_mobilenetv2', {}, lambda: mobilenetv2() | deeplabv3(),
     'embedding', 3e-4),  # 53 layers of random weights
    ('espnet_c', 'espnet_c', {}, espnet_c, 'stage3', 4e-5),
])
def test_equals_the_official_model(case, name, options, names, tap, tolerance):
  with np.load(GOLDEN) as arrays:
    image, logits, second = (np.moveaxis(arrays[f'{case}/{key}'], 1, -1)
                             for key in ('x', 'out0', 'out1'))
  model = models.create(name, 19, mean=(0, 0, 0), std=(1, 1, 1), **options)
  shapes = jax.eval_shape(lambda: model.init({'params': jax.random.key(0)}, image))
  got, taps = jax.jit(model.apply)(variables_of(shapes, names()), image)
  for ours, official in ((got, logits), (taps[tap], second)):
    np.testing.assert_allclose(ours, official, rtol=0, atol=tolerance * official.std())


def more(case):
  """Arrays of a case, channels last."""
  with np.load(MORE) as arrays:
    return {key.removeprefix(f'{case}/'): np.moveaxis(x, 1, -1)
            for key, x in arrays.items() if key.startswith(f'{case}/')}


def run(name, image, names, change=lambda variables: variables, classes=19, **options):
  model = models.create(name, classes, mean=(0, 0, 0), std=(1, 1, 1), **options)
  shapes = jax.eval_shape(lambda: model.init({'params': jax.random.key(0)}, image))
  return jax.jit(model.apply)(change(variables_of(shapes, names)), image)


def assert_close(ours, official, tolerance):
  np.testing.assert_allclose(ours, official, rtol=0, atol=tolerance * official.std())


def test_espnet_equals_the_official_model():
  """Every third pixel of the logits (all phases of the transposed convolutions) and channel."""
  expected = more('espnet')
  logits, taps = run('espnet', expected['x'], espnet())
  assert_close(logits[:, ::3, ::3], expected['out0'], 1e-4)
  assert_close(taps['stage3'][..., ::4], expected['out1'], 4e-5)


@pytest.mark.parametrize('case, backbone, names, tolerance', [
    ('torchvision_resnet18', 'resnet18', lambda: resnet((2, 2, 2, 2), prefix='', deep_stem=False),
     2e-5),
    ('torchvision_mobilenet_v2', 'mobilenetv2', torchvision_mobilenetv2, 5e-4)])
def test_backbones_at_stride_32_equal_those_of_torchvision(case, backbone, names, tolerance):
  """Of which the stages end where ours do; the classifier that follows has no counterpart here."""
  expected = more(case)
  names = names() | deeplabv3()  # the head's weights do not matter
  _, taps = run(f'deeplabv3_{backbone}', expected['x'], names, output_stride=32)
  for stage in (1, 2, 3, 4):
    mean = jnp.mean(taps[f'stage{stage}'], axis=(1, 2))
    assert_close(mean, expected[f'stage{stage}_mean'], tolerance)
  if 'stage4' in expected:
    assert_close(taps['stage4'], expected['stage4'], tolerance)


def test_pspnet_equals_that_of_structured_distillation(monkeypatch):
  """Whose conventions are put in: |gamma| + eps, a leaky head, first blocks dilated in full."""
  leaky = functools.partial(nn.leaky_relu, negative_slope=0.01)
  monkeypatch.setattr(pspnet_module, 'ConvNorm', functools.partial(
      pspnet_module.ConvNorm, activation=leaky))
  monkeypatch.setattr(resnet_module, 'first_dilation', lambda dilation: dilation)

  def change(variables):
    variables = jax.tree_util.tree_map_with_path(
        lambda path, x: np.abs(x) + 1e-5 if path[-1].key == 'scale' else x, variables)
    conv = variables['params']['head']['conv']['conv']  # theirs concatenates the map last
    conv['kernel'] = np.roll(conv['kernel'], 512, axis=2)
    return variables

  expected = more('skd_pspnet_resnet18')
  names = resnet((2, 2, 2, 2), prefix='') | skd_pspnet()
  logits, _ = run('pspnet_resnet18', expected['x'], names, change, deep_stem=True)
  assert_close(logits, expected['out0'], 2e-5)


@pytest.mark.parametrize('case, name, names', [
    ('cirkd_v1_psp_resnet18', 'pspnet_resnet18', lambda: resnet((2, 2, 2, 2)) | pspnet()),
    ('cirkd_v1_psp_resnet101', 'pspnet_resnet101', lambda: resnet((3, 4, 23, 3), 3) | pspnet()),
    ('cirkd_v1_deeplabv3_resnet50', 'deeplabv3_resnet50',
     lambda: resnet((3, 4, 6, 3), 3) | deeplabv3())])
def test_parameters_are_those_of_the_official_model(case, name, names):
  """No more, no fewer, and of the same shapes; there are no official outputs of these."""
  official = json.loads((FOLDER / 'state_dicts.json').read_text())[case]
  model = models.create(name, 19, deep_stem=True, aux=True)
  shapes = traverse_util.flatten_dict(jax.eval_shape(lambda: model.init(
      {'params': jax.random.key(0)}, np.zeros((1, 32, 32, 3), np.float32))), sep='/')
  names = names() | auxiliary()
  found = {names[path]: tuple(leaf.shape[i] for i in ((3, 2, 0, 1) if leaf.ndim == 4 else (0,)))
           for path, leaf in shapes.items()}
  assert found == {key: tuple(shape) for key, shape in official.items()}
