"""Weights of PyTorch as work directories."""

import json
import os

import numpy as np
import pytest
import safetensors.numpy

from kdseg_jax import config_files
from kdseg_jax.checkpoint import Checkpointer, CheckpointError
from kdseg_jax.data import class_names, palettes
from kdseg_jax.errors import UserError
from kdseg_jax.inference import load
from kdseg_jax.interop import download, importing, pretrained, state_dicts
from kdseg_jax.interop.importing import Request
from kdseg_jax.models.backbones import BACKBONES
from kdseg_jax.models.normalization import (
  IMAGENET,
  IMAGENET_MEAN,
  IMAGENET_STD,
  Preprocessing,
)
from tests.interop import states

MOBILENET = 'torchvision_mobilenetv2'


@pytest.fixture(scope='module')
def mobilenet(tmp_path_factory):
  """A file of a classifier of 20 classes by torchvision's names."""
  path = tmp_path_factory.mktemp('source') / 'mobilenet.npz'
  np.savez(path, **states.state_dict('mobilenetv2', MOBILENET, 20))
  return str(path)


def leaf(variables, *path):
  for name in path:
    variables = variables[name]
  return np.asarray(variables)


def test_a_classifier_becomes_a_work_directory(mobilenet, tmp_path):
  imported = importing.read(Request(mobilenet, 'mobilenetv2'))
  importing.write(imported, str(tmp_path / 'run'))
  assert sorted(os.listdir(tmp_path)) == ['run']
  report = json.loads((tmp_path / 'run' / importing.REPORT).read_text())
  assert report['scheme'] == MOBILENET and report['sha256'] == download.digest_of(mobilenet)
  assert report['left_out'] == report['drawn_anew'] == []
  config = config_files.read(str(tmp_path / 'run'))
  assert (config.student.name, config.student.output_stride) == ('mobilenetv2', 32)
  assert config.task.to_dict() == {'name': 'classification'}
  assert (config.eval.short_side, config.eval.crop, config.data.name) == (0, (), 'scenes')
  model = load(str(tmp_path / 'run'))
  source = states.state_dict('mobilenetv2', MOBILENET, 20)
  np.testing.assert_array_equal(
      leaf(model.variables, 'params', 'backbone', 'stem', 'conv', 'kernel'),
      source['features.0.0.weight'].transpose(2, 3, 1, 0))
  np.testing.assert_array_equal(
      leaf(model.variables, 'params', 'head', 'classifier', 'kernel'),
      source['classifier.1.weight'].T)
  assert list(model.classes)[:2] == ['class 0', 'class 1']
  np.testing.assert_array_equal(model.palette, palettes.default_palette(20))


def test_a_classifier_of_imagenet_is_evaluated_on_the_centre_of_its_images(tmp_path):
  source = str(tmp_path / 'a.npz')
  np.savez(source, **states.state_dict('mobilenetv2', MOBILENET, 1000))
  imported = importing.read(Request(source, 'mobilenetv2'))
  assert imported.classes == class_names.imagenet() and imported.config.data.name == 'imagenet'
  assert (imported.config.eval.short_side, imported.config.eval.crop) == (256, (224, 224))
  assert BACKBONES['efficientnet_lite4'].size == 300


def test_a_classifier_of_small_images(tmp_path):
  """The config has what its network and the images of its source need."""
  np.savez(tmp_path / 'resnet8.npz', **states.state_dict('cifar_resnet8', 'cifar', 20))
  student = importing.read(Request(str(tmp_path / 'resnet8.npz'), 'cifar_resnet8')).config.student
  assert (student.output_stride, student.dropout) == (4, 0)
  np.testing.assert_allclose(student.mean, 255 * np.array([0.5071, 0.4867, 0.4408]))


def test_no_run_goes_on_from_it(mobilenet, tmp_path):
  importing.write(importing.read(Request(mobilenet, 'mobilenetv2')), str(tmp_path / 'run'))
  checkpointer = Checkpointer(str(tmp_path / 'run'))
  with pytest.raises(CheckpointError, match=r'imported(.|\n)*config.student.init='):
    checkpointer._saved(0, 'training')


def test_of_a_segmenter_the_backbone_is_taken_and_the_head_drawn(mobilenet, monkeypatch):
  monkeypatch.setattr(importing, '_completed', lambda found, model: (found, ['head']))
  imported = importing.read(Request(mobilenet, 'deeplabv3_mobilenetv2', data='camvid'))
  assert {path.split('/')[1] for path in imported.variables} == {'backbone'}
  assert imported.config.data.name == 'camvid' and len(imported.classes) == 11
  assert set(imported.report['left_out']) == {
      'classifier.1.weight', 'classifier.1.bias', 'features.18.0.weight', 'features.18.1.weight',
      'features.18.1.bias', 'features.18.1.running_mean', 'features.18.1.running_var'}
  assert importing.read(Request(mobilenet, 'pspnet_mobilenetv2', num_classes=3)).classes == (
      'class 0', 'class 1', 'class 2')
  with pytest.raises(UserError, match='give --num_classes, or --data'):
    importing.read(Request(mobilenet, 'deeplabv3_mobilenetv2'))


def test_another_number_of_classes(mobilenet):
  with pytest.raises(UserError, match='has 20 classes, not 7: leave --num_classes out, or'):
    importing.read(Request(mobilenet, 'mobilenetv2', num_classes=7))
  imported = importing.read(
      Request(mobilenet, 'mobilenetv2', num_classes=7, allow_head_mismatch=True))
  assert imported.report['drawn_anew'] == [
      'params/head/classifier/bias', 'params/head/classifier/kernel']
  assert leaf(imported.variables, 'params', 'head', 'classifier', 'kernel').shape == (1280, 7)


@pytest.mark.parametrize('model, message', [
    ('resnet18', r'not those of resnet18: schemes that were tried.*torchvision_resnet \(0%\)'
                 r'.*They are those of mobilenetv2\. The first keys are features\.0\.0\.weight'),
    ('deeplabv3_resnet18', 'They are those of mobilenetv2'), ('mobilenetv', 'Did you mean')])
def test_another_family_is_refused(model, message, mobilenet):
  with pytest.raises(UserError, match=message):
    importing.read(Request(mobilenet, model, num_classes=5))


def test_another_depth_is_refused(tmp_path):
  shallow = states.state_dict('resnet18', 'torchvision_resnet', 3)
  np.savez(tmp_path / 'resnet18.npz', **shallow)
  with pytest.raises(UserError, match=r'does not hold .* \(\d+\); it is of another architecture'
                                      r'(.|\n)*stage1_block2(.|\n)*\.\.\. and \d+ more'):
    importing.read(Request(str(tmp_path / 'resnet18.npz'), 'resnet34'))
  more = {key.replace('layer1.1', 'layer1.2'): array for key, array in shallow.items()
          if key.startswith('layer1.1')}
  np.savez(tmp_path / 'more.npz', **shallow, **more)
  with pytest.raises(UserError, match=r'no part of the model \(10\)(.|\n)*layer1.2.conv1.weight'):
    importing.read(Request(str(tmp_path / 'more.npz'), 'resnet18'))


def test_fields_that_a_file_does_not_hold(mobilenet):
  request = Request(mobilenet, 'mobilenetv2', student={
      'mean': (1.0, 2.0, 3.0), 'channel_order': 'bgr'})
  student = importing.read(request).config.student
  assert student.mean == (1.0, 2.0, 3.0) and student.channel_order == 'bgr'
  with pytest.raises(UserError, match='--scheme=torchvision_resnet names no layers of mobilenetv2'):
    importing.read(request._replace(scheme='torchvision_resnet'))


def test_nothing_is_left_of_a_failure_and_nothing_overwritten(mobilenet, tmp_path, monkeypatch):
  imported = importing.read(Request(mobilenet, 'mobilenetv2'))
  (tmp_path / 'full').mkdir()
  (tmp_path / 'full' / 'mine').touch()
  with pytest.raises(UserError, match='full is not empty'):
    importing.write(imported, str(tmp_path / 'full'))
  (tmp_path / 'empty').mkdir()
  monkeypatch.setattr(importing.config_files, 'FILE', 'no/such/folder')
  with pytest.raises(OSError):
    importing.write(imported, str(tmp_path / 'empty'))
  assert sorted(os.listdir(tmp_path)) == ['empty', 'full'] and not os.listdir(tmp_path / 'empty')
  monkeypatch.undo()
  importing.write(imported, str(tmp_path / 'empty'))
  importing.write(imported, str(tmp_path / 'new' / 'run'))
  assert all((tmp_path / name / config_files.FILE).exists() for name in ('empty', 'new/run'))


def test_published_weights_by_name(mobilenet, monkeypatch, tmp_path):
  asked = []
  monkeypatch.setattr(download, 'fetch', lambda source, file: asked.append((source, file)) or (
      mobilenet))
  found = pretrained.load('imagenet', 'mobilenetv2')
  assert asked[0][0].name == 'mobilenet_v2-b0353104.pth' and asked[0][1] is None
  assert found.variables['params/head/classifier/bias'].shape == (20,)
  assert found.preprocessing.channel_order == 'rgb'
  pretrained.load('imagenet:torchvision', 'mobilenetv2')
  pretrained.load(f'imagenet:{mobilenet}', 'mobilenetv2')
  assert asked[2] == (asked[0][0], mobilenet)
  with pytest.raises(UserError, match="ImageNet weights of mobilenetv2: 'torchvsion'. Did"):
    pretrained.load('imagenet:torchvsion', 'mobilenetv2')
  with pytest.raises(UserError, match='no published weights of efficientnet_lite1'):
    pretrained.load('imagenet', 'efficientnet_lite1')
  assert pretrained.is_name('hf:timm/resnet18.a1_in1k')
  assert not any(map(pretrained.is_name, ('runs/imagenet', 'imagenet_runs/a', 'imagenet.pth')))
  assert importing.read(Request('imagenet', 'mobilenetv2')).report['source'] == 'imagenet'


def test_published_weights_in_a_file_of_the_user(monkeypatch, tmp_path):
  asked = []
  monkeypatch.setattr(download, 'fetch', lambda source, file: asked.append((source, file)))
  monkeypatch.setenv('HOME', str(tmp_path))
  monkeypatch.chdir(tmp_path)
  (tmp_path / 'mine').touch()
  for name, file in (('~/none.pth', str(tmp_path / 'none.pth')), ('mine', 'mine')):
    pretrained.find(f'imagenet:{name}', 'resnet18')
    assert asked[-1][0].name == 'resnet18-f37072fd.pth' and asked[-1][1] == file


def test_published_weights_have_a_normalisation_of_their_own(monkeypatch):
  monkeypatch.setattr(download, 'fetch', lambda source, file: source)
  source, preprocessing = pretrained.find('imagenet', 'xception65')
  assert source.name == 'tf_xception_65-c9ae96e8.pth' and source.sha256 == 'c9ae96e8'
  assert source.url.endswith('/v0.1-weights/' + source.name)
  assert preprocessing == Preprocessing((127.5,) * 3, (127.5,) * 3)


def test_published_weights_that_lack_an_array_are_refused(monkeypatch, tmp_path):
  arrays = dict(states.state_dict('cifar_resnet8', 'cifar', 20))
  del arrays['layer2.0.bn1.bias']
  np.savez(tmp_path / 'a.npz', **arrays)
  monkeypatch.setattr(pretrained, 'find', lambda *_: (str(tmp_path / 'a.npz'), IMAGENET))
  with pytest.raises(UserError, match=r'imagenet: does not hold .* \(1\)(.|\n)*block0/conv1/norm'):
    pretrained.load('imagenet', 'cifar_resnet8')


@pytest.mark.parametrize('source', ['http://host/a.npz', 'https://host/a.npz', '~/small.npz'])
def test_an_address_is_downloaded_and_a_home_folder_is_known(source, monkeypatch, tmp_path):
  np.savez(tmp_path / 'small.npz', **states.state_dict('cifar_resnet8', 'cifar', 20))
  asked = []
  monkeypatch.setattr(
      download, 'fetch_url', lambda url: asked.append(url) or str(tmp_path / 'small.npz'))
  monkeypatch.setenv('HOME', str(tmp_path))
  report = importing.read(Request(source, 'cifar_resnet8')).report
  assert (report['source'], report['file']) == (source, 'small.npz')
  assert asked == ([source] if source.startswith('http') else [])


@pytest.fixture
def described(tmp_path):
  """Writes a file of 11 classes that says so of itself, but for these fields of the model."""
  def write(**fields):
    student = {'name': 'cifar_resnet8', 'mean': [1.0, 2.0, 3.0], 'std': [4.0, 5.0, 6.0],
               'channel_order': 'bgr', 'aux': False} | fields
    arrays = {key: array for key, array in states.state_dict('cifar_resnet8', 'cifar', 11).items()
              if array.shape}
    description = {'model': 'cifar_resnet8', 'classes': list('abcdefghijk'), 'palette': None,
                   'scheme': 'cifar', 'student': student}
    safetensors.numpy.save_file(arrays, tmp_path / 'a.safetensors', metadata={
        state_dicts.OURS: json.dumps(description)})
    return Request(str(tmp_path / 'a.safetensors'), 'cifar_resnet8')
  return write


def test_what_is_asked_for_takes_precedence_over_what_a_file_says(described, monkeypatch):
  imported = importing.read(described())
  assert imported.classes == tuple('abcdefghijk') and imported.palette.shape == (0, 3)
  assert imported.config.student.mean == (1.0, 2.0, 3.0)
  request = described()._replace(data='camvid', student={'mean': (7.0, 8.0, 9.0)})
  imported = importing.read(request)
  assert 'pole' in [name.lower() for name in imported.classes] and imported.palette.shape == (11, 3)
  assert imported.config.student.mean == (7.0, 8.0, 9.0)
  assert imported.config.student.std == (4.0, 5.0, 6.0)
  monkeypatch.setattr(importing, '_completed', lambda found, model: (found, ['head']))
  imported = importing.read(described()._replace(num_classes=3, allow_head_mismatch=True))
  assert imported.classes == ('class 0', 'class 1', 'class 2') and len(imported.palette) == 3


def test_a_description_that_contradicts_itself_is_refused(described):
  with pytest.raises(UserError, match='names the model cifar_resnet20; it was edited'):
    importing.read(described(name='cifar_resnet20'))


def test_a_model_of_the_hub(tmp_path, monkeypatch):
  np.savez(tmp_path / 'model', **states.state_dict('resnet18', 'torchvision_resnet', 3))
  description = {'architecture': 'resnet18', 'pretrained_cfg': {
      'mean': [0.5, 0.5, 0.5], 'std': [0.25, 0.5, 0.5]}}
  def fetch_hf(repository, filename=None):
    assert repository == 'timm/resnet18.x'
    (tmp_path / 'config.json').write_text(json.dumps(description))
    return str(tmp_path / (filename or 'model.npz'))
  monkeypatch.setattr(download, 'fetch_hf', fetch_hf)
  imported = importing.read(Request('hf:timm/resnet18.x', 'resnet18'))
  assert imported.config.student.mean == (127.5,) * 3
  assert imported.config.student.std == (63.75, 127.5, 127.5)
  description['pretrained_cfg'].pop('std')
  assert pretrained.find('hf:timm/resnet18.x', 'resnet18')[1] == Preprocessing(
      (127.5,) * 3, IMAGENET_STD)
  description['pretrained_cfg'] = {'std': [0.5, 0.5, 0.5]}
  assert pretrained.find('hf:timm/resnet18.x', 'resnet18')[1] == Preprocessing(
      IMAGENET_MEAN, (127.5,) * 3)
  description |= {'std': [0.25, 0.25, 0.25]}
  assert pretrained.find('hf:timm/resnet18.x', 'resnet18')[1].std == (63.75,) * 3
  description['architecture'] = 'resnet18d'
  with pytest.raises(UserError, match='is of the architecture resnet18d; of timm, resnet18 is res'):
    importing.read(Request('hf:timm/resnet18.x', 'resnet18'))
