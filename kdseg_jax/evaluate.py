"""Evaluates a trained work directory on a whole split.

python -m kdseg_jax.evaluate --workdir=runs/student --split=test --json=result.json
"""

import json

from absl import flags

from kdseg_jax import program
from kdseg_jax.report import tables
from kdseg_jax.training import experiment, parallel
from kdseg_jax.training.evaluation import Evaluator
from kdseg_jax.training.writers import finite

_CONFIG = program.define_config()
_SPLIT = flags.DEFINE_string('split', None, 'Split to evaluate; default: config.eval.split.')
_DATA_ROOT = flags.DEFINE_string(
    'data_root', None, 'Folder of the data set; default: config.data.root.')
_JSON = flags.DEFINE_string('json', None, 'File that receives the metrics.')
_BEST = flags.DEFINE_bool('best', False, 'The best checkpoint instead of the newest.')


def main(arguments):
  """Prints the per-class table and the metrics; writes them to `--json`."""
  program.no_arguments(arguments)
  workdir = program.require_workdir(trained=True)
  config = _CONFIG.value
  if _DATA_ROOT.value:
    config.data.root = _DATA_ROOT.value
  split = _SPLIT.value or config.eval.split
  source = experiment.create_source(config, split)
  mesh = parallel.create_mesh()
  trained, _ = experiment.load_model(workdir, len(source.classes), mesh, best=_BEST.value)
  task = experiment.create_task(config, len(source.classes))
  evaluator = Evaluator(task, trained.model, mesh, mode=config.parallel,
                        batch_size=config.eval.batch_size, limit=config.eval.limit)
  metrics = evaluator(trained.variables, source)
  print(tables.per_class(source.classes, metrics['per_class_iou']))
  convention = ('classes that occur nowhere count as 0' if config.eval.absent_as_zero else
                'mean over the classes that occur')
  print(f'\n{split}, {metrics["images"]} images, checkpoint {trained.step} of {workdir}\n'
        f'mean IoU        {metrics["mean_iou"]:.4f}   ({convention})\n'
        f'pixel accuracy  {metrics["pixel_accuracy"]:.4f}')
  if _JSON.value:
    with open(_JSON.value, 'w') as file:
      json.dump(finite(metrics), file, indent=2)


if __name__ == '__main__':
  program.run(main, saved_config=True)
