"""The compiled programs of a run, from its parts."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np
from ml_collections import ConfigDict

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


class Constants(NamedTuple):
  """What a train step reads and leaves as it is.

  Attributes:
    teacher: the teacher's variables, or `head_variables` for a step that is given its taps.
    learning_rate: of the config's optimiser, before its schedule; a float32 scalar.
  """

  teacher: PyTree
  learning_rate: Any

  @classmethod
  def of(cls, experiment: Experiment, teacher: PyTree) -> Constants:
    """Those of a run."""
    rate = np.float32(experiment.config.optimizer.learning_rate)
    return cls(teacher, parallel.replicate(rate, experiment.mesh))


def train_step(experiment: Experiment) -> Callable:
  """The train step `(Constants, state, batch) -> (state, metrics)`, as a device runs it."""
  config = experiment.config
  teacher = experiment.teacher.module if experiment.teacher else None
  step = make_train_step(
      experiment.task, experiment.student, teacher, experiment.distiller, experiment.optimizers,
      critic_steps=config.critic.steps, accumulate=config.train.accumulate,
      ema_decay=config.train.ema_decay, axis_name=parallel.AXIS)
  return lambda constants, state, batch: step(
      constants.teacher, state, batch, constants.learning_rate)


def recipe(config: ConfigDict) -> str:
  """Equal for runs that one `student_program` serves: the config without seed and learning rate."""
  config = config.copy_and_resolve_references().unlock()
  config.seed = config.optimizer.learning_rate = None
  return config.to_json()


def student_program(experiment: Experiment, *, stacked: bool = False) -> Program:
  """The train step `(Constants, state, batch) -> (state, metrics)`.

  It runs the teacher itself, unless the batch holds its taps under `TEACHER_TAPS`.

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


def teacher_variables(experiment: Experiment, requires: Requires, *, donate: bool = False
                      ) -> PyTree:
  """The teacher's variables for the passes of a run; {} without teacher.

  On CPU its BatchNorms are folded, once, unless it is to normalise by the batch, and kernels are
  transformed: the pass takes a quarter less time there. On accelerators folding was not measured,
  and they stay as they are.

  Args:
    experiment: the run's parts.
    requires: what the passes are for.
    donate: what is folded is given up in `experiment.teacher.variables`, see `folding.fold`.
  """
  teacher = experiment.teacher
  if teacher is None:
    return {}
  on_cpu = all(device.platform == 'cpu' for device in experiment.mesh.devices.flat)
  if not on_cpu or requires.teacher_batch_statistics:
    return teacher.variables
  config = experiment.config
  images = config.train.batch_size // experiment.mesh.size
  return fold(teacher.module, teacher.variables, (images, *config.augmentation.crop, 3),
              donate=donate)


def abstractly(variables_of: Callable, experiment: Experiment, *given: Any) -> PyTree:
  """`variables_of(experiment, *given)` as ShapeDtypeStructs; its teacher may be untrained yet."""
  teacher = experiment.teacher
  if teacher is None:
    return {}
  return jax.eval_shape(
      lambda variables: variables_of(experiment._replace(
          teacher=dataclasses.replace(teacher, variables=variables)), *given),
      abstract_variables(teacher.module))


def splits_teacher(experiment: Experiment) -> bool:
  """Whether the teacher's pass is a program of its own."""
  return experiment.config.train.split_teacher and experiment.teacher is not None


def train_step_of(experiment: Experiment, student: Program | None = None, *,
                  donate_teacher: bool = False) -> Callable:
  """`(state, batch) -> (state, metrics)`: one program, or two for `config.train.split_teacher`.

  Args:
    experiment: the run's parts.
    student: its `student_program`, where there is one already.
    donate_teacher: the variables of `experiment.teacher` are for nothing else from here on, and are
      not held twice where the step takes them in another form.
  """
  requires, splits = experiment.distiller.requires, splits_teacher(experiment)
  variables = teacher_variables(
      experiment, requires, donate=donate_teacher and not (splits and requires.teacher_head))
  student = student or student_program(experiment)
  if not splits:
    constants = Constants.of(experiment, variables)
    return lambda state, batch: student(constants, state, batch)
  constants = Constants.of(experiment, head_variables(experiment))
  teacher = teacher_program(experiment, requires)

  def step(state, batch):
    batch = student.place(batch)
    return student(constants, state, batch | {TEACHER_TAPS: teacher(variables, {}, batch)})
  return step


def donating(experiment: Experiment, step: Callable) -> Program:
  """A step `(constants, state, batch) -> (state, metrics)` that gives up the state it takes."""
  return parallel.data_parallel(
      step, experiment.mesh, mode=experiment.config.parallel, donate_state=True,
      compile_level=experiment.config.train.compile_level)
