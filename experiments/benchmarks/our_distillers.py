"""Our distillers that have parts of their own: value and gradients towards taps and params."""

from __future__ import annotations

import functools

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
  given = functools.partial(
      distillers.DistillInputs, teacher=teacher, batch=batch, rng=jax.random.key(0),
      step=jnp.int32(0))
  state = method.init(jax.random.key(1), given(student))
  if name == 'holistic_critic':
    return _critic(method, state, given(student))

  def loss(trained, state):
    params, taps = trained
    value, (memory, _) = method.loss(state._replace(params=params), given({**student, **taps}))
    return value, memory

  step = jax.jit(jax.value_and_grad(loss, has_aux=True), donate_argnums=1)
  read = {tap: student[tap] for tap in method.requires.student}

  def run():
    nonlocal state
    params = jax.tree.map(jnp.copy, state.params)  # of the donated state
    (value, memory), grads = jax.block_until_ready(step((params, read), state))
    state = state._replace(params=params, memory=memory, critic=state.critic)
    return value, grads

  return Work(run, facts={'parameters': _count(state.params)})


def _critic(method, state, given):
  """The critic's own loss and gradient."""
  step = jax.jit(jax.value_and_grad(
      lambda critic: method.critic.loss(state._replace(critic=critic), given), has_aux=True))
  return Work(lambda: jax.block_until_ready(step(state.critic)),
              facts={'parameters': _count(state.critic)})


def _count(params):
  return sum(x.size for x in jax.tree.leaves(params))
