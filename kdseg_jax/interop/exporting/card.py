"""The model card beside an export: Markdown with what Hugging Face reads at its head."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from typing import Any

from kdseg_jax.data.json_files import read_rows
from kdseg_jax.distillers import label
from kdseg_jax.inference import Model
from kdseg_jax.interop.exporting import manifest, sizes

FILE = 'README.md'
_PIPELINES = {manifest.SEGMENTATION: 'image-segmentation',
              manifest.CLASSIFICATION: 'image-classification',
              manifest.DETECTION: 'object-detection'}
_THEN = {
    manifest.SEGMENTATION: ('labels = logits.argmax(-1)  # (N, H, W), indices of the classes',),
    manifest.CLASSIFICATION: ('labels = logits.argmax(-1)  # (N,), indices of the classes',),
    manifest.DETECTION: (
        'boxes = predictions[..., :4]  # (N, P, 4), x1 y1 x2 y2 in pixels of the images',
        'scores = predictions[..., 4:5] * predictions[..., 5:]  # (N, P, classes)')}
_METRICS = ('mean_iou', 'pixel_accuracy', 'top1', 'top5', 'AP', 'AP50')


def text(model: Model, description: dict[str, Any], files: Sequence[str]) -> str:
  """The card of an export.

  Args:
    model: that was exported.
    description: as in `export.json`.
    files: names of the files of the model.
  """
  sections = [
      _head(description), f'# {description["model"]}', _summary(model, description),
      '## Images', _images(description), '## Use', _use(model, description),
      '## Training', _training(model), '## Classes', _classes(description),
      '## Files', '\n'.join(f'- `{name}`' for name in (*files, manifest.FILE)),
      '## Licence', 'Not stated. Whoever publishes these weights states theirs here and at the '
      'head of this file; the data and the weights that training started from may set conditions.']
  return '\n\n'.join(sections) + '\n'


def _head(description):
  return '\n'.join([
      '---', 'library_name: kdseg_jax', f'pipeline_tag: {_PIPELINES[description["task"]]}',
      'license: unknown', 'tags:', *(f'- {tag}' for tag in (
          'jax', description['kind'], 'knowledge-distillation', description['task'])), '---'])


def _summary(model, description):
  taught = bool(model.config.distill)
  return (f'A {description["task"]} model of {len(description["classes"])} classes'
          f'{", distilled" if taught else ""}, exported as {description["kind"]} by kdseg_jax '
          f'{description["kdseg_jax"]} (jax {description["jax"]}). Its '
          f'{manifest.OUTPUTS[description["task"]]} were compared with '
          'those of the trained model: the largest difference is '
          f'{description["verified"]["largest_difference"]:.2g}, at a standard deviation of '
          f'{description["verified"]["standard_deviation"]:.2g}.')


def _images(description):
  preprocessing = description['preprocessing']
  numbers = lambda name: ', '.join(f'{x:g}' for x in preprocessing[name])
  steps = (f'subtract ({numbers("mean")}), divide by ({numbers("std")}), channels in the order '
           f'{preprocessing["channel_order"].upper()}; mean and deviation are those of RGB.')
  if preprocessing['inside']:
    taken = sizes.Sizes.of(description['input'])
    rows = [f'uint8 RGB `(N, height, width, 3)`, 0-255: {taken}.',
            f'The model itself normalises them: {steps}']
  else:
    rows = [f'RGB in 0-255, which the caller normalises: {steps}']
  if description['resize']:
    height, width = description['resize']
    rows.append(f'In training images were resized to {height}x{width} pixels.')
  if description.get('centre'):
    short_side, height, width = description['centre']
    rows.append(f'It was evaluated on the centre {height}x{width} of images whose shorter side was '
                f'resized to {short_side} pixels.')
  if description.get('canvas'):
    height, width = description['canvas']
    rows.append(f'It was evaluated on images that were resized, their shape kept, to fit into '
                f'{height}x{width}, and padded at the bottom and right.')
    if description.get('by_orientation'):
      rows.append(f'Images higher than wide were fitted into {width}x{height}: this export, of one '
                  'size, shows them smaller. Export a second one for them, --size='
                  f'{width},{height}.')
  return '\n'.join(rows)


def _use(model, description):
  code = {'stablehlo': _with_jax, 'onnx': _with_onnxruntime,
          'safetensors': _with_torch}[description['kind']](description)
  if description['kind'] == 'safetensors':
    options = {name: value for name, value in sorted(model.config.student.items())
               if name not in ('init', 'options', 'remat', 'mean', 'std', 'channel_order', 'name')}
    code += ('\n\nThe architecture is the one that the names belong to '
             f'(`{description["scheme"]}`), with: `{json.dumps(options)}`.')
  elif description['task'] == manifest.DETECTION:
    code += ('\n\nEach anchor has a row of predictions: its box, a factor (the centerness; 1 of '
             'heads without) and the probability of each class. Non-maximum suppression is not in '
             'it; `model.predict` of kdseg_jax does that too: per class, above a score of 0.05, '
             'the best 100.')
  return code


def _with_jax(description):
  return _python('import kdseg_jax', 'model = kdseg_jax.load("<this folder>")',
                 'prediction, = model.predict("photo.jpg")',
                 f'{manifest.OUTPUTS[description["task"]]}, _ = model.apply(images)  '
                 '# images (N, H, W, 3) uint8', *_THEN[description['task']])


def _with_onnxruntime(description):
  return _python('import onnxruntime', 'session = onnxruntime.InferenceSession("model.onnx")',
                 f'{manifest.OUTPUTS[description["task"]]}, = session.run(None, '
                 f'{{"{manifest.INPUT}": images}})  # images (N, H, W, 3) uint8',
                 *_THEN[description['task']])


def _with_torch(description):
  back = ('\n\nBack into kdseg_jax:\n\n```\n./launch.sh import --source=model.safetensors '
          f'--model={description["model"]} --workdir=<dir>\n```')
  return _python('from safetensors.torch import load_file',
                 'module.load_state_dict(load_file("model.safetensors"))  # of the architecture '
                 'below') + back


def _python(*lines):
  return '\n'.join(['```python', *lines, '```'])


def _training(model):
  config = model.config
  rows = [('method', label(config.distill)), ('data', config.data.name),
          ('teacher', os.path.basename(os.path.normpath(config.teacher.checkpoint or '')) if (
              config.teacher.checkpoint) else 'none'),
          ('started from', os.path.basename(config.student.init) or 'random weights'),
          ('steps', f'{model.train_step} of {config.train.steps}')]
  rows += [(f'{name} ({config.eval.split})', f'{value:.4f}')
           for name, value in _metrics(model).items()]
  if not model.train_step:
    rows = [('origin', 'weights that were imported, not trained here')]
  return '\n'.join(['| | |', '|---|---|', *(f'| {name} | {value} |' for name, value in rows)])


def _metrics(model):
  """What the run logged for the checkpoint."""
  found = [row for row in read_rows(model.workdir)
           if row.get('phase') == 'evaluation' and row.get('step') == model.train_step]
  return {name: found[-1][name] for name in _METRICS
          if found and isinstance(found[-1].get(name), float)}


def _classes(description, most=150):
  names = description['classes']
  left = len(names) - most
  return ', '.join(f'{i} {name}' for i, name in enumerate(names[:most])) + (
      f' and {left} more, see `{manifest.FILE}`' if left > 0 else '')
