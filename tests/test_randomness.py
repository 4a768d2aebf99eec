"""No two draws share a key: of terms, steps, classes, critic steps, layers, examples, seeds, roles.

Seen in the real step with the real distillers: every call of `jax.random` is noted with its key.
"""

import importlib

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from configs import quickstart
from kdseg_jax import distillers, tasks
from kdseg_jax.losses import queues
from kdseg_jax.models.dropout import Dropout
from kdseg_jax.training import experiment, run
from kdseg_jax.training.state import Optimizers, create_state
from kdseg_jax.training.step import make_prepare_step, make_train_step
from tests import toys
from tests.test_term_options import Critic

DRAWS = ('uniform', 'normal', 'bits', 'bernoulli', 'permutation', 'randint', 'choice')
TERMS = {
    'memory': {'pixel_slots': 9, 'region_slots': 7, 'pixel_samples': 6, 'region_samples': 6,
               'anchors_per_image': 3},
    'channels': {'slots': 9, 'samples': 6, 'pool': 2}, 'holistic': {}}


class Model(nn.Module):
  """Two layers of Dropout."""

  @nn.compact
  def __call__(self, image, mask=None, index=None, train=False):
    x = nn.Dense(4)(image / 255)
    x = Dropout(0.5)(Dropout(0.5)(x, index, train), index, train)
    logits = nn.Dense(3)(x)
    return logits, {'embedding': x, 'logits': logits, 'x': x}


def batch_of(number=0):
  rng = np.random.default_rng(number)
  return {'image': rng.integers(0, 256, (2, 6, 6, 3)).astype(np.uint8),
          'label': rng.integers(0, 3, (2, 6, 6)).astype(np.uint8),
          'mask': np.ones((2, 6, 6), bool), 'index': np.arange(2, dtype=np.int32) + 2 * number}


@pytest.fixture
def drawn(monkeypatch):
  """The list to which every call of a function of `jax.random` adds its name and key."""
  calls = []

  def noting(name, original):
    def draw(key, *arguments, **options):
      jax.debug.callback(lambda data: calls.append((name, *np.ravel(data).tolist())),
                         jax.random.key_data(key))
      return original(key, *arguments, **options)
    return draw
  for name in DRAWS:
    monkeypatch.setattr(jax.random, name, noting(name, getattr(jax.random, name)))
  return calls


def collect(drawn, function, *arguments):
  """The draws that a function makes."""
  drawn.clear()
  function(*arguments)
  jax.effects_barrier()
  return list(drawn)


def test_no_draw_of_two_steps_and_two_seeds_shares_a_key(drawn, monkeypatch):
  monkeypatch.setattr(
      importlib.import_module('kdseg_jax.distillers.holistic'), 'Critic', Critic)
  terms = distillers.terms_of('memory+channels+holistic')
  for term, options in TERMS.items():
    terms[term].update(options)
  method, model, optimizers = distillers.create(terms), Model(), Optimizers(*[optax.sgd(0.1)] * 2)
  taps = {name: jax.ShapeDtypeStruct((2, 6, 6, width), jnp.float32)
          for name, width in (('embedding', 4), ('logits', 3))}
  inputs = distillers.DistillInputs(taps, taps, batch_of(), rng=jax.random.key(0))
  create = lambda key: create_state(key, model, method, optimizers, inputs)
  step = make_train_step(
      tasks.SegmentationTask(3), model, model, method, optimizers, critic_steps=2)
  # Without results all but the keys is dead code: it is neither compiled nor run.
  draw_state = jax.jit(lambda key: (create(key), None)[1])
  draw_step = jax.jit(lambda variables, state, batch: (step(variables, state, batch), None)[1])
  shapes = jax.eval_shape(create, jax.random.key(0))
  state = jax.tree.map(lambda x: np.zeros(x.shape, x.dtype), shapes._replace(rng=jnp.int32(0)))
  variables = {'params': state.params, 'batch_stats': {}}
  all_draws = []
  for seed in (0, 1):
    draws = collect(drawn, draw_state, jax.random.key(seed))
    assert len(draws) == 3  # the noise of the three queues
    all_draws += draws
    for number in range(2):
      state = state._replace(step=np.int32(number), rng=jax.random.key(10 + seed))
      draws = collect(drawn, draw_step, variables, state, batch_of(number))
      assert sorted(draws) == sorted(collect(drawn, draw_step, variables, state, batch_of(number)))
      names = [name for name, *_ in draws]
      # Two examples each: of two layers; of two critic steps, the anchors and the pushed channels,
      # and of the classes and the one class of the queues.
      assert names.count('bernoulli') == 2 * 2
      assert names.count('uniform') == 2 * (2 + 1 + 1) + 2 * 3 + 1
      all_draws += draws
  assert len(set(all_draws)) == len(all_draws)


def test_classes_are_sampled_independently():
  queue = queues.init(3, 16, 2, jax.random.key(0))
  slots = jnp.broadcast_to(jnp.arange(16.0)[:, None], (3, 16, 2))
  for count in (4, 12):  # fewer than were pushed, and more
    full = queue._replace(embeddings=slots, filled=jnp.full(3, 8))
    embeddings, _ = queues.sample(full, jax.random.key(1), count)
    of_class = embeddings[:, 0].reshape(3, count).tolist()
    assert of_class[0] != of_class[1] != of_class[2] != of_class[0]


def test_preparing_steps_draw_anew(drawn):
  def loss(state, inputs):
    value = state.prepared['mean'] * jax.random.uniform(inputs.rng)
    return value, (state.memory, {})
  preparation = toys.prepared().prepare._replace(loss=loss, optimizer=optax.sgd(0.1))
  taps = {'x': jnp.ones((2, 6, 6, 4))}
  inputs = distillers.DistillInputs(taps, taps, batch_of(), rng=jax.random.key(0))
  state = toys.fresh_preparation(preparation, preparation.optimizer, inputs)
  step = make_prepare_step(Model(), preparation, preparation.optimizer, taps)
  variables = Model().init(jax.random.key(0), batch_of()['image'])
  draws = []
  for number in range(3):
    draws += collect(drawn, step, variables, state, batch_of(number))
    state = state._replace(step=state.step + 1)
  assert len(set(draws)) == len(draws) == 3


def test_seeds_roles_and_phases_read_other_batches_in_other_orders():
  streams = {}
  for seed, role, phase in ((0, 'student', 'train'), (1, 'student', 'train'),
                            (0, 'teacher', 'train'), (0, 'student', 'prepare')):
    config = quickstart.get_config(f'role={role},runlocal')
    config.seed, config.augmentation.scale = seed, (0.5, 2.0)  # no crop twice
    batches = run.training_batches(experiment.create_experiment(config), phase, start=0)
    streams[seed, role, phase] = np.stack([next(batches)['image'] for _ in range(2)])
  images = [image.tobytes() for stream in streams.values()
            for image in stream.reshape(-1, *stream.shape[2:])]
  assert len(set(images)) == len(images)
