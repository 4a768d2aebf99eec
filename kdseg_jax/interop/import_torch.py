"""Published PyTorch weights as a work directory, to evaluate, predict, teach or start from.

python -m kdseg_jax.interop.import_torch --source=cirkd_r101.pth --model=deeplabv3_resnet101 \\
    --data=cityscapes --workdir=runs/teacher

The source is a file (.pth or .pt of any age, .safetensors, .npz), an http(s) address, 'imagenet'
(published weights of a backbone) or 'hf:<repository>'. Nothing in it is executed.
"""

from __future__ import annotations

import os

from absl import flags

from kdseg_jax import command_line, paths, program
from kdseg_jax.errors import UserError
from kdseg_jax.interop import conversion, importing, schemes
from kdseg_jax.models.normalization import CHANNEL_ORDERS


def define_flags(options):
  """The source, the model, and what a file of weights does not hold."""
  command_line.define_path('workdir', 'Work directory that is made.', options)
  flags.DEFINE_string('source', None, "File, http(s) address, 'imagenet', 'imagenet:<variant>' or "
                      "'hf:<repository>'.", flag_values=options)
  flags.DEFINE_string('model', None, 'Model of kdseg_jax, as deeplabv3_resnet101; a backbone alone '
                      'is a classifier.', flag_values=options)
  flags.DEFINE_string('data', None, 'Data set that it was trained on, as cityscapes, or a list of '
                      'classes: their names and colours.', flag_values=options)
  flags.DEFINE_integer('num_classes', None, 'Number of classes; default: that of the source.',
                       flag_values=options, lower_bound=2)
  flags.DEFINE_bool('allow_head_mismatch', False, 'Draw the layers anew that depend on the number '
                    'of classes, where the source has another.', flag_values=options)
  flags.DEFINE_enum('scheme', None, sorted(schemes.SCHEMES), 'Naming scheme; default: the one that '
                    'fits.', flag_values=options)
  for name, what in (('mean', 'is subtracted from images'), ('std', 'they are divided by')):
    flags.DEFINE_list(name, None, f'What {what}, RGB in 0-255; default: as the scheme has it.',
                      flag_values=options)
  flags.DEFINE_enum('channel_order', None, list(CHANNEL_ORDERS), 'That the model expects; default: '
                    'as the scheme has it.', flag_values=options)


def main(options, arguments):
  """Writes the work directory and prints what it holds."""
  program.no_arguments(arguments)
  for name in ('source', 'model', 'workdir'):
    if not options[name].value:
      raise UserError(f'--{name} is missing; see --help.')
  paths.check_folder(options.workdir, 'workdir')
  if os.path.isdir(options.workdir) and os.listdir(options.workdir):
    raise UserError(f'--workdir={options.workdir} is not empty; give a new one.')
  student = {name: _three_numbers(name, options[name].value) for name in ('mean', 'std')
             if options[name].value}
  if options.channel_order:
    student['channel_order'] = options.channel_order
  imported = importing.read(importing.Request(
      options.source, options.model, options.num_classes, options.allow_head_mismatch,
      options.data, options.scheme, student))
  importing.write(imported, options.workdir)
  print(_described(imported, options))


def _three_numbers(name, values):
  try:
    red, green, blue = map(float, values)
  except ValueError:
    raise UserError(f'--{name}={",".join(values)}: expected three numbers, RGB in 0-255.') from None
  return red, green, blue


def _described(imported, options):
  report, student = imported.report, imported.config.student
  lines = [f'{options.workdir}: {student.name}, {len(imported.classes)} classes '
           f'({", ".join(imported.classes[:3])}, ...), from {report["file"]}',
           f'names             {report["scheme"]}',
           f'images            {student.channel_order}, mean {_short(student.mean)}, '
           f'deviation {_short(student.std)}']
  if report['left_out']:
    lines.append(f'not taken         {conversion.summarized(report["left_out"])}')
  if report['drawn_anew']:
    lines.append(f'drawn anew        {conversion.summarized(report["drawn_anew"])}')
  if options.data is None and imported.classes[0] == 'class 0':
    lines.append('The names of the classes are not known: give --data, or --allow_class_names '
                 'where it meets data.')
  return '\n'.join(lines)


def _short(values):
  return ' '.join(f'{x:g}' for x in values)


PROGRAM = program.Program(main, define_flags, config=None)

if __name__ == '__main__':
  PROGRAM.run()
