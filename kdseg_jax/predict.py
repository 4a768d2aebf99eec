"""Predicts images with a trained work directory: palette PNGs and overlays.

python -m kdseg_jax.predict --workdir=runs/student --output=predictions photo.jpg folder/
"""

import functools
import os

import jax
import jax.numpy as jnp
import numpy as np
import tqdm
from absl import flags

from kdseg_jax import program
from kdseg_jax.data import files, palettes
from kdseg_jax.training import experiment, parallel
from kdseg_jax.training.step import apply_frozen

_CONFIG = program.define_config()
_OUTPUT = flags.DEFINE_string(
    'output', None, 'Folder of the results; default: <workdir>/predictions.')
_BEST = flags.DEFINE_bool('best', False, 'The best checkpoint instead of the newest.')


def main(arguments):
  """Writes `labels/<name>.png` (class indices with a palette) and `overlays/<name>.png`."""
  workdir = program.require_workdir(trained=True)
  if not arguments:
    raise ValueError('No images: name files or folders after the options.')
  paths = files.list_images(arguments)
  trained, meta = experiment.load_model(workdir, None, parallel.create_mesh(), best=_BEST.value)
  palette = np.asarray(meta.palette, np.uint8)
  task = experiment.create_task(_CONFIG.value, len(meta.classes))
  predict = make_predictor(task, trained.model, trained.variables, tuple(_CONFIG.value.data.size))
  output = _OUTPUT.value or os.path.join(workdir, 'predictions')
  for path, name in zip(tqdm.tqdm(paths, disable=None), output_names(paths), strict=True):
    image = files.read_image(path)
    labels = predict(image)
    files.write_palette_png(os.path.join(output, 'labels', name), labels, palette)
    files.write_png(os.path.join(output, 'overlays', name),
                    palettes.overlay(image, labels, palette))
  print(f'{len(paths)} images. Labels and overlays: {output}')


def make_predictor(task, model, variables, size):
  """A function from an image of any size to labels of the same size.

  Args:
    size: (height, width) at which the model sees images, as in training; () is their own.
  """
  @functools.partial(jax.jit, static_argnames='output_size')
  def run(variables, image, output_size):
    batch = {'image': image, 'mask': jnp.ones(image.shape[:3], bool),
             'index': jnp.zeros(1, jnp.int32)}
    logits, _ = apply_frozen(model, variables, batch)
    return task.predict(logits, output_size)[0].astype(jnp.uint8)

  def predict(image):
    seen = files.resize_image(image, size) if size else image
    return np.asarray(run(variables, seen[None], image.shape[:2]))
  return predict


def output_names(paths):
  """`<stem>.png` for every path; equal stems of different folders get a number."""
  names, seen = [], {}
  for path in paths:
    stem = os.path.splitext(os.path.basename(path))[0]
    seen[stem] = seen.get(stem, 0) + 1
    names.append(f'{stem}.png' if seen[stem] == 1 else f'{stem}_{seen[stem]}.png')
  return names


if __name__ == '__main__':
  program.run(main, saved_config=True)
