"""What the builders share: one schema, labels mapped while preparing, counts, streaming to disk.

TFDS's `GeneratorBasedBuilder` shuffles in memory and, above 1 GB, in files that need TensorFlow.
These builders write their shards one after the other instead, in the order of the image ids.
"""

from __future__ import annotations

import abc
import functools
import io
import math
import pathlib
from collections.abc import Iterator, Mapping
from typing import Any, ClassVar, NamedTuple

import numpy as np
import scipy.io
import tensorflow_datasets as tfds
import tqdm

from kdseg_jax.data import files, pairs
from kdseg_jax.data.tfds_builders.trees import Member, Tree
from kdseg_jax.errors import NotFoundError, UserError


class Example(NamedTuple):
  """Where an example is read."""

  image: Member
  label: Member


class Builder(tfds.core.ShardBasedBuilder):
  """Base of the builders: `image`, `label` (class indices, 255 = ignore) and `image_id`.

  Args:
    allow_partial: prepare what is there, although images of the data set are missing.
    **kwargs: of `tfds.core.DatasetBuilder`, such as `data_dir`.
  """

  VERSION = tfds.core.Version('1.0.0')
  TITLE: ClassVar[str]                      # of the data set, with its paper
  HOMEPAGE: ClassVar[str]
  CLASSES: ClassVar[tuple[str, ...]]        # in label order
  PALETTE: ClassVar[np.ndarray]             # (C, 3) uint8
  COUNTS: ClassVar[Mapping[str, int | None]]  # images of each split; None where a rule selects
  UNIONS: ClassVar[Mapping[str, tuple[str, ...]]] = {}  # splits that are read together, by name
  LABELS: ClassVar[pairs.LabelMap]          # meaning of the labels in the archives
  HAS_BOXES: ClassVar[bool] = False         # in place of labels
  EXAMPLES_PER_SHARD = 256                  # one shard's examples are held in memory

  def __init__(self, *, allow_partial: bool = False, **kwargs: Any):
    super().__init__(file_format='array_record', **kwargs)
    self.allow_partial = allow_partial

  @abc.abstractmethod
  def find(self, manual_dir: pathlib.Path) -> dict[str, dict[str, Example]]:
    """The examples of every split by image id.

    Raises:
      FileNotFoundError, ValueError: an archive, image or label is missing.
    """

  def read_label(self, member: Member) -> np.ndarray:
    """`(H, W)` labels as the archive stores them."""
    return files.decode_label(member.read(), member)

  def _info(self):
    return tfds.core.DatasetInfo(
        builder=self, description=self.TITLE, homepage=self.HOMEPAGE,
        features=tfds.features.FeaturesDict(self._features()))

  def _features(self):
    return {'image': tfds.features.Image(shape=(None, None, 3)),
            'label': tfds.features.Image(shape=(None, None, 1), encoding_format='png',
                                         use_colormap=True),
            'image_id': tfds.features.Text()}

  def _shard_iterators_per_split(self, dl_manager):
    manual_dir = pathlib.Path(dl_manager.manual_dir)
    splits = self.find(manual_dir)
    if not self.allow_partial:
      require_counts({name: len(split) for name, split in splits.items()}, self.COUNTS,
                     str(manual_dir))
    splits = {name: split for name, split in splits.items() if split}
    if not splits:
      raise NotFoundError(f'{manual_dir}: holds no image of {self.name}.\n'
                          f'{self.MANUAL_DOWNLOAD_INSTRUCTIONS}')
    bar = tqdm.tqdm(total=sum(map(len, splits.values())), desc=self.name, unit='image',
                    disable=None)
    return {name: self._shards(split, bar) for name, split in splits.items()}

  def _shards(self, split, bar):
    items = sorted(split.items())
    count = math.ceil(len(items) / self.EXAMPLES_PER_SHARD)
    bounds = [len(items) * index // count for index in range(count + 1)]
    return [functools.partial(self._generate, items[start:stop], bar)
            for start, stop in zip(bounds[:-1], bounds[1:])]

  def _generate(self, items, bar) -> Iterator[tuple[str, dict[str, Any]]]:
    for image_id, example in items:
      yield image_id, self._encode(image_id, example)
      bar.update()
    if bar.n == bar.total:
      bar.close()

  def _encode(self, image_id, example):
    content = example.image.read()
    image = files.decode_image(content, example.image)
    label = self.LABELS(self.read_label(example.label), example.label)
    files.check_pair(image, label, image_name=example.image, label_name=example.label,
                     image_content=content)
    # Bytes, not arrays: TFDS encodes arrays with TensorFlow.
    return {'image': io.BytesIO(content), 'label': io.BytesIO(files.encode_label(label)),
            'image_id': image_id}


def match(images: Mapping[str, Member], labels: Mapping[str, Member], *, image_place: str,
          label_place: str) -> dict[str, Example]:
  """Examples from the images and labels of a split; none if there is no image at all.

  Args:
    images: by image id.
    labels: by image id.
    image_place: where an image belongs, with `<id>` for its id, for errors.
    label_place: where a label belongs.

  Raises:
    ValueError: an image has no label, or a label no image.
  """
  if not images:
    return {}
  found, problems = pairs.match(
      images, labels, image_place=lambda key: image_place.replace('<id>', key),
      label_place=lambda key: label_place.replace('<id>', key))
  pairs.require_none(problems)
  return {key: Example(*pair) for key, pair in found.items()}


def listed(stems: list[str], images: Tree, image_path: str, labels: Tree,
           label_path: str) -> dict[str, Example]:
  """Examples of the image ids in a list; paths have `<id>` for the id.

  Raises:
    FileNotFoundError: a file is missing.
  """
  return {stem: Example(images[image_path.replace('<id>', stem)],
                        labels[label_path.replace('<id>', stem)]) for stem in stems}


def stems_of(tree: Tree, path: str) -> list[str]:
  """The image ids in a list, one a line."""
  return [line.strip() for line in tree.lines(path) if line.strip()]


def read_mat(member: Member, *keys: str) -> np.ndarray:
  """`(H, W)` labels in a MATLAB file, at a variable and fields of it.

  Raises:
    ValueError: the file is damaged or has no such variable.
  """
  try:
    value = scipy.io.loadmat(io.BytesIO(member.read()))
    for key in keys:
      value = value[key] if isinstance(value, dict) else value[key][0, 0]
  except Exception as error:  # scipy raises whatever the bytes lead it to
    raise UserError(f'{member}: is no MATLAB file with {".".join(keys)}: it is damaged or cut '
                    f'short ({error}). Download it again.') from error
  return np.asarray(value, np.int64)


def wrong_counts(counts: Mapping[str, int], expected: Mapping[str, int | None]) -> str:
  """The splits that have not their number of images, if it is known, in words; '' if all have."""
  return ', '.join(f'{split} has {counts.get(split, 0)} images instead of {count}'
                   for split, count in expected.items()
                   if count is not None and counts.get(split, 0) != count)


def require_counts(
    counts: Mapping[str, int], expected: Mapping[str, int | None], place: str) -> None:
  """Raises ValueError unless every split has its number of images; names all that have not."""
  wrong = wrong_counts(counts, expected)
  if wrong:
    raise UserError(f'{place}: {wrong}. Complete the data, or give --allow_partial to '
                    'go on with what is there.')
