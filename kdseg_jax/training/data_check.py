"""Looks at the labels of a run before it begins: what it is to learn, and is evaluated on."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
import tqdm
from absl import logging

from kdseg_jax.data import Concatenated, files, pipeline, subset
from kdseg_jax.errors import UserError
from kdseg_jax.training.checkpoint import has_checkpoint
from kdseg_jax.training.experiment import Experiment

# Labels of train are read until every class was seen, a few hundred of the public data sets, and
# no more than these, a minute or two of Cityscapes.
MOST_TRAINING_LABELS = 4_000
_ADVICE = ('See python -m kdseg_jax.data.check; masks saved as 0 and 255 need "labels: 255=1" in '
           'classes.txt.')


def check_data(experiment: Experiment, workdir: str,
               should_stop: Callable[[], bool] = lambda: False) -> None:
  """Reads the labels of both splits before a run that starts anew; generated data cannot be wrong.

  Of the evaluation split every image is read: what is wrong with one would else show after hours.
  Of the training split, examples at even distances until every class was seen, at most 4,000. A
  class that occurs in neither of them, or not in one, is a warning.

  Raises:
    UserError: an image or label cannot be read; a split has no labelled pixel, or train has one
      class only, so that there is nothing to learn. (Of a teacher there is: then, a warning.)
  """
  config, classes = experiment.config, experiment.train_source.classes
  if has_checkpoint(workdir):
    return
  evaluation = subset.first(experiment.evaluation_source, config.eval.limit)
  evaluated = None
  if not getattr(experiment.evaluation_source, 'is_generated', False):
    evaluated, _ = _count(evaluation, len(evaluation), f'reading {config.eval.split}', should_stop)
    if should_stop():
      return
    _report_evaluation(evaluated, classes, config.eval.split)
  train = experiment.train_source
  train = train.first if isinstance(train, Concatenated) else train
  if not getattr(train, 'is_generated', False):
    counts, read = _count(
        subset.spread(train, MOST_TRAINING_LABELS), len(train),
        f'reading labels of {config.data.train_split}', should_stop, classes=len(classes))
    if should_stop():
      return
    _report_training(counts, read, train, evaluated, experiment)


def _count(source, total, description, should_stop, *, classes=0):
  """Pixels of each value, and whether that is of all; ends once each of `classes` was seen."""
  pixels, read = np.zeros(256, np.int64), 0
  for counts in tqdm.tqdm(pipeline.read_labels(source), desc=description, total=len(source),
                          unit='image', disable=None, leave=False):
    pixels += counts
    read += 1
    if should_stop() or (classes and pixels[:classes].all()):
      break
  return pixels[:files.IGNORE_LABEL], read == total


def _report_evaluation(pixels, classes, split):
  if not pixels.any():
    raise UserError(f'{split}: no pixel of its labels is of a class, all are ignored '
                    f'({files.IGNORE_LABEL}), so that nothing can be evaluated. {_ADVICE}')
  absent = _absent(pixels, classes)
  if absent:
    logging.warning('%s has no pixel of %s: metrics are of the other classes alone.', split, absent)


def _report_training(pixels, read_all, train, evaluated, experiment):
  classes, split = experiment.train_source.classes, experiment.config.data.train_split
  absent = _absent(pixels, classes)
  if not absent:
    return
  present = np.flatnonzero(pixels)
  # Where not all were read, the evaluation split has to say the same.
  if len(present) < 2 and (read_all or evaluated is not None and not np.delete(
      evaluated, present).any()):
    what = 'no pixel of its labels is of a class, all are ignored' if not len(present) else (
        f'all labelled pixels are of one class, {classes[present[0]]}')
    message = f'{split}: {what}, so that nothing can be learned from them. {_ADVICE}'
    if experiment.teacher is None:
      raise UserError(message)
    logging.warning('%s', message)
  else:
    where = 'has no pixel' if read_all else (
        f'has, in {MOST_TRAINING_LABELS} of its {len(train)} labels, no pixel')
    logging.warning('%s %s of %s: it cannot be learned. See python -m kdseg_jax.data.check.',
                    split, where, absent)


def _absent(pixels: np.ndarray, classes: Iterable[Any]) -> str:
  """The classes without a pixel, in words."""
  names = [name for name, count in zip(classes, pixels) if not count]
  return ', '.join(names[:10]) + (f' and {len(names) - 10} more' if len(names) > 10 else '')
