"""Looks at the data of a run before it begins: what it is to learn, and is evaluated on."""

from __future__ import annotations

from collections.abc import Callable

import tqdm

from kdseg_jax.checkpoint import has_checkpoint
from kdseg_jax.data import Concatenated, pipeline, subset
from kdseg_jax.training.experiment import Experiment

# Examples of train are read until the task has seen enough, a few hundred of the public data sets,
# and no more than these, a minute or two of Cityscapes.
MOST_TRAINING_LABELS = 4_000


def check_data(experiment: Experiment, workdir: str,
               should_stop: Callable[[], bool] = lambda: False) -> None:
  """Reads the labels of both splits before a run that starts anew; generated data cannot be wrong.

  Of the evaluation split every image is read: what is wrong with one would else show after hours.
  Of the training split, examples at even distances until the task has seen enough, at most 4,000.
  What is missing is a warning, see `data_check` of the task.

  Raises:
    UserError: an image or label cannot be read, or as the task says.
  """
  config = experiment.config
  if has_checkpoint(workdir):
    return
  check = experiment.task.data_check(experiment.train_source.classes)
  evaluation = subset.first(experiment.evaluation_source, config.eval.limit)
  evaluated = None
  if not getattr(experiment.evaluation_source, 'is_generated', False):
    evaluated, _ = _read(check, evaluation, f'reading {config.eval.split}', should_stop)
    if should_stop():
      return
    check.check_evaluation(evaluated, config.eval.split)
  train = experiment.train_source
  train = train.first if isinstance(train, Concatenated) else train
  if not getattr(train, 'is_generated', False):
    total, read = _read(
        check, subset.spread(train, MOST_TRAINING_LABELS),
        f'reading labels of {config.data.train_split}', should_stop, until_complete=True)
    if should_stop():
      return
    check.check_training(
        total, config.data.train_split, read=read, length=len(train), evaluated=evaluated,
        has_teacher=experiment.teacher is not None)


def _read(check, source, description, should_stop, *, until_complete=False):
  """What the examples of a source contribute to a check, and how many were read."""
  total, read = 0, 0
  for found in tqdm.tqdm(pipeline.read(source, check.tally), desc=description, total=len(source),
                         unit='image', disable=None, leave=False):
    total += found
    read += 1
    if should_stop() or (until_complete and check.is_complete(total)):
      break
  return total, read
