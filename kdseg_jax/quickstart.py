"""The main job from end to end: a teacher, a student alone, and the same student distilled.

python -m kdseg_jax.quickstart --workdir=runs/quickstart
"""

import json
import os
import time
from typing import Any, NamedTuple

import numpy as np
from absl import flags

from kdseg_jax import distillers, models, paths, program, tasks
from kdseg_jax.data import files
from kdseg_jax.inference import Model, load
from kdseg_jax.inference.evaluation import throughput
from kdseg_jax.recipes import quickstart as recipe
from kdseg_jax.report import presenters, tables
from kdseg_jax.training import experiment, loop

_METHOD = 'pixelwise+pairwise'
_OVERLAYS = 8


class Trained(NamedTuple):
  """One of the three models after its run."""

  model: Model
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
          f'{config.train.steps} steps, {_images(config)}, '
          f'method {distillers.label(config.distill)}', flush=True)
    trained[name] = _train(config, os.path.join(workdir, name), options)
    if trained[name] is None:
      return
  config = configs['student']
  source = experiment.create_source(config, config.eval.split)
  metric = tasks.find(config.task.name).main_metric
  results = _measure(trained, source, metric)
  results['seconds'] = time.perf_counter() - start
  pictures = _write_overlays(
      workdir, trained, source, metric, presenters.create(config.task.name, source))
  path = os.path.join(workdir, 'quickstart.json')
  with open(path, 'w') as file:
    json.dump(results, file, indent=2)
  print('\n' + _table(results, metric))
  print(f'\n{results["seconds"]:.0f} s. Figures: {path}\nOverlays: {pictures}')


def _images(config):
  """What a model learns from, for people."""
  labelled = f'{config.data.train_limit} labelled scenes' if config.data.train_limit else (
      'all scenes')
  return labelled + (' and the others without labels' if config.data.unlabelled else '')


def _train(config, workdir, options):
  metrics = loop.train(config, workdir, allow_class_names=options.allow_class_names,
                       allow_imports=options.allow_imports)
  if metrics is None:
    print(f'Stopped; the same command goes on from what was saved. Work directory: {workdir}')
    return None
  return Trained(load(workdir, checkpoint='latest'), metrics)


def _measure(trained, source, metric):
  images = np.stack([source[i]['image'] for i in range(8)])
  return {name: {metric.name: metrics[metric.name],
                 **models.complexity(model.module, images.shape[1:3])._asdict(),
                 'images_per_second': throughput(model, images)}
          for name, (model, metrics) in trained.items()}


def _write_overlays(workdir, trained, source, metric, presenter):
  """A picture an image: the image, what is known of it, and what each model predicts."""
  examples = [source[i] for i in range(_OVERLAYS)]
  images = [example['image'] for example in examples]
  predictions = {
      metric.titled(name, metrics[metric.name]): model.predict(
          images, batch_size=_OVERLAYS, scores=False)
      for name, (model, metrics) in trained.items()}
  folder = os.path.join(workdir, 'overlays')
  for i, example in enumerate(examples):
    predicted = {title: presenter.fields_of(found[i]) for title, found in predictions.items()}
    files.write_png(os.path.join(folder, f'{example["image_id"]}.png'),
                    presenter.comparison(example['image'], example, predicted))
  return folder


def _table(results, metric):
  return tables.table(
      ['model', metric.title, 'parameters', 'MACs', 'images/s'],
      [(name, metric.with_unit(row[metric.name]), f'{row["params"]:,}', f'{row["macs"]:,}',
        f'{row["images_per_second"]:.0f}')
       for name, row in results.items() if isinstance(row, dict)])


PROGRAM = program.Program(main, define_flags, config=None)

if __name__ == '__main__':
  PROGRAM.run()
