"""Evaluates a trained work directory on a whole split.

python -m kdseg_jax.evaluate --workdir=runs/student --split=test --json=result.json
Windows, scales and mirror images: --config.eval.window="(512,512)" --config.eval.flip=True ...
"""

import json

from absl import flags

from kdseg_jax import names, program
from kdseg_jax.data import files
from kdseg_jax.report import pictures, tables
from kdseg_jax.training import experiment, parallel
from kdseg_jax.training.evaluation import Evaluator
from kdseg_jax.training.writers import finite

_CONFIG = program.define_config()
_SPLIT = flags.DEFINE_string('split', None, 'Split to evaluate; default: config.eval.split.')
_DATA_ROOT = flags.DEFINE_string(
    'data_root', None, 'Folder of the data set; default: config.data.root.')
_JSON = flags.DEFINE_string('json', None, 'File that receives the metrics.')
_CONFUSION = flags.DEFINE_string(
    'confusion', None, 'PNG file that receives a picture of the confusion matrix.')
_BEST = flags.DEFINE_bool('best', False, 'The best checkpoint instead of the newest.')


def main(arguments):
  """Prints the per-class table and the metrics; writes `--json` and `--confusion`."""
  program.no_arguments(arguments)
  workdir = program.require_workdir(trained=True)
  config = _CONFIG.value
  if _CONFUSION.value:
    pictures.check_png(_CONFUSION.value, 'confusion')
  inference = experiment.create_inference(config)
  if _DATA_ROOT.value:
    config.data.root = _DATA_ROOT.value
  split = _SPLIT.value or config.eval.split
  source = experiment.create_source(config, split)
  mesh = parallel.create_mesh()
  trained, meta = experiment.load_model(workdir, None, mesh, best=_BEST.value)
  names.require_same_classes(
      source.classes, meta.classes, found_in=f'the data ({split})',
      expected_in=f'the model of {workdir}', allow=program.ALLOW_CLASS_NAMES.value)
  task = experiment.create_task(config, len(source.classes))
  evaluator = Evaluator(task, trained.model, mesh, mode=config.parallel,
                        batch_size=config.eval.batch_size, limit=config.eval.limit,
                        multiple=config.eval.pad_multiple, inference=inference)
  counts = evaluator.count(trained.variables, source)
  metrics = task.summarize(counts)
  print(tables.per_class(source.classes, metrics['per_class_iou']))
  convention = ('classes that occur nowhere count as 0' if config.eval.absent_as_zero else
                'mean over the classes that occur')
  print(f'\n{split}, {metrics["images"]} images, checkpoint {trained.step} of {workdir}\n'
        f'seen as         {inference}\n'
        f'mean IoU        {metrics["mean_iou"]:.4f}   ({convention})\n'
        f'pixel accuracy  {metrics["pixel_accuracy"]:.4f}')
  if _JSON.value:
    with open(_JSON.value, 'w') as file:
      json.dump(finite(metrics), file, indent=2)
  if _CONFUSION.value:
    files.write_png(_CONFUSION.value,
                    pictures.confusion(counts['confusion_matrix'], source.classes))


if __name__ == '__main__':
  program.run(main, saved_config=True)
