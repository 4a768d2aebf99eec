"""Where the time and memory of a recipe's train step go: its parts, operations, and a trace.

python -m kdseg_jax.profile --config=configs/camvid.py:method=cirkd --output=profiles/cirkd \\
    --teacher=configs/camvid.py:role=teacher

Every part is compiled and timed by itself, all in turns, which is what makes them add up to the
step; the input is made beside the step before and is not part of it. The machine should do nothing
else.
"""

import json
import os

from absl import flags

from kdseg_jax import command_line, default_config, paths, program
from kdseg_jax.errors import UserError
from kdseg_jax.report import tables
from kdseg_jax.training import experiment, profiling, shapes

_NOTE = (
    'Every part is a program of its own with its gradients, timed in turns with the others; `rest` '
    'is what the step takes beyond their sum: below 0 where the step shares work between parts '
    'that, apart, write their results to memory. The input is made beside the step before: it '
    'costs only what it takes longer than the step.')


def define_flags(options):
  """`--output`, the teacher, and how often it is timed."""
  command_line.define_path('output', 'Folder of the results: profile.md, profile.json, trace/.',
                           options)
  flags.DEFINE_string(
      'teacher', None, 'Recipe of the teacher where config.teacher.checkpoint is empty: it has '
      'random weights, which take the same time.', flag_values=options)
  flags.DEFINE_integer('repeats', 10, 'Timings of each part.', flag_values=options, lower_bound=1)
  program.define_allow_imports(options)


def main(options, arguments):
  """Prints the tables, and writes them, their numbers and a trace of three steps."""
  program.no_arguments(arguments)
  if options.config is None:
    raise UserError('--config is missing: give a recipe, e.g. --config=configs/quickstart.py')
  if not options.output:
    raise UserError('--output is missing: give the folder of the results.')
  paths.check_folder(options.output, 'output')
  built = _experiment(options)
  shapes.check_step(built)
  folder = os.path.join(options.output, 'trace')
  found = profiling.measure(built, repeats=options.repeats, trace_folder=folder)
  text = '\n\n'.join([*_tables(found, options.config.train.batch_size), _NOTE])
  os.makedirs(options.output, exist_ok=True)
  with open(os.path.join(options.output, 'profile.json'), 'w') as file:
    json.dump(_numbers(found), file, indent=2)
  with open(os.path.join(options.output, 'profile.md'), 'w') as file:
    file.write(text + '\n')
  print(f'{text}\n\nIn {options.output}: profile.json, profile.md, and in trace/ what TensorBoard '
        'and ui.perfetto.dev (perfetto_trace.json.gz) show.')


def _experiment(options):
  """The parts of the run, with a teacher of random weights where it would have none."""
  config, teacher, own = options.config, None, options.config.teacher.config
  if options.teacher:
    if config.teacher.checkpoint:
      raise UserError(f'--teacher={options.teacher}: the teacher is that of config.teacher.'
                      f'checkpoint={config.teacher.checkpoint}. Leave one of them out.')
    own = command_line.load_recipe(options.teacher)
    default_config.complete(own)
  if own and not config.teacher.checkpoint:
    config, teacher = profiling.untrained_teacher(config, own)
  return experiment.create_experiment(
      config, teacher=teacher, allow_imports=options.allow_imports)


def _tables(found, batch_size):
  """The parts of the step, and its operations, in Markdown."""
  step = found.step.seconds
  row = lambda name, timing: (
      name, f'{1e3 * timing.seconds:.1f}', f'{1e3 * timing.quartiles[0]:.1f}-'
      f'{1e3 * timing.quartiles[1]:.1f}', f'{timing.seconds / step:.0%}',
      *(['', '', ''] if timing.costs is None else [
          f'{timing.costs.flops / 1e9:.2f}', f'{timing.costs.bytes / 1e9:.2f}',
          f'{timing.costs.peak_bytes / 1e9:.2f}']))
  yield tables.table(
      ['part', 'ms', 'quartiles', 'of the step', 'GFLOP', 'GB moved', 'peak GB'],
      [row(profiling.INPUT, found.input), *(row(*item) for item in found.parts.items()),
       ('rest', f'{1e3 * found.rest:.1f}', '', f'{found.rest / step:.0%}', '', '', ''),
       row(profiling.STEP, found.step)])
  yield f'{batch_size / step:.1f} images/s.'
  total = sum(operation.seconds for operation in found.operations) or 1
  yield tables.table(
      ['operations of the step', 'ms, all threads', 'share', 'count'],
      [(operation.kind, f'{1e3 * operation.seconds:.1f}', f'{operation.seconds / total:.0%}',
        f'{operation.count:.0f}') for operation in found.operations])


def _numbers(found):
  timing = lambda timing: {
      'seconds': timing.seconds, 'quartiles': timing.quartiles,
      **({} if timing.costs is None else timing.costs._asdict())}
  return {profiling.INPUT: timing(found.input),
          'parts': {name: timing(part) for name, part in found.parts.items()},
          'rest': found.rest, profiling.STEP: timing(found.step),
          'operations': [operation._asdict() for operation in found.operations]}


PROGRAM = program.Program(main, define_flags)

if __name__ == '__main__':
  PROGRAM.run()
