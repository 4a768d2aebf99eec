"""Where the time of a train step goes: its parts as programs of their own, timed in turns.

The compiled step fuses across its parts, so that no trace of it tells where one ends. Each part is
therefore compiled by itself, with its gradients, and reads what the parts before it have left. They
add up to the step but for what only one of the two ways does: the step shares work between parts,
and a part alone writes its results to memory. `Profile.rest` is that difference.
"""

from __future__ import annotations

import dataclasses
import statistics
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax import lax
from ml_collections import ConfigDict

from kdseg_jax import distillers, parallel
from kdseg_jax.distillers import DistillerState, methods
from kdseg_jax.distillers.core import fold_in_name
from kdseg_jax.inference.model import Model
from kdseg_jax.parallel import AXIS, Costs
from kdseg_jax.training import experiment as experiments
from kdseg_jax.training import preparations, programs, trace
from kdseg_jax.training.experiment import Experiment
from kdseg_jax.training.run import training_batches
from kdseg_jax.training.state import TrainState, move_average
from kdseg_jax.training.step import TEACHER_TAPS, advance_critics, apply_train, teacher_head

STEP = 'whole step'
INPUT = 'input'
_STUDENT_TAPS = 'student_taps'  # in a batch, as TEACHER_TAPS
_FORWARD, _TARGETS = 'student forward', 'targets of the task'
_INPUT_BATCHES = 24


class Part(NamedTuple):
  """A part of the step that can be run by itself.

  Attributes:
    name: for people.
    run: runs it once, on the devices.
    program: that it runs.
    less: name of the part that it contains, whose time is not its own.
    counts: whether it is a part of the step, and not just to be subtracted, or the step itself.
  """

  name: str
  run: Callable[[], Any]
  program: parallel.Program
  less: str | None = None
  counts: bool = True


class Timing(NamedTuple):
  """Seconds of one part: median and quartiles; `costs` of its program, None of the input."""

  seconds: float
  quartiles: tuple[float, float]
  costs: Costs | None = None


class Profile(NamedTuple):
  """Timings of one run's step.

  Attributes:
    input: of the next batch, nothing else running; in a run it is made while the step before runs.
    parts: name -> its own time, in the order of the step.
    step: of the whole step; its costs are those of the student's program.
    operations: in a trace of the step.
  """

  input: Timing
  parts: dict[str, Timing]
  step: Timing
  operations: list[trace.Operation]

  @property
  def rest(self) -> float:
    """Seconds of the step that its parts do not explain; negative where they take longer apart."""
    return self.step.seconds - sum(part.seconds for part in self.parts.values())


def untrained_teacher(config: ConfigDict, own: ConfigDict) -> tuple[ConfigDict, Model]:
  """A config that has this teacher, and the teacher of a config of its own, with random weights."""
  classes = experiments.create_train_source(own).classes
  module, mesh = experiments.create_model(own.student, len(classes)), parallel.create_mesh()
  image = jnp.zeros((1, *own.augmentation.crop, 3), jnp.uint8)
  variables = experiments.compiled_once(
      lambda key: module.init({'params': key}, image), mesh)(jax.random.key(0))
  config = config.copy_and_resolve_references().unlock()
  config.teacher.update(checkpoint='untrained', config=ConfigDict())  # nothing is read from there
  return config, Model(module, variables, classes, own)


def measure(experiment: Experiment, *, repeats: int, trace_folder: str) -> Profile:
  """Times the parts of a run's step, each once a round, so that a busy machine hits all alike.

  Args:
    experiment: of the run; nothing is saved.
    repeats: rounds, after one that compiles.
    trace_folder: receives a trace of the whole step, see `trace.record`.
  """
  batches = training_batches(experiment, 'train', start=0)
  parts = parts_of(experiment, next(batches))
  taken: dict[str, list[float]] = {part.name: [] for part in parts}
  for repeat in range(repeats + 1):
    for part in parts:
      start = time.perf_counter()
      jax.block_until_ready(part.run())
      if repeat:
        taken[part.name].append(time.perf_counter() - start)
  found = {part.name: _timing(taken[part.name], part.program.costs()) for part in parts}
  own = {part.name: _without(found[part.name], found.get(part.less)) for part in parts
         if part.counts}
  step = parts[-1]
  trace.record(trace_folder, step.run)
  return Profile(_time_input(batches, repeats), own, found[STEP],
                 trace.operations(trace_folder, step.program.hlo()))


def parts_of(experiment: Experiment, batch: Mapping[str, Any]) -> list[Part]:
  """The parts of a run's step on one batch, in its order; `STEP`, the whole, is the last."""
  config, distiller = experiment.config, experiment.distiller
  variables = programs.teacher_variables(experiment, distiller.requires)
  create = experiments.make_initial_state(experiment)
  state, given_up, stepped = (
      create(experiments.run_key(config), preparations.placeholders(experiment))
      for _ in range(3))
  forward = _program(experiment, _make_forward(experiment), sharded=(True, False))
  batch = forward.place(dict(batch))
  parts, taps = [], dict(batch)

  def add(name, program, *arguments, **fields):
    parts.append(Part(name, lambda: program(*arguments), program, **fields))
    return parts[-1].run

  taps[TEACHER_TAPS] = {}
  if experiment.teacher:
    teacher = programs.teacher_program(experiment, distiller.requires)
    taps[TEACHER_TAPS] = add('teacher', teacher, variables, {}, batch)()
  taps[_STUDENT_TAPS] = add(_FORWARD, forward, {}, state, batch)()[0]
  add('student backward, with the loss of the task',
      _program(experiment, _make_student(experiment)), {}, state, batch, less=_FORWARD)
  if distiller.requires.targets:
    add(_TARGETS, _program(experiment, _make_targets(experiment), sharded=True), {}, {}, taps,
        counts=False)
  for name, term, own in _terms(experiment, state.distiller):
    add(name, _program(experiment, _make_term(experiment, term), sharded=(False, True)),
        variables, state._replace(distiller=own), taps,
        less=_TARGETS if term.requires.targets else None)
  if distiller.critic is not None:
    add('critic', _program(experiment, _make_critic(experiment)), variables, state, taps,
        less=_TARGETS if distiller.requires.targets else None)
  trained = {'student': given_up.params, 'distiller': given_up.distiller.params}
  gradients = parallel.replicate(jax.tree.map(jnp.zeros_like, trained), experiment.mesh)
  optimizer = programs.donating(experiment, _make_update(experiment))
  index = {'index': batch['index']}  # not read, but pmap takes nothing without a batch
  parts.append(Part('optimiser', _threaded(
      lambda given: (optimizer({}, given, index), None), (gradients, given_up)), optimizer))
  parts.append(_whole_step(experiment, stepped, batch))
  return parts


def _whole_step(experiment, state, batch):
  """The step as a run has it, of one program or two."""
  student = programs.student_program(experiment)
  step = programs.train_step_of(experiment, student)
  return Part(STEP, _threaded(lambda state: step(state, batch), state), student, counts=False)


def _threaded(step, state):
  """A function without arguments that takes a state, which the step gives up, ever further."""
  def run():
    nonlocal state
    state, result = step(state)
    return state, result
  return run


def _program(experiment, step, **options):
  return parallel.data_parallel(
      step, experiment.mesh, mode=experiment.config.parallel,
      compile_level=experiment.config.train.compile_level, **options)


def _keys(state):
  rng = jax.random.fold_in(state.rng, state.step)
  return fold_in_name(rng, 'dropout'), fold_in_name(rng, 'distill')


def _make_forward(experiment):
  def forward(_, state: TrainState, batch):
    return apply_train(
        experiment.student, state.params, state.batch_stats, batch, _keys(state)[0],
        micro_batches=experiment.config.train.accumulate)
  return forward


def _make_student(experiment):
  forward = _make_forward(experiment)

  def student(_, state: TrainState, batch):
    def loss(params):
      taps, batch_stats = forward(_, state._replace(params=params), batch)
      return experiment.task.loss(taps, batch, axis_name=AXIS)[0], batch_stats
    return parallel.value_and_grad(loss, axis_name=AXIS)(state.params)
  return student


def _make_targets(experiment):
  def targets(_, __, batch):
    _, (found, _) = experiment.task.loss(batch[_STUDENT_TAPS], batch, axis_name=AXIS)
    return jax.tree.map(lambda x: jnp.asarray(x)[None], found)
  return targets


def _inputs(experiment, requires, variables, state, batch):
  """What an objective of the method reads of this batch."""
  batch = dict(batch)
  student, teacher = batch.pop(_STUDENT_TAPS), batch.pop(TEACHER_TAPS)
  targets = experiment.task.loss(student, batch, axis_name=AXIS)[1][0] if requires.targets else {}
  head = teacher_head(experiment.teacher.module, variables) if requires.teacher_head else None
  return distillers.DistillInputs(
      student=student, teacher=teacher, batch=batch, targets=targets, rng=_keys(state)[1],
      step=state.step, teacher_head=head)


def _terms(experiment, state: DistillerState) -> Iterator[tuple[str, Any, DistillerState]]:
  """Each term alone, with its part of the state; all at once where one wraps the others."""
  terms = {name: fields for name, fields in experiment.config.distill.to_dict().items()
           if fields['weight']}
  if any(methods.is_wrapper(methods.factory_of(name, fields)) for name, fields in terms.items()):
    yield distillers.label(terms), experiment.distiller, state
    return
  for name, fields in terms.items():
    term = distillers.create({name: fields}, axis_name=AXIS)
    yield name, term, DistillerState(*({name: group[name]} for group in state))


def _make_term(experiment, distiller):
  """Value and gradients of a method, towards the taps that it reads and its own params."""
  def term(variables, state: TrainState, batch):
    inputs = lax.stop_gradient(_inputs(experiment, distiller.requires, variables, state, batch))
    read = {name: inputs.student[name] for name in distiller.requires.student}

    def loss(trained):
      taps, params = trained
      value, (memory, _) = distiller.loss(
          state.distiller._replace(params=params),
          dataclasses.replace(inputs, student={**inputs.student, **taps}))
      return value * lax.pcast(jnp.float32(1), AXIS, to='varying'), memory

    (value, memory), (of_taps, of_params) = jax.value_and_grad(loss, has_aux=True)(
        (read, lax.pcast(state.distiller.params, AXIS, to='varying')))
    return (lax.pmean((value, of_params), AXIS), memory), of_taps
  return term


def _make_critic(experiment):
  def critic(variables, state: TrainState, batch):
    method = experiment.distiller
    inputs = _inputs(experiment, method.requires, variables, state, batch)
    default = distillers.Critic(
        None, experiment.optimizers.critic, experiment.config.critic.steps)
    return advance_critics(
        method.critic, default, AXIS, state.distiller, state.opt_state.critic,
        lax.stop_gradient(inputs))[:2]
  return critic


def _make_update(experiment):
  decay = experiment.config.train.ema_decay

  def update(_, given, __):
    gradients, state = given
    trained = {'student': state.params, 'distiller': state.distiller.params}
    updates, opt_state = experiment.optimizers.trained.update(
        gradients, state.opt_state.trained, trained)
    trained = optax.apply_updates(trained, updates)
    state = state._replace(
        step=state.step + 1, params=trained['student'],
        opt_state=state.opt_state._replace(trained=opt_state),
        distiller=state.distiller._replace(params=trained['distiller']))
    if decay:
      latest = {'params': state.params, 'batch_stats': state.batch_stats}
      state = state._replace(average=move_average(state.average, latest, state.step, decay))
    return gradients, state
  return update


def _time_input(batches, repeats):
  """Of batches in a row, after one with which the pipeline has started."""
  next(batches)
  count, start = max(_INPUT_BATCHES, repeats), time.perf_counter()
  for _ in range(count):
    next(batches)
  seconds = (time.perf_counter() - start) / count
  return Timing(seconds, (seconds, seconds))


def _timing(seconds, costs):
  quartiles = seconds * 3 if len(seconds) < 2 else statistics.quantiles(
      seconds, n=4, method='inclusive')
  return Timing(statistics.median(seconds), (quartiles[0], quartiles[2]), costs)


def _without(timing, contained):
  """A timing, and costs, less those of a part that it contains."""
  if contained is None:
    return timing
  costs = timing.costs._replace(
      flops=timing.costs.flops - contained.costs.flops,
      bytes=timing.costs.bytes - contained.costs.bytes)
  low, high = (x - contained.seconds for x in timing.quartiles)
  return Timing(max(0.0, timing.seconds - contained.seconds), (low, high), costs)
