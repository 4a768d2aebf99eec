"""Published PyTorch weights as a work directory, to evaluate, predict, teach or start from.

python -m kdseg_jax.interop.import_torch --source=cirkd_r101.pth --model=deeplabv3_resnet101 \\
    --data=cityscapes --workdir=runs/teacher

The source is a file (.pth or .pt of any age, .safetensors, .npz), an http(s) address,
'imagenet' (published weights of --model, a backbone) or 'hf:<repository>'. Nothing in it is run.
What can be imported, and from where: docs/weights.md.
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from absl import flags
from flax import traverse_util

import kdseg_jax
from kdseg_jax import command_line, config_files, default_config, models, names, paths, program
from kdseg_jax.data import class_names
from kdseg_jax.errors import UserError
from kdseg_jax.interop import conversion, download, pretrained, schemes, state_dicts
from kdseg_jax.models.normalization import CHANNEL_ORDERS, Preprocessing
from kdseg_jax.training import experiment
from kdseg_jax.training.checkpoint import Checkpointer, has_checkpoint

REPORT = 'import.json'


class Imported(NamedTuple):
  """A model from elsewhere.

  Attributes:
    variables: `{'params', 'batch_stats'}`.
    config: of a run, as far as it concerns the model.
    classes: their names.
    palette: `(C, 3)` uint8.
    report: where it is from, the scheme, and what has been left out or drawn anew.
  """

  variables: Any
  config: Any
  classes: tuple[str, ...]
  palette: np.ndarray
  report: dict[str, Any]


def define_flags(options):
  """The source, the model, and the conventions that a file does not hold."""
  command_line.define_path('workdir', 'Work directory that is made.', options)
  flags.DEFINE_string('source', None, "File, http(s) address, 'imagenet', 'imagenet:<variant>' or "
                      "'hf:<repository>'.", flag_values=options)
  flags.DEFINE_string('model', None, 'Model of kdseg_jax, as deeplabv3_resnet101; a backbone alone '
                      'is a classifier.', flag_values=options)
  flags.DEFINE_integer('num_classes', None, 'Number of classes; default: that of the source.',
                       flag_values=options)
  flags.DEFINE_bool('allow_head_mismatch', False, 'Draw the layers anew that depend on the number '
                    'of classes, where the source has another.', flag_values=options)
  flags.DEFINE_string('data', None, 'Data set that it was trained on, as cityscapes: names and '
                      'colours of the classes.', flag_values=options)
  flags.DEFINE_string('scheme', None, 'Naming scheme of the source; default: the one that fits. '
                      + ', '.join(schemes.SCHEMES) + '.', flag_values=options)
  flags.DEFINE_list('mean', None, 'Of the images, RGB in 0-255; default: the scheme\'s.',
                    flag_values=options)
  flags.DEFINE_list('std', None, 'Likewise.', flag_values=options)
  flags.DEFINE_enum('channel_order', None, list(CHANNEL_ORDERS), 'That the model expects; default: '
                    'the scheme\'s.', flag_values=options)


def main(options, arguments):
  """Writes the work directory, whole or not at all, and prints what it holds."""
  program.no_arguments(arguments)
  for option in ('source', 'model', 'workdir'):
    if not options[option].value:
      raise UserError(f'--{option} is missing; see --help.')
  names.require(options.model, models.NAMES, 'model')
  paths.check_folder(options.workdir, 'workdir')
  if os.path.isdir(options.workdir) and os.listdir(options.workdir):
    what = 'holds a run' if has_checkpoint(options.workdir) else 'is not empty'
    raise UserError(f'--workdir={options.workdir} {what}; give a new one.')
  imported = read(options)
  write(imported, options.workdir)
  print(_described(imported, options.workdir))


def read(options: flags.FlagValues) -> Imported:
  """The model that the options describe.

  Raises:
    UserError: the source cannot be had or read, or does not fit the model; says why.
  """
  path, state_dict, preprocessing = _source(options.source, options.model)
  scheme, model_name = _scheme(options, state_dict)
  layers = scheme.layers(model_name)
  classes_there = conversion.num_classes(state_dict, layers)
  config = _config(options, scheme, state_dict, preprocessing)
  num_classes = options.num_classes or (
      classes_there if model_name == options.model else _classes_of_data(options))
  classes, palette = class_names.of(options.data, num_classes)
  model = experiment.create_model(config.student, num_classes)
  like = experiment.abstract_variables(model)
  heads = _of_classes(config.student, like, num_classes)
  found = conversion.to_variables(state_dict, layers, like, head=heads)
  backbone_alone = model_name != options.model
  conversion.require_all(found, options.source, below='backbone/' if backbone_alone else '')
  if found.resized and not options.allow_head_mismatch:
    raise UserError(
        f'{options.source} has {classes_there} classes, not {num_classes}: leave --num_classes '
        'out, or draw its last layers anew with --allow_head_mismatch.')
  variables, drawn = _completed(found.variables, model)
  report = {
      'source': options.source, 'file': os.path.basename(path),
      'sha256': download.digest_of(path), 'scheme': scheme.name, 'model': options.model,
      'left_out': sorted(found.left_out), 'drawn_anew': drawn, 'version': kdseg_jax.__version__}
  return Imported(variables, config, classes, palette, report)


def write(imported: Imported, workdir: str) -> None:
  """Writes `config.json`, `import.json` and a checkpoint; of a failure nothing is left.

  Raises:
    CheckpointError: it cannot be written.
  """
  workdir = os.path.abspath(workdir)
  os.makedirs(os.path.dirname(workdir), exist_ok=True)
  whole = tempfile.mkdtemp(prefix=f'.{os.path.basename(workdir)}-', dir=os.path.dirname(workdir))
  os.chmod(whole, 0o777 & ~_umask())
  try:
    saved = config_files.to_dict(imported.config)
    checkpointer = Checkpointer(whole, metric='mean_iou')
    checkpointer.save_model(imported.variables, {
        'config': saved, 'classes': list(imported.classes), 'palette': imported.palette.tolist(),
        'jax': jax.__version__})
    checkpointer.close()
    for name, content in ((config_files.FILE, saved), (REPORT, imported.report)):
      with open(os.path.join(whole, name), 'w') as file:
        json.dump(content, file, indent=2)
    if os.path.isdir(workdir):
      os.rmdir(workdir)
    os.replace(whole, workdir)
  except BaseException:
    shutil.rmtree(whole, ignore_errors=True)
    raise


def _umask():
  current = os.umask(0)
  os.umask(current)
  return current


def _source(source, model):
  """Path, arrays, and the preprocessing where the source tells."""
  if pretrained.is_name(source):
    backbone, _ = models.backbone_of(model)
    path, preprocessing = pretrained.find(source, backbone)
  else:
    is_address = source.startswith(('http://', 'https://'))
    path = download.fetch_url(source) if is_address else paths.local(source)
    preprocessing = None
  return path, state_dicts.read(path), preprocessing
