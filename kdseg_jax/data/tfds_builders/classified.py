"""What the builders of data sets with one class an image share."""

from __future__ import annotations

import io
from typing import Any, NamedTuple, Protocol

import tensorflow_datasets as tfds

from kdseg_jax.data import files
from kdseg_jax.data.tfds_builders import base


class Content(Protocol):
  """The file of an image; its text form is its place, for errors."""

  def read(self) -> bytes:
    """The content."""


class ClassExample(NamedTuple):
  """Where an image is read, and the index of its class."""

  image: Content
  label: int


class ClassBuilder(base.Builder):
  """Base of the builders: `image`, `label` (index of one of `CLASSES`) and `image_id`."""

  EXAMPLES_PER_SHARD = 1024

  def _info(self):
    return tfds.core.DatasetInfo(
        builder=self, description=self.TITLE, homepage=self.HOMEPAGE,
        features=tfds.features.FeaturesDict({
            'image': tfds.features.Image(shape=(None, None, 3)),
            'label': tfds.features.ClassLabel(names=self.CLASSES),
            'image_id': tfds.features.Text()}))

  def read_image(self, image: Content) -> bytes:
    """The content that is stored of an image."""
    return image.read()

  def _encode(self, image_id: str, example: ClassExample) -> dict[str, Any]:
    content = self.read_image(example.image)
    files.decode_image(content, example.image)  # what cannot be read is found here, not in training
    return {'image': io.BytesIO(content), 'label': example.label, 'image_id': image_id}
