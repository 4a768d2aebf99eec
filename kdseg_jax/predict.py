"""Predicts images with trained work directories: palette PNGs, overlays, and side by side.

python -m kdseg_jax.predict --workdir=runs/student --output=predictions photo.jpg folder/
python -m kdseg_jax.predict --workdir=runs/distilled --split=val --config.eval.limit=20 \\
    --compare=runs/teacher,alone=runs/student

A classifier writes `predictions.json`: the most probable classes of each image. A StableHLO export
predicts by --exported=<folder> --output=<folder>, without the code of its model.
"""

import dataclasses
import os
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
import tqdm
from absl import flags
from ml_collections import ConfigDict

from kdseg_jax import command_line, names, paths, program
from kdseg_jax.data import files, palettes, subset
from kdseg_jax.errors import UserError
from kdseg_jax.inference import Model, load
from kdseg_jax.interop import exported
from kdseg_jax.models import CLASSIFIERS
from kdseg_jax.report import classification
from kdseg_jax.training import experiment
from kdseg_jax.training.evaluation import recorded_mean_iou
from kdseg_jax.training.inference import create_inference
from kdseg_jax.training.run import write_json


def define_flags(options):
  """What is predicted, what it is compared with, and where the pictures go."""
  program.define_workdir(options)
  command_line.define_path(
      'output', 'Folder of the results; default: <workdir>/predictions.', options)
  flags.DEFINE_string(
      'split', None, 'Predict this split of the data set (its first config.eval.limit images), '
      'whose labels are known, instead of files.', flag_values=options)
  flags.DEFINE_list(
      'compare', [], 'Further work directories, [<name>=]<directory>,...: strips show what each '
      'predicts. One that is --workdir gives it its name and place; else it comes first.',
      flag_values=options)
  command_line.define_path(
      'exported', 'Folder of a StableHLO export that predicts, instead of --workdir.', options)
  flags.DEFINE_bool(
      'legend', True, 'A legend below overlays; without it they are of the size of the image.',
      flag_values=options)
  command_line.define_best(options)


class Example(NamedTuple):
  """What is predicted: file name of the results, where it is from, image, label if it is known."""

  name: str
  origin: str
  image: np.ndarray
  label: np.ndarray | None


def main(options, arguments):
  """Writes what the model says of every image; the exit status is 1 if one was left out.

  Of segmentation `labels/<name>.png` (class indices with a palette) and `overlays/<name>.png`, with
  `--compare` or `--split` also `strips/<name>.png`: the image, its label if that is known, and what
  every model predicts, with its mIoU where the run was evaluated on the split. Of a classifier
  `predictions.json`. Images that cannot be read are left out and listed at the end.
  """
  left_out: list[str] = []
  if options.exported:
    _predict_with_export(options, arguments, left_out)
  else:
    workdir = program.require_workdir(options, trained=True)
    output = options.output or os.path.join(workdir, 'predictions')
    predict = _classify if options.config.student.name in CLASSIFIERS else _segment
    predict(options, arguments, workdir, output, left_out)
  if left_out:
    print(f'{len(left_out)} were left out:\n  ' + '\n  '.join(left_out))
  return 1 if left_out else 0


def _predict_with_export(options, arguments, left_out):
  """Writes what an export says."""
  for name in ('workdir', 'split', 'compare', 'best'):
    if options[name].value:
      raise UserError(f'--{name} is for work directories; --exported predicts files and folders.')
  if not options.output:
    raise UserError('--output is missing: give the folder of the results.')
  source = _create_source(options, arguments, left_out)
  paths.check_folder(options.output, 'output')
  model = exported.load(options.exported)
  if model.is_classifier:
    _write_classes(model, source, options.output, left_out)
  else:
    _write_pictures(options, {'export': model}, 'export', {}, source, options.output, left_out)


def _classify(options, arguments, workdir, output, left_out):
  """What a classifier says of pictures."""
  if options.split or options.compare:
    raise UserError(f'{workdir}: is a classifier; --split and --compare show segmentations. Name '
                    'files or folders instead.')
  views = create_inference(options.config)
  source = _create_source(options, arguments, left_out)
  paths.check_folder(output, 'output')
  _write_classes(_load(workdir, options, views, options.config), source, output, left_out)


def _write_classes(model, source, output, left_out):
  """Writes and prints the most probable classes of pictures."""
  found = {example.origin: classification.most_probable(
      model.predict(example.image)[0], model.classes)
           for example in _examples(source, left_out, from_files=True)}
  file = os.path.join(output, 'predictions.json')
  write_json(file, found)
  print(f'{classification.table(found)}\n\n{len(found)} images. Predictions: {file}')


def _segment(options, arguments, workdir, output, left_out):
  """What segmenters say of pictures or of a split."""
  named = program.named_workdirs(workdir, options.compare)
  views = create_inference(options.config)
  source = _create_source(options, arguments, left_out)
  main_name = next(name for name, path in named.items() if program.same_folder(path, workdir))
  paths.check_folder(output, 'output')
  found = _load_models(options, named, main_name, views)
  titles = {name: palettes.with_score(name, recorded_mean_iou(
      model, options.config, options.split)) for name, model in found.items()}
  if options.split:
    _require_same_classes(source.classes, found[main_name], f'the data ({options.split})',
                          options.allow_class_names)
  _write_pictures(options, found, main_name, titles, source, output, left_out)


def _write_pictures(options, found, main_name, titles, source, output, left_out):
  """Writes labels, overlays and strips of models by name."""
  classes, palette = found[main_name].classes, np.asarray(found[main_name].palette, np.uint8)

  def write(folder, name, picture, labels, legend=True):
    if legend:
      picture = palettes.with_legend(picture, labels, classes, palette)
    files.write_png(os.path.join(output, folder, name), picture)

  written = 0
  for name, _, image, label in _examples(source, left_out, from_files=not options.split):
    written += 1
    labels = {model: found[model].predict(image, scores=False)[0].labels for model in found}
    overlays = {model: palettes.overlay(image, predicted, palette)
                for model, predicted in labels.items()}
    files.write_palette_png(os.path.join(output, 'labels', name), labels[main_name], palette)
    write('overlays', name, overlays[main_name], [labels[main_name]], options.legend)
    if options.compare or options.split:
      panels = {'image': image}
      if label is not None:
        panels['label'] = palettes.overlay(image, label, palette)
      panels |= {titles[model]: picture for model, picture in overlays.items()}
      write('strips', name, palettes.strip(list(panels.values()), list(panels)),
            [*labels.values(), *([] if label is None else [label])])
  print(f'{written} images. Labels and overlays: {output}')


def _load(workdir, options, views, config=None):
  """A model that looks at images as the options say; of its own config, or this one."""
  model = load(workdir, checkpoint='best' if options.best else 'latest', views=views)
  if config is None:
    config = ConfigDict(model.config)
    config.eval = options.config.eval
  return dataclasses.replace(model, config=config)


def _load_models(options, named, main_name, views):
  """The models of work directories, by name."""
  found: dict[str, Model] = {}
  for name, path in named.items():
    found[name] = _load(path, options, views, options.config if name == main_name else None)
    if found[name].task is None:
      raise UserError(f'--compare={path}: is a classifier, and has no labels to show.')
  for name, model in found.items():
    _require_same_classes(model.classes, found[main_name], f'the model of {named[name]}',
                          options.allow_class_names)
  return found


def _require_same_classes(classes, model, where, allow):
  """Raises UserError unless the classes are those of the main model."""
  names.require_same_classes(classes, model.classes, found_in=where,
                             expected_in=f'the model of {model.workdir}', allow=allow)


def _create_source(options, arguments, left_out):
  """The split, or the list of files."""
  if bool(arguments) == bool(options.split):
    raise UserError('No images: name files or folders after the options, or --split=<split>.'
                    if not arguments else
                    f'--split={options.split} and files were given; choose one of them.')
  if not options.split:
    found = files.list_images(map(paths.local, arguments), left_out=left_out)
    if not found:
      raise UserError(left_out[0])
    return found
  source = experiment.create_source(options.config, options.split)
  return subset.first(source, options.config.eval.limit)


def _examples(source: Any, left_out: list[str], *, from_files: bool) -> Iterator[Example]:
  """What can be read; why the others cannot goes into `left_out`."""
  def of_split(index):
    example = source[index]
    name = example['image_id']
    return Example(f'{name}.png', name, example['image'], example['label'])

  def of_file(index):
    path = source[index]
    return Example(names_of_files[index], str(path), files.read_image(path), None)

  names_of_files = files.png_names(source) if from_files else []
  read = of_file if from_files else of_split
  for index in tqdm.trange(len(source), disable=None):
    try:
      yield read(index)
    except UserError as error:
      left_out.append(str(error))


PROGRAM = program.Program(main, define_flags, config='saved')

if __name__ == '__main__':
  PROGRAM.run()
