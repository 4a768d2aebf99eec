"""Evaluates a trained work directory on a whole split.

python -m kdseg_jax.evaluate --workdir=runs/student --split=test --json=result.json
Windows, scales and mirror images: --config.eval.window="(512,512)" --config.eval.flip=True ...
"""

import json

from absl import flags

from kdseg_jax import command_line, names, parallel, paths, program, tasks
from kdseg_jax.data import files
from kdseg_jax.data.json_files import finite
from kdseg_jax.errors import UserError
from kdseg_jax.inference.evaluation import Evaluator
from kdseg_jax.inference.model import restore
from kdseg_jax.inference.views import create_inference
from kdseg_jax.report import pictures, presenters
from kdseg_jax.training import experiment


def define_flags(options):
  """What is evaluated, and the files that receive the results."""
  program.define_workdir(options)
  flags.DEFINE_string('split', None, 'Split to evaluate; default: config.eval.split.',
                      flag_values=options)
  command_line.define_path(
      'data_root', 'Folder of the data set; default: config.data.root.', options)
  command_line.define_path('json', 'File that receives the metrics.', options)
  for name, figure in presenters.figures().items():
    command_line.define_path(name, figure.help, options)
  command_line.define_best(options)


def main(options, arguments):
  """Prints the per-class table and the metrics; writes `--json` and the task's figures."""
  program.no_arguments(arguments)
  workdir = program.require_workdir(options, trained=True)
  config = options.config
  program.require_imports(options, 'task.name', 'data.name')
  task_name = tasks.name_of(config)
  drawn = _figures(options, task_name)
  if options.json:
    paths.make_for(options.json, 'json')
  views = create_inference(config)
  if options.data_root:
    config.data.root = options.data_root
  split = options.split or config.eval.split
  source = experiment.create_evaluation_source(config, split)
  mesh = parallel.create_mesh()
  model = restore(workdir, mesh=mesh, views=views, checkpoint='best' if options.best else 'latest',
                  allow_imports=options.allow_imports)
  names.require_same_classes(
      source.classes, model.classes, found_in=f'the data ({split})',
      expected_in=f'the model of {workdir}', allow=options.allow_class_names)
  task = experiment.create_task(config, len(source.classes))
  evaluated, variables, seen = task, model.variables, [('seen as', str(model.views))]
  for figure in (figure for _, figure in drawn if figure.beside_teacher):
    teacher = experiment.load_teacher(
        config, source.classes, mesh, allow_class_names=options.allow_class_names,
        allow_imports=options.allow_imports)
    evaluated = figure.beside_teacher(evaluated, teacher)
    variables = variables, teacher.variables
    seen.append(('teacher', f'checkpoint {teacher.step} of {teacher.workdir}'))
  evaluator = Evaluator(evaluated, model.module, mesh, mode=config.parallel,
                        batch_size=config.eval.batch_size, limit=config.eval.limit,
                        multiple=config.eval.pad_multiple, inference=model.views)
  found = evaluator.accumulate(variables, source)
  metrics = found.summarize()
  presenter = presenters.create(task_name, source)
  table = presenter.table(metrics)
  print(f'{table}\n\n' if table else '', end='')
  print(f'{split}, {metrics["images"]} images, checkpoint {model.step} of {workdir}')
  for name, text in [*seen, *presenter.details(metrics, task)]:
    print(f'{name:<16}{text}')
  if options.json:
    with open(options.json, 'w') as file:
      json.dump(finite(metrics), file, indent=2)
  for path, figure in drawn:
    files.write_png(path, figure.draw(found, source.classes))


def _figures(options, task_name):
  """The figures that are asked for, each with the path of its file, whose folder is made."""
  known = presenters.find(task_name).figures
  paths_of = {name: options[name].value for name in presenters.figures() if options[name].value}
  for name, path in paths_of.items():
    names.require(name, known, f'figure of the task {task_name}')
    pictures.check_png(path, name)
    if known[name].beside_teacher and not options.config.teacher.checkpoint:
      raise UserError(
          f'--{name}: needs the teacher, and config.teacher.checkpoint of {options.workdir} is '
          'empty. Give its work directory as --config.teacher.checkpoint=<directory>.')
  for name, path in paths_of.items():
    paths.make_for(path, name)
  return [(path, known[name]) for name, path in paths_of.items()]


PROGRAM = program.Program(main, define_flags, config='saved')

if __name__ == '__main__':
  PROGRAM.run()
