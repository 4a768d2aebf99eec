"""The main job from end to end: a teacher, a student alone, and the same student distilled.

python -m kdseg_jax.quickstart --workdir=runs/quickstart
"""

import json
import os
import time
from typing import Any, NamedTuple

import jax
import numpy as np
from absl import flags

from kdseg_jax import models, paths, program
from kdseg_jax.data import files, palettes
from kdseg_jax.recipes import quickstart as recipe
from kdseg_jax.report import tables
from kdseg_jax.training import experiment, loop, parallel
from kdseg_jax.training.evaluation import throughput
from kdseg_jax.training.inference import apply_frozen

_METHOD = 'pixelwise+pairwise'
_OVERLAYS = 8


class Trained(NamedTuple):
  """One of the three models after its run."""

  model: Any
  variables: Any
  metrics: dict[str, Any]


def define_flags(options):
  """`--workdir` and `--runlocal`."""
  program.define_workdir(options)
  flags.DEFINE_bool('runlocal', False, 'Two steps a run, to see that everything works.',
                    flag_values=options)


def main(options, arguments):
  """Trains, evaluates, prints the table, writes overlays and `quickstart.json`."""
  program.no_arguments(arguments)
  start = time.perf_counter()
  default = 'quickstart_runlocal' if options.runlocal else 'quickstart'
  workdir = options.workdir or os.path.join('runs', default)
  paths.check_folder(workdir, 'workdir')
  suffix = ',runlocal' if options.runlocal else ''
  configs = {
      'teacher': recipe.get_config('role=teacher' + suffix),
      'student': recipe.get_config('role=student' + suffix),
      'distilled': recipe.get_config(f'role=student,method={_METHOD},unlabelled' + suffix),
  }
  configs['distilled'].teacher.checkpoint = os.path.join(workdir, 'teacher')
  trained = {}
  for name, config in configs.items():
    print(f'\n{name}: {config.student.name}, width {config.student.width}, '
          f'{config.train.steps} steps, {_images(config)}, method {config.method}', flush=True)
    trained[name] = _train(config, os.path.join(workdir, name), options.allow_class_names)
    if trained[name] is None:
      return
  source = experiment.create_source(configs['student'], configs['student'].eval.split)
  results = _measure(trained, source, configs['student'])
  results['seconds'] = time.perf_counter() - start
  pictures = _write_overlays(workdir, trained, source, configs['student'])
  path = os.path.join(workdir, 'quickstart.json')
  with open(path, 'w') as file:
    json.dump(results, file, indent=2)
  print('\n' + _table(results))
  print(f'\n{results["seconds"]:.0f} s. Figures: {path}\nOverlays: {pictures}')


def _images(config):
  """What a model learns from, for people."""
  labelled = f'{config.data.train_limit} labelled scenes' if config.data.train_limit else (
      'all scenes')
  return labelled + (' and the others without labels' if config.data.unlabelled else '')


def _train(config, workdir, allow_class_names):
  metrics = loop.train(config, workdir, allow_class_names=allow_class_names)
  if metrics is None:
    print(f'Stopped; the same command goes on from what was saved. Work directory: {workdir}')
    return None
  trained, _ = experiment.load_model(workdir, parallel.create_mesh(), best=False)
  return Trained(trained.model, trained.variables, metrics)


def _measure(trained, source, config):
  task = experiment.create_task(config, len(source.classes))
  images = np.stack([source[i]['image'] for i in range(8)])
  results = {}
  for name, (model, variables, metrics) in trained.items():
    complexity = models.complexity(model, images.shape[1:3])
    results[name] = {
        'mean_iou': metrics['mean_iou'],
        'params': complexity.params,
        'macs': complexity.macs,
        'images_per_second': throughput(task, model, variables, images),
    }
  return results


def _write_overlays(workdir, trained, source, config):
  """A picture an image: image, label, what each model predicts, with its mIoU, and a legend."""
  task = experiment.create_task(config, len(source.classes))
  examples = [source[i] for i in range(_OVERLAYS)]
  batch = {'image': np.stack([e['image'] for e in examples]),
           'index': np.arange(_OVERLAYS, dtype=np.int32)}
  batch['mask'] = np.ones(batch['image'].shape[:3], bool)
  predictions = {
      name: np.asarray(task.predict(
          jax.jit(apply_frozen, static_argnums=0)(model, variables, batch)[0],
          batch['image'].shape[1:3]))
      for name, (model, variables, _) in trained.items()}
  folder = os.path.join(workdir, 'overlays')
  titles = {name: palettes.with_score(name, trained[name].metrics['mean_iou'])
            for name in predictions}
  for i, example in enumerate(examples):
    predicted = {titles[name]: labels[i].astype(np.uint8) for name, labels in predictions.items()}
    files.write_png(
        os.path.join(folder, f'{example["image_id"]}.png'),
        palettes.comparison(example['image'], example['label'], predicted, source.classes,
                            source.palette))
  return folder


def _table(results):
  return tables.table(
      ['model', 'mIoU', 'parameters', 'MACs', 'images/s'],
      [(name, f'{100 * row["mean_iou"]:.1f} %', f'{row["params"]:,}', f'{row["macs"]:,}',
        f'{row["images_per_second"]:.0f}')
       for name, row in results.items() if isinstance(row, dict)])


PROGRAM = program.Program(main, define_flags, config=None)

if __name__ == '__main__':
  PROGRAM.run()
