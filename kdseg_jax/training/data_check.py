"""Looks at the data of a run before it begins: what it is to learn, and is evaluated on."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import jax
import numpy as np
import tqdm
from jax.experimental import multihost_utils

from kdseg_jax.checkpoint import has_checkpoint
from kdseg_jax.data import Concatenated, pipeline, subset
from kdseg_jax.errors import UserError
from kdseg_jax.training.experiment import Experiment

# Examples of train are read until the task has seen enough, a few hundred of the public data sets,
# and no more than these, a minute or two of Cityscapes.
MOST_TRAINING_LABELS = 4_000


class _Found(NamedTuple):
  """What the examples that were read contribute to a check, of all processes together.

  Attributes:
    total: sum of what each contributes.
    read: how many they are.
    stopped: whether a process was told to stop.
  """

  total: np.ndarray
  read: int
  stopped: bool


def check_data(experiment: Experiment, workdir: str,
               should_stop: Callable[[], bool] = lambda: False) -> None:
  """Reads the labels of both splits before a run that starts anew; generated data cannot be wrong.

  Of the evaluation split every image is read: what is wrong with one would else show after hours.
  Of the training split, examples at even distances until the task has seen enough, at most 4,000.
  Each process reads its own part of both. What is missing is a warning, see `data_check` of the
  task.

  Raises:
    UserError: an image or label cannot be read, by this process or another, or as the task says.
  """
  config = experiment.config
  if has_checkpoint(workdir):
    return
  check = experiment.task.data_check(experiment.train_source.classes)
  evaluation = subset.first(experiment.evaluation_source, config.eval.limit)
  evaluated = None
  if not getattr(experiment.evaluation_source, 'is_generated', False):
    found = _read(check, evaluation, f'reading {config.eval.split}', should_stop)
    if found.stopped:
      return
    evaluated = found.total
    check.check_evaluation(evaluated, config.eval.split)
  train = experiment.train_source
  train = train.first if isinstance(train, Concatenated) else train
  if not getattr(train, 'is_generated', False):
    found = _read(
        check, subset.spread(train, MOST_TRAINING_LABELS),
        f'reading labels of {config.data.train_split}', should_stop, until_complete=True)
    if found.stopped:
      return
    check.check_training(
        found.total, config.data.train_split, read=found.read, length=len(train),
        evaluated=evaluated, has_teacher=experiment.teacher is not None)


def _read(check, source, description, should_stop, *, until_complete=False):
  """What the examples of a source contribute, of which each process reads its part."""
  index, count = jax.process_index(), jax.process_count()
  part = source if count == 1 else subset.Subset(source, range(index, len(source), count))
  total, read, stopped, error = np.zeros(0, np.int64), 0, False, None
  try:
    for found in tqdm.tqdm(pipeline.read(part, check.tally), desc=description, total=len(part),
                           unit='image', disable=None, leave=False):
      total = total + found if read else found
      read, stopped = read + 1, should_stop()
      if stopped or until_complete and check.is_complete(total):
        break
  except Exception as raised:  # others wait for what this one has to say
    error = raised
  found, failed = _Found(total, read, stopped), error is not None
  if count > 1:
    found, failed = _of_all_processes(found, failed)
  if error is not None:
    raise error
  if failed:
    raise UserError(f'{description}: another process found an error in its part, and says it.')
  return found


def _of_all_processes(found, failed):
  """What all have found, and whether one has failed."""
  facts = multihost_utils.process_allgather(
      np.array([len(found.total), found.read, found.stopped, failed], np.int32))
  own = np.zeros(facts[:, 0].max(), np.int64)  # a process without examples has an empty total
  own[:len(found.total)] = found.total
  # By halves: jax would cut integers of 64 bits, as counts of pixels need, to 32.
  totals = np.ascontiguousarray(multihost_utils.process_allgather(own.view(np.int32)))
  return _Found(totals.view(np.int64).sum(axis=0), int(facts[:, 1].sum()),
                bool(facts[:, 2].any())), bool(facts[:, 3].any())
