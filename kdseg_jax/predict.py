"""Predicts images with trained work directories: labels, overlays, and side by side.

python -m kdseg_jax.predict --workdir=runs/student --output=predictions photo.jpg folder/
python -m kdseg_jax.predict --workdir=runs/distilled --split=val --compare=runs/teacher
python -m kdseg_jax.predict --workdir=runs/distilled --affinity_at=120,90 photo.jpg

A classifier writes `predictions.json`, the most probable classes of each image, and pictures; a
detector likewise what it found. A StableHLO export predicts by --exported=<folder>
--output=<folder>, without the code of its model.
"""

import dataclasses
import os
from collections.abc import Iterable, Iterator
from typing import Any

import tqdm
from absl import flags
from ml_collections import ConfigDict

from kdseg_jax import command_line, names, paths, program, references, tasks
from kdseg_jax.data import files, subset
from kdseg_jax.errors import UserError
from kdseg_jax.inference import Model, load
from kdseg_jax.inference.affinity import affinity
from kdseg_jax.inference.evaluation import recorded_metric
from kdseg_jax.inference.views import create_inference
from kdseg_jax.interop import exported
from kdseg_jax.report import presenters
from kdseg_jax.report.affinity import AffinityWriter
from kdseg_jax.report.base import Example
from kdseg_jax.training import experiment

_FOLDERS = ('labels', 'overlays', 'strips', 'pictures', 'affinities')  # of results


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
  flags.DEFINE_list(
      'affinity_at', [], 'x,y: a pixel of the images; draws how alike all others are to it for '
      'each model (cosines of the last features), instead of what is predicted.',
      flag_values=options)
  command_line.define_path(
      'exported', 'Folder of a StableHLO export that predicts, instead of --workdir.', options)
  flags.DEFINE_bool(
      'legend', True, 'A legend below overlays; without it they are of the size of the image.',
      flag_values=options)
  command_line.define_best(options)


def main(options, arguments):
  """Writes what the model says of every image; the exit status is 1 if one was left out.

  Of segmentation `labels/<name>.png` (class indices in their colours) and `overlays/<name>.png`,
  with `--compare` or `--split` also `strips/<name>.png`: the image, its label if that is known, and
  what every model predicts, with its mIoU where the run was evaluated on the split. Of a classifier
  or detector `predictions.json` and `pictures/<name>.png`. With `--affinity_at`, whatever the task,
  only `affinities/<name>.png`, see `inference.affinity`. Images that cannot be read are left out
  and listed at the end.
  """
  left_out: list[str] = []
  if options.exported:
    _predict_with_export(options, arguments, left_out)
  else:
    workdir = program.require_workdir(options, trained=True)
    _predict(options, arguments, workdir, left_out)
  if left_out:
    print(f'{len(left_out)} were left out:\n  ' + '\n  '.join(left_out))
  return 1 if left_out else 0


def _predict_with_export(options, arguments, left_out):
  """What an export says of pictures."""
  for name in ('workdir', 'split', 'compare', 'best', 'affinity_at'):
    if options[name].value:
      raise UserError(f'--{name} is for work directories; --exported predicts files and folders.')
  if not options.output:
    raise UserError('--output is missing: give the folder of the results.')
  source = _create_source(options, arguments, left_out)
  _check_output(options.output, source)
  model = exported.load(options.exported)
  task = model.description['task']
  references.require_permission(
      task, options.allow_imports, field='task.name', where=options.exported)
  presenter = presenters.create(task, model)
  writer = presenter.writer(options.output, main='export', titles={}, strips=False,
                            legend=options.legend)
  _write(writer, {'export': model}, _predicted, _examples(source, left_out, (), from_files=True))


def _predict(options, arguments, workdir, left_out):
  """What the models of work directories say of pictures or of a split."""
  pixel = _pixel(options.affinity_at)
  output = options.output or os.path.join(workdir, 'predictions')
  program.require_imports(options, 'task.name', *['data.name'] * bool(options.split))
  task = tasks.name_of(options.config)
  if not presenters.find(task).compares and (options.split or options.compare):
    raise UserError(f'{workdir}: its task is {task}, of which --split and --compare show nothing. '
                    'Name files or folders instead.')
  named = program.named_workdirs(workdir, options.compare)
  views = create_inference(options.config)
  source = _create_source(options, arguments, left_out)
  main_name = next(name for name, path in named.items() if program.same_folder(path, workdir))
  _check_output(output, [] if options.split else source)
  found = _load_models(options, named, main_name, views)
  if options.split:
    _require_same_classes(source.classes, found[main_name], f'the data ({options.split})',
                          options.allow_class_names)
  model, titles = found[main_name], _titles(options, found)
  fields = model.task.fields if options.split else ()
  examples = _examples(source, left_out, fields, from_files=not options.split)
  if pixel:
    _write(AffinityWriter(output, pixel, titles), found, _affinities_to(pixel), examples)
  else:
    writer = presenters.create(task, model).writer(
        output, main=main_name, titles=titles, strips=bool(options.compare or options.split),
        legend=options.legend)
    _write(writer, found, _predicted, examples)


def _check_output(output, pictures):
  """Refuses a folder of results in which pictures or labels of the user's would be replaced."""
  paths.check_folder(output, 'output')
  inside = lambda name: os.path.exists(os.path.join(output, name))
  if inside('labels') and (inside('images') or inside('classes.txt')):
    raise UserError(f'--output={output}: holds images and labels, as a data set does, and these '
                    'labels could be replaced by what is predicted. Give another folder.')
  written = {os.path.realpath(os.path.join(output, name)) for name in _FOLDERS}
  for path in pictures:
    if os.path.dirname(os.path.realpath(path)) in written:
      raise UserError(f'--output={output}: {path} could be replaced by what is predicted of it. '
                      'Give another folder.')


def _pixel(texts):
  """(x, y) of `--affinity_at`; None where it is not given."""
  if not texts:
    return None
  if len(texts) != 2 or not all(text.strip().isdecimal() for text in texts):
    raise UserError(f'--affinity_at={",".join(texts)}: expected x,y, the column and row of a pixel '
                    'of the images from 0, as 120,90.')
  return int(texts[0]), int(texts[1])


def _titles(options, found):
  """The names of models, each with how it scores on the split where that is known."""
  titles = {}
  for name, model in found.items():
    metric = model.task.main_metric
    titles[name] = metric.titled(
        name, recorded_metric(model, options.config, options.split, metric.name))
  return titles


def _write(writer, found, say, examples):
  """Writes what models, by name, say of examples: `say(model, example)`."""
  for example in examples:
    writer.add(example, {name: say(model, example) for name, model in found.items()})
  print(writer.close())


def _predicted(model, example):
  return model.predict(example.image, scores=False)[0]


def _affinities_to(pixel):
  """What models say of examples: the affinities to a pixel."""
  def say(model, example):
    try:
      return affinity(model, example.image, pixel)
    except UserError as error:
      raise UserError(f'{example.origin}: {error}') from error
  return say


def _load(workdir, options, views, config=None):
  """A model that looks at images as the options say; of its own config, or this one."""
  model = load(workdir, checkpoint='best' if options.best else 'latest', views=views,
               allow_imports=options.allow_imports)
  if config is None:
    config = ConfigDict(model.config)
    config.eval = options.config.eval
  return dataclasses.replace(model, config=config)


def _load_models(options, named, main_name, views):
  """The models of work directories, by name."""
  found: dict[str, Model] = {}
  for name, path in named.items():
    found[name] = _load(path, options, views, options.config if name == main_name else None)
  main = found[main_name]
  for name, model in found.items():
    if model.task.name != main.task.name:
      raise UserError(f'--compare={named[name]}: its task is {model.task.name}, and that of '
                      f'{named[main_name]} {main.task.name}.')
    _require_same_classes(model.classes, main, f'the model of {named[name]}',
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


def _examples(source: Any, left_out: list[str], fields: Iterable[str], *, from_files: bool
              ) -> Iterator[Example]:
  """What can be read; why the others cannot goes into `left_out`."""
  def of_split(index):
    example = source[index]
    name = example['image_id']
    return Example(f'{name}.png', name, example['image'],
                   {field: example[field] for field in fields})

  def of_file(index):
    path = source[index]
    return Example(names_of_files[index], str(path), files.read_image(path), {})

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
