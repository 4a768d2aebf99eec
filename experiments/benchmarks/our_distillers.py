"""Our distillers that have parts of their own: value and gradients towards taps and params."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp

from experiments.benchmarks import inputs
from experiments.benchmarks.worker import Work
from kdseg_jax import distillers

_FACTORIES = {
    'fitnets': distillers.fitnets, 'channel_wise_features': distillers.channel_wise_features,
    'review': distillers.review, 'memory': distillers.memory, 'holistic': distillers.holistic,
    'holistic_critic': distillers.holistic,
}


def create(name, args) -> Work:
  """The distiller of a name on the taps of `inputs.taps`."""
  del args
  method = _FACTORIES[name]()
  student, teacher, batch = jax.device_put(inputs.taps(name))
  given = distillers.DistillInputs(
      student=student, teacher=teacher, batch=batch, rng=jax.random.key(0), step=jnp.int32(0))
  state = method.init(jax.random.key(1), given)
  return (_critic if name == 'holistic_critic' else _student)(method, state, given)


def _student(method, state, given):
  """The loss, its gradients and the new memory, whose old one is given up as in a step."""
  def loss(trained, memory, state, given):
    params, read = trained
    value, (memory, _) = method.loss(
        state._replace(params=params, memory=memory),
        dataclasses.replace(given, student={**given.student, **read}))
    return value, memory

  # All is given and nothing closed over, which would be a constant that XLA folds.
  step = jax.jit(jax.value_and_grad(loss, has_aux=True), donate_argnums=1)
  trained = state.params, {tap: given.student[tap] for tap in method.requires.student}
  # Copies: a fresh queue's two vectors of zeros are one buffer, which cannot be given up twice.
  memory, parameters = jax.tree.map(jnp.copy, state.memory), _count(state.params)
  state = state._replace(memory={})

  def run():
    nonlocal memory
    (value, memory), grads = jax.block_until_ready(step(trained, memory, state, given))
    return value, grads

  return Work(run, facts=lambda _: {'parameters': parameters})


def _critic(method, state, given):
  """The critic's own loss and gradient."""
  step = jax.jit(jax.value_and_grad(
      lambda critic, state, given: method.critic.loss(state._replace(critic=critic), given),
      has_aux=True))
  return Work(lambda: jax.block_until_ready(step(state.critic, state, given)),
              facts=lambda _: {'parameters': _count(state.critic)})


def _count(params):
  return sum(x.size for x in jax.tree.leaves(params))
