"""Exports the trained model of a work directory: StableHLO, ONNX, or PyTorch-named safetensors.

python -m kdseg_jax.export --workdir=runs/student --format=stablehlo --output=exports/student
python -m kdseg_jax.export --workdir=runs/student --format=onnx --size=64,96 --output=exports/onnx

What is written is loaded again and compared with the trained model before it is kept. Segmenters
and classifiers are exported to their logits; detectors to the boxes and probabilities of all their
anchors, before suppression, for images of one size (--size, else config.eval.canvas, data.size or
the crop of training).
"""

from absl import flags

from kdseg_jax import command_line, paths, program
from kdseg_jax.errors import UserError
from kdseg_jax.inference import load
from kdseg_jax.interop import exporting
from kdseg_jax.interop.exporting import folder, hub, manifest, sizes, stablehlo
from kdseg_jax.interop.schemes import SCHEMES


def define_flags(options):
  """What is exported, as what, for which images and machines, and where to."""
  command_line.define_path('workdir', 'Work directory of the run.', options)
  command_line.define_path(
      'output', 'Folder of the export; one that is there is replaced.', options)
  flags.DEFINE_enum('format', None, list(exporting.FORMATS), 'stablehlo (jax, and what compiles '
                    'StableHLO), onnx, or safetensors (weights for PyTorch).', flag_values=options)
  flags.DEFINE_list('size', None, '<height>,<width> of the images; default: any, where the model '
                    'permits, of detectors their canvas. Fixed sizes run faster on the CPU.',
                    flag_values=options)
  flags.DEFINE_list('platforms', ['cpu', 'cuda', 'tpu'], 'That a stablehlo export is for: '
                    f'{", ".join(stablehlo.PLATFORMS)}.', flag_values=options)
  flags.DEFINE_enum('scheme', None, sorted(SCHEMES), 'Naming scheme of safetensors; default: the '
                    'first that names the whole model.', flag_values=options)
  flags.DEFINE_string('push_to', None, '<user>/<name> of a model repository of Hugging Face that '
                      'receives the folder.', flag_values=options)
  command_line.define_best(options)
  program.define_allow_imports(options)


def main(options, arguments):
  """Writes the folder, prints what it holds and how far it is from the trained model."""
  program.no_arguments(arguments)
  workdir = program.require_workdir(options, trained=True)
  for name in ('format', 'output'):
    if not options[name].value:
      raise UserError(f'--{name} is missing; see --help.')
  _check_combination(options)
  paths.check_folder(options.output, 'output')
  folder.check_output(options.output)
  if options.push_to:
    hub.check(options.push_to)
  model = load(workdir, checkpoint='best' if options.best else 'latest',
               allow_imports=options.allow_imports)
  description = exporting.export(model, options.output, exporting.Options(
      options.format, _size(options.size), tuple(options.platforms), options.scheme))
  print(_described(options.output, description))
  if options.push_to:
    print(f'sent to             {hub.push(options.output, options.push_to)}')


def _check_combination(options):
  """Refuses options of another format."""
  for name, formats in (('size', ('stablehlo', 'onnx')), ('platforms', ('stablehlo',)),
                        ('scheme', ('safetensors',))):
    if options[name].present and options.format not in formats:
      raise UserError(f'--{name} is an option of --format={" or ".join(formats)}.')


def _size(values):
  if values is None:
    return None
  try:
    height, width = map(int, values)
  except ValueError:
    raise UserError(f'--size={",".join(values)}: expected <height>,<width> in pixels.') from None
  return height, width


def _described(output, description):
  checked = description['verified']
  lines = [f'{output}: {description["model"]}, {len(description["classes"])} classes, checkpoint '
           f'{description["source"]["checkpoint"]} of {description["source"]["workdir"]}']
  for name, about in description['files'].items():
    platforms = f', for {", ".join(about["platforms"])}' if 'platforms' in about else ''
    lines.append(f'  {name}: {about["bytes"]:,} bytes{platforms}')
  if 'input' in description:
    lines.append(f'takes               {sizes.Sizes.of(description["input"])}')
  if 'scheme' in description:
    lines.append(f'names               {description["scheme"]}')
  if description['task'] == manifest.DETECTION:
    lines.append('computes            boxes and probabilities of all anchors, before suppression')
  lines.append(f'largest difference  {checked["largest_difference"]:.3g} of '
               f'{manifest.OUTPUTS[description["task"]]} with a standard deviation of '
               f'{checked["standard_deviation"]:.3g}')
  return '\n'.join(lines)


PROGRAM = program.Program(main, define_flags, config=None)

if __name__ == '__main__':
  PROGRAM.run()
