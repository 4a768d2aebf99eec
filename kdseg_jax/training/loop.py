"""The training loop of one run: what its method prepares, then the student; being told to stop."""

from __future__ import annotations

import contextlib
import functools
import os
from collections.abc import Sequence
from typing import Any

from absl import logging
from ml_collections import ConfigDict

from kdseg_jax import distillers, parallel, paths
from kdseg_jax.training import experiment as experiments
from kdseg_jax.training import preparations, programs, shapes, workdirs
from kdseg_jax.training.data_check import check_data
from kdseg_jax.training.preemption import StopSignal
from kdseg_jax.training.run import Run, advance, create_evaluator, measure_teacher


def train(config: ConfigDict, workdir: str, *,
          allow_class_names: bool = False,
          allow_imports: Sequence[str] = ()) -> dict[str, Any] | None:
  """Trains a student, from the newest checkpoint of the work directory if it has one.

  Args:
    config: of `configs/`. Where the method reads a teacher and `teacher.checkpoint` is empty, the
      teacher of `teacher.config` is trained first, in the folder `teacher` of the work directory.
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
  if _lacks_teacher(config):
    shapes.check_with_untrained(
        config, config.teacher.config, allow_class_names=allow_class_names)
    folder = os.path.join(workdir, 'teacher')
    if not train_teacher(config.teacher.config, folder, allow_class_names=allow_class_names,
                         allow_imports=allow_imports):
      return None
    config = config.copy_and_resolve_references().unlock()
    config.teacher.checkpoint, config.teacher.config = folder, ConfigDict()
  with StopSignal() as stop:
    run, student = start(config, workdir, stop, allow_class_names=allow_class_names,
                         allow_imports=allow_imports)
    try:
      run.catch_up()
      if not stop():
        advance(
            run, programs.train_step_of(run.experiment, student, donate_teacher=True), stop)
      if stop():
        return None
      return run.metrics or run.evaluate()  # none yet where it was resumed after the last step
    finally:
      run.close()


def train_teacher(own: ConfigDict, folder: str, *, allow_class_names: bool = False,
                  allow_imports: Sequence[str] = ()) -> bool:
  """Trains the teacher of a run or study in a folder of its, or goes on, unless it is finished.

  Returns:
    False if told to stop.

  Raises:
    UserError: what is there was trained with another config; or as `train`.
  """
  workdirs.require_same_config(own, folder)
  if workdirs.is_finished(own, folder):
    return True
  logging.info('No config.teacher.checkpoint: first a teacher is trained in %s.', folder)
  return train(own, folder, allow_class_names=allow_class_names,
               allow_imports=allow_imports) is not None


def _lacks_teacher(config):
  """Whether a method reads a teacher that is to be trained first."""
  if config.teacher.checkpoint or not config.teacher.config:
    return False
  requires = distillers.create(config.distill.to_dict()).requires
  return bool(requires.teacher or requires.teacher_head)


def start(config: ConfigDict, workdir: str, stop: StopSignal, *,
          allow_class_names: bool = False, allow_imports: Sequence[str] = ()
          ) -> tuple[Run, parallel.Program]:
  """The run of a config and the program of its steps.

  The run is from its newest checkpoint, or fresh with what its method prepares.
  """
  experiment = experiments.create_experiment(
      config, allow_class_names=allow_class_names, allow_imports=allow_imports)
  student = programs.student_program(experiment)
  shapes.check_step(experiment, student)
  create = functools.partial(
      experiments.make_initial_state(experiment), experiments.run_key(config))
  check_data(experiment, workdir, stop)
  run = Run(experiment, workdir, create(preparations.placeholders(experiment)), should_stop=stop,
            evaluator=create_evaluator(experiment, experiment.student))
  with contextlib.ExitStack() as stack:
    stack.callback(run.close)
    run.teacher_metrics = measure_teacher(experiment, run.workdir, stop)
    preparations.give(run, run.workdir, create, stop)
    stack.pop_all()  # from here on the caller closes it
  return run, student
