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
    with_sharding,
)
from kdseg_jax.training.state import TrainState

PyTree = Any


def load_initial_weights(experiment: Experiment, state: TrainState) -> TrainState:
  """A fresh state with the weights of another run, if the config names one.

  `config.student.init`: a run of the same architecture on as many classes; every leaf must fit.
  `config.train.init_from`: one on other data; the leaves whose shapes depend on the number of
  classes keep their fresh values where that number differs, and the log names them; every other
  leaf must fit. Of either, the best checkpoint, and the moving average if it holds one.

  Raises:
    CheckpointError: there is no checkpoint, or leaves differ; says which.
    UserError: as many classes with other names, whose heads would be taken.
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
  heads = _differing(fresh, saved)
  if heads and config.student.init:
    raise CheckpointError(
        f'config.{field}: {workdir} was trained on {len(saved_classes)} classes, and these data '
        f'have {len(classes)}, so that these leaves differ: {", ".join(heads)}. Set '
        'config.train.init_from instead, to start without them.')
  if heads:
    logging.warning('Not taken from there, for they depend on the number of classes (%d there, %d '
                    'here): %s.', len(saved_classes), len(classes), ', '.join(heads))
  else:
    names.require_same_classes(
        saved_classes, classes, found_in=f'{workdir} (config.{field})', expected_in='the data',
        allow=experiment.allow_class_names)
  variables = jax.tree.map(
      lambda new, old: old if new.shape == old.shape else new, fresh, saved)
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
      step, with_sharding(abstract_variables(model), experiment.mesh))
  checkpointer.close()
  logging.info('Starting from the weights of %s, step %d.', workdir, step)
  return saved, classes


def _differing(fresh, saved):
  """Paths of the leaves whose shapes differ."""
  leaves = zip(jax.tree_util.tree_leaves_with_path(fresh), jax.tree.leaves(saved))
  return [jax.tree_util.keystr(path, simple=True, separator='/')
          for (path, new), old in leaves if new.shape != old.shape]
