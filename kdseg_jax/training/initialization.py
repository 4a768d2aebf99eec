"""The weights that a student starts from, where they are another run's."""

from __future__ import annotations

from typing import Any

import jax
from absl import logging

from kdseg_jax import names
from kdseg_jax.training import parallel
from kdseg_jax.training.checkpoint import Checkpointer, CheckpointError
from kdseg_jax.training.experiment import (
    Experiment,
    abstract_variables,
    create_model,
)
from kdseg_jax.training.state import TrainState

PyTree = Any


def load_initial_weights(experiment: Experiment, state: TrainState) -> TrainState:
  """A fresh state with the weights of another run, if the config names one.

  `config.student.init`: a run of the same architecture on as many classes; every leaf must fit.
  `config.train.init_from`: one on other data; the leaves whose shapes depend on the number of
  classes keep their fresh values where the classes differ in number or names, and the log names
  them; every other leaf must fit. Of either, the best checkpoint, and the moving average if it
  holds one.

  Raises:
    CheckpointError: there is no checkpoint, or leaves differ; says which.
    UserError: `student.init`, and as many classes with other names.
  """
  config, classes = experiment.config, experiment.train_source.classes
  workdir = config.student.init or config.train.init_from
  if not workdir:
    return state
  field = 'student.init' if config.student.init else 'train.init_from'
  try:
    saved, saved_classes = _load(experiment, workdir)
  except CheckpointError as error:
    raise CheckpointError(f'config.{field}: {error}') from None
  fresh = {'params': state.params, 'batch_stats': state.batch_stats}
  same_number = len(saved_classes) == len(classes)
  heads = [] if same_number else _differing(fresh, saved)
  if config.train.init_from and same_number and not experiment.allow_class_names and (
      [names.composed(name) for name in saved_classes] != list(map(names.composed, classes))):
    heads = _differing(abstract_variables(create_model(config.student, len(classes) + 1)), saved)
  if heads and config.student.init:
    raise CheckpointError(
        f'config.{field}: {workdir} was trained on {len(saved_classes)} classes, and these data '
        f'have {len(classes)}, so that these leaves differ: {", ".join(heads)}. Set '
        'config.train.init_from instead, to start without them.')
  if heads:
    logging.warning('Not taken from there, for they are of its classes (%d there, %d here%s): %s.',
                    len(saved_classes), len(classes), ', of other names' if same_number else '',
                    ', '.join(heads))
  else:
    names.require_same_classes(
        saved_classes, classes, found_in=f'{workdir} (config.{field})', expected_in='the data',
        allow=experiment.allow_class_names)
  variables = jax.tree_util.tree_map_with_path(
      lambda path, new, old: new if _name(path) in heads else old, fresh, saved)
  average = parallel.replicate(variables, experiment.mesh) if state.average else {}
  return state._replace(**variables, average=average)


def _load(experiment, workdir):
  """The variables of the best checkpoint and its classes; the architecture is the student's."""
  checkpointer = Checkpointer(workdir)
  step = checkpointer.best_step()
  classes = checkpointer.read_meta(step)['classes']
  # With as many classes as there: so what differs from the student depends on their number alone.
  model = create_model(experiment.config.student, len(classes))
  saved = checkpointer.restore_model(
      step, parallel.with_sharding(abstract_variables(model), experiment.mesh))
  checkpointer.close()
  logging.info('Starting from the weights of %s, step %d.', workdir, step)
  return saved, classes


def _differing(fresh, saved):
  """Paths of the leaves whose shapes differ."""
  leaves = zip(jax.tree_util.tree_leaves_with_path(fresh), jax.tree.leaves(saved))
  return [_name(path) for (path, new), old in leaves if new.shape != old.shape]


def _name(path):
  return jax.tree_util.keystr(path, simple=True, separator='/')
