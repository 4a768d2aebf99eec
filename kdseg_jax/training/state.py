"""What a training run carries from step to step."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from kdseg_jax import distillers
from kdseg_jax.distillers import core

PyTree = Any


class Optimizers(NamedTuple):
  """One optimiser for each thing that is trained.

  Attributes:
    trained: over `{'student': params, 'distiller': DistillerState.params}`, trained together.
    critic: over `DistillerState.critic`, of the critics that bring no optimiser of their own.
  """

  trained: optax.GradientTransformation
  critic: optax.GradientTransformation


class TrainState(NamedTuple):
  """Everything that a step changes; what a checkpoint holds.

  Attributes:
    step: steps done.
    params: the student's parameters.
    batch_stats: the student's BatchNorm statistics.
    opt_state: states of `Optimizers`, by its fields; those of the critics of a combination are
      nested by the names of the parts that have one.
    distiller: `DistillerState`.
    rng: base key; a step's key is folded from it and the step.
    average: moving average of the student, `{'params', 'batch_stats'}`; {} if none is kept.
  """

  step: jax.Array
  params: PyTree
  batch_stats: PyTree
  opt_state: Optimizers
  distiller: distillers.DistillerState
  rng: jax.Array
  average: PyTree = {}

  @property
  def deployed(self) -> PyTree:
    """`{'params', 'batch_stats'}` to be evaluated and used: the average where one is kept."""
    return self.average or {'params': self.params, 'batch_stats': self.batch_stats}


def not_finite(tree: PyTree) -> list[str]:
  """The paths of the leaves that hold NaN or infinity, sorted."""
  return sorted(
      jax.tree_util.keystr(path, simple=True, separator='/')
      for path, leaf in jax.tree_util.tree_leaves_with_path(jax.device_get(tree))
      if not np.isfinite(leaf).all())


def move_average(average: PyTree, latest: PyTree, updates: jax.Array, decay: float) -> PyTree:
  """The exponential moving average after one more update.

  `sum over k = 1..t of decay**(t - k) * latest_k / sum over k of decay**(t - k)`, in the form
  `average + (latest - average) * (1 - decay) / (1 - decay**t)`: without bias from the start, so
  that the random weights before the first update have no share, and exact where nothing moves
  (`optax.incremental_update` scales what stands still by the rounding of `decay`).

  Args:
    average: of the updates before; irrelevant for the first.
    latest: floats after this update.
    updates: t, including this one; an integer scalar.
    decay: in (0, 1).
  """
  rate = math.expm1(math.log(decay)) / jnp.expm1(math.log(decay) * updates)
  return optax.tree.add_scale(average, rate, optax.tree.sub(latest, average))


def create_state(
    rng: jax.Array,
    student: Any,
    distiller: distillers.Distiller,
    optimizers: Optimizers,
    inputs: distillers.DistillInputs,
    *,
    prepared: PyTree = None,
    average: bool = False,
) -> TrainState:
  """A fresh state; the student's start depends on `rng` alone, not on the method.

  Args:
    rng: a key.
    student: a model of `kdseg_jax.models`.
    distiller: the method.
    optimizers: `Optimizers`.
    inputs: what the distiller will receive, as `jax.ShapeDtypeStruct`s; `inputs.batch['image']`
      gives the shape on which the student is initialised.
    prepared: what the method's preparation has left, if it has one.
    average: whether a moving average of the student is kept.
  """
  student_rng, distiller_rng, step_rng = jax.random.split(rng, 3)
  image = jnp.zeros((1, *inputs.batch['image'].shape[1:]), jnp.uint8)
  variables = student.init({'params': student_rng}, image)
  variables = {'params': variables['params'], 'batch_stats': variables.get('batch_stats', {})}
  distiller_state = core.create_state(distiller, distiller_rng, inputs, prepared)
  return TrainState(
      step=jnp.int32(0),
      **variables,
      opt_state=Optimizers(
          trained=optimizers.trained.init(
              {'student': variables['params'], 'distiller': distiller_state.params}),
          critic=_init_critics(
              distiller.critic, optimizers.critic, distiller_state.critic)),
      distiller=distiller_state,
      rng=step_rng,
      average=variables if average else {})


def _init_critics(critic, default, params):
  """The optimiser's state of a critic, or of each of a combination's by its name."""
  if critic is None:
    return {}
  if critic.parts is not None:
    return {name: _init_critics(part, default, params[name])
            for name, part in critic.parts.items()}
  return (critic.optimizer or default).init(params)
