"""The whole step by its shapes alone, before a teacher is measured or anything compiled."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from ml_collections import ConfigDict

from kdseg_jax import parallel
from kdseg_jax.distillers import DistillInputs, core, label
from kdseg_jax.errors import UserError
from kdseg_jax.inference.model import Model
from kdseg_jax.training import experiment as experiments
from kdseg_jax.training import preparations, programs
from kdseg_jax.training.experiment import Experiment
from kdseg_jax.training.step import TEACHER_TAPS


def check_step(experiment: Experiment, student: parallel.Program | None = None) -> None:
  """Shapes all that a step keeps and computes, as it will be mapped over the devices.

  Args:
    experiment: the run's parts.
    student: its `student_program`, if there is one; it is then not traced again to be compiled.

  Raises:
    UserError: a term cannot be computed for these models and this crop; names the term, and the
      fields that mend it where strides differ.
  """
  inputs = experiments.abstract_inputs(experiment)
  try:
    preparation = experiment.distiller.prepare
    if preparation is not None:
      fit = preparations.Fit.of(experiment, preparation, inputs)
      teacher = programs.abstractly(
          programs.teacher_variables, experiment, preparation.requires)
      _trace(programs.donating(experiment, fit.step), teacher, inputs.batch, fit.create)
    prepared = core.abstract_prepared(experiment.distiller, inputs)
    teacher, batch = _given_of_teacher(experiment, inputs)
    _trace(student or programs.student_program(experiment),
           programs.Constants(teacher, jax.ShapeDtypeStruct((), jnp.float32)), batch,
           experiments.state_creator(experiment, inputs), prepared)
  except ValueError as error:
    if not (isinstance(error, UserError) or hasattr(error, 'part')):
      raise  # of no term: a bug
    raise UserError(_explain(experiment, inputs, str(error))) from error


def _given_of_teacher(experiment, inputs):
  """The teacher's variables and the batch, with its taps where another program computes them."""
  requires = experiment.distiller.requires
  if not programs.splits_teacher(experiment):
    return programs.abstractly(programs.teacher_variables, experiment, requires), inputs.batch
  taps = {name: inputs.teacher[name] for name in requires.teacher}
  return programs.abstractly(programs.head_variables, experiment), (
      inputs.batch | {TEACHER_TAPS: taps})


def _trace(program, constants, batch, create, *given):
  program.trace(constants, jax.eval_shape(create, jax.random.key(0), *given), batch)


def check_study(config: ConfigDict, runs: dict[str, ConfigDict], *,
                allow_class_names: bool = False) -> None:
  """`check_step` of the students of a study whose teacher is yet to be trained.

  Args:
    config: of the study.
    runs: name -> config of a run of each student.
    allow_class_names: see `Experiment`.
  """
  if config.teacher.checkpoint or not config.study.teacher:
    return
  for name, run in runs.items():
    try:
      check_with_untrained(run, config.study.teacher, allow_class_names=allow_class_names)
    except UserError as error:
      raise UserError(f'Student {name!r}: {error}') from error


def check_with_untrained(config: ConfigDict, own: ConfigDict, *,
                         allow_class_names: bool = False) -> None:
  """`check_step` of a run whose teacher is yet to be trained with a config of its own."""
  classes = experiments.create_train_source(own).classes
  teacher = Model(experiments.create_model(own.student, len(classes)), {}, classes, own)
  config = config.copy_and_resolve_references()
  config.teacher.checkpoint = 'teacher'  # where it will be; nothing is read from there
  check_step(experiments.create_experiment(
      config, teacher=teacher, allow_class_names=allow_class_names))


def _explain(experiment, inputs: DistillInputs, error: str) -> str:
  """The error with the field of the term, to whose name `combine` has set it, and what to do."""
  config = experiment.config
  term = error.partition(':')[0]
  if term not in config.distill:
    return f'config.distill ({label(config.distill)}): {error}'
  sizes = [taps['logits'].shape[1:3] if 'logits' in taps else None
           for taps in (inputs.student, inputs.teacher)]
  if None in sizes or sizes[0] == sizes[1]:
    return f'config.distill.{error}'
  strides = (f'The maps of the student are {sizes[0]} pixels and those of the teacher {sizes[1]}. '
             'Give both models the same config.student.output_stride (and ceil_mode, where they '
             'have it)')
  if 'resize' in config.distill[term]:
    strides = f'{strides}, or set config.distill.{term}.resize=True'
  return f'config.distill.{error}\n{strides}.'
