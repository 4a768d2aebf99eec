"""Prepares a public data set from its downloaded archives, once, for fast random access.

python -m kdseg_jax.data.prepare cityscapes --manual_dir=<archives> --data_dir=<data>

Names: camvid, cityscapes, cityscapes_coarse, voc, coco_voc, pascal_context, ade20k; of one class an
image imagenet, cifar10, cifar100; of boxes coco. The archives stay as they were downloaded (or
extracted) in --manual_dir; nothing is downloaded. Needs no TensorFlow.
Afterwards: --config.data.name=cityscapes --config.data.root=<data>, or KDSEG_DATA=<data>.
"""

from __future__ import annotations

import os
import pathlib
from typing import TYPE_CHECKING

from absl import flags, logging

from kdseg_jax import command_line, extras, names, paths, program
from kdseg_jax.errors import NotFoundError, UserError

if TYPE_CHECKING:
  import tensorflow_datasets as tfds


def prepare(name: str, manual_dir: str | os.PathLike, data_dir: str | os.PathLike, *,
            allow_partial: bool = False) -> tfds.core.DatasetInfo:
  """Prepares a data set in `data_dir`, or finds that it was prepared there already.

  Args:
    name: see `tfds_builders.BUILDERS`.
    manual_dir: folder of the archives, or of what they extract to.
    data_dir: where the prepared data go, in a folder of their own.
    allow_partial: go on although images of the data set are missing, and log how many.

  Returns:
    TFDS's description, with the number of examples of each split.

  Raises:
    ValueError: unknown name, missing images or labels, a wrong number of images, or a file that
      cannot be read; no data are left behind.
    FileNotFoundError: a folder or archive is missing.
  """
  builders = _builders()
  import tensorflow_datasets as tfds  # an extra, and slow to import

  from kdseg_jax.data.tfds_builders.base import require_counts, wrong_counts

  names.require(name, builders, 'data set to prepare')
  builder = builders[name](data_dir=data_dir, allow_partial=allow_partial)
  if builder.is_prepared():
    logging.info('%s is prepared already; delete it to prepare it anew.', builder.data_path)
  else:
    folder = pathlib.Path(manual_dir)
    if not folder.is_dir() or not any(folder.iterdir()):
      raise NotFoundError(f'--manual_dir={manual_dir}: '
                          f'{"is empty" if folder.is_dir() else "no such folder"}. '
                          f'{builder.MANUAL_DOWNLOAD_INSTRUCTIONS}')
    builder.download_and_prepare(
        download_config=tfds.download.DownloadConfig(manual_dir=manual_dir))
  counts = {split: info.num_examples for split, info in builder.info.splits.items()}
  if not allow_partial:  # also of what an earlier run left there
    require_counts(counts, builder.COUNTS, f'{builder.data_path}, to be deleted and prepared again')
  elif wrong_counts(counts, builder.COUNTS):
    logging.warning('%s: %s.', builder.data_path, wrong_counts(counts, builder.COUNTS))
  return builder.info


def _builders():
  extras.require('data', 'tensorflow_datasets', 'A public data set')
  from kdseg_jax.data import tfds_builders

  return tfds_builders.BUILDERS


def define_flags(options):
  """The folders of archives and of prepared data."""
  command_line.define_path('manual_dir', 'Folder of the downloaded archives.', options)
  command_line.define_path(
      'data_dir', 'Folder of prepared data sets; default: $KDSEG_DATA.', options)
  flags.DEFINE_bool(
      'allow_partial', False, 'Prepare what is there, although archives, splits, or images '
      'together with their labels are missing.', flag_values=options)


def main(options, arguments):
  """Prepares the data set that is named and prints the number of examples of each split."""
  if len(arguments) != 1:
    raise UserError(f'Give one data set: {", ".join(_builders())}.')
  data_dir = options.data_dir or os.environ.get('KDSEG_DATA')
  if not options.manual_dir or not data_dir:
    raise UserError('--manual_dir (the folder of the archives) and --data_dir (where prepared '
                    'data go; default: $KDSEG_DATA) are needed.')
  paths.check_folder(data_dir, 'data_dir')
  info = prepare(arguments[0], options.manual_dir, data_dir, allow_partial=options.allow_partial)
  print(f'{info.data_dir}: ' + ', '.join(
      f'{split} {part.num_examples}' for split, part in info.splits.items()))


PROGRAM = program.Program(main, define_flags, config=None, devices=False)

if __name__ == '__main__':
  PROGRAM.run()
