"""Where a run's numbers go: `metrics.jsonl`, TensorBoard events, one log line."""

from __future__ import annotations

import json
import os

import jax
import numpy as np
import tensorboardX
from absl import logging

from kdseg_jax.data.json_files import METRICS_FILE, finite, read_rows


class MetricWriter:
  """Writes metrics of a work directory, on the first process only.

  A resumed run continues the same file: rows of later steps than those it starts from, which the
  interrupted run wrote but the resumed one will write again, are dropped first.

  Args:
    workdir: work directory.
    start: number of the step from which the run goes on.
    label: stands before the log's lines, where runs side by side write to one log.
  """

  def __init__(self, workdir: str, *, start: int, label: str = ''):
    self._label = f'{label}: ' if label else ''
    self._path = os.path.join(workdir, METRICS_FILE)
    self._events, self._kept = None, []
    if jax.process_index() == 0:
      os.makedirs(workdir, exist_ok=True)
      self._kept = _drop_rows_after(workdir, start)
      self._events = tensorboardX.SummaryWriter(
          os.path.join(workdir, 'tensorboard'), purge_step=start + 1)

  @property
  def is_writing(self) -> bool:
    """True on the first process."""
    return self._events is not None

  def has(self, phase: str, step: int) -> bool:
    """True if the run that is continued has written this row."""
    return any(row['phase'] == phase and row['step'] == step for row in self._kept)

  def write(self, phase: str, step: int, metrics: dict[str, float]) -> None:
    """Writes one row `{phase, step, **metrics}`, the same scalars as events, and a log line."""
    if self._events is None:
      return
    row = {'phase': phase, 'step': step} | metrics
    with open(self._path, 'a') as file:
      file.write(json.dumps(finite(row)) + '\n')
    scalars = {k: v for k, v in metrics.items() if isinstance(v, (int, float))}
    for name, value in scalars.items():
      self._events.add_scalar(f'{phase}/{name}', value, step)
    self._events.flush()
    logging.info('%s%s %d  %s', self._label, phase, step,
                 '  '.join(f'{name} {_short(value)}' for name, value in scalars.items()))

  def write_pictures(self, phase: str, step: int, pictures: list[np.ndarray]) -> None:
    """Writes pictures `(H, W, 3)` uint8 RGB as events `<phase>/picture_<position>`."""
    if self._events is None:
      return
    for i, picture in enumerate(pictures):
      self._events.add_image(f'{phase}/picture_{i}', picture, step, dataformats='HWC')
    self._events.flush()

  def close(self) -> None:
    """Closes the event file."""
    if self._events is not None:
      self._events.close()


def _short(value):
  return str(value) if isinstance(value, int) else f'{value:.4g}'


def _drop_rows_after(workdir, start):
  """Rewrites the file without the rows of later steps; returns those that are kept."""
  path = os.path.join(workdir, METRICS_FILE)
  if not os.path.exists(path):
    return []
  kept = [row for row in read_rows(workdir) if row['step'] <= start]
  temporary = path + '.tmp'
  with open(temporary, 'w') as file:
    file.writelines(json.dumps(row) + '\n' for row in kept)
  os.replace(temporary, path)
  return kept


class StepTimer:
  """Step time and images/s of the steps since the last report; the first step is left out."""

  def __init__(self, clock, batch_size: int):
    self._clock, self._batch_size = clock, batch_size
    self._start, self._steps = None, 0

  def tick(self) -> None:
    """Counts a finished step; the first one, which compiles, only starts the clock."""
    if self._start is None:
      self._start = self._clock()
    else:
      self._steps += 1

  def report(self) -> dict[str, float]:
    """`step_seconds` and `images_per_second` since the last report; {} where nothing ran."""
    seconds, steps = self._clock() - self._start, self._steps
    self.restart()
    if not steps:
      return {}
    return {'step_seconds': seconds / steps,
            'images_per_second': steps * self._batch_size / seconds}

  def restart(self) -> None:
    """Starts afresh after time that was spent on something else (evaluation, saving)."""
    self._start, self._steps = self._clock(), 0
