"""Exports are written whole, and only if they compute what the model does."""

import dataclasses
import hashlib
import json
import os

import jax.export
import numpy as np
import pytest
from ml_collections import ConfigDict

import kdseg_jax
from kdseg_jax import inference, models
from kdseg_jax.errors import NotFoundError, UserError
from kdseg_jax.interop import exported, exporting
from kdseg_jax.interop.exporting import folder, graph, manifest, stablehlo
from kdseg_jax.interop.exporting.sizes import Sizes
from tests import toys, workdirs

STABLEHLO = exporting.Options('stablehlo')


def content(path):
  return {file.name: file.read_bytes() for file in path.iterdir()}


@pytest.fixture
def model(monkeypatch, tmp_path):
  """A model of one layer, loaded."""
  monkeypatch.setattr(models, 'create', lambda name, num_classes, axis_name, **_: toys.Model(
      num_classes, axis_name))
  workdirs.save(tmp_path / 'run', workdirs.config_of())
  return kdseg_jax.load(tmp_path / 'run')


def test_a_folder_says_what_it_holds(model, tmp_path):
  description = exporting.export(model, str(tmp_path / 'out'), STABLEHLO)
  assert description == json.loads((tmp_path / 'out/export.json').read_text())
  assert sorted(os.listdir(tmp_path)) == ['out', 'run']
  assert set(description['files']) == {'model.cpu.stablehlo', 'model.cuda-tpu.stablehlo'}
  written = content(tmp_path / 'out')
  assert set(written) == {*description['files'], 'README.md', 'export.json'}
  for name, about in description['files'].items():
    assert about['bytes'] == len(written[name])
    assert about['sha256'] == hashlib.sha256(written[name]).hexdigest()
  assert description['classes'] == list(workdirs.CLASSES)
  assert description['palette'] == [list(color) for color in workdirs.PALETTE]
  assert description['source'] == {'workdir': 'run', 'checkpoint': 1}
  assert description['input']['shape'] == ['batch', 'height', 'width', 3]
  assert description['output']['shape'] == ['batch', 'height', 'width', 3]
  assert description['preprocessing']['mean'] == list(model.config.student.mean)
  checked = description['verified']
  assert checked['largest_difference'] <= 1e-4 * checked['standard_deviation']
  assert checked['inputs'] == [[1, 64, 96, 3], [2, 75, 90, 3]]
  assert str(tmp_path) not in (tmp_path / 'out/export.json').read_text()


def test_files_are_for_their_platforms(model, tmp_path):
  exporting.export(model, str(tmp_path / 'out'), exporting.Options(
      'stablehlo', size=(8, 8), platforms=('tpu', 'cpu')))
  for name, platforms in (('cpu', ('cpu',)), ('tpu', ('tpu',))):
    blob = (tmp_path / f'out/model.{name}.stablehlo').read_bytes()
    assert jax.export.deserialize(bytearray(blob)).platforms == platforms
  with pytest.raises(UserError, match="Unknown platform: 'gpu'"):
    exporting.export(model, str(tmp_path / 'b'), STABLEHLO._replace(platforms=('gpu',)))


def test_what_computes_something_else_is_not_kept(model, tmp_path, monkeypatch):
  exporting.export(model, str(tmp_path / 'out'), STABLEHLO)
  before = content(tmp_path / 'out')
  read = stablehlo.read
  monkeypatch.setattr(stablehlo, 'read', lambda *args, **options: (
      lambda images: 1.01 * read(*args, **options)(images)))
  with pytest.raises(UserError, match='outputs differ by up to .* Nothing is kept'):
    exporting.export(model, str(tmp_path / 'out'), STABLEHLO)
  with pytest.raises(UserError, match='does not compute what the model does'):
    exporting.export(model, str(tmp_path / 'new'), STABLEHLO)
  assert sorted(os.listdir(tmp_path)) == ['out', 'run'] and content(tmp_path / 'out') == before


@pytest.mark.parametrize('wrong', [np.nan, 'shape'])
def test_neither_is_what_has_no_numbers_or_another_shape(wrong, model, monkeypatch):
  change = (lambda x: x[:, :1]) if wrong == 'shape' else (lambda x: x * wrong)
  function = lambda images: change(graph.compiled(graph.outputs_of(model))(images))
  assert not graph.compare(model, [function], [(1, 8, 8)]).is_none
  good = graph.compiled(graph.outputs_of(model))
  assert graph.compare(model, [good], [(1, 8, 8)]).is_none
  assert not graph.compare(model, [good, function], [(1, 8, 8)]).is_none


def test_every_size_of_images_is_compared(model):
  good = graph.compiled(graph.outputs_of(model))
  wrong = lambda images: good(images) * (1.01 if len(images) == 2 else 1)
  assert graph.compare(model, [wrong], [(1, 8, 8)]).is_none
  difference = graph.compare(model, [wrong], [(1, 8, 8), (2, 8, 12)])
  assert not difference.is_none and difference.shapes == [(1, 8, 8, 3), (2, 8, 12, 3)]


def test_images_that_are_compared_are_the_same_whenever_and_of_many_values(model):
  good, seen = graph.compiled(graph.outputs_of(model)), []
  function = lambda images: (seen.append(images), good(images))[1]
  for _ in range(2):
    graph.compare(model, [function], [(2, 8, 12)])
  np.testing.assert_array_equal(*seen)
  assert seen[0].shape == (2, 8, 12, 3) and len(np.unique(seen[0])) > 200
  assert (seen[0][0] != seen[0][1]).mean() > 0.9


@pytest.mark.parametrize('dtype, is_none', [('float32', False), ('bfloat16', True)])
def test_eight_bits_of_precision_round_more(dtype, is_none, model):
  config = ConfigDict(model.config)
  config.student.dtype = dtype
  model = dataclasses.replace(model, config=config)
  good = graph.compiled(graph.outputs_of(model))
  deviation = graph.compare(model, [good], [(1, 8, 8)]).deviation
  for share, expected in ((0.1, is_none), (0.4, False)):
    shifted = lambda images, share=share: good(images) + share * deviation
    assert graph.compare(model, [shifted], [(1, 8, 8)]).is_none == expected


def test_without_a_cpu_nothing_can_be_compared(model, monkeypatch):
  def none(**_):
    raise RuntimeError('Unknown backend cpu')
  monkeypatch.setattr(jax, 'local_devices', none)
  with pytest.raises(UserError, match='checked on the CPU, .*unset JAX_PLATFORMS.*Unknown backend'):
    graph.compare(model, [], [(1, 8, 8)])


@pytest.mark.parametrize('fields, views, size', [
    ({}, {}, (40, 24)), ({'data.size': (48, 64)}, {}, (48, 64)),
    ({'data.size': (48, 64)}, {'canvas': (32, 80)}, (32, 80)),
    ({'data.size': (48, 64)}, {'short_side': 40, 'crop': (36, 32)}, (36, 32))])
def test_sizes_are_tried_from_the_freest_to_the_one_that_is_evaluated(fields, views, size, model):
  config = ConfigDict(model.config)
  config.update_from_flattened_dict({'augmentation.crop': (40, 24)} | fields)
  model = dataclasses.replace(model, config=config, views=inference.Inference(**views))
  tried = []

  def write(sizes):
    tried.append(sizes)
    raise ValueError('cannot be written')
  with pytest.raises(ValueError, match='cannot be written'):
    folder._first_that_works(model, STABLEHLO, write)
  assert tried == [Sizes(), Sizes(multiple=32), Sizes(size=size), Sizes(1, size)]


def test_an_export_is_replaced_and_nothing_else(model, tmp_path):
  (tmp_path / 'mine').mkdir()
  (tmp_path / 'mine/notes').touch()
  with pytest.raises(UserError, match='mine is not empty and holds no export'):
    exporting.export(model, str(tmp_path / 'mine'), STABLEHLO)
  (tmp_path / 'out').mkdir()
  exporting.export(model, str(tmp_path / 'out'), STABLEHLO)
  exporting.export(model, str(tmp_path / 'out'), STABLEHLO._replace(platforms=('cpu',)))
  assert set(content(tmp_path / 'out')) == {'model.cpu.stablehlo', 'README.md', 'export.json'}
  assert sorted(os.listdir(tmp_path)) == ['mine', 'out', 'run']


def test_fixed_sizes_where_free_ones_cannot_be_traced(model, tmp_path, monkeypatch):
  upsample = type(model.task).upsample

  def needs_numbers(task, scores, size):
    assert all(isinstance(side, int) for side in size), 'no number'
    return upsample(task, scores, size)
  monkeypatch.setattr(type(model.task), 'upsample', needs_numbers)
  description = exporting.export(model, str(tmp_path / 'out'), STABLEHLO)
  assert description['input']['size'] == list(model.config.augmentation.crop)
  assert description['input']['batch'] is None
  images = np.zeros((3, 9, 7, 3), np.uint8)
  assert [found.labels.shape for found in kdseg_jax.load(tmp_path / 'out').predict(images)] == [
      (9, 7)] * 3


def test_damage_is_said(model, tmp_path):
  exporting.export(model, str(tmp_path / 'out'), STABLEHLO)
  path = tmp_path / 'out/model.cpu.stablehlo'
  path.write_bytes(path.read_bytes()[:-1] + b'x')
  with pytest.raises(UserError, match='model.cpu.stablehlo: is not the file that was exported'):
    exported.load(tmp_path / 'out')
  path.unlink()
  with pytest.raises(NotFoundError, match='copy the whole folder'):
    exported.load(tmp_path / 'out')
  file = tmp_path / 'out' / manifest.FILE
  for text, message in (('{"format": 2, "kdseg_jax": "9.0"}', 'format 2, written by kdseg_jax 9.0'),
                        ('[]', 'describes no export'), ('{', 'is no JSON')):
    file.write_text(text)
    with pytest.raises(UserError, match=message):
      exported.load(tmp_path / 'out')
  with pytest.raises(NotFoundError, match='expected the folder of an export'):
    manifest.read(str(tmp_path))


def test_an_unknown_format(model, tmp_path):
  with pytest.raises(UserError, match="Unknown format: 'tflite'"):
    folder.export(model, str(tmp_path / 'out'), exporting.Options('tflite'))
