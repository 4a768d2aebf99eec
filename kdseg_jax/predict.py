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

from kdseg_jax import config_files, program
from kdseg_jax.data import files, palettes, subset
from kdseg_jax.errors import UserError
from kdseg_jax.training import experiment, parallel
from kdseg_jax.training.evaluation import recorded_mean_iou
from kdseg_jax.training.inference import make_predictor

_CONFIG = program.define_config()
_OUTPUT = flags.DEFINE_string(
    'output', None, 'Folder of the results; default: <workdir>/predictions.')
_SPLIT = flags.DEFINE_string(
    'split', None, 'Predict this split of the data set (its first config.eval.limit images), whose '
    'labels are known, instead of files.')
_COMPARE = flags.DEFINE_list(
    'compare', [], 'Further work directories, [<name>=]<directory>,...: strips show what each '
    'predicts. One that is --workdir gives it its name and place; else it comes first.')
_LEGEND = flags.DEFINE_bool(
    'legend', True, 'A legend below overlays; without it they are of the size of the image.')
_BEST = flags.DEFINE_bool('best', False, 'The best checkpoint instead of the newest.')


class Example(NamedTuple):
  """What is predicted: file name of the results, image, and the label if it is known."""

  name: str
  image: np.ndarray
  label: np.ndarray | None


def main(arguments):
  """Writes `labels/<name>.png` (class indices with a palette) and `overlays/<name>.png`.

  With `--compare` or `--split` also `strips/<name>.png`: the image, its label if that is known,
  and what every model predicts, with its mIoU where the run was evaluated on the split.
  """
  workdir = program.require_workdir(trained=True)
  named = program.named_workdirs(workdir, _COMPARE.value)
  source = _create_source(arguments)
  main_name = next(name for name, path in named.items() if program.same_folder(path, workdir))
  predictors, titles, meta = _load_predictors(named, main_name)
  classes, palette = meta.classes, np.asarray(meta.palette, np.uint8)
  output = _OUTPUT.value or os.path.join(workdir, 'predictions')

  def write(folder, name, picture, labels, legend=True):
    if legend:
      picture = palettes.with_legend(picture, labels, classes, palette)
    files.write_png(os.path.join(output, folder, name), picture)

  for name, image, label in tqdm.tqdm(_examples(source), total=len(source), disable=None):
    labels = {model: predict(image) for model, predict in predictors.items()}
    overlays = {model: palettes.overlay(image, predicted, palette)
                for model, predicted in labels.items()}
    files.write_palette_png(os.path.join(output, 'labels', name), labels[main_name], palette)
    write('overlays', name, overlays[main_name], [labels[main_name]], _LEGEND.value)
    if _COMPARE.value or _SPLIT.value:
      panels = {'image': image}
      if label is not None:
        panels['label'] = palettes.overlay(image, label, palette)
      panels |= {titles[model]: picture for model, picture in overlays.items()}
      write('strips', name, palettes.strip(list(panels.values()), list(panels)),
            [*labels.values(), *([] if label is None else [label])])
  print(f'{len(source)} images. Labels and overlays: {output}')


def _load_predictors(named, main_name):
  """Of each work directory a predictor, by `config.eval`, and a title; what the main saved."""
  predictors, metas = {}, {}
  mesh, inference = parallel.create_mesh(), experiment.create_inference(_CONFIG.value)
  for name, path in named.items():
    trained, metas[name] = experiment.load_model(path, None, mesh, best=_BEST.value)
    config = _CONFIG.value if name == main_name else config_files.read(path)
    predictors[name] = make_predictor(
        experiment.create_task(config, len(metas[name].classes)), trained.model,
        trained.variables, inference=inference, size=tuple(config.data.size),
        multiple=_CONFIG.value.eval.pad_multiple)
  for name, meta in metas.items():
    if meta.classes != metas[main_name].classes:
      raise UserError(
          f'{named[name]} was trained on other classes ({", ".join(meta.classes[:3])}, ...) than '
          f'{named[main_name]} ({", ".join(metas[main_name].classes[:3])}, ...): they cannot be '
          'compared.')
  titles = {name: palettes.with_score(name, recorded_mean_iou(
      named[name], meta, _CONFIG.value, _SPLIT.value)) for name, meta in metas.items()}
  return predictors, titles, metas[main_name]


def _create_source(arguments):
  """The split, or the list of files."""
  if bool(arguments) == bool(_SPLIT.value):
    raise UserError('No images: name files or folders after the options, or --split=<split>.'
                     if not arguments else
                     f'--split={_SPLIT.value} and files were given; choose one of them.')
  if not _SPLIT.value:
    return files.list_images(arguments)
  source = experiment.create_source(_CONFIG.value, _SPLIT.value)
  return subset.first(source, _CONFIG.value.eval.limit)


def _examples(source: Any) -> Iterator[Example]:
  if not _SPLIT.value:
    for path, name in zip(source, files.png_names(source), strict=True):
      yield Example(name, files.read_image(path), None)
  else:
    for index in range(len(source)):
      example = source[index]
      yield Example(f'{example["image_id"]}.png', example['image'], example['label'])


if __name__ == '__main__':
  program.run(main, saved_config=True)
