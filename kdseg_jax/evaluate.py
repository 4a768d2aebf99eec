"""Evaluates a trained work directory on a whole split.

python -m kdseg_jax.evaluate --workdir=runs/student --split=test --json=result.json
Windows, scales and mirror images: --config.eval.window="(512,512)" --config.eval.flip=True ...
"""

import json

from absl import flags

from kdseg_jax import command_line, names, paths, program
from kdseg_jax.data import files
from kdseg_jax.errors import UserError
from kdseg_jax.inference.model import restore
from kdseg_jax.models import CLASSIFIERS
from kdseg_jax.report import pictures, tables
from kdseg_jax.training import experiment, parallel
from kdseg_jax.training.evaluation import Evaluator
from kdseg_jax.training.inference import create_inference
from kdseg_jax.training.writers import finite


def define_flags(options):
  """What is evaluated, and the files that receive the results."""
  program.define_workdir(options)
  flags.DEFINE_string('split', None, 'Split to evaluate; default: config.eval.split.',
                      flag_values=options)
  command_line.define_path(
      'data_root', 'Folder of the data set; default: config.data.root.', options)
  command_line.define_path('json', 'File that receives the metrics.', options)
  command_line.define_path(
      'confusion', 'PNG file that receives a picture of the confusion matrix.', options)
  command_line.define_best(options)


def main(options, arguments):
  """Prints the per-class table and the metrics; writes `--json` and `--confusion`."""
  program.no_arguments(arguments)
  workdir = program.require_workdir(options, trained=True)
  config = options.config
  if options.confusion:
    pictures.check_png(options.confusion, 'confusion')
  for option in ('json', 'confusion'):
    if options[option].value:
      paths.make_for(options[option].value, option)
  if config.student.name in CLASSIFIERS:
    raise UserError(f'{workdir}: {config.student.name} is a classifier; evaluating one on a data '
                    'set is not there yet. `predict` shows what it says of pictures.')
  views = create_inference(config)
  if options.data_root:
    config.data.root = options.data_root
  split = options.split or config.eval.split
  source = experiment.create_source(config, split)
  mesh = parallel.create_mesh()
  model = restore(workdir, mesh=mesh, views=views, checkpoint='best' if options.best else 'latest')
  names.require_same_classes(
      source.classes, model.classes, found_in=f'the data ({split})',
      expected_in=f'the model of {workdir}', allow=options.allow_class_names)
  task = experiment.create_task(config, len(source.classes))
  evaluator = Evaluator(task, model.module, mesh, mode=config.parallel,
                        batch_size=config.eval.batch_size, limit=config.eval.limit,
                        multiple=config.eval.pad_multiple, inference=model.views)
  counts = evaluator.count(model.variables, source)
  metrics = task.summarize(counts)
  print(tables.per_class(source.classes, metrics['per_class_iou']))
  convention = ('classes that occur nowhere count as 0' if config.eval.absent_as_zero else
                'mean over the classes that occur')
  print(f'\n{split}, {metrics["images"]} images, checkpoint {model.step} of {workdir}\n'
        f'seen as         {model.views}\n'
        f'mean IoU        {metrics["mean_iou"]:.4f}   ({convention})\n'
        f'pixel accuracy  {metrics["pixel_accuracy"]:.4f}')
  if options.json:
    with open(options.json, 'w') as file:
      json.dump(finite(metrics), file, indent=2)
  if options.confusion:
    files.write_png(options.confusion,
                    pictures.confusion(counts['confusion_matrix'], source.classes))


PROGRAM = program.Program(main, define_flags, config='saved')

if __name__ == '__main__':
  PROGRAM.run()
