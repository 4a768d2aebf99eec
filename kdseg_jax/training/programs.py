"""The compiled programs of a run, from its parts."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import jax

from kdseg_jax import parallel
from kdseg_jax.distillers import Requires
from kdseg_jax.inference.model import abstract_variables
from kdseg_jax.models.folding import fold
from kdseg_jax.parallel import Program
from kdseg_jax.training.experiment import Experiment
from kdseg_jax.training.step import (
    TEACHER_TAPS,
    make_teacher_step,
    make_train_step,
)

PyTree = Any


def teacher_program(experiment: Experiment, requires: Requires) -> Program:
  """The teacher's pass alone, `(variables, {}, batch) -> taps` as required, on the devices."""
  return parallel.data_parallel(
      make_teacher_step(experiment.teacher.module, requires), experiment.mesh,
      mode=experiment.config.parallel, sharded=True,
      compile_level=experiment.config.train.compile_level)


def train_step(experiment: Experiment) -> Callable:
  """The train step, as a device runs it."""
  config = experiment.config
  teacher = experiment.teacher.module if experiment.teacher else None
  return make_train_step(
      experiment.task, experiment.student, teacher, experiment.distiller, experiment.optimizers,
      critic_steps=config.critic.steps, accumulate=config.train.accumulate,
      ema_decay=config.train.ema_decay, axis_name=parallel.AXIS)


def student_program(experiment: Experiment, *, stacked: bool = False) -> Program:
  """The train step `(teacher variables, state, batch) -> (state, metrics)`.

  It runs the teacher itself, unless the batch holds its taps under `TEACHER_TAPS`; the variables
  are then `head_variables`.

  Args:
    experiment: the run's parts.
    stacked: the state is that of several runs, stacked along a leading axis (`jax.vmap`), and so
      are the metrics.
  """
  step = train_step(experiment)
  mapped = jax.vmap(step, in_axes=(None, 0, None)) if stacked else step
  return donating(experiment, mapped)


def head_variables(experiment: Experiment) -> PyTree:
  """The teacher's variables for a step that runs its head at most; {} if not even that."""
  return experiment.teacher.variables if experiment.distiller.requires.teacher_head else {}


def teacher_variables(experiment: Experiment, requires: Requires) -> PyTree:
  """The teacher's variables for the passes of a run; {} without teacher.

  On CPU its BatchNorms are folded, once, unless it is to normalise by the batch: the pass takes a
  fifth less time there. On accelerators folding was not measured, and they stay as they are.
  """
  teacher = experiment.teacher
  if teacher is None:
    return {}
  on_cpu = all(device.platform == 'cpu' for device in experiment.mesh.devices.flat)
  if not on_cpu or requires.teacher_batch_statistics:
    return teacher.variables
  return fold(teacher.module, teacher.variables)


def abstract_teacher_variables(experiment: Experiment, requires: Requires) -> PyTree:
  """`teacher_variables` as ShapeDtypeStructs, of a teacher that need not be trained yet."""
  teacher = experiment.teacher
  if teacher is None:
    return {}
  return jax.eval_shape(
      lambda variables: teacher_variables(experiment._replace(
          teacher=dataclasses.replace(teacher, variables=variables)), requires),
      abstract_variables(teacher.module))


def train_step_of(experiment: Experiment, student: Program | None = None) -> Callable:
  """`(state, batch) -> (state, metrics)`: one program, or two for `config.train.split_teacher`.

  `student` is its `student_program`, where there is one already.
  """
  variables = teacher_variables(experiment, experiment.distiller.requires)
  split = experiment.config.train.split_teacher and experiment.teacher is not None
  student, head = student or student_program(experiment), head_variables(experiment)
  if not split:
    return lambda state, batch: student(variables, state, batch)
  teacher = teacher_program(experiment, experiment.distiller.requires)

  def step(state, batch):
    batch = student.place(batch)
    return student(head, state, batch | {TEACHER_TAPS: teacher(variables, {}, batch)})
  return step


def donating(experiment: Experiment, step: Callable) -> Program:
  """A step `(constants, state, batch) -> (state, metrics)` that gives up the state it takes."""
  return parallel.data_parallel(
      step, experiment.mesh, mode=experiment.config.parallel, donate_state=True,
      compile_level=experiment.config.train.compile_level)
