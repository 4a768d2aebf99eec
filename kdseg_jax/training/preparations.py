"""What methods fit to a teacher before distillation: runs of their own, each made once.

A preparation is stored under a key of all that decides it: what the part of the method says of
itself, the teacher's weights, the data and the optimiser. Every run and every student of a study
that needs the same one shares it.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import math
import os
import time
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from absl import logging
from jax.experimental import multihost_utils

from kdseg_jax import default_config, parallel
from kdseg_jax.data.json_files import write_json
from kdseg_jax.distillers import DistillInputs, Preparation, core
from kdseg_jax.distillers.core import fold_in_name, with_own_key
from kdseg_jax.inference.model import Model
from kdseg_jax.training import experiment as experiments
from kdseg_jax.training import programs
from kdseg_jax.training.experiment import Experiment
from kdseg_jax.training.optimizers import create_optimizer, create_schedule
from kdseg_jax.training.preemption import StopSignal
from kdseg_jax.training.run import Run, advance, data_seed
from kdseg_jax.training.state import Optimizers, TrainState
from kdseg_jax.training.step import make_prepare_step

PyTree = Any
FILE = 'preparation.json'  # what decides it, in its folder
FOLDER = 'prepared'
_POLL_SECONDS = 0.5


class Fit(NamedTuple):
  """How a preparation is fitted.

  Attributes:
    create: `(key) -> state`, not compiled.
    step: `(teacher_variables, state, batch) -> (state, metrics)`, as a device runs it.
  """

  create: Callable[[jax.Array], TrainState]
  step: Callable

  @classmethod
  def of(cls, experiment: Experiment, preparation: Preparation, inputs: DistillInputs) -> Fit:
    """That of a preparation, or of all parts of a combination at once.

    Args:
      experiment: of the run that needs it.
      preparation: the preparation.
      inputs: shapes of what the method reads.
    """
    config = experiment.config
    optimizer = preparation.optimizer or create_optimizer(
        config.prepare.optimizer, number_of_steps(experiment))
    step = make_prepare_step(
        experiment.teacher.module, preparation, optimizer, inputs.student,
        axis_name=parallel.AXIS)
    return cls(lambda rng: _create_state(rng, preparation, optimizer, inputs), step)


def number_of_steps(experiment: Experiment) -> int:
  """`config.prepare.steps`, or those of one epoch."""
  config = experiment.config
  return config.prepare.steps or math.ceil(
      len(experiment.train_source) / config.train.batch_size)


def placeholders(experiment: Experiment) -> PyTree:
  """Zeros in the shapes of what the method's preparation leaves; None if it has none."""
  shapes = core.abstract_prepared(experiment.distiller, experiments.abstract_inputs(experiment))
  return jax.tree.map(lambda x: np.zeros(x.shape, x.dtype), shapes)


def give(run: Run, workdir: str, create: Callable[[PyTree], TrainState], stop: StopSignal) -> None:
  """Gives a run that is yet to begin what its method prepares, instead of `placeholders`.

  Args:
    run: before its first step; one that has a checkpoint is left as it is, as that holds it.
    workdir: see `prepare`.
    create: of the run's fresh state, from what was prepared.
    stop: asked after every step.
  """
  if run.experiment.distiller.prepare is None or run.done or stop():
    return
  prepared = prepare(run.experiment, workdir, stop)
  if not stop():
    # The weights of the student may be those of `config.student.init`.
    run.state = create(prepared)._replace(
        params=run.state.params, batch_stats=run.state.batch_stats, average=run.state.average)


def prepare(experiment: Experiment, workdir: str, stop: StopSignal) -> PyTree:
  """What the method's preparations leave; made, gone on with, or found finished.

  Args:
    experiment: of the run that needs it.
    workdir: of the run or study; its folder `prepared` is used unless `config.prepare.folder` names
      another.
    stop: asked after every step.

  Returns:
    What `Distiller.init` takes as `prepared`: None if the method has no preparation; meaningless
    once `stop()` is true.

  Raises:
    Diverged: NaN or infinity in the loss.
    CheckpointError: what was saved of it is damaged.
  """
  preparation = experiment.distiller.prepare
  if preparation is None:
    return None
  folder = experiment.config.prepare.folder or os.path.join(workdir, FOLDER)
  inputs = experiments.abstract_inputs(experiment)
  return _prepare(experiment, preparation, inputs, folder, fingerprint(experiment.teacher), stop)


def _prepare(experiment, preparation, inputs, folder, teacher, stop):
  if preparation.parts is not None:
    return {name: _prepare(experiment, part, with_own_key(inputs, name), folder, teacher, stop)
            for name, part in preparation.parts.items()}
  if stop():
    return None
  decisive = _decisive(experiment, preparation, inputs, teacher)
  key = hashlib.sha256(json.dumps(decisive, sort_keys=True).encode()).hexdigest()[:16]
  path = os.path.join(os.path.abspath(folder), key)
  with _alone(path, stop):
    if stop():
      return None
    write_json(os.path.join(path, FILE), decisive)
    state = _run(experiment, preparation, inputs, path, stop)
  return preparation.finish(state.distiller._replace(prepared=state.params))


def _run(experiment, preparation, inputs, path, stop):
  """The state at the end of a preparation, or where it was told to stop."""
  config, fit = _config(experiment), Fit.of(experiment, preparation, inputs)
  schedule = None if preparation.optimizer else create_schedule(
      config.prepare.optimizer, config.prepare.steps)
  experiment = experiment._replace(config=config, schedule=schedule)
  create = experiments.compiled_once(fit.create, experiment.mesh)
  run = Run(experiment, path, create(fold_in_name(jax.random.key(config.seed), 'prepare')),
            evaluator=None, should_stop=stop, phase='prepare')
  try:
    if run.done == run.steps:
      logging.info('Prepared before: %s.', path)
    else:
      logging.info('Preparing in %s.', path)
      program = programs.donating(experiment, fit.step)
      variables = programs.teacher_variables(experiment, preparation.requires)
      advance(run, lambda state, batch: program(variables, state, batch), stop)
    return run.state
  finally:
    run.close()  # waits for what is being written: the next who opens the folder finds it whole


def _create_state(rng, preparation, optimizer, inputs):
  init_rng, step_rng = jax.random.split(rng)
  state = preparation.init(init_rng, inputs)
  return TrainState(
      step=jnp.int32(0), params=state.prepared, batch_stats={},
      opt_state=Optimizers(trained=optimizer.init(state.prepared), critic={}),
      distiller=state._replace(prepared={}), rng=step_rng)


def _config(experiment):
  """Of the run of a preparation: the defaults but for what it reads."""
  of_run = experiment.config
  config = default_config.run(of_run.task.name).unlock()
  for section in ('task', 'data', 'augmentation', 'teacher', 'prepare', 'log', 'checkpoint'):
    config[section] = of_run[section].copy_and_resolve_references()
  config.parallel = of_run.parallel
  config.train.update(batch_size=of_run.train.batch_size, compile_level=of_run.train.compile_level)
  config.seed = config.data.seed = data_seed(of_run)
  config.prepare.steps = number_of_steps(experiment)
  return config.lock()


def _decisive(experiment, preparation, inputs, teacher):
  """All that a preparation depends on, as JSON: runs that agree in it share the result."""
  config = json.loads(_config(experiment).to_json())
  data, prepare = config['data'], config['prepare']
  del data['root']  # as it is given
  if preparation.optimizer is not None:
    del prepare['optimizer']
  del prepare['folder']
  return json.loads(json.dumps({
      'preparation': preparation.describe(inputs), 'teacher': teacher,
      'task': config['task']['name'], 'data': data,
      'root': experiments.data_root(experiment.config), 'augmentation': config['augmentation'],
      'batch_size': config['train']['batch_size'], **prepare}))


def fingerprint(teacher: Model) -> str:
  """Hash of a model's architecture and variables: the same weights, wherever they are kept."""
  digest = hashlib.sha256(teacher.config.student.to_json(sort_keys=True).encode())
  for path, leaf in jax.tree_util.tree_leaves_with_path(teacher.variables):
    array = np.asarray(leaf)
    digest.update(f'{jax.tree_util.keystr(path)} {array.shape} {array.dtype}'.encode())
    digest.update(np.ascontiguousarray(array).tobytes())
  return digest.hexdigest()[:16]


@contextlib.contextmanager
def _alone(path: str, stop: StopSignal) -> Iterator[None]:
  """Waits until no other program works in a folder, or until told to stop; makes it."""
  if jax.process_index():  # the first process speaks for all
    multihost_utils.sync_global_devices(f'{path} begin')
    yield
    return
  os.makedirs(path, exist_ok=True)
  with open(os.path.join(path, 'lock'), 'w') as file:  # given up at the latest when we end
    waits = False
    while not _try_lock(file) and not stop():
      if not waits:
        logging.info('Another program prepares in %s; waiting for it.', path)
        waits = True
      time.sleep(_POLL_SECONDS)
    if jax.process_count() > 1:
      multihost_utils.sync_global_devices(f'{path} begin')
    yield


def _try_lock(file):
  try:
    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    return True
  except BlockingIOError:
    return False
