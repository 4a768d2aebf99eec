"""Sources that read data prepared with TFDS, without TensorFlow."""

from __future__ import annotations

import os
import pathlib
import re
from collections.abc import Sequence
from typing import Any

import numpy as np
from absl import logging

from kdseg_jax import extras, names
from kdseg_jax.data import boxed, class_names, files, pairs
from kdseg_jax.errors import NotFoundError, UserError

_ID_KEYS = ('image_id', 'file_name', 'id')  # ours, and what TFDS's own builders have


class Records:
  """Segmentation examples from the records of TFDS.

  `source[i]` is a dict of `image` `(H, W, 3)` uint8 RGB, `label` `(H, W)` uint8 and `image_id`.

  Args:
    records: sequence of dicts with encoded images (TFDS's data source with `SkipDecoding`).
    where: what the records are, for errors.
    classes: names in label order.
    palette: `(C, 3)` uint8.
    image_key: entry of a record with the image.
    label_key: entry with the label, an 8-bit PNG of class indices and 255 = ignore.
    size: (height, width) to which images (by area when shrinking) and labels (nearest pixel) are
      resized; None keeps their own.
  """

  def __init__(self, records: Any, *, where: str, classes: Sequence[str], palette: np.ndarray,
               image_key: str = 'image', label_key: str = 'label',
               size: tuple[int, int] | None = None):
    self._records, self._where, self._keys = records, where, (image_key, label_key)
    self.classes, self.palette = tuple(classes), palette
    self._label_map = pairs.LabelMap.identity(len(self.classes))
    self.size = tuple(size) if size else None

  def __len__(self) -> int:
    return len(self._records)

  def __getitem__(self, index: int) -> dict[str, Any]:
    image_id, (content, label_content), (image_name, label_name) = self._read(index)
    image = files.decode_image(content, image_name)
    label = self._label_map(files.decode_label(label_content, label_name), label_name)
    files.check_pair(image, label, image_name=image_name, label_name=label_name,
                     image_content=content)
    return pairs.resized(image, label, self.size) | {'image_id': image_id}

  def _read(self, index):
    """The id of an example, what is stored of its image and label, and their names for errors."""
    pairs.check_index(index, len(self))
    record = self._records[index]
    image_id = next((record[key] for key in _ID_KEYS if key in record), index)
    image_id = image_id.decode() if isinstance(image_id, bytes) else str(image_id)
    names_of = [f'{self._where}, example {index} ({image_id}), {key}' for key in self._keys]
    return image_id, [record[key] for key in self._keys], names_of


class ClassRecords(Records):
  """Images with one class each from the records of TFDS.

  As `Records`, but the label is int32, of a feature `ClassLabel`.
  """

  def __getitem__(self, index: int) -> dict[str, Any]:
    image_id, (content, label), (image_name, label_name) = self._read(index)
    if not 0 <= label < len(self.classes):
      raise UserError(f'{label_name}: is {label}; expected a class, 0 to {len(self.classes) - 1}.')
    image = files.decode_image(content, image_name)
    if self.size:
      image = files.resize_image(image, self.size)
    return {'image': image, 'label': np.int32(label), 'image_id': image_id}


class BoxRecords:
  """Examples with boxes from the records of TFDS, as of `boxed.BoxSource`.

  Args:
    records: sequence of dicts with an encoded `image` (TFDS's data source with `SkipDecoding`),
      `boxes`, `classes`, `crowd`, `area` and `image_id`.
    where: what the records are, for errors.
    classes: names in label order.
    palette: `(C, 3)` uint8.
    size: see `boxed.BoxSource`.
  """

  def __init__(self, records: Any, *, where: str, classes: Sequence[str], palette: np.ndarray,
               size: tuple[int, int] | None = None):
    self._records, self._where = records, where
    self.classes, self.palette = tuple(classes), palette
    self.size = tuple(size) if size else None

  def __len__(self) -> int:
    return len(self._records)

  def size_of(self, index: int) -> boxed.Size:
    """(height, width) of an example; its record is read, its image is not decoded."""
    return self.size or files.image_size(*self._image(index, self._records[index]))

  def __getitem__(self, index: int) -> dict[str, Any]:
    pairs.check_index(index, len(self))
    record = self._records[index]
    image_id = record['image_id'].decode()
    image = files.decode_image(*self._image(index, record))
    return boxed.example(image, {name: record[name] for name in (
        'boxes', 'classes', 'crowd', 'area')}, image_id, self.size)

  def _image(self, index, record):
    """The file of an image, and its name for errors."""
    return record['image'], f'{self._where}, example {index} ({record["image_id"].decode()})'


def create_prepared(name: str, split: str, *, root: str | os.PathLike | None = None,
                    size: tuple[int, int] | None = None) -> Records | BoxRecords:
  """A split that `python -m kdseg_jax.data.prepare` wrote.

  Args:
    name: of the data set, as there.
    split: 'train', 'val' or another that it has, or several, as 'train+val'.
    root: its `--data_dir`; None or '' is `$KDSEG_DATA`.
    size: see `Records`.

  Raises:
    ValueError: no root, or an unknown split.
    FileNotFoundError: the data set or a split was not prepared there; says the command.
  """
  extras.require('data', 'tensorflow_datasets', f'The data set {name}')
  import tensorflow_datasets as tfds  # slow to import, and only these sources need it

  from kdseg_jax.data import tfds_builders
  from kdseg_jax.data.tfds_builders.base import wrong_counts

  builder_class = tfds_builders.BUILDERS[name]
  parts = split.split('+')
  for part in parts:
    names.require(part, (*builder_class.UNIONS, *builder_class.COUNTS), f'split of {name}')
  given = root or os.environ.get('KDSEG_DATA')
  command = (f'python -m kdseg_jax.data.prepare {name} --manual_dir=<archives> '
             f'--data_dir={given or "<folder>"}')
  if not given:
    raise UserError(f'{name} is read from a prepared directory: give root '
                    f'(--config.data.root=<folder>) or set $KDSEG_DATA to it. To prepare: '
                    f'{command}')
  if not is_prepared(name, given):
    raise NotFoundError(f'{given}: holds no prepared {name}. Prepare it once: {command}\n'
                        f'{builder_class.MANUAL_DOWNLOAD_INSTRUCTIONS}')
  builder = builder_class(data_dir=given)
  members = {part: builder.UNIONS.get(part, (part,)) for part in parts}
  counts = {one: info.num_examples for one, info in builder.info.splits.items()}
  for part in parts:
    if not counts.keys() & set(members[part]):
      raise NotFoundError(f'{builder.data_path}: was prepared without the split {part}. Delete '
                          f'this folder and prepare it again with all archives: {command}')
  read = [one for part in parts for one in members[part]]
  wrong = wrong_counts(counts, {one: builder.COUNTS[one] for one in read})
  if wrong:
    logging.warning('%s: %s: it was prepared with --allow_partial.', builder.data_path, wrong)
  stored = '+'.join(one for one in read if one in counts)  # of a union with few images a part
  shown = {'classes': builder.CLASSES, 'palette': builder.PALETTE, 'size': size,
           'where': str(builder.data_path)}
  if builder.HAS_BOXES:
    return BoxRecords(_records(tfds, builder, stored, ['image']), **shown)
  return _create(tfds, builder, stored, ('image', 'label'), **shown)


def is_prepared(name: str, root: str | os.PathLike | None) -> bool:
  """True if `root`, or `$KDSEG_DATA`, holds a data set that was prepared."""
  given = root or os.environ.get('KDSEG_DATA')
  return bool(given) and any(pathlib.Path(given, f'kdseg_{name}').glob('*/dataset_info.json'))


def create_tfds(name: str, split: str, *, root: str | os.PathLike | None = None,
                size: tuple[int, int] | None = None, image_key: str = 'image',
                label_key: str = 'label', num_classes: int = 0) -> Records:
  """A split of a data set of TFDS, of label maps or classes, in a format of random access.

  Args:
    name: of TFDS, with its config if it has one: 'oxford_iiit_pet', 'cityscapes/...'.
    split: of TFDS; 'train[:90%]' and 'train+val' too.
    root: its `data_dir`; None or '' is `$KDSEG_DATA`, or else TFDS's own default.
    size: see `Records`.
    image_key: feature of the image.
    label_key: feature of the label: a map of class indices and 255 = ignore, or a `ClassLabel`.
    num_classes: number of classes; 0 asks the label feature (`LabeledImage`, `ClassLabel` know).

  Raises:
    ValueError: unknown data set, split or feature, the number of classes is not known, or it was
      prepared in another format.
    FileNotFoundError: it was not prepared.
  """
  extras.require('data', 'tensorflow_datasets', f'The data set tfds:{name}')
  import tensorflow_datasets as tfds

  from kdseg_jax.data import tfds_builders  # registers ours, so that they have names too

  del tfds_builders
  root = root or os.environ.get('KDSEG_DATA')
  plain_name = re.split('[/:]', name)[0]
  if not (root and pathlib.Path(root, plain_name).is_dir()):  # else it needs no builder
    known = tfds.list_builders(with_community_datasets=False)
    if plain_name not in known:  # hundreds: too many to be listed
      raise UserError(f'Unknown data set of TFDS: {plain_name!r}.{names.hint(plain_name, known)}')
  builder = tfds.builder(name, data_dir=root or None)
  if not builder.is_prepared():
    raise NotFoundError(
        f'{builder.data_path}: TFDS has not prepared {name} there. Prepare it once: tfds build '
        f'{name} --data_dir={builder.data_dir_root} --file_format=array_record (most of its '
        'builders need TensorFlow for that; reading does not).')
  for part in split.split('+'):
    names.require(part.partition('[')[0], builder.info.splits, f'split of {name}')
  pictures = _keys_of(builder, tfds.features.Image)
  labels = [*pictures, *_keys_of(builder, tfds.features.ClassLabel)]
  for key, option, known, what in ((image_key, 'image_key', pictures, 'image'),
                                   (label_key, 'label_key', labels, 'image and no class')):
    if key not in known:
      raise UserError(f'{name}: {option}={key!r} is no {what}; it has '
                      f'{", ".join(known) or "none"} (--config.data.tfds.{option}=<name>).')
  label_feature = builder.info.features[label_key]
  classes = list(getattr(label_feature, 'names', None) or [])
  if not num_classes and not classes:
    raise UserError(f'{name}: TFDS does not say how many classes {label_key} has; give '
                    'num_classes (--config.data.tfds.num_classes=<number>).')
  if not classes or num_classes and num_classes != len(classes):
    classes = [f'class {index}' for index in range(num_classes)]
  return _create(tfds, builder, split, (image_key, label_key), classes=classes,
                 palette=class_names.palette_of(len(classes)), size=size,
                 where=f'{name} {split}')


def _keys_of(builder, kind):
  """The features of a kind."""
  return [key for key, feature in builder.info.features.items() if isinstance(feature, kind)]


def _create(tfds, builder, split, keys, **options):
  """The source of a split, by the kind of its label."""
  encoded = set(keys) & set(_keys_of(builder, tfds.features.Image))
  kind = Records if encoded == set(keys) else ClassRecords
  return kind(_records(tfds, builder, split, encoded), image_key=keys[0], label_key=keys[1],
              **options)


def _records(tfds, builder, split, encoded):
  """The records of a split. Images stay encoded: TFDS's decoding knows no EXIF data or palettes."""
  try:
    return builder.as_data_source(
        split=split, decoders={key: tfds.decode.SkipDecoding() for key in encoded})
  except NotImplementedError as error:
    raise UserError(f'{builder.data_path}: was prepared in a format without random access; '
                    'expected array_record. Prepare it again with --file_format=array_record, in '
                    'another data_dir.') from error
