"""What a training run carries from step to step."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from kdseg_jax import distillers

PyTree = Any


class Optimizers(NamedTuple):
  """One optimiser for each thing that is trained.

  Attributes:
    trained: over `{'student': params, 'distiller': DistillerState.params}`, trained together.
    critic: over `DistillerState.critic`.
    prepared: over `DistillerState.prepared`, in the prepare phase only.
  """

  trained: optax.GradientTransformation
  critic: optax.GradientTransformation
  prepared: optax.GradientTransformation


class TrainState(NamedTuple):
  """Everything that a step changes; what a checkpoint holds.

  Attributes:
    step: training steps done.
    prepare_step: steps of the prepare phase done.
    params: the student's parameters.
    batch_stats: the student's BatchNorm statistics.
    opt_state: states of `Optimizers`, by its fields.
    distiller: `DistillerState`.
    rng: base key; a step's key is folded from it and the step.
  """

  step: jax.Array
  prepare_step: jax.Array
  params: PyTree
  batch_stats: PyTree
  opt_state: Optimizers
  distiller: distillers.DistillerState
  rng: jax.Array


def create_state(
    rng: jax.Array,
    student: Any,
    distiller: distillers.Distiller,
    optimizers: Optimizers,
    inputs: distillers.DistillInputs,
) -> TrainState:
  """A fresh state; the student's start depends on `rng` alone, not on the method.

  Args:
    rng: a key.
    student: a model of `kdseg_jax.models`.
    distiller: the method.
    optimizers: `Optimizers`.
    inputs: what the distiller will receive, as `jax.ShapeDtypeStruct`s; `inputs.batch['image']`
      gives the shape on which the student is initialised.
  """
  student_rng, distiller_rng, step_rng = jax.random.split(rng, 3)
  image = jnp.zeros((1, *inputs.batch['image'].shape[1:]), jnp.uint8)
  variables = student.init({'params': student_rng}, image)
  distiller_state = distiller.init(distiller_rng, inputs)
  return TrainState(
      step=jnp.int32(0),
      prepare_step=jnp.int32(0),
      params=variables['params'],
      batch_stats=variables.get('batch_stats', {}),
      opt_state=Optimizers(
          trained=optimizers.trained.init(
              {'student': variables['params'], 'distiller': distiller_state.params}),
          critic=optimizers.critic.init(distiller_state.critic),
          prepared=optimizers.prepared.init(distiller_state.prepared)),
      distiller=distiller_state,
      rng=step_rng)
