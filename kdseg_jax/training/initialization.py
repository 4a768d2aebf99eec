"""The weights that a student starts from: another run's, or published ones."""

from __future__ import annotations

import dataclasses
from typing import Any, NamedTuple

import numpy as np
from absl import logging
from flax import traverse_util

from kdseg_jax import config_files, models, names, parallel
from kdseg_jax.checkpoint import Checkpointer, CheckpointError, describe_differences
from kdseg_jax.errors import UserError
from kdseg_jax.inference.model import abstract_variables, leaves_of_classes
from kdseg_jax.interop import conversion, pretrained
from kdseg_jax.models.normalization import Preprocessing
from kdseg_jax.training.experiment import Experiment, create_model
from kdseg_jax.training.state import TrainState

PyTree = Any

# Fields of a model's parts that another run may choose otherwise.
_OF_A_RUN = ('output_stride', 'rates', 'dropout', 'project_dropout', 'dtype', 'remat',
             'num_classes', 'axis_name', 'parent', 'name')


class _Weights(NamedTuple):
  """Arrays by path, what is not to be taken of them, and why.

  Attributes:
    variables: 'params/...' and 'batch_stats/...'.
    preprocessing: of the images that they were trained on.
    left_out: paths of ours that keep their fresh values.
    reason: why, for people.
    where: whose they are.
  """

  variables: dict[str, Any]
  preprocessing: Preprocessing
  left_out: list[str]
  reason: str
  where: str


def load_initial_weights(experiment: Experiment, state: TrainState) -> TrainState:
  """A fresh state with the weights of `config.student.init`, if it names some.

  A work directory of `train` or `import`, whose best checkpoint is taken (the moving average if it
  holds one), or published weights, see `interop.pretrained`. What follows from the classes keeps
  its fresh values where these differ in number or names; of a classifier the backbone alone is
  taken. The log names what is left out; every other leaf must fit.

  Raises:
    CheckpointError: there is no checkpoint, or leaves differ; says which.
    UserError: the weights expect images that are normalised otherwise; or as `pretrained.load`.
  """
  init = experiment.config.student.init
  if not init:
    return state
  fresh = traverse_util.flatten_dict(
      {'params': state.params, 'batch_stats': state.batch_stats}, sep='/')
  try:
    weights = _published(experiment, fresh) if pretrained.is_name(init) else (
        _of_run(experiment, init, fresh))
    _require_same_images(weights, experiment.config.student)
    wanted = {path: leaf for path, leaf in fresh.items() if path not in weights.left_out}
    given = {path: leaf for path, leaf in weights.variables.items()
             if path not in weights.left_out}
    differences = describe_differences(given, wanted)
    if differences:
      raise CheckpointError(f'{weights.where} does not fit the student, by these leaves:\n'
                            + differences)
  except (CheckpointError, UserError) as error:
    raise type(error)(f'config.student.init: {error}') from None
  logging.info('Starting from %s.', weights.where)
  if weights.left_out:
    logging.warning('Not taken from there, for %s: %s.', weights.reason,
                    conversion.summarized(weights.left_out))
  variables = traverse_util.unflatten_dict(parallel.replicate(
      {path: given.get(path, leaf) for path, leaf in fresh.items()}, experiment.mesh), sep='/')
  variables.setdefault('batch_stats', {})
  average = parallel.replicate(variables, experiment.mesh) if state.average else {}
  return state._replace(**variables, average=average)


def _published(experiment, fresh):
  """The backbone of published weights; its classifier is left out."""
  student = experiment.config.student
  backbone, _ = models.backbone_of(student.name)
  found = pretrained.load(student.init, backbone)
  return _backbone_alone(found.variables, found.preprocessing, fresh, found.where)


def _of_run(experiment, workdir, fresh):
  """The best checkpoint of a work directory."""
  student, classes = experiment.config.student, experiment.train_source.classes
  checkpointer = Checkpointer(workdir)
  step = checkpointer.best_step()
  meta = checkpointer.read_meta(step)
  where, saved_classes = f'checkpoint {step} of {workdir}', meta['classes']
  saved = config_files.from_dict(meta['config'], where=where).student
  is_classifier = saved.name in models.CLASSIFIERS and student.name not in models.CLASSIFIERS
  # As many classes as there: so what differs depends on their number alone.
  there = create_model(saved, len(saved_classes))
  model = there if is_classifier else create_model(student, len(saved_classes))
  for convention in _other_conventions(there, model):
    logging.warning('config.student.init: %s was trained with %s.', where, convention)
  like = parallel.with_sharding(abstract_variables(model), experiment.mesh)
  variables = traverse_util.flatten_dict(checkpointer.restore_model(step, like), sep='/')
  checkpointer.close()
  preprocessing = Preprocessing(tuple(saved.mean), tuple(saved.std), saved.channel_order)
  if is_classifier:
    return _backbone_alone(variables, preprocessing, fresh, where)
  same_number = len(saved_classes) == len(classes)
  other_names = same_number and not experiment.allow_class_names and (
      list(map(names.composed, saved_classes)) != list(map(names.composed, classes)))
  left_out = [] if same_number and not other_names else sorted(
      leaves_of_classes(student, len(classes)))
  reason = (f'they are of its classes ({len(saved_classes)} there, {len(classes)} here'
            + (', of other names' if other_names else '') + ')')
  return _Weights(variables, preprocessing, left_out, reason, where)


def _other_conventions(there, here):
  """What differs between the parts of two models and may not show in shapes, for people."""
  for part in ('backbone', 'fpn', 'head', 'auxiliary_head'):
    theirs, ours = getattr(there, part, None), getattr(here, part, None)
    if theirs is None or type(theirs) is not type(ours):
      continue
    for field in dataclasses.fields(ours):
      values = [getattr(module, field.name) for module in (theirs, ours)]
      if field.name not in _OF_A_RUN and values[0] != values[1]:
        yield f'{part}.{field.name}={values[0]}, and here it is {values[1]}'


def _backbone_alone(variables, preprocessing, fresh, where):
  taken = {path: leaf for path, leaf in variables.items() if path.split('/')[1] == 'backbone'}
  left_out = [path for path in fresh if path.split('/')[1] != 'backbone']
  return _Weights(taken, preprocessing, left_out, 'only the backbone is in a classifier', where)


def _require_same_images(weights, student):
  """Refuses weights for images that are normalised otherwise: nothing else would tell."""
  ours = Preprocessing(tuple(student.mean), tuple(student.std), student.channel_order)
  for field, theirs, here in zip(Preprocessing._fields, weights.preprocessing, ours):
    equal = theirs == here if isinstance(here, str) else np.allclose(theirs, here, rtol=1e-3)
    if not equal:
      shown = theirs if isinstance(theirs, str) else tuple(round(x, 4) for x in theirs)
      raise UserError(
          f'{weights.where} expects {field}={shown}, and config.student.{field}={here}. Set '
          f'--config.student.{field}="{shown}".')
