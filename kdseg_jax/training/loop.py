"""The training loop of one run: prepare phase, train phase, and being told to stop."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import tqdm
from ml_collections import ConfigDict

from kdseg_jax import paths
from kdseg_jax.training import compiling, programs, shapes
from kdseg_jax.training import experiment as experiments
from kdseg_jax.training.data_check import check_data
from kdseg_jax.training.preemption import StopSignal
from kdseg_jax.training.run import Run, create_evaluator, measure_teacher


def train(config: ConfigDict, workdir: str, *,
          allow_class_names: bool = False,
          allow_imports: Sequence[str] = ()) -> dict[str, Any] | None:
  """Trains a student, from the newest checkpoint of the work directory if it has one.

  Args:
    config: of `configs/`.
    workdir: work directory; made if missing.
    allow_class_names: see `Experiment`.
    allow_imports: see `experiment.create_experiment`.

  Returns:
    The last evaluation's metrics, or None if the run was told to stop (Ctrl-C, SIGTERM) and
    has saved.

  Raises:
    ValueError, CheckpointError: the config cannot work; nothing was trained.
    TeacherTooWeak: the teacher scores below `config.teacher.min_metric`.
    Diverged: NaN or infinity in the loss.
  """
  workdir = paths.local(workdir)
  with StopSignal() as stop:
    run = start(config, workdir, stop, allow_class_names=allow_class_names,
                allow_imports=allow_imports)
    try:
      run.teacher_metrics = measure_teacher(run.experiment, run.workdir, stop)
      prepare(run, stop)
      run.catch_up()
      if not stop():
        advance(run, 'train', programs.train_step_of(run.experiment), stop)
      if stop():
        return None
      return run.metrics or run.evaluate()  # none yet where it was resumed after the last step
    finally:
      run.close()


def start(config: ConfigDict, workdir: str, stop: StopSignal, *,
          allow_class_names: bool = False, allow_imports: Sequence[str] = ()) -> Run:
  """The run of a config, fresh or from its newest checkpoint."""
  experiment = experiments.create_experiment(
      config, allow_class_names=allow_class_names, allow_imports=allow_imports)
  shapes.check_step(experiment)
  check_data(experiment, workdir, stop)
  return Run(experiment, workdir, experiments.initial_state(experiment), should_stop=stop,
             evaluator=create_evaluator(experiment, experiment.student))


def prepare(run: Run, stop: StopSignal) -> None:
  """Runs what is left of the prepare phase, if the method has one."""
  if run.experiment.distiller.prepare_loss is None:
    return
  program = programs.prepare_program(run.experiment)
  advance(run, 'prepare', lambda state, batch: program(
      run.experiment.teacher.variables, state, batch), stop)


def advance(run: Run, phase: str, step: Callable, stop: StopSignal) -> None:
  """Takes a run from where it is to the end of a phase, or to where it is told to stop.

  Args:
    run: the run.
    phase: 'prepare' or 'train'.
    step: `(state, batch) -> (state, metrics)`.
    stop: asked after every step.
  """
  start, steps = run.done(phase), run.config[phase].steps
  batches = run.batches(phase)
  with tqdm.tqdm(total=steps, initial=start, desc=phase, disable=None, leave=False) as bar:
    for done in range(start + 1, steps + 1):
      if done == start + 1:
        run.state, metrics = compiling.announced(
            f'the {phase} step', step, run.state, next(batches))
      else:
        run.state, metrics = step(run.state, next(batches))
      bar.update()
      stopping = stop.agree(run.checkpointer.reached_preemption, done)
      if run.record(phase, done, metrics, stopping=stopping):
        return
