"""The program `export`: from a trained run to what other programs load."""

import json

import numpy as np
import pytest

import kdseg_jax
from kdseg_jax import export
from kdseg_jax.data import files
from kdseg_jax.interop import import_torch
from kdseg_jax.interop.exporting import hub
from tests import runs, workdirs


def run(*arguments):
  with pytest.raises(SystemExit) as ended:
    export.PROGRAM.run(['export', *map(str, arguments)])
  return ended.value.code


@pytest.fixture(scope='module')
def workdir(tmp_path_factory):
  folder = tmp_path_factory.mktemp('base') / 'run'
  workdirs.save(folder, workdirs.config_of(), scores=(0.5, 0.3))
  return folder


def test_an_export_says_what_was_written_and_how_far_it_is(workdir, tmp_path, capsys, monkeypatch):
  sent = []
  monkeypatch.setattr(hub, 'push', lambda *arguments: sent.append(arguments) or 'https://there')
  assert not run(f'--workdir={workdir}', '--format=safetensors', f'--output={tmp_path / "out"}',
                 '--best', '--push_to=me/model')
  output = capsys.readouterr().out
  assert f'{tmp_path / "out"}: espnet_c, 3 classes, checkpoint 1 of run' in output
  assert 'model.safetensors: ' in output and 'names               skd_espnet' in output
  assert 'largest difference  0 of logits' in output and 'https://there' in output
  assert sent == [(str(tmp_path / 'out'), 'me/model')]
  assert run(f'--workdir={workdir}', '--format=stablehlo', f'--output={tmp_path / "hlo"}',
             '--size=32,48', '--platforms=cpu') is None
  output = capsys.readouterr().out
  assert 'checkpoint 2 of run' in output and 'model.cpu.stablehlo' in output
  assert 'bytes, for cpu' in output and 'any number of images, of 32x48 pixels' in output


@pytest.mark.parametrize('options,message', [
    (['--format=stablehlo'], '--output is missing'), (['--output={tmp}'], '--format is missing'),
    (['--format=tflite', '--output={tmp}'], 'tflite'),
    (['--format=safetensors', '--output={tmp}', '--size=3,4'], '--size is an option of --format='
     'stablehlo or onnx'),
    (['--format=onnx', '--output={tmp}', '--platforms=cpu'], '--platforms is an option of'),
    (['--format=onnx', '--output={tmp}', '--scheme=cirkd'], '--scheme is an option of'),
    (['--format=safetensors', '--output={tmp}', '--scheme=cirkd'], 'cirkd: names deeplabv3_res'),
    (['--format=stablehlo', '--output={tmp}', '--size=3'], '--size=3: expected <height>,<width>'),
    (['--format=stablehlo', '--output={tmp}', '--size=a,b'], '--size=a,b: expected'),
    (['--format=stablehlo', '--output={tmp}', '--platforms=gpu'], "Unknown platform: 'gpu'"),
    (['--format=stablehlo', '--output={base}'], 'is not empty and holds no export'),
    (['--format=stablehlo', '--output={tmp}', '--push_to=model'], '--push_to=model: expected'),
    (['--format=stablehlo', '--output={tmp}', 'x'], "Unexpected argument 'x'")])
def test_wrong_input_is_one_clear_error_and_leaves_nothing(
    options, message, workdir, tmp_path, capsys):
  options = [option.format(tmp=tmp_path / 'out', base=workdir) for option in options]
  assert run(f'--workdir={workdir}', *options) == 2
  assert message in capsys.readouterr().err and not list(tmp_path.iterdir())


def test_an_export_of_a_detector_says_what_it_computes():
  text = export._described('out', {
      'model': 'gfl_resnet18', 'task': 'detection', 'classes': ['a'],
      'source': {'checkpoint': 7, 'workdir': 'run'},
      'files': {'model.onnx': {'bytes': 12345}},
      'input': {'batch': 1, 'size': [64, 96], 'multiple': 1},
      'verified': {'largest_difference': 0.25, 'standard_deviation': 1.5}})
  assert text.splitlines() == [
      'out: gfl_resnet18, 1 classes, checkpoint 7 of run', '  model.onnx: 12,345 bytes',
      'takes               1 image at once, of 64x96 pixels',
      'computes            boxes and probabilities of all anchors, before suppression',
      'largest difference  0.25 of predictions with a standard deviation of 1.5']


@pytest.mark.slow
def test_a_student_is_trained_exported_and_used(cache, capsys, tmp_path):
  runs.run('train', '--config=configs/quickstart.py', f'--workdir={tmp_path / "run"}',
           '--config.student.width=0.125', '--config.train.steps=1', '--config.train.batch_size=2',
           '--config.optimizer.warmup_steps=0', '--config.eval.limit=2', cache=cache)
  for kind in ('stablehlo', 'safetensors'):
    status, output = runs.run_here(
        capsys, export.PROGRAM, f'--workdir={tmp_path / "run"}', f'--format={kind}',
        f'--output={tmp_path / kind}')
    assert not status and 'largest difference' in output
  image = np.random.default_rng(0).integers(0, 256, (64, 96, 3), np.uint8)
  files.write_png(tmp_path / 'a.png', image)
  runs.run('predict', f'--exported={tmp_path / "stablehlo"}', f'--output={tmp_path / "found"}',
           tmp_path / 'a.png', cache=cache)
  model = kdseg_jax.load(tmp_path / 'run')
  status, output = runs.run_here(
      capsys, import_torch.PROGRAM, f'--model={model.config.student.name}',
      f'--source={tmp_path / "safetensors/model.safetensors"}', f'--workdir={tmp_path / "back"}')
  assert not status, output
  (wanted,), (back,) = (kdseg_jax.load(tmp_path / name).predict(image) for name in ('run', 'back'))
  np.testing.assert_array_equal(back.labels, wanted.labels)
  labels = files.read_label(tmp_path / 'found/labels/a.png')
  assert (labels == wanted.labels).mean() > 0.999
  metrics = json.loads((tmp_path / 'stablehlo/export.json').read_text())
  assert metrics['source']['workdir'] == 'run'
