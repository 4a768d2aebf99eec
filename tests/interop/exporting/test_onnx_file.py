"""ONNX: what is said where its packages are missing, and, where they are installed, the file."""

import importlib.util
import json
import logging
import sys
import types

import jax.numpy as jnp
import numpy as np
import pytest

import kdseg_jax
from kdseg_jax.errors import UserError
from kdseg_jax.interop import exporting
from kdseg_jax.interop.exporting import onnx_file
from kdseg_jax.interop.exporting.sizes import Sizes
from tests import toys, workdirs

OPTIONS = exporting.Options('onnx')


def test_what_is_missing_is_named_with_the_commands_that_install_it(tmp_path, monkeypatch):
  workdirs.save(tmp_path / 'run', workdirs.config_of())
  monkeypatch.setattr(importlib.util, 'find_spec', lambda name: None)
  with pytest.raises(UserError, match=r'needs jax2onnx and onnxruntime(.|\n)*-m pip install onnx '
                                      r'onnx-ir onnxruntime\n.*--no-deps jax2onnx=='):
    exporting.export(kdseg_jax.load(tmp_path / 'run'), str(tmp_path / 'out'), OPTIONS)
  assert not (tmp_path / 'out').exists()


def test_onnx_computes_in_float32(tmp_path):
  workdirs.save(tmp_path / 'run', workdirs.config_of(**{'student.dtype': 'bfloat16'}))
  model = kdseg_jax.load(tmp_path / 'run')
  changed = onnx_file.in_float32(model)
  assert changed.module.head.num_classes == 3 and changed.config.student.dtype == 'float32'
  assert model.module.backbone.dtype is jnp.bfloat16
  assert changed.module.backbone.dtype is jnp.float32
  assert onnx_file.in_float32(changed) is changed


class Proto:
  """What a converter returns, as far as it is used."""

  def __init__(self):
    self.metadata_props = self
    self.entries = []

  def add(self):
    self.entries.append(types.SimpleNamespace())
    return self.entries[-1]

  def SerializeToString(self):
    return b'model'


@pytest.fixture
def converter(monkeypatch):
  """In place of jax2onnx: notes what it is asked, and with which passes."""
  steps = tuple(types.SimpleNamespace(name=name) for name in (
      'fold', 'remove_redundant_transpose_pairs', 'prune'))
  noted = types.SimpleNamespace(
      proto=Proto(), passes=types.SimpleNamespace(_OPTIMIZER_PASSES=steps), error=None)

  def to_onnx(function, inputs, **options):
    noted.function, noted.inputs, noted.options = function, inputs, options
    noted.used = [step.name for step in noted.passes._OPTIMIZER_PASSES]
    noted.log_level = logging.getLogger('jax2onnx').level
    if noted.error:
      raise noted.error
    return noted.proto
  for name, module in (('jax2onnx', types.SimpleNamespace(to_onnx=to_onnx)),
                       ('jax2onnx.converter', types.SimpleNamespace()),
                       ('jax2onnx.converter.ir_optimizations', noted.passes)):
    monkeypatch.setitem(sys.modules, name, module)
  noted.steps = steps
  return noted


def test_the_converter_is_asked_without_its_wrong_pass_and_left_as_it_was(converter, tmp_path):
  model = toys.loaded(None)
  logging.getLogger('jax2onnx').setLevel(logging.INFO)
  description = {'model': 'espnet_c', 'output': {'name': 'logits'}, 'classes': ['sky']}
  onnx_file.write(model, Sizes(multiple=32), str(tmp_path), description)
  assert converter.used == ['fold', 'prune'] and converter.log_level == logging.ERROR
  assert converter.passes._OPTIMIZER_PASSES == converter.steps
  assert logging.getLogger('jax2onnx').level == logging.INFO
  assert str(converter.inputs[0].shape) == '(batch, 32*height, 32*width, 3)'
  assert converter.options == {
      'model_name': 'espnet_c', 'input_names': ['images'], 'output_names': ['logits']}
  (entry,) = converter.proto.entries
  assert entry.key == 'kdseg_jax' and json.loads(entry.value) == description
  assert (tmp_path / 'model.onnx').read_bytes() == b'model'
  converter.error = TypeError('no such layer\nmore')
  with pytest.raises(UserError, match=r'cannot convert it \(TypeError: no such layer\)'):
    onnx_file.write(model, Sizes(), str(tmp_path), description)
  assert converter.passes._OPTIMIZER_PASSES == converter.steps


@pytest.mark.slow
@pytest.mark.parametrize('name,size,free', [
    ('deeplabv3_mobilenetv2', None, False), ('espnet', (40, 56), False),
    ('pspnet_resnet18', (64, 64), False), ('resnet18', None, True)])
def test_onnxruntime_computes_what_the_model_does(name, size, free, tmp_path):
  pytest.importorskip('jax2onnx')
  onnxruntime = pytest.importorskip('onnxruntime')
  fields = {'student.output_stride': 32} if name == 'resnet18' else {}
  classes = tuple('abcdef')
  workdirs.save(tmp_path / 'run', workdirs.config_of(name, **fields), classes=classes,
                palette=None)
  model = kdseg_jax.load(tmp_path / 'run')
  description = exporting.export(model, str(tmp_path / 'out'), OPTIONS._replace(size=size))
  assert (description['input']['size'] is None) == free and description['input']['batch'] is None
  session = onnxruntime.InferenceSession(str(tmp_path / 'out/model.onnx'))
  metadata = json.loads(session.get_modelmeta().custom_metadata_map['kdseg_jax'])
  assert metadata['classes'] == list(classes) and metadata['preprocessing']['inside']
  height, width = description['input']['size'] or (48, 80)
  images = np.random.default_rng(1).integers(0, 256, (3, height, width, 3), np.uint8)
  logits, = session.run(None, {'images': images})
  wanted = model.apply(images)[0]
  if model.task.name == 'segmentation':
    wanted = model.task.upsample(wanted, (height, width))
  np.testing.assert_allclose(logits, wanted, atol=1e-4 * np.std(wanted))
