"""Names of layers against those of the sources; see tests/golden/README.md."""

import functools
import json
import pathlib

import jax
import numpy as np
import pytest
from flax import traverse_util

from kdseg_jax.interop.schemes import efficientnet_lite as scheme
from kdseg_jax.models.efficientnet_lite import EfficientNetLite

GOLDEN = pathlib.Path(__file__).parents[2] / 'golden' / 'efficientnet_lite.json'


@functools.cache
def _weights(variant):
  """Shape of the weight of each layer of our backbone, in PyTorch's layout."""
  image = np.zeros((1, 32, 32, 3), np.float32)
  params = jax.eval_shape(
      lambda: EfficientNetLite(variant).init(jax.random.key(0), image, False))['params']
  return {
      path.rpartition('/')[0]: [leaf.shape[i] for i in ((3, 2, 0, 1) if leaf.ndim == 4 else (0,))]
      for path, leaf in traverse_util.flatten_dict(params, sep='/').items()
      if path.endswith(('kernel', 'scale'))}


@pytest.mark.parametrize('source, variant, layers, head, channels', [
    ('package_lite0', 0, scheme.layers, scheme.HEAD, 320),
    ('package_lite2', 2, scheme.layers, scheme.HEAD, 352),
    ('timm_lite0', 0, scheme.timm_layers, scheme.TIMM_HEAD, 320)])
def test_layers_are_those_of_the_source(source, variant, layers, head, channels):
  """No more, no fewer, and of the same shapes."""
  official = json.loads(GOLDEN.read_text())[source]
  classifier = {ours: official.pop(name) for name, ours in head}
  ours = _weights(variant)
  assert {name: ours[path] for name, path in layers(variant)} == official
  assert classifier == {
      'head/conv/conv': [1280, channels, 1, 1], 'head/conv/norm/norm': [1280],
      'head/classifier': [1000, 1280]}


@pytest.mark.parametrize('layers', [scheme.layers, scheme.timm_layers])
@pytest.mark.parametrize('variant', range(5))
def test_every_layer_of_ours_has_one_name(layers, variant):
  pairs = layers(variant)
  names, paths = zip(*pairs)
  assert len(set(names)) == len(names) == len(paths)
  assert sorted(paths) == sorted(_weights(variant))


def test_both_sources_name_the_same_layers():
  package, timm = dict(scheme.layers(4)), dict(scheme.timm_layers(4))
  assert package['_blocks.1._project_conv'] == timm['blocks.1.0.conv_pwl']
  assert package['_blocks.11._depthwise_conv'] == timm['blocks.3.2.conv_dw']
  assert package['_blocks.11._depthwise_conv'] == 'stage3_block2/depthwise/conv'
  assert package['_blocks.0._bn2'] == timm['blocks.0.0.bn2'] == 'stem_block/project/norm/norm'
