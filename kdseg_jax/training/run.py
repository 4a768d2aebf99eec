"""One student in its work directory: state, checkpoints, logs, evaluation around its steps."""

from __future__ import annotations

import json
import math
import os
import time
import zlib
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import numpy as np
import tqdm
from absl import logging
from ml_collections import ConfigDict

from kdseg_jax import compiling, config_files, names
from kdseg_jax.checkpoint import Checkpointer, CheckpointError, has_checkpoint
from kdseg_jax.data import augmentation, pipeline
from kdseg_jax.data.json_files import finite, read_json, write_json
from kdseg_jax.errors import UserError
from kdseg_jax.inference.evaluation import Evaluator
from kdseg_jax.report import presenters
from kdseg_jax.training.experiment import Experiment, data_root
from kdseg_jax.training.initialization import load_initial_weights
from kdseg_jax.training.preemption import StopSignal
from kdseg_jax.training.state import TrainState, not_finite
from kdseg_jax.training.writers import MetricWriter, StepTimer

PHASES = ('prepare', 'train')  # sections of the config with the number of their steps
# The fields on which the form of a state depends.
_SHAPING = tuple(f'config.{field}' for field in (
    'student', 'distill', 'optimizer', 'critic', 'train.ema_decay',
    'train.freeze', 'task', 'augmentation.crop', 'data.name', 'data.root'))
_MOST_NAMED = 8  # weights


class Diverged(UserError, FloatingPointError):
  """The loss became NaN or infinite; the message names step, terms and last good checkpoint.

  Attributes:
    workdir: of the run.
  """

  def __init__(self, message: str, workdir: str):
    super().__init__(message)
    self.workdir = workdir


class TeacherTooWeak(UserError):
  """The teacher scores worse than `config.teacher.min_metric`."""


class Due(NamedTuple):
  """What follows a step: a row in the log, an evaluation, a checkpoint."""

  log: bool
  evaluate: bool
  save: bool

  @property
  def reads_state(self) -> bool:
    """True if `Run.state` is read."""
    return self.evaluate or self.save


class Run:
  """The state of a run and what happens around its steps; the steps themselves are the caller's.

  Starts from the newest checkpoint of the work directory if it has one. After each step the
  caller sets `state` and calls `record`.

  Args:
    experiment: the parts of the run.
    workdir: work directory; made if missing.
    state: a fresh state; where the run goes on, what its checkpoint is to look like.
    evaluator: of the student; None evaluates nothing.
    should_stop: True once the run is to stop.
    clock: seconds that have gone into the steps; the wall clock for a run that has the machine
      for itself.
    label: says in the log which run it is, where several run side by side.
    phase: 'train' trains a student, 'prepare' what a method prepares.

  Attributes:
    state: `TrainState`.
    phase: as given.
    metrics: of the last evaluation, or None.
    teacher_metrics: of `measure_teacher`, logged beside the student's; None without teacher.
  """

  def __init__(self, experiment: Experiment, workdir: str, state: TrainState, *,
               evaluator: Evaluator | None, should_stop: Callable[[], bool],
               clock: Callable[[], float] = time.perf_counter, label: str = '',
               phase: str = 'train'):
    self.experiment, self.config, self.phase = experiment, experiment.config, phase
    self.workdir = os.path.abspath(workdir)
    self.metrics = self.teacher_metrics = None
    self._evaluator, self._should_stop = evaluator, should_stop
    if phase == 'train' and not has_checkpoint(workdir):
      state = load_initial_weights(experiment, state)
    if self.config.train.ema_decay:
      logging.info('Evaluated and saved as the model: the moving average of the weights, '
                   'train.ema_decay=%g.', self.config.train.ema_decay)
    os.makedirs(workdir, exist_ok=True)
    metric = experiment.task.main_metric
    self.checkpointer = Checkpointer(workdir, metric=metric.name, maximize=metric.maximize,
                                     keep=self.config.checkpoint.keep)
    latest = self.checkpointer.latest_step()
    if latest is not None:
      state = self._restore(latest, state)
      logging.info('Resuming %s from checkpoint %d.', workdir, latest)
    self.state = state
    self._writer = MetricWriter(workdir, start=self.done, label=label)
    self._timer = StepTimer(clock, self.config.train.batch_size)
    self._window, self._unchecked = [], None
    write_json(os.path.join(self.workdir, config_files.FILE), config_files.to_dict(self.config))

  @property
  def done(self) -> int:
    """Number of steps that the state has behind it."""
    return int(self.state.step)

  @property
  def steps(self) -> int:
    """Number of steps of the whole run."""
    return self.config[self.phase].steps

  def batches(self) -> Iterator[dict]:
    """The batches from the one on that the next step reads."""
    return training_batches(self.experiment, self.phase, start=self.done)

  def due(self, step: int, *, stopping: bool) -> Due:
    """What follows step number `step` (from 1)."""
    config = self.config
    log, evaluate, save = (
        stopping or step == self.steps or (every > 0 and step % every == 0)
        for every in (config.log.every_steps, config.eval.every_steps,
                      config.checkpoint.every_steps))
    evaluate = evaluate and self._evaluator is not None and not stopping
    return Due(log, evaluate, save or evaluate)

  def record(self, step: int, metrics: dict, *, stopping: bool) -> bool:
    """Logs, evaluates and saves what is due after a step.

    Args:
      step: number of the step, from 1.
      metrics: of the step, on the devices.
      stopping: the run stops here: log and save, but do not evaluate.

    Returns:
      True if the run stops here: `stopping`, or it was told to during the evaluation.

    Raises:
      Diverged: a metric of this step or the one before, or a weight, is not finite.
    """
    self._check()  # the step before, while this one runs
    self._unchecked = (step, metrics)
    self._timer.tick()
    due = self.due(step, stopping=stopping)
    if any(due):  # nothing of a step that diverged is kept
      self._check()
    if due.reads_state:  # the metrics of a step tell nothing of its own update
      self._require_finite(step, not_finite(
          {'params': self.state.params, 'batch_stats': self.state.batch_stats})[:_MOST_NAMED])
    if due.log:
      self._log(step)
    try:
      evaluated = self.evaluate() if due.evaluate else None
    except Exception:
      self._save(None)  # an image that cannot be read must not cost what was trained
      raise
    stopping |= due.evaluate and evaluated is None
    if due.save:
      self._save(evaluated)
    if stopping:
      logging.info('Told to stop: saved checkpoint %d in %s.', self.done, self.workdir)
    return stopping

  def evaluate(self) -> dict[str, Any] | None:
    """Evaluates the state; None if the run is told to stop meanwhile."""
    step, shown = self.done, []
    metrics = self._evaluator(
        self.state.deployed, self.experiment.evaluation_source, should_stop=self._should_stop,
        shown=shown if self._writer.is_writing else None)
    if metrics is not None:
      self.metrics = metrics
      if not self._writer.has('evaluation', step):
        self._writer.write('evaluation', step, metrics | self._teacher_metric())
        presenter = presenters.create(
            self.config.task.name, self.experiment.evaluation_source)
        self._writer.write_pictures('evaluation', step, [
            presenter.comparison(image, fields, {'prediction': predicted})
            for image, fields, predicted in shown])
    self._timer.restart()
    return metrics

  def catch_up(self) -> None:
    """Evaluates where the run goes on from, if it was stopped before that was done.

    The checkpoint is written again with its metrics, without which it could not be the best.
    """
    step = self.done
    # Asked of the checkpoint and not of the log, which only the first process keeps.
    if step and self.due(step, stopping=False).evaluate and (
        not self.checkpointer.has_metrics(step)):
      evaluated = self.evaluate()
      if evaluated is not None:
        self._save(evaluated, again=True)

  def close(self) -> None:
    """Waits for what is being written."""
    self.checkpointer.close()
    self._writer.close()

  def _check(self):
    """Takes the metrics of the step that is not yet checked into the window of the log."""
    if self._unchecked is None:
      return
    (step, metrics), self._unchecked = self._unchecked, None
    metrics = {name: float(value) for name, value in jax.device_get(metrics).items()}
    self._require_finite(step, not_finite(metrics))
    self._window.append(metrics)

  def _require_finite(self, step, bad):
    """Raises Diverged if anything of a step is not finite."""
    if not bad:
      return
    latest = self.checkpointer.latest_step()
    kept = (f'no checkpoint was saved before in {self.workdir}' if latest is None else
            f'the last good checkpoint is {latest} in {self.workdir}')
    section = '' if self.phase == 'train' else f'{self.phase}.'
    raise Diverged(
        f'{self.phase} step {step}: not finite: {", ".join(bad)}; {kept}. Try a smaller learning '
        f'rate, a warm-up, or config.{section}optimizer.clip_norm.', self.workdir)

  def _log(self, step):
    mean = {name: float(np.mean([m[name] for m in self._window])) for name in self._window[0]}
    schedule = self.experiment.schedule
    rate = {} if schedule is None else {'learning_rate': float(schedule(step - 1))}
    self._writer.write(self.phase, step, rate | mean | self._timer.report())
    self._window = []

  def _teacher_metric(self):
    if self.teacher_metrics is None:
      return {}
    metric = self.experiment.task.main_metric.name
    return {f'teacher_{metric}': self.teacher_metrics[metric]}

  def _save(self, metrics, *, again=False):
    number = self.done
    if again or number != self.checkpointer.latest_step():
      scalars = {k: v for k, v in (metrics or {}).items() if isinstance(v, (int, float))}
      self.checkpointer.save(number, self.state, self._meta(), scalars or None)
    self._timer.restart()

  def _meta(self):
    source = self.experiment.train_source
    return {
        'config': config_files.to_dict(self.config),
        'classes': list(source.classes),
        **presenters.create(self.experiment.task.name, source).saved(),
        'data': {'seed': data_seed(self.config), 'next_batch': self.done},
        'jax': jax.__version__,
    }

  def _restore(self, step, like):
    """The state of a checkpoint; refuses other classes, and tells what changed in the config."""
    where = f'checkpoint {step} of {self.workdir}'
    meta = self.checkpointer.read_meta(step)
    names.require_same_classes(
        meta['classes'], self.experiment.train_source.classes, found_in=where,
        expected_in='the data', allow=self.experiment.allow_class_names)
    saved = config_files.from_dict(meta['config'], where=where)
    changes = config_files.changes(*(json.loads(c.to_json()) for c in (saved, self.config)))
    try:
      state = self.checkpointer.restore(step, like)
    except CheckpointError as error:
      shaping = [change for change in changes if change.startswith(_SHAPING)]
      if not shaping:
        raise
      weights = '' if any(change.startswith('config.student') for change in shaping) else (
          f'; with --config.student.init={self.workdir} a new run starts from the weights of this '
          'one')
      raise CheckpointError(
          f'{self.workdir} cannot go on with this config: what was trained there has another form.'
          '\n  ' + '\n  '.join(shaping) + '\nSet these fields back, or take another --workdir'
          f'{weights}.\n{error}') from error
    for change in changes:
      logging.warning('%s when the checkpoint was saved.', change)
    return state


def advance(run: Run, step: Callable, stop: StopSignal) -> None:
  """Takes a run from where it is to its end, or to where it is told to stop.

  Args:
    run: the run.
    step: `(state, batch) -> (state, metrics)`.
    stop: asked after every step.
  """
  start, phase = run.done, run.phase
  batches, call = run.batches(), compiling.Announced(f'the {phase} step')
  with tqdm.tqdm(total=run.steps, initial=start, desc=phase, disable=None, leave=False) as bar:
    for done in range(start + 1, run.steps + 1):
      batch = next(batches)
      run.state, metrics = call(batch['image'].shape[1:3], step, run.state, batch)
      bar.update()
      stopping = stop.agree(run.checkpointer.reached_preemption, done)
      if run.record(done, metrics, stopping=stopping):
        return


def training_batches(experiment: Experiment, phase: str, *, start: int) -> Iterator[dict]:
  """The batches of a phase from number `start` on; those of 'prepare' are others than 'train's."""
  config = experiment.config
  seed = data_seed(config)
  return iter(pipeline.train_batches(
      experiment.train_source, batch_size=config.train.batch_size, start=start,
      seed=seed if phase == 'train' else _named_seed(phase, seed),
      augmentation=augmentation.Augmentation(
          crop=tuple(config.augmentation.crop), scale=tuple(config.augmentation.scale) or None,
          flip=config.augmentation.flip, pad=config.augmentation.pad,
          resized_crop=tuple(config.augmentation.resized_crop) or None,
          resize=tuple(map(tuple, config.augmentation.resize)) or None,
          by_orientation=config.data.by_orientation, fields=experiment.task.fields),
      by_orientation=config.data.by_orientation,
      process_index=jax.process_index(), process_count=jax.process_count()))


def data_seed(config: ConfigDict) -> int:
  """Seed of the data's order and augmentation: `config.data.seed`, or else `config.seed`.

  A teacher reads the data in another order than the student of its seed.
  """
  if config.data.seed is not None:
    return config.data.seed
  return config.seed if config.role == 'student' else _named_seed(config.role, config.seed)


def create_evaluator(experiment: Experiment, model: Any) -> Evaluator:
  """The evaluator of a model of the run, student or teacher."""
  config = experiment.config
  return Evaluator(experiment.task, model, experiment.mesh, mode=config.parallel,
                   batch_size=config.eval.batch_size, limit=config.eval.limit,
                   multiple=config.eval.pad_multiple, inference=experiment.inference,
                   pictures=config.eval.pictures)


def measure_teacher(experiment: Experiment, workdir: str,
                    should_stop: Callable[[], bool] = lambda: False) -> dict[str, Any] | None:
  """Evaluates the teacher once a work directory, and refuses one that is too weak.

  Returns:
    Its metrics on the split `config.eval.split`; None without teacher, or if `should_stop()`
    became true meanwhile.

  Raises:
    TeacherTooWeak: worse than `config.teacher.min_metric`.
  """
  teacher, config = experiment.teacher, experiment.config
  if teacher is None:
    return None
  data = json.loads(config.data.to_json())
  key = {'workdir': teacher.workdir, 'step': teacher.step, 'split': config.eval.split,
         'limit': config.eval.limit, 'inference': str(experiment.inference),
         'pad_multiple': config.eval.pad_multiple, 'task': config.task.to_dict(),
         'data': {field: data[field] for field in ('name', 'options', 'size', 'tfds')} | {
             'root': data_root(config)}}
  path = os.path.join(workdir, 'teacher.json')
  known = read_json(path)
  if known.get('key') != key:
    metrics = create_evaluator(experiment, teacher.module)(
        teacher.variables, experiment.evaluation_source, should_stop=should_stop)
    if metrics is None:
      return None
    known = {'key': key, 'metrics': finite(metrics)}
    write_json(path, known)
  metric, least = experiment.task.main_metric, config.teacher.min_metric
  value = known['metrics'][metric.name]
  value = math.nan if value is None else value
  logging.info('Teacher: %s %.4f on %s.', metric.name, value, config.eval.split)
  if not (value >= least if metric.maximize else value <= (least or math.inf)):
    side, change = ('below', 'lower') if metric.maximize else ('above', 'raise')
    raise TeacherTooWeak(
        f'The teacher {teacher.workdir} scores {metric.name} {value:.4f} on {config.eval.split}, '
        f'{side} config.teacher.min_metric={least}. Train it longer, or {change} the limit.')
  return known['metrics']


def _named_seed(name, seed):
  return zlib.crc32(f'{name}{seed}'.encode())
