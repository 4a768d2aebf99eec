"""Trains the students of a study side by side: one pass of the teacher a batch serves them all."""

from __future__ import annotations

import contextlib
import functools
import os
import time
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
import tqdm
from absl import logging
from ml_collections import ConfigDict

from kdseg_jax import compiling, parallel, paths, references
from kdseg_jax.checkpoint import has_checkpoint
from kdseg_jax.data.json_files import read_json, write_json
from kdseg_jax.distillers import DistillerState
from kdseg_jax.errors import UserError
from kdseg_jax.studies import plan as study_plan
from kdseg_jax.training import experiment as experiments
from kdseg_jax.training import preparations, programs, shapes
from kdseg_jax.training.data_check import check_data
from kdseg_jax.training.preemption import StopSignal
from kdseg_jax.training.run import Run, create_evaluator, measure_teacher, training_batches
from kdseg_jax.training.step import TEACHER_TAPS


class Stopwatch:
  """Seconds that were added up; called, it tells them: the clock of a run beside others."""

  def __init__(self):
    self._total = 0.0

  def __call__(self) -> float:
    return self._total

  def add(self, seconds: float) -> None:
    """Adds seconds that went into this run."""
    self._total += seconds


def train(config: ConfigDict, workdir: str, *, allow_class_names: bool = False,
          allow_imports: Sequence[str] = ()) -> bool:
  """Trains every student of a study that is not finished; False if told to stop.

  Args:
    config: of a study, with the section `study`; `config.teacher.checkpoint` is set.
    workdir: of the study. Each run has a work directory of its own in it, as `train` makes them.
    allow_class_names: see `Experiment`.
    allow_imports: see `experiment.create_experiment`.

  Raises:
    ValueError: a config cannot work, or a run was begun with another config.
    Diverged: NaN or infinity in the loss of a student.
  """
  workdir = paths.local(workdir)
  configs = study_plan.unfinished(config, workdir)
  if not configs:
    return True
  cohorts: list[_Cohort] = []
  with StopSignal() as stop, contextlib.ExitStack() as runs:
    shared = _Shared(
        configs, workdir, runs, stop, allow_class_names=allow_class_names,
        allow_imports=(*allow_imports, *references.named_in(config)))  # its teacher's among them
    for name in configs:
      if not stop():
        cohorts += _cohorts(config, workdir, name, configs[name], shared, stop)
    for group in _by_data(cohorts):
      if not stop():
        _advance(group, workdir, stop)
    for run in (run for cohort in cohorts for run in cohort.runs):
      if not stop() and run.metrics is None:  # it was at its end, and its log is lost
        run.evaluate()
    return not stop()


class _Cohort:
  """Runs of one student that are at the same step and take it in one call."""

  def __init__(self, runs: list[Run], clocks: list[Stopwatch], program: parallel.Program,
               folder: str, label: str):
    self.runs, self.program = runs, program
    self._clocks, self._folder = clocks, folder
    self._call = compiling.Announced(f'the train step of {label}')
    self.experiment = runs[0].experiment
    self.taps = self.experiment.distiller.requires.teacher
    self._constants = programs.Constants.of(
        self.experiment, programs.head_variables(self.experiment))
    self.done = runs[0].done
    self._stacked = len(runs) > 1
    self._extra_params = extra_params(runs[0].state.distiller)
    self._state = runs[0].state
    if self._stacked and self.done < self.experiment.config.train.steps:
      self._state = jax.tree.map(lambda *x: jnp.stack(x), *(run.state for run in runs))
      for run in runs:
        run.state = None  # until it is read: it would be a second copy, and an old one
    self._cost_written = False

  def advance(self, batch: dict, taps: dict, *, stopping: bool) -> bool:
    """One step of all runs, and what follows it; True if they stop here."""
    start = time.perf_counter()
    if programs.splits_teacher(self.experiment):
      batch = batch | {TEACHER_TAPS: {name: taps[name] for name in self.taps}}
    self._state, metrics = self._call(
        batch['image'].shape[-3:-1], self.program, self._constants, self._state, batch)
    jax.block_until_ready(metrics)  # the time is to be this student's
    seconds = (time.perf_counter() - start) / len(self.runs)
    if not self._cost_written:
      self._write_cost()
    self.done += 1
    stopped = []
    for i, (run, clock) in enumerate(zip(self.runs, self._clocks, strict=True)):
      clock.add(seconds)
      if not self._stacked or run.due(self.done, stopping=stopping).reads_state:
        run.state = self._one(self._state, i)
      stopped.append(run.record(self.done, self._one(metrics, i), stopping=stopping))
    return any(stopped)

  def _one(self, tree, i):
    return jax.tree.map(lambda x: x[i], tree) if self._stacked else tree

  def _write_cost(self):
    self._cost_written = True
    write_json(os.path.join(self._folder, 'cost.json'), {
        # That of several runs in one program is no figure of the method.
        'peak_bytes': None if self._stacked else self.program.peak_bytes(),
        'extra_params': self._extra_params})


def extra_params(state: DistillerState) -> int:
  """Number of parameters that a method trains beside the student's."""
  trained = (state.params, state.critic, state.prepared)
  return sum(x.size for x in jax.tree.leaves(trained))


def _cohorts(config, workdir, name, configs, shared, stop):
  """The runs of one student, in groups that step together."""
  experiment = shared.experiments[name]
  initial = experiments.make_initial_state(experiment)
  evaluator = shared.evaluator(experiment)
  teacher_metrics = measure_teacher(experiment, workdir, stop)
  placeholders = preparations.placeholders(experiment)
  groups: dict[int, list[tuple[Run, Stopwatch]]] = {}
  for seed, run_config in configs.items():
    clock, fresh = Stopwatch(), functools.partial(initial, experiments.run_key(run_config))
    run = Run(experiment._replace(config=run_config),
              study_plan.student_workdir(workdir, name, seed), fresh(placeholders),
              evaluator=evaluator, should_stop=stop, clock=clock,
              label=f'{name} seed {run_config.seed}')
    shared.runs.callback(run.close)
    run.teacher_metrics = teacher_metrics
    preparations.give(run, workdir, fresh, stop)
    run.catch_up()
    together = run.done if config.study.vmap_seeds else seed
    groups.setdefault(together, []).append((run, clock))
  folder = os.path.join(workdir, 'students', name)
  return [
      _Cohort([run for run, _ in group], [clock for _, clock in group],
              shared.program(experiment, stacked=len(group) > 1), folder,
              label=' '.join([name, 'seed', *(str(run.config.seed) for run, _ in group)]))
      for group in groups.values()]


class _Shared:
  """What the students of a study have in common: the teacher, and programs of equal students."""

  def __init__(self, configs, workdir, runs, stop, **allowed):
    self.runs, self.experiments = runs, {}
    self._evaluators, self._programs = {}, {}
    teacher = None
    for name, of_seeds in configs.items():
      self.experiments[name] = experiments.create_experiment(
          next(iter(of_seeds.values())), teacher=teacher, **allowed)
      shapes.check_step(self.experiments[name], self.program(self.experiments[name]))
      teacher = teacher or self.experiments[name].teacher
    begun = any(has_checkpoint(study_plan.student_workdir(workdir, name, seed))
                for name, of_seeds in configs.items() for seed in of_seeds)
    by_data = {e.config.data.to_json(): e for e in self.experiments.values()}
    for experiment in [] if begun else by_data.values():
      check_data(experiment, workdir, stop)
    measured = read_json(os.path.join(workdir, 'teacher.json')).get('key', {})
    if teacher is not None and measured.get('step', teacher.step) != teacher.step:
      raise UserError(
          f'{workdir}: students were trained there with checkpoint {measured["step"]} of the '
          f'teacher, and {teacher.workdir} has {teacher.step} now. Use another --workdir.')

  def program(self, experiment, *, stacked=False):
    """The train step, which students share that differ in their learning rates alone."""
    key = programs.recipe(experiment.config), stacked
    if key not in self._programs:
      self._programs[key] = programs.student_program(experiment, stacked=stacked)
    return self._programs[key]

  def evaluator(self, experiment):
    key = experiment.config.student.to_json()
    if key not in self._evaluators:
      self._evaluators[key] = create_evaluator(experiment, experiment.student)
    return self._evaluators[key]


def _by_data(cohorts):
  """The cohorts in groups that read the same batches."""
  groups = {}
  for cohort in cohorts:
    groups.setdefault(cohort.experiment.config.data.to_json(), []).append(cohort)
  return list(groups.values())


def _advance(cohorts, workdir, stop):
  """Takes all cohorts of one group to the end; those that are ahead wait for the others."""
  first = cohorts[0]
  steps, start = first.experiment.config.train.steps, min(cohort.done for cohort in cohorts)
  names_of_taps = tuple(dict.fromkeys(name for cohort in cohorts for name in cohort.taps))
  teacher = _TeacherPass(cohorts, names_of_taps, workdir)
  batches = training_batches(first.experiment, 'train', start=start)
  progress = _Progress(sum(len(cohort.runs) for cohort in cohorts), start, steps,
                       first.experiment.config.log.every_steps)
  for step in tqdm.tqdm(range(start + 1, steps + 1), initial=start, total=steps, desc='study',
                        disable=None, leave=False):
    active = [cohort for cohort in cohorts if cohort.done == step - 1]
    batch = first.program.place(next(batches))
    taps = teacher(batch) if any(cohort.taps for cohort in active) else {}
    stopping = stop.agree(first.runs[0].checkpointer.reached_preemption, step)
    if any([cohort.advance(batch, taps, stopping=stopping) for cohort in active]):
      break
    progress(step)
  teacher.write_cost()


class _Progress:
  """Says in the log how far runs side by side are, and when they will be there."""

  def __init__(self, runs: int, start: int, steps: int, every: int):
    self._runs, self._start, self._steps, self._every = runs, start + 1, steps, every
    self._since = time.perf_counter()

  def __call__(self, step: int) -> None:
    now = time.perf_counter()
    if step == self._start:  # which compiles, and tells nothing of the others
      self._since = now
    elif self._every and step % self._every == 0 and step < self._steps:
      seconds = (now - self._since) / (step - self._start)
      logging.info('Study: step %d of %d of %d runs side by side, %.2f s for a step of all; about '
                   '%.0f min left.', step, self._steps, self._runs, seconds,
                   seconds * (self._steps - step) / 60)


class _TeacherPass:
  """The one pass of the teacher a batch, and what it costs."""

  def __init__(self, cohorts, names_of_taps, workdir):
    reading = next((cohort for cohort in cohorts if cohort.taps), None)
    self._path = os.path.join(workdir, 'teacher_cost.json')
    self._seconds, self._call = [], compiling.Announced("the teacher's pass")
    if reading is not None:
      requires = reading.experiment.distiller.requires._replace(teacher=names_of_taps)
      self._program = programs.teacher_program(reading.experiment, requires)
      self._variables = programs.teacher_variables(reading.experiment, requires)

  def __call__(self, batch):
    start = time.perf_counter()
    taps = jax.block_until_ready(self._call(
        batch['image'].shape[-3:-1], self._program, self._variables, {}, batch))
    self._seconds.append(time.perf_counter() - start)
    return taps

  def write_cost(self):
    if len(self._seconds) > 1:
      write_json(self._path, {'step_seconds': float(np.median(self._seconds[1:])),
                              'peak_bytes': self._program.peak_bytes()})
