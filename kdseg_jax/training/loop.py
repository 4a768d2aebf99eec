"""The training loop: prepare phase, train phase, checkpoints, evaluation, logs, preemption."""

from __future__ import annotations

import json
import os
import signal
import threading
import time
import zlib
from typing import Any

import jax
import numpy as np
import tqdm
from absl import logging
from ml_collections import ConfigDict

from kdseg_jax.data import augmentation, pipeline
from kdseg_jax.training import experiment as experiments
from kdseg_jax.training import parallel
from kdseg_jax.training.checkpoint import Checkpointer, has_checkpoint
from kdseg_jax.training.evaluation import Evaluator
from kdseg_jax.training.initialization import load_initial_weights
from kdseg_jax.training.step import make_prepare_step, make_train_step
from kdseg_jax.training.writers import MetricWriter, StepTimer


class Diverged(FloatingPointError):
  """The loss became NaN or infinite; the message names step, terms and last good checkpoint."""


class TeacherTooWeak(ValueError):
  """The teacher scores below `config.teacher.min_metric`."""


def train(config: ConfigDict, workdir: str) -> dict[str, Any] | None:
  """Trains a student, from the newest checkpoint of the work directory if it has one.

  Args:
    config: of `configs/`.
    workdir: work directory; made if missing.

  Returns:
    The last evaluation's metrics, or None if the run was told to stop (SIGTERM) and has saved.

  Raises:
    ValueError, CheckpointError: the config cannot work; nothing was trained.
    TeacherTooWeak: the teacher scores below `config.teacher.min_metric`.
    Diverged: NaN or infinity in the loss.
  """
  run = _Run(experiments.create_experiment(config), os.path.abspath(workdir))
  try:
    return run.train()
  finally:
    run.close()


class _Run:
  """One run: the state, and what happens around a step."""

  def __init__(self, experiment, workdir):
    self.experiment, self.config, self.workdir = experiment, experiment.config, workdir
    self.stop = _StopSignal()
    state = experiments.initial_state(experiment)
    if not has_checkpoint(workdir):
      state = load_initial_weights(experiment, state)
    if self.config.train.ema_decay:
      logging.info('Evaluated and saved as the model: the moving average of the weights, '
                   'train.ema_decay=%g.', self.config.train.ema_decay)
    os.makedirs(workdir, exist_ok=True)
    self.checkpointer = Checkpointer(
        workdir, metric=experiment.task.main_metric, keep=self.config.checkpoint.keep)
    latest = self.checkpointer.latest_step()
    if latest is not None:
      self._log_config_changes(latest)
      state = self.checkpointer.restore(latest, state)
      logging.info('Resuming %s from checkpoint %d.', workdir, latest)
    self.state = state
    self.metrics = None  # of the last evaluation
    step = int(state.step)
    self.writer = MetricWriter(workdir, start={
        'prepare': int(state.prepare_step), 'train': step, 'evaluation': step})
    self.evaluator = self._evaluator(experiment.student)
    self.timer = StepTimer(time.perf_counter, self.config.train.batch_size)
    self._write_config()

  def train(self):
    teacher = self.experiment.teacher
    if teacher is not None:
      self._measure_teacher()
    if self.experiment.distiller.prepare_loss is not None:
      step = make_prepare_step(teacher.model, self.experiment.distiller,
                               self.experiment.optimizers, axis_name=parallel.AXIS)
      self._phase('prepare', step, int(self.state.prepare_step), self.config.prepare.steps)
    step = make_train_step(
        self.experiment.task, self.experiment.student, teacher and teacher.model,
        self.experiment.distiller, self.experiment.optimizers,
        critic_steps=self.config.critic.steps, accumulate=self.config.train.accumulate,
        ema_decay=self.config.train.ema_decay, axis_name=parallel.AXIS)
    if not self.stop():
      self._phase('train', step, int(self.state.step), self.config.train.steps)
    if self.stop():
      return None
    if self.metrics is None:  # resumed after the last step
      self._evaluate(self.config.train.steps)
    return self.metrics

  def close(self):
    self.stop.restore()
    self.checkpointer.close()
    self.writer.close()

  def _phase(self, name, step, start, steps):
    """Runs steps `start`..`steps` of a phase; returns early when told to stop."""
    step = parallel.data_parallel(step, self.experiment.mesh, mode=self.config.parallel,
                                  donate_state=True)
    variables = self.experiment.teacher.variables if self.experiment.teacher else {}
    batches = self._batches(name, start)
    window, unchecked = [], None
    bar = tqdm.tqdm(total=steps, initial=start, desc=name, disable=None, leave=False)
    for done in range(start + 1, steps + 1):
      self.state, metrics = step(variables, self.state, next(batches))
      # The previous step is checked while this one runs.
      window += self._checked(name, unchecked)
      unchecked = (done, metrics)
      self.timer.tick()
      bar.update()
      stopping = self._stopping(done)
      log, evaluate, save = (
          stopping or done == steps or (every > 0 and done % every == 0)
          for every in (self.config.log.every_steps, self.config.eval.every_steps,
                        self.config.checkpoint.every_steps))
      if log or evaluate or save:  # nothing of a step that diverged is kept
        window += self._checked(name, unchecked)
        unchecked = None
      if log:
        self._log(name, done, window)
        window = []
      metrics = self._evaluate(done) if evaluate and name == 'train' and not stopping else None
      if save or metrics:
        self._save(metrics)
      if stopping:
        logging.info('Told to stop: saved checkpoint %d in %s.', self._number(), self.workdir)
        break
    bar.close()

  def _batches(self, phase, start):
    config = self.config
    seed = config.seed if phase == 'train' else zlib.crc32(f'{phase}{config.seed}'.encode())
    scale = tuple(config.augmentation.scale) or None
    return iter(pipeline.train_batches(
        self.experiment.train_source, batch_size=config.train.batch_size, seed=seed, start=start,
        augmentation=augmentation.Augmentation(
            crop=tuple(config.augmentation.crop), scale=scale, flip=config.augmentation.flip),
        process_index=jax.process_index(), process_count=jax.process_count()))

  def _checked(self, phase, pending):
    """The metrics of a step as floats, in a list; raises if any is not finite."""
    if pending is None:
      return []
    step, metrics = pending
    metrics = {name: float(value) for name, value in jax.device_get(metrics).items()}
    bad = sorted(name for name, value in metrics.items() if not np.isfinite(value))
    if bad:
      latest = self.checkpointer.latest_step()
      kept = ('no checkpoint was saved before' if latest is None else
              f'the last good checkpoint is {latest} in {self.workdir}')
      raise Diverged(f'{phase} step {step}: not finite: {", ".join(bad)}; {kept}. Try a smaller '
                     'learning rate, a warm-up, or config.optimizer.clip_norm.')
    return [metrics]

  def _log(self, phase, step, window):
    mean = {name: float(np.mean([m[name] for m in window])) for name in window[0]}
    schedule = {'learning_rate': float(self.experiment.schedule(step - 1))}
    self.writer.write(phase, step, (schedule if phase == 'train' else {}) | mean
                      | self.timer.report())

  def _evaluate(self, step):
    metrics = self.evaluator(
        self.state.deployed, self.experiment.evaluation_source, should_stop=self.stop)
    if metrics is not None:
      self.metrics = metrics
      if not self.writer.has('evaluation', step):
        self.writer.write('evaluation', step, metrics | self._teacher_metric())
    self.timer.restart()
    return metrics

  def _measure_teacher(self):
    """Evaluates the teacher once a work directory, and refuses one that is too weak."""
    teacher, config = self.experiment.teacher, self.config
    key = {'workdir': teacher.workdir, 'step': teacher.step, 'split': config.eval.split,
           'limit': config.eval.limit}
    path = os.path.join(self.workdir, 'teacher.json')
    known = _read_json(path)
    if known.get('key') != key:
      metrics = self._evaluator(teacher.model)(
          teacher.variables, self.experiment.evaluation_source)
      known = {'key': key, 'metrics': metrics}
      _write_json(path, known)
    self.teacher_metrics = known['metrics']
    metric = self.experiment.task.main_metric
    value = self.teacher_metrics[metric]
    logging.info('Teacher: %s %.4f on %s.', metric, value, config.eval.split)
    if not value >= config.teacher.min_metric:
      raise TeacherTooWeak(
          f'The teacher {teacher.workdir} scores {metric} {value:.4f} on {config.eval.split}, '
          f'below config.teacher.min_metric={config.teacher.min_metric}. Train it longer, or '
          'lower the limit.')

  def _teacher_metric(self):
    if self.experiment.teacher is None:
      return {}
    metric = self.experiment.task.main_metric
    return {f'teacher_{metric}': self.teacher_metrics[metric]}

  def _evaluator(self, model):
    config = self.config
    return Evaluator(self.experiment.task, model, self.experiment.mesh, mode=config.parallel,
                     batch_size=config.eval.batch_size, limit=config.eval.limit)

  def _number(self):
    return int(self.state.step) + int(self.state.prepare_step)

  def _save(self, metrics):
    number = self._number()
    if number != self.checkpointer.latest_step():
      scalars = {k: v for k, v in (metrics or {}).items() if isinstance(v, (int, float))}
      self.checkpointer.save(number, self.state, self._meta(), scalars or None)
    self.timer.restart()

  def _meta(self):
    return {
        'config': json.loads(self.config.to_json()),
        'classes': list(self.experiment.train_source.classes),
        'palette': np.asarray(self.experiment.train_source.palette).tolist(),
        'data': {'seed': self.config.seed, 'next_batch': int(self.state.step)},
        'jax': jax.__version__,
    }

  def _write_config(self):
    _write_json(os.path.join(self.workdir, 'config.json'), json.loads(self.config.to_json()))

  def _log_config_changes(self, step):
    saved = _flat(self.checkpointer.read_meta(step)['config'])
    now = _flat(json.loads(self.config.to_json()))
    for field in sorted(saved.keys() | now.keys()):
      if saved.get(field) != now.get(field):
        logging.warning('config.%s is %r now and was %r when the checkpoint was saved.', field,
                        now.get(field), saved.get(field))

  def _stopping(self, step):
    # Several processes must stop at the same step, which Orbax lets them agree on.
    if jax.process_count() > 1:
      self.stop.set(self.checkpointer.reached_preemption(step))
    return self.stop()


class _StopSignal:
  """True once SIGTERM has arrived; the handler is taken back by `restore`."""

  def __init__(self):
    self._set, self._previous = False, None
    if threading.current_thread() is threading.main_thread() and jax.process_count() == 1:
      self._previous = signal.signal(signal.SIGTERM, lambda *_: self.set(True))

  def __call__(self):
    return self._set

  def set(self, value):
    self._set = value

  def restore(self):
    if self._previous is not None:
      signal.signal(signal.SIGTERM, self._previous)


def _flat(tree, prefix=''):
  if not isinstance(tree, dict):
    return {prefix[:-1]: tree}
  return {k: v for name, sub in tree.items() for k, v in _flat(sub, f'{prefix}{name}.').items()}


def _read_json(path):
  if not os.path.exists(path):
    return {}
  with open(path) as file:
    return json.load(file)


def _write_json(path, value):
  if jax.process_index():
    return
  temporary = path + '.tmp'
  with open(temporary, 'w') as file:
    json.dump(value, file, indent=2)
    file.write('\n')
  os.replace(temporary, path)
