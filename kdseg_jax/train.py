"""Trains a model, alone or with a teacher; resumes a work directory that has a checkpoint.

python -m kdseg_jax.train --config=configs/camvid.py:method=pixelwise --workdir=runs/student
"""

from kdseg_jax import program
from kdseg_jax.errors import UserError
from kdseg_jax.report import presenters
from kdseg_jax.training import loop


def define_flags(options):
  """`--workdir`."""
  program.define_workdir(options)


def main(options, arguments):
  """Runs `--config` in `--workdir`; told to stop (Ctrl-C, SIGTERM) it saves and ends with 0."""
  program.no_arguments(arguments)
  workdir = program.require_workdir(options)
  if options.config is None:
    raise UserError('--config is missing: give a recipe, e.g. --config=configs/quickstart.py')
  metrics = loop.train(options.config, workdir, allow_class_names=options.allow_class_names,
                       allow_imports=options.allow_imports)
  if metrics is None:
    print(f'Stopped; the same command goes on from what was saved. Work directory: {workdir}')
  else:
    presenter = presenters.find(options.config.task.name)
    print(f'{presenter.summary(metrics)}. Work directory: {workdir}')


PROGRAM = program.Program(main, define_flags)

if __name__ == '__main__':
  PROGRAM.run()
