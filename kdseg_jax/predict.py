"""Predicts images with trained work directories: palette PNGs, overlays, and side by side.

python -m kdseg_jax.predict --workdir=runs/student --output=predictions photo.jpg folder/
python -m kdseg_jax.predict --workdir=runs/distilled --split=val --config.eval.limit=20 \\
    --compare=runs/teacher,alone=runs/student
"""

import os
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
import tqdm
from absl import flags

from kdseg_jax import command_line, config_files, names, paths, program
from kdseg_jax.data import files, palettes, subset
from kdseg_jax.errors import UserError
from kdseg_jax.training import experiment, parallel
from kdseg_jax.training.evaluation import recorded_mean_iou
from kdseg_jax.training.inference import make_predictor


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
  flags.DEFINE_bool(
      'legend', True, 'A legend below overlays; without it they are of the size of the image.',
      flag_values=options)
  command_line.define_best(options)


class Example(NamedTuple):
  """What is predicted: file name of the results, image, and the label if it is known."""

  name: str
  image: np.ndarray
  label: np.ndarray | None


def main(options, arguments):
  """Writes `labels/<name>.png` (class indices with a palette) and `overlays/<name>.png`.

  With `--compare` or `--split` also `strips/<name>.png`: the image, its label if that is known,
  and what every model predicts, with its mIoU where the run was evaluated on the split. Images that
  cannot be read are left out and listed at the end; the exit status is then 1.
  """
  workdir = program.require_workdir(options, trained=True)
  named = program.named_workdirs(workdir, options.compare)
  inference = experiment.create_inference(options.config)
  left_out: list[str] = []
  source = _create_source(options, arguments, left_out)
  main_name = next(name for name, path in named.items() if program.same_folder(path, workdir))
  output = options.output or os.path.join(workdir, 'predictions')
  paths.check_folder(output, 'output')
  predictors, titles, meta = _load_predictors(options, named, main_name, inference)
  if options.split:
    _require_same_classes(
        source.classes, meta, f'the data ({options.split})', workdir, options.allow_class_names)
  classes, palette = meta.classes, np.asarray(meta.palette, np.uint8)

  def write(folder, name, picture, labels, legend=True):
    if legend:
      picture = palettes.with_legend(picture, labels, classes, palette)
    files.write_png(os.path.join(output, folder, name), picture)

  written = 0
  for name, image, label in tqdm.tqdm(
      _examples(source, left_out, from_files=not options.split), total=len(source), disable=None):
    written += 1
    labels = {model: predict(image) for model, predict in predictors.items()}
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
  if left_out:
    print(f'{len(left_out)} were left out:\n  ' + '\n  '.join(left_out))
  return 1 if left_out else 0


def _load_predictors(options, named, main_name, inference):
  """Of each work directory a predictor, by `config.eval`, and a title; what the main saved."""
  predictors, metas = {}, {}
  mesh = parallel.create_mesh()
  for name, path in named.items():
    trained, metas[name] = experiment.load_model(path, mesh, best=options.best)
    config = options.config if name == main_name else config_files.read(path)
    predictors[name] = make_predictor(
        experiment.create_task(config, len(metas[name].classes)), trained.model,
        trained.variables, inference=inference, size=tuple(config.data.size),
        multiple=options.config.eval.pad_multiple)
  for name, meta in metas.items():
    _require_same_classes(meta.classes, metas[main_name], f'the model of {named[name]}',
                          named[main_name], options.allow_class_names)
  titles = {name: palettes.with_score(name, recorded_mean_iou(
      named[name], meta, options.config, options.split)) for name, meta in metas.items()}
  return predictors, titles, metas[main_name]


def _require_same_classes(classes, meta, where, workdir, allow):
  """Raises UserError unless the classes are those of the main model."""
  names.require_same_classes(classes, meta.classes, found_in=where,
                             expected_in=f'the model of {workdir}', allow=allow)


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
    return Example(f'{example["image_id"]}.png', example['image'], example['label'])

  names_of_files = files.png_names(source) if from_files else []
  for index in range(len(source)):
    try:
      yield Example(names_of_files[index], files.read_image(source[index]), None) if (
          from_files) else of_split(index)
    except UserError as error:
      left_out.append(str(error))


PROGRAM = program.Program(main, define_flags, config='saved')

if __name__ == '__main__':
  PROGRAM.run()
