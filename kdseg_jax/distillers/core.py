"""The `Distiller`: a distillation method as a pair of pure functions over pytrees."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import zlib
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from kdseg_jax import names
from kdseg_jax.errors import UserError

Array = jax.Array
PyTree = Any
Taps = Mapping[str, Any]  # name -> array, channels last, in the model's own scale
Weight = float | Callable[[Array], Array]


class DistillerState(NamedTuple):
  """The four parts of a distiller's state.

  Attributes:
    params: trained with the student (projections, fusion, adapters).
    critic: trained against the student by its own optimiser; {} if the method has none.
    prepared: trained before distillation (`Preparation`) and frozen after (an encoder); {} if none.
    memory: carried along and never differentiated (queues, BatchNorm statistics of
      projections, spectral-norm vectors). Must be the same on every device.
  """

  params: PyTree = {}
  critic: PyTree = {}
  prepared: PyTree = {}
  memory: PyTree = {}


class Requires(NamedTuple):
  """What a distiller reads; checked against the models before anything is compiled.

  Attributes:
    student: names of the student's taps.
    teacher: names of the teacher's taps.
    targets: names of what the task's loss assigned (masks, weights, normalisers).
    teacher_head: True if the method calls `inputs.teacher_head`.
    teacher_batch_statistics: True if the teacher's BatchNorms are to normalise by the batch.
  """

  student: tuple[str, ...] = ()
  teacher: tuple[str, ...] = ()
  targets: tuple[str, ...] = ()
  teacher_head: bool = False
  teacher_batch_statistics: bool = False


@functools.partial(
    jax.tree_util.register_dataclass,
    data_fields=['student', 'teacher', 'batch', 'targets', 'rng', 'step', 'teacher_head'],
    meta_fields=[])
@dataclasses.dataclass(frozen=True)
class DistillInputs:
  """What every objective of a distiller receives; a pytree.

  Attributes:
    student: the student's taps, `(N, ...)` arrays by name.
    teacher: the teacher's taps.
    batch: the batch (`image`, `label`, `mask`, `index`); `index` is the global number of an
      example, to be folded into `rng` for draws that the device count must not change.
    targets: what the task's loss assigned, by name.
    rng: key of this step, the same on every device.
    step: number of this step, an integer scalar.
    teacher_head: `jax.tree_util.Partial` over the teacher's variables that runs the teacher's
      head from a given layer, or None.
  """

  student: Taps
  teacher: Taps
  batch: Mapping[str, Any] = dataclasses.field(default_factory=dict)
  targets: Mapping[str, Any] = dataclasses.field(default_factory=dict)
  rng: Any = None
  step: Any = 0
  teacher_head: Any = None


# A loss of a distiller: (state, inputs) -> (scalar, (new memory, metrics)).
Objective = Callable[[DistillerState, DistillInputs], tuple[Array, tuple[PyTree, dict]]]


class Critic(NamedTuple):
  """How a method's critic is trained, by an optimiser of its own.

  Attributes:
    loss: an objective with respect to `state.critic` only; the student's taps are already stopped.
    optimizer: of `state.critic`; None is the trainer's (`config.critic.optimizer`). Its schedule
      counts the critic's own updates.
    steps: updates of the critic in each train step; None is the trainer's (`config.critic.steps`).
    parts: of a combination, part -> its critic. Each is trained by itself on its own part of the
      state (`state_of_part`) with its own key (`with_own_key`); `loss` is their sum, `optimizer`
      and `steps` are None. None if this is no combination.
  """

  loss: Objective
  optimizer: optax.GradientTransformation | None = None
  steps: int | None = None
  parts: Mapping[str, Critic] | None = None


class Preparation(NamedTuple):
  """What a method fits to the teacher before distillation begins: a run of its own.

  `inputs` hold the teacher's taps; of the student's only the shapes, as what is prepared may follow
  from the student's resolution but not from what it has learned.

  Attributes:
    requires: `Requires`; of the student, the taps whose shapes are read.
    init: `(rng, inputs) -> DistillerState` of which `prepared` is to be fitted and `memory` carried
      along; `inputs` may hold `jax.ShapeDtypeStruct`s alone.
    loss: an objective with respect to `state.prepared` only.
    finish: `(state) -> prepared`, what is kept for the distiller's `init`.
    describe: `(inputs) -> dict` of names, numbers and tuples that decide the result beside teacher
      and data: the factory and its options. Preparations that are described alike are made once.
    optimizer: of `state.prepared`; None is the trainer's (`config.prepare.optimizer`).
    parts: of a combination, part -> its preparation, each of which is made by itself; the other
      fields are those of all of them together, `optimizer` is None. None if this is no combination.
  """

  requires: Requires
  init: Callable[[Array, DistillInputs], DistillerState]
  loss: Objective
  finish: Callable[[DistillerState], PyTree]
  describe: Callable[[DistillInputs], dict[str, Any]]
  optimizer: optax.GradientTransformation | None = None
  parts: Mapping[str, Preparation] | None = None


class Distiller(NamedTuple):
  """One distillation method, as `optax.GradientTransformation` is one optimiser.

  Attributes:
    requires: `Requires`.
    init: `(rng, inputs) -> DistillerState`; `inputs` may hold `jax.ShapeDtypeStruct`s. That of a
      method with a preparation takes `prepared=`, what `prepare.finish` returned, too.
    loss: `(state, inputs) -> (loss, (memory, metrics))`, differentiated with respect to the
      student and `state.params` only.
    critic: `Critic`, or None if the method has none.
    prepare: `Preparation`, or None if nothing is prepared.
  """

  requires: Requires
  init: Callable[..., DistillerState]
  loss: Objective
  critic: Critic | None = None
  prepare: Preparation | None = None


def create_state(
    distiller: Distiller, rng: Array, inputs: DistillInputs, prepared: PyTree = None
) -> DistillerState:
  """`distiller.init`, which is given what was prepared if it has a preparation."""
  given = {} if distiller.prepare is None else {'prepared': prepared}
  return distiller.init(rng, inputs, **given)


def abstract_prepared(distiller: Distiller, inputs: DistillInputs) -> PyTree:
  """Shapes of what the preparation of a distiller leaves; None if it has none."""
  prepare = distiller.prepare
  if prepare is None:
    return None
  return jax.eval_shape(lambda rng: prepare.finish(prepare.init(rng, inputs)), jax.random.key(0))


def stateless(requires: Requires, loss: Callable[[DistillInputs], Array]) -> Distiller:
  """A distiller without any state, from `loss(inputs) -> scalar`."""
  return Distiller(
      requires=requires,
      init=lambda rng, inputs: DistillerState(),
      loss=lambda state, inputs: (loss(inputs), (state.memory, {})))


def comparing(
    loss: Callable[[Array, Array], Array], student_tap: str, teacher_tap: str
) -> Distiller:
  """A distiller without any state, from `loss(student's tap, teacher's tap) -> scalar`."""
  return stateless(
      Requires(student=(student_tap,), teacher=(teacher_tap,)),
      lambda inputs: loss(inputs.student[student_tap], inputs.teacher[teacher_tap]))


def of_maps(distiller: Distiller) -> Distiller:
  """The same distiller, whose `init` raises UserError where a tap that it reads is no map."""
  def check(inputs):
    for owner in ('student', 'teacher'):
      taps = getattr(inputs, owner)
      for name in getattr(distiller.requires, owner):
        if name in taps and _rank(taps[name]) != 4:
          maps = sorted(tap for tap, x in taps.items() if _rank(x) == 4)
          found = f'vectors {taps[name].shape}' if _rank(taps[name]) else 'one a level'
          raise UserError(
              f'needs maps (N, H, W, C), and {name!r} of the {owner} is {found}. Where the method '
              f'has a field for the tap ({owner}_tap), set it to one of '
              f'{", ".join(maps) or "none"}; else choose another method.')

  def checked(owner):
    def init(rng, inputs, **prepared):
      check(inputs)
      return owner.init(rng, inputs, **prepared)
    return None if owner is None else owner._replace(init=init)

  return checked(distiller)._replace(prepare=checked(distiller.prepare))


def _rank(tap):
  """Dimensions of a tap; 0 of a detector's, which are tuples."""
  return getattr(tap, 'ndim', 0)


def fold_in_name(rng: Any, name: str) -> Any:
  """Folds crc32(name) into a key, so that adding a part leaves the others' draws unchanged."""
  if rng is None or isinstance(rng, jax.ShapeDtypeStruct):  # as in the inputs of `init`
    return rng
  return jax.random.fold_in(rng, zlib.crc32(name.encode()))


def combine(parts: Mapping[str, tuple[Weight, Distiller]]) -> Distiller:
  """The weighted sum of named distillers: again a distiller.

  `loss = sum_name weight_name(step) * loss_name`. Every group of the state is nested under the
  part's name. Critics keep their own optimisers and steps (`Critic.parts`), and preparations are
  made each by itself (`Preparation.parts`); in `critic.loss` and `prepare.loss` they are summed
  unweighted. Metrics are `name/raw`, `name/weighted` and, for what the part itself reports,
  `name/<term>`; `name/critic` and `name/prepare` in those phases. A loss that stands in two parts
  counts twice; method strings (`terms_of`) know their terms and count it once.

  Args:
    parts: name -> (weight, distiller). A weight is a number or an optax schedule of the step.

  Raises:
    ValueError: a weight is neither a finite number nor a schedule, or a name is empty or holds '/'.
      That of a part, later, begins with the part's name.
  """
  for name, (weight, _) in parts.items():
    if not name or '/' in name:
      raise UserError(
          f'combine: {name!r} is no name of a part: it must be non-empty, without "/".')
    if not callable(weight) and not _is_weight(weight):
      raise UserError(
          f'combine: the weight of {name!r} is {weight!r}; expected a finite number or a schedule, '
          'a function of the step.')
  distillers = {name: distiller for name, (_, distiller) in parts.items()}
  critics = {name: d.critic for name, d in distillers.items() if d.critic is not None}
  preparations = {name: d.prepare for name, d in distillers.items() if d.prepare is not None}

  def init(rng, inputs, prepared=None):
    given = {name: {'prepared': kept} for name, kept in (prepared or {}).items()}
    return _init_parts(distillers, rng, inputs, given)

  def loss(state, inputs):
    def weigh(name, value):
      weight = parts[name][0]
      weighted = (weight(inputs.step) if callable(weight) else weight) * value
      return weighted, {f'{name}/raw': value, f'{name}/weighted': weighted}
    return _sum_objectives(
        {name: d.loss for name, d in distillers.items()}, weigh, state, inputs)

  def critic_loss(state, inputs):
    weigh = lambda name, value: (value, {f'{name}/critic': value})
    return _sum_objectives(
        {name: critic.loss for name, critic in critics.items()}, weigh, state, inputs)

  return Distiller(
      requires=_union([d.requires for d in distillers.values()]),
      init=init,
      loss=loss,
      critic=Critic(critic_loss, parts=critics) if critics else None,
      prepare=_combine_preparations(preparations) if preparations else None)


def _is_weight(weight):
  """Whether it is one finite number, or may be: the value of a traced one is not known."""
  if isinstance(weight, bool) or not isinstance(
      weight, (int, float, np.number, np.ndarray, jax.Array)):
    return False
  return np.shape(weight) == () and (
      isinstance(weight, jax.core.Tracer) or bool(np.isfinite(weight)))


def _combine_preparations(preparations):
  def loss(state, inputs):
    weigh = lambda name, value: (value, {f'{name}/prepare': value})
    return _sum_objectives(
        {name: part.loss for name, part in preparations.items()}, weigh, state, inputs)

  return Preparation(
      requires=_union([part.requires for part in preparations.values()]),
      init=lambda rng, inputs: _init_parts(preparations, rng, inputs, {}),
      loss=loss,
      finish=lambda state: {name: part.finish(state_of_part(state, name))
                            for name, part in preparations.items()},
      describe=lambda inputs: {name: part.describe(inputs) for name, part in preparations.items()},
      parts=preparations)


def _init_parts(parts, rng, inputs, given):
  """The nested states of parts that have `init`, with what is given to each beside."""
  states = {}
  for name, part in parts.items():
    with _named(name):
      states[name] = part.init(
          fold_in_name(rng, name), with_own_key(inputs, name), **given.get(name, {}))
  return DistillerState(*({name: getattr(state, group) for name, state in states.items()}
                          for group in DistillerState._fields))


def without_zeros(
    parts: Mapping[str, tuple[Weight, Distiller]]
) -> dict[str, tuple[Weight, Distiller]]:
  """The parts of a combination but those whose weight is the number 0: they need no state."""
  is_zero = lambda weight: isinstance(weight, (int, float, np.number)) and weight == 0
  return {name: part for name, part in parts.items() if not is_zero(part[0])}


def state_of_part(state: DistillerState, name: str) -> DistillerState:
  """What the state of a combination holds for the part of this name."""
  return DistillerState(*(group[name] for group in state))


def with_own_key(inputs: DistillInputs, name: str) -> DistillInputs:
  """The same inputs with a key folded from a name, as the part of this name receives them."""
  return dataclasses.replace(inputs, rng=fold_in_name(inputs.rng, name))


def _sum_objectives(objectives, weigh, state, inputs):
  """Sums the objectives of the parts that have one; the others keep their memory."""
  total = jnp.float32(0)
  memory = dict(state.memory)
  metrics = {}
  for name, objective in objectives.items():
    with _named(name):
      value, (memory[name], reported) = objective(
          state_of_part(state, name), with_own_key(inputs, name))
    value, own = weigh(name, value)
    total += value
    metrics |= own | {f'{name}/{term}': x for term, x in reported.items()}
  return total, (memory, metrics)


@contextlib.contextmanager
def _named(name):
  """Adds the name of a part to its errors, also as their attribute `part`."""
  try:
    yield
  except ValueError as error:
    kind = UserError if isinstance(error, UserError) else ValueError
    named: Any = kind(f'{name}: {error}')
    named.part = name
    raise named from error


def _union(requires):
  merge = lambda field: tuple(dict.fromkeys(n for r in requires for n in getattr(r, field)))
  return Requires(merge('student'), merge('teacher'), merge('targets'),
                  any(r.teacher_head for r in requires),
                  any(r.teacher_batch_statistics for r in requires))


def check_requires(requires: Requires, inputs: DistillInputs) -> None:
  """Checks that the models and the task provide what a distiller reads.

  Raises:
    ValueError: a tap, a target or the teacher's head is missing; names what there is.
  """
  problems = []
  for owner, wanted, available in (
      ('student has no tap', requires.student, inputs.student),
      ('teacher has no tap', requires.teacher, inputs.teacher),
      ('task has no target', requires.targets, inputs.targets)):
    for name in wanted:
      if name not in available:
        problems.append(f'the {owner} {name!r}; it has {sorted(available)}.'
                        + names.hint(name, available))
  if requires.teacher_head and inputs.teacher_head is None:
    problems.append('the method runs features through the head of the teacher, and this '
                    'teacher offers none.')
  if problems:
    raise UserError('The method cannot be used with these models:\n  ' + '\n  '.join(problems))
