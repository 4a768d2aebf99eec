"""Models against outputs of the official implementations; see tests/golden/README.md.

Both sides take weights drawn from the official names of the parameters, so that what is compared
is the architecture: paddings, strides, dilations, epsilons, order of layers.
"""

import pathlib
import zlib

import jax
import numpy as np
import pytest
from flax import traverse_util

from kdseg_jax import models

GOLDEN = pathlib.Path(__file__).parents[1] / 'golden' / 'models.npz'


def convolution(ours, official):
  return {f'params/{ours}/kernel': f'{official}.weight', f'params/{ours}/bias': f'{official}.bias'}


def norm(ours, official):
  return {f'params/{ours}/scale': f'{official}.weight', f'params/{ours}/bias': f'{official}.bias',
          f'batch_stats/{ours}/mean': f'{official}.running_mean',
          f'batch_stats/{ours}/var': f'{official}.running_var'}


def conv_norm(ours, official, official_norm):
  return convolution(f'{ours}/conv', official) | norm(f'{ours}/norm/norm', official_norm)


def resnet18():
  names = {}
  for i in (1, 2, 3):
    names |= conv_norm(f'backbone/stem{i}', f'pretrained.conv{i}', f'pretrained.bn{i}')
  for stage, block in np.ndindex(4, 2):
    ours, official = (f'backbone/stage{stage + 1}_block{block}',
                      f'pretrained.layer{stage + 1}.{block}')
    for i in (1, 2):
      names |= conv_norm(f'{ours}/conv{i}', f'{official}.conv{i}', f'{official}.bn{i}')
    names |= conv_norm(f'{ours}/shortcut', f'{official}.downsample.0', f'{official}.downsample.1')
  names |= conv_norm('auxiliary_head/conv', 'auxlayer.block.0', 'auxlayer.block.1')
  return names | convolution('auxiliary_head/classifier', 'auxlayer.block.4')


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
    if leaf.ndim == 4:  # HWIO, officially OIHW
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
