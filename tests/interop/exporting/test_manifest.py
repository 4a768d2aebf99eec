"""What `export.json` says of a model is what its config and its views say."""

import dataclasses

import pytest
from ml_collections import ConfigDict

from kdseg_jax.inference import Inference
from kdseg_jax.interop.exporting import manifest
from kdseg_jax.interop.exporting.sizes import Sizes
from tests import toys

USUAL = {'resize': None, 'centre': None, 'canvas': None, 'sides': None, 'by_orientation': False,
         'dtype': 'float32', 'palette': None}
IMAGES = {'mean': [1.0, 2.0, 3.0], 'std': [4.0, 5.0, 6.0], 'channel_order': 'bgr'}
CROP, CANVAS = {'short_side': 40, 'crop': (36, 32)}, {'canvas': (32, 48), 'by_orientation': True}


def described(fields=(), sizes=None, **changes):
  model = toys.loaded(None, **changes)
  config = ConfigDict(model.config)
  config.student.update(mean=(1.0, 2.0, 3.0), std=(4.0, 5.0, 6.0), channel_order='bgr')
  config.update_from_flattened_dict(dict(fields))
  return manifest.describe(dataclasses.replace(model, config=config), 'onnx', sizes)


@pytest.mark.parametrize('fields, changes, said', [
    ({}, {}, {}), ({'data.size': (24, 32)}, {}, {'resize': [24, 32]}),
    ({'student.dtype': 'bfloat16'}, {}, {'dtype': 'bfloat16'}),
    ({}, {'views': Inference(**CROP)}, {'centre': [40, 36, 32]}),
    ({}, {'views': Inference(**CANVAS)}, {'canvas': [32, 48], 'by_orientation': True}),
    ({}, {'views': Inference(sides=(24, 48))}, {'sides': [24, 48]}),
    ({}, {'palette': ((1, 2, 3),)}, {'palette': [[1, 2, 3]]})])
def test_it_says_how_images_are_shown_to_the_model(fields, changes, said):
  found = described(fields, **changes)
  assert {name: found[name] for name in USUAL} == USUAL | said


@pytest.mark.parametrize('sizes', [None, Sizes(2, (24, 32), 8)])
def test_it_says_who_normalises_images_and_of_which_size_they_are(sizes):
  found = described(sizes=sizes)
  assert found['preprocessing'] == IMAGES | {'inside': sizes is not None}
  assert ('input' in found) == ('output' in found) == (sizes is not None)
  if sizes:
    assert Sizes.of(found['input']) == sizes


def test_it_says_where_the_model_is_from():
  found = described({'student.name': 'espnet_c'}, workdir='/runs/mine', step=7, train_step=5)
  assert (found['model'], found['task'], found['kind'], found['classes']) == (
      'espnet_c', 'segmentation', 'onnx', ['a', 'b', 'c'])
  assert found['source'] == {'workdir': 'mine', 'checkpoint': 7}
