"""ONNX: what is said where its packages are missing, and, where they are installed, the file."""

import importlib.util
import json

import jax.numpy as jnp
import numpy as np
import pytest

import kdseg_jax
from kdseg_jax.errors import UserError
from kdseg_jax.interop import exporting
from kdseg_jax.interop.exporting import onnx_file
from tests import workdirs

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
