"""Whole detectors, from the image to the raw outputs, with weights by mmdetection's keys."""

import jax
import numpy as np
import pytest
from flax import traverse_util

from kdseg_jax import models
from kdseg_jax.interop import conversion, schemes
from kdseg_jax.interop.exporting import graph
from tests import official
from tests.interop import states

GOLDEN = np.load(official.FOLDER / 'detectors.npz')
SIZE = {'width': 0.125, 'head_channels': 16, 'stacked_convs': 2}
CASES = {
    'gfl': ('gfl', {'norm_groups': 4}), 'atss': ('atss', {'norm_groups': 4}),
    'fcos': ('fcos', {'norm_groups': 4}), 'retinanet': ('retinanet', {'extra_convs': 'on_output'}),
    'retinanet_on_input': ('retinanet', {})}


@pytest.mark.parametrize('case', CASES)
def test_raw_outputs(case):
  head, options = CASES[case]
  name, options = f'{head}_resnet18', SIZE | options
  arrays = states.state_dict(name, 'mmdetection', 3, **options)
  model = models.create(name, 3, **options)
  layers = schemes.named('mmdetection').layers(name)
  converted = conversion.to_variables(arrays, layers, official.variable_shapes(model))
  assert not any(converted[1:])
  variables = traverse_util.unflatten_dict(converted.variables, sep='/')
  raw = graph.compiled(lambda image: model.apply(variables, image)[0])(GOLDEN['image'])
  for output, maps in jax.device_get(raw).items():
    assert len(maps) == 5
    for level, found in enumerate(maps):
      want = GOLDEN[f'{case}/{output}{level}']
      np.testing.assert_allclose(found, want, atol=1e-4 * np.abs(want).max())
  assert sum(key.startswith(f'{case}/') for key in GOLDEN.files) == 5 * len(raw)
