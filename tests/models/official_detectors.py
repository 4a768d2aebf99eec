"""Parts of official detectors; see tests/golden/README.md."""

import functools

import numpy as np
from flax import traverse_util

from kdseg_jax.interop import schemes
from tests import official

_FILES = {'cross_det_gfl': 'detector_gfl.npz', 'cross_det_fcos': 'detector_fcos.npz',
          'cross_fpn': 'detector_fcos.npz'}


@functools.cache
def arrays(case):
  """Those of a case; maps are channels last, kernels as they are."""
  with np.load(official.FOLDER / _FILES[case]) as found:
    return {key.removeprefix(f'{case}/'): (
        np.moveaxis(x, 1, -1) if x.ndim == 4 and not key.endswith('weight') else x)
        for key, x in found.items() if key.startswith(f'{case}/')}


def variables(found, prefix, official_prefix, part, model='gfl_resnet18'):
  """Ours of a part of a model, from its arrays by official names."""
  layers = {layer.source: layer for layer in schemes.named('mmdetection').layers(model)}
  params = {}
  for key, array in found.items():
    if key.startswith(prefix):
      name, _, leaf = key.removeprefix(prefix).rpartition('.')
      layer = layers[official_prefix + name]
      ours = {'weight': 'kernel' if array.ndim > 1 else 'scale', 'scale': 'factor'}.get(leaf, leaf)
      assert layer.key(ours) == f'{official_prefix}{name}.{leaf}'
      params[f'{layer.ours.removeprefix(f"{part}/")}/{ours}'] = layer.to_ours(ours, array)
  return {'params': traverse_util.unflatten_dict(params, sep='/')}
