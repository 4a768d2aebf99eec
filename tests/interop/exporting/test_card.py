"""Model cards: their head, what they tell, and that their code for jax is true."""

import dataclasses
import json
import re

import numpy as np
import pytest
from ml_collections import ConfigDict

import kdseg_jax
from kdseg_jax import distillers, inference, models
from kdseg_jax.data import files
from kdseg_jax.data.json_files import METRICS_FILE
from kdseg_jax.interop import exporting
from kdseg_jax.interop.exporting import card, manifest
from tests import toys, workdirs


@pytest.fixture
def trained(monkeypatch, tmp_path):
  monkeypatch.setattr(models, 'create', lambda name, num_classes, axis_name, **_: toys.Model(
      num_classes, axis_name))
  config = workdirs.config_of(**{'data.size': (48, 64), 'teacher.checkpoint': '/secret/teacher/'})
  config.distill = distillers.terms_of('kd')
  workdirs.save(tmp_path / 'run', config)
  rows = [{'phase': 'evaluation', 'step': step, 'mean_iou': score, 'pixel_accuracy': 0.9}
          for step, score in ((1, 0.125), (1, 0.25), (2, 0.5))]  # evaluated twice
  rows.append({'phase': 'train', 'step': 1, 'mean_iou': 0.75})
  (tmp_path / 'run' / METRICS_FILE).write_text('\n'.join(map(json.dumps, rows)) + '\n')
  return kdseg_jax.load(tmp_path / 'run')


def test_a_card_tells_what_the_model_is(trained, tmp_path):
  exporting.export(trained, str(tmp_path / 'out'), exporting.Options('stablehlo'))
  text = (tmp_path / 'out' / card.FILE).read_text()
  start, head, rest = re.split(r'^---\n', text, maxsplit=2, flags=re.M)
  assert not start and rest.startswith('\n# espnet_c\n')
  for line in ('library_name: kdseg_jax', 'pipeline_tag: image-segmentation', 'license: unknown',
               '- stablehlo', '- jax'):
    assert line in head.splitlines()
  for part in ('3 classes, distilled', '| method | kd@1 |', '| teacher | teacher |',
               '| mean_iou (val) | 0.2500 |', '| pixel_accuracy (val) | 0.9000 |',
               '| data | scenes |', '| started from | random weights |',
               f'| steps | 1 of {trained.config.train.steps} |', 'any number of images of any size',
               'subtract (123.675, 116.28, 103.53)', 'resized to 48x64', '0 sky, 1 road, 2 tree',
               '`model.cpu.stablehlo`', 'Whoever publishes these weights'):
    assert part in text
  assert 'secret' not in text and str(tmp_path) not in text


@pytest.mark.parametrize('metrics', [
    {'mean_iou': 0.5, 'pixel_accuracy': 0.75}, {'top1': 0.5, 'top5': 0.75},
    {'AP': 0.25, 'AP50': 0.5}])
def test_a_card_states_the_metrics_of_its_task(metrics, trained):
  row = {'phase': 'evaluation', 'step': trained.train_step, 'images': 3} | metrics
  path = f'{trained.workdir}/{METRICS_FILE}'
  with open(path, 'a') as file:
    file.write(json.dumps(row) + '\n')
  text = card._training(trained)
  for name, value in metrics.items():
    assert f'| {name} (val) | {value:.4f} |' in text


def test_the_code_of_a_card_runs(trained, tmp_path, monkeypatch):
  exporting.export(trained, str(tmp_path / 'out'), exporting.Options('stablehlo'))
  files.write_png(tmp_path / 'photo.jpg.png', np.zeros((8, 9, 3), np.uint8))
  (code,) = re.findall('```python\n(.*?)```', (tmp_path / 'out' / card.FILE).read_text(), re.S)
  code = code.replace('<this folder>', str(tmp_path / 'out')).replace(
      'photo.jpg', str(tmp_path / 'photo.jpg.png'))
  names = {'images': np.zeros((2, 8, 9, 3), np.uint8)}
  exec(compile(code, card.FILE, 'exec'), names)
  assert names['labels'].shape == (2, 8, 9) and names['prediction'].labels.shape == (8, 9)


@pytest.mark.parametrize('kind,parts', [
    ('onnx', ('onnxruntime.InferenceSession("model.onnx")', '- onnx')),
    ('safetensors', ('load_state_dict(load_file("model.safetensors"))', '"width": 0.125',
                     './launch.sh import --source=model.safetensors --model=espnet_c'))])
def test_how_other_programs_use_it(kind, parts, trained):
  sizes = None if kind == 'safetensors' else exporting.folder.Sizes()
  description = manifest.describe(trained, kind, sizes) | {
      'scheme': 'skd_espnet', 'verified': {'largest_difference': 0.25, 'standard_deviation': 1.5}}
  text = card.text(trained, description, [f'model.{kind}'])
  assert all(part in text for part in parts)
  assert 'the largest difference is 0.25, at a standard deviation of 1.5.' in text
  assert ('The model itself normalises them' in text) == (kind == 'onnx')
  assert ('which the caller normalises' in text) == (kind == 'safetensors')


def test_how_images_are_normalised_and_which_part_of_them_was_evaluated(trained):
  config = ConfigDict(trained.config)
  config.student.update(mean=(1.0, 2.0, 3.5), std=(4.0, 5.0, 6.5), channel_order='bgr')
  model = dataclasses.replace(
      trained, config=config, views=inference.Inference(short_side=40, crop=(36, 32)))
  description = manifest.describe(model, 'onnx', exporting.folder.Sizes()) | {
      'verified': {'largest_difference': 0.0, 'standard_deviation': 1.0}}
  text = card.text(model, description, [])
  assert 'subtract (1, 2, 3.5), divide by (4, 5, 6.5), channels in the order BGR' in text
  assert 'centre 36x32 of images whose shorter side was resized to 40' in text


def test_many_classes_and_an_import(trained):
  description = manifest.describe(trained, 'onnx', exporting.folder.Sizes()) | {
      'classes': [f'c{i}' for i in range(1000)],
      'verified': {'largest_difference': 0.0, 'standard_deviation': 1.0}}
  text = card.text(dataclasses.replace(trained, train_step=0), description, [])
  assert '149 c149 and 850 more' in text and 'weights that were imported' in text
