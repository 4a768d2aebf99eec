"""Weights by PyTorch's names: `import` reads back what `export` writes."""

import numpy as np
import pytest
import safetensors.numpy
from flax import traverse_util

import kdseg_jax
from kdseg_jax.errors import UserError
from kdseg_jax.interop import exporting, importing, state_dicts
from kdseg_jax.interop.exporting import folder
from kdseg_jax.interop.exporting.graph import Difference
from tests import workdirs
from tests.interop import states

OPTIONS = exporting.Options('safetensors')


@pytest.fixture
def unchecked(monkeypatch):
  """Nothing is compiled: for tests of the names, of wide models."""
  monkeypatch.setattr(folder.graph, 'compare', lambda *_: Difference(0.0, 1.0, 1.0, []))


def flat(variables):
  return {path: np.asarray(leaf) for path, leaf in traverse_util.flatten_dict(
      dict(variables), sep='/').items()}


def exported(tmp_path, name, *, scheme=None, **fields):
  """A model, and what its export says of itself."""
  workdirs.save(tmp_path / 'run', workdirs.config_of(name, **fields))
  model = kdseg_jax.load(tmp_path / 'run')
  return model, exporting.export(
      model, str(tmp_path / 'out'), OPTIONS._replace(scheme=scheme))


@pytest.mark.parametrize('name,scheme,fields', [
    ('resnet18', 'torchvision_resnet', {'student.output_stride': 32}),
    ('pspnet_resnet18', 'cirkd', {'student.aux': True, 'student.mean': (1.0, 2.0, 3.0)}),
    ('espnet_c', 'skd_espnet', {'task.align_corners': False, 'student.dtype': 'bfloat16'})])
def test_import_reads_an_export_back(name, scheme, fields, tmp_path):
  model, description = exported(tmp_path, name, **fields)
  assert description['scheme'] == scheme and description['kind'] == 'safetensors'
  assert description['verified']['largest_difference'] == 0
  back = importing.read(importing.Request(str(tmp_path / 'out/model.safetensors'), name))
  assert back.classes == workdirs.CLASSES and back.palette.tolist() == list(
      map(list, workdirs.PALETTE))
  assert back.report['scheme'] == scheme
  student = back.config.student.to_dict()
  assert {field: student[field] for field in model.config.student} == (
      model.config.student.to_dict())
  assert back.config.task.name == model.task.name
  assert back.config.task.get('align_corners') == (
      None if name == 'resnet18' else model.config.task.align_corners)
  wanted, found = flat(model.variables), flat(back.variables)
  assert set(wanted) == {path for path in found if found[path].size}
  for path, array in wanted.items():
    np.testing.assert_array_equal(found[path], array)


def test_names_and_layout_are_those_of_torchvision(unchecked, tmp_path):
  model, _ = exported(tmp_path, 'resnet18', **{'student.output_stride': 32, 'student.width': 1.0})
  found = safetensors.numpy.load_file(tmp_path / 'out/model.safetensors')
  wanted = states.state_dict('resnet18', 'torchvision_resnet', 3)
  counters = {key for key in wanted if key.endswith('num_batches_tracked')}
  assert {key: array.shape for key, array in found.items()} == {
      key: array.shape for key, array in wanted.items() if key not in counters}
  np.testing.assert_array_equal(
      found['conv1.weight'],
      model.variables['params']['backbone']['stem']['conv']['kernel'].transpose(3, 2, 0, 1))


def test_the_dropout_of_a_run_is_none_of_an_architecture(unchecked, tmp_path):
  _, description = exported(tmp_path, 'cifar_resnet8', **{
      'student.output_stride': 4, 'student.width': 1.0, 'student.dropout': 0.3})
  assert description['scheme'] == 'cifar'
  back = importing.read(importing.Request(
      str(tmp_path / 'out/model.safetensors'), 'cifar_resnet8'))
  assert back.config.student.dropout == 0.3


def test_weights_that_compute_something_else_are_not_kept(tmp_path, monkeypatch):
  monkeypatch.setattr(folder.graph, 'compare', lambda *_: Difference(0.2, 1.0, 0.1, []))
  with pytest.raises(UserError, match='outputs differ by up to 0.2, and 0.1 would be rounding'):
    exported(tmp_path, 'espnet_c')
  assert not (tmp_path / 'out').exists()


def test_of_another_model_only_the_normalisation_is_taken(unchecked, tmp_path, monkeypatch):
  exported(tmp_path, 'resnet18', **{
      'student.width': 1.0, 'student.output_stride': 32, 'student.mean': (1.0, 2.0, 3.0)})
  monkeypatch.setattr(importing, '_completed', lambda found, model: (found, ['head']))
  back = importing.read(importing.Request(
      str(tmp_path / 'out/model.safetensors'), 'deeplabv3_resnet18', num_classes=4))
  assert back.config.student.mean == (1.0, 2.0, 3.0)
  assert (back.config.student.name, back.config.student.output_stride) == ('deeplabv3_resnet18', 8)
  assert back.classes[0] == 'class 0'


@pytest.mark.parametrize('name,scheme,fields,message', [
    ('deeplabv3plus_resnet18', None, {}, 'no naming scheme knows it'),
    ('espnet_c', 'cirkd', {}, 'cirkd: names deeplabv3_resnet18'),
    ('pspnet_resnet18', 'skd_pspnet', {}, 'skd_pspnet: stands for models with ceil_mode=True'),
    ('pspnet_resnet18', None, {'ceil_mode': True},
     r'stands for models with ceil_mode=False(.|\n)*as stablehlo or onnx instead'),
    ('resnet18', 'torchvision', {}, "Unknown naming scheme: 'torchvision'")])
def test_models_that_have_no_such_names(name, scheme, fields, message, tmp_path):
  config = workdirs.config_of(name)
  with config.student.unlocked():
    config.student.update(fields)
  workdirs.save(tmp_path / 'run', config)
  with pytest.raises(UserError, match=message):
    exporting.export(kdseg_jax.load(tmp_path / 'run'), str(tmp_path / 'out'),
                     OPTIONS._replace(scheme=scheme))
  assert not (tmp_path / 'out').exists()


def test_other_files_have_no_description(tmp_path):
  safetensors.numpy.save_file({'a': np.zeros(2, np.float32)}, tmp_path / 'a.safetensors')
  assert state_dicts.description(tmp_path / 'a.safetensors') is None
  safetensors.numpy.save_file({'a': np.zeros(2, np.float32)}, tmp_path / 'b.safetensors',
                              metadata={state_dicts.OURS: '{"classes"'})
  with pytest.raises(UserError, match='b.safetensors: cannot be unpacked'):
    state_dicts.description(tmp_path / 'b.safetensors')
  np.savez(tmp_path / 'c', a=np.zeros(2, np.float32))
  assert state_dicts.description(tmp_path / 'c.npz') is None
