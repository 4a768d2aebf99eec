"""Critics learn to tell maps apart by the optimiser that their term brings, and only by it."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from kdseg_jax import distillers
from kdseg_jax.distillers import core

pytestmark = pytest.mark.slow


@pytest.mark.parametrize('term,options,grows', [
    ('adversarial', {}, True),
    ('adversarial', {'critic_learning_rate': 0.0}, False),  # frozen
    ('holistic', {'critic_learning_rate': 4e-4}, True),
    ('holistic', {'critic_learning_rate': 0.0}, False),
])
def test_the_critic_learns_to_tell_separable_maps(term, options, grows):
  """Sure class maps in blocks against noisy ones."""
  rng = np.random.default_rng(0)
  labels = rng.integers(0, 5, (8, 2, 2)).repeat(4, 1).repeat(4, 2)
  noise = lambda: rng.normal(size=(8, 8, 8, 5))
  taps = lambda x: {'logits': jnp.asarray(x, jnp.float32)}
  inputs = distillers.DistillInputs(
      taps(np.eye(5)[labels] + 2 * noise()), taps(8 * np.eye(5)[labels] + noise()),
      {'image': rng.integers(0, 256, (8, 16, 16, 3)).astype(np.uint8), 'index': np.arange(8)},
      rng=jax.random.key(0), step=0)
  terms = distillers.terms_of(term)
  terms[term] |= {'width': 1 / 8} | options
  method = distillers.create(terms)
  critic = method.critic.parts[term]

  @jax.jit  # not a scan: in it XLA runs the gradients of convolutions slowly on CPUs
  def step(key, state, opt_state):
    (_, (memory, metrics)), gradient = jax.value_and_grad(
        lambda params: critic.loss(state._replace(critic=params), dataclasses.replace(
            inputs, rng=key)), has_aux=True)(state.critic)
    updates, opt_state = critic.optimizer.update(gradient, opt_state, state.critic)
    params = optax.apply_updates(state.critic, updates)
    return state._replace(critic=params, memory=memory), opt_state, metrics['score_gap']

  key, gap = jax.random.key(1), []
  state = core.state_of_part(jax.jit(method.init)(key, inputs), term)
  opt_state = critic.optimizer.init(state.critic)
  for k in range(100 if grows else 50):
    state, opt_state, found = step(jax.random.fold_in(key, k), state, opt_state)
    gap.append(found)
  gap = np.array(gap)
  if grows:
    assert gap[-10:].min() > 10 * np.abs(gap[:5]).max(), gap[::10]
  else:
    assert np.abs(gap[10:]).max() < 2 * np.abs(gap[:5]).max(), gap[::10]
