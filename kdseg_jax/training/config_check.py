"""What is refused of a config before anything is built: fields that cannot work together."""

from __future__ import annotations

import functools

import jax
from jax.sharding import Mesh
from ml_collections import ConfigDict

from kdseg_jax import config_fields, names, parallel, references
from kdseg_jax.data import streams
from kdseg_jax.distillers import methods
from kdseg_jax.errors import UserError
from kdseg_jax.interop import pretrained
from kdseg_jax.models import CLASSIFIERS, backbone_of

ROLES = ('student', 'teacher')


def check_config(config: ConfigDict, mesh: Mesh) -> None:
  """Checks the fields that nothing else checks before the first step.

  Raises:
    ValueError: says which field, and what was expected.
  """
  config_fields.check(config)
  methods.check(config.distill.to_dict())
  _check_options(config)
  names.require(config.role, ROLES, 'config.role')
  name, is_classifier = config.student.name, config.student.name in CLASSIFIERS
  if is_classifier and config.task.name == 'segmentation':
    raise UserError(
        f'config.student.name={name} is a classifier, and the labels are of pixels: segmentation '
        f'needs a head on it, <head>_{name}, as deeplabv3_{name}.')
  if not (is_classifier or references.is_reference(name)) and (
      config.task.name == 'classification'):
    raise UserError(
        f'config.student.name={name} gives every pixel a class, and the labels are of images: '
        'classification needs a classifier, a backbone alone, as resnet18 or cifar_resnet20.')
  parallel.check_batch_size(config.train.batch_size, mesh, 'train.batch_size')
  if config.train.batch_size // mesh.size % config.train.accumulate:
    raise UserError(
        f'config.train.accumulate={config.train.accumulate} does not divide the '
        f'{config.train.batch_size // mesh.size} images that each of {mesh.size} devices has of '
        f'config.train.batch_size={config.train.batch_size}.')
  if config.data.by_orientation and config.data.unlabelled:
    raise UserError(f'config.data.by_orientation=True and unlabelled={config.data.unlabelled}: '
                    'images without labels do not tell their sizes. Leave one of them out.')
  _check_unlabelled_share(config)
  if config.train.compile_level not in range(4):
    raise UserError(
        f'config.train.compile_level={config.train.compile_level} must be 0, 1, 2 or 3.')
  if config.parallel == 'pmap' and jax.process_count() > 1:
    raise UserError('config.parallel=pmap runs in one process only: its arrays cannot be saved by '
                    'several. Use shard_map.')
  if pretrained.is_name(config.student.init):
    _check_published(config.student)


def _check_options(config):
  """Refuses options beside a name of ours, whose fields stand in the section itself."""
  for field in ('student', 'data', 'optimizer', 'critic.optimizer', 'prepare.optimizer'):
    section = functools.reduce(getattr, field.split('.'), config)
    if section.options and not references.is_reference(section.name):
      raise UserError(
          f'config.{field}.options={section.options.to_dict()}: are of what a module:attribute '
          f'names, and config.{field}.name={section.name}. Set the fields of config.{field}.')


def _check_published(student):
  """Refuses a model that no published weights fit."""
  backbone_of(student.name)
  if student.width != 1:
    raise UserError(f'config.student.init={student.init}: published weights are of width 1, and '
                    f'config.student.width={student.width}.')


def _check_unlabelled_share(config):
  """Refuses a share that batches or micro-batches cannot have, or that says nothing."""
  share, parts = config.data.unlabelled_share, config.train.accumulate
  if share is None:
    return
  if not config.data.unlabelled:
    raise UserError(f'config.data.unlabelled_share={share} has no effect without '
                    'config.data.unlabelled: a folder, or rest.')
  places = streams.unlabelled_places(share, config.train.batch_size)
  if any(len(set(places[part::parts])) < 2 for part in range(parts)):
    raise UserError(
        f'config.train.accumulate={parts} would make micro-batches of only labelled or only '
        f'unlabelled images of config.data.unlabelled_share={share}, each normalised by itself. '
        'Choose another of either.')
