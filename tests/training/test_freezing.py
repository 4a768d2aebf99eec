"""Frozen parts stay as they are, to the bit; the rest learns."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from configs import quickstart
from kdseg_jax import models
from kdseg_jax.training import experiment, freezing
from kdseg_jax.training.step import apply_train, make_train_step
from tests import toys


@pytest.fixture(scope='module', autouse=True)
def toy_model():
  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(models, 'create', lambda name, num_classes, axis_name, **_: toys.BodyAndHead(
        num_classes, None))
    yield


def build(freeze):
  config = quickstart.get_config('role=teacher,runlocal')
  config.train.update(freeze=freeze, ema_decay=0.9)
  config.optimizer.update(weight_decay=0.1, decay='all', clip_norm=1.0)
  return experiment.create_experiment(config)


def batch_of(n=4):
  rng = np.random.default_rng(0)
  return {'image': rng.integers(0, 256, (n, 32, 32, 3)).astype(np.uint8),
          'label': rng.integers(0, 11, (n, 32, 32)).astype(np.uint8),
          'mask': np.ones((n, 32, 32), bool), 'index': np.arange(n, dtype=np.int32)}


def changed(before, after):
  paths = jax.tree_util.tree_leaves_with_path(before)
  return {freezing._name(path) for (path, x), y in zip(paths, jax.tree.leaves(after), strict=True)
          if not np.array_equal(x, y)}


def test_frozen_leaves_and_their_statistics_stay_bit_identical():
  held = ('body/', 'neck/norm/')
  built = build(('bod*', 'neck/norm/*'))
  start = experiment.initial_state(built)
  step = jax.jit(make_train_step(
      built.task, built.student, None, built.distiller, built.optimizers, ema_decay=0.9))
  state = start
  for _ in range(3):
    state, metrics = step({}, state, batch_of())
  for group in ('params', 'batch_stats'):
    before, after = getattr(start, group), getattr(state, group)
    everything = changed(before, jax.tree.map(lambda x: x + 1, before))
    expected = {name for name in everything if not name.startswith(held)}
    assert changed(before, after) == changed(before, state.average[group]) == expected
  assert np.isfinite(metrics['loss'])


def test_a_frozen_batch_norm_works_by_its_statistics_in_training_too():
  model, block, batch = toys.BodyAndHead(), toys.ConvNorm(8), batch_of()
  frozen = freezing.FrozenModel(model, ('body/*',))
  variables = jax.eval_shape(model.init, jax.random.key(0), batch['image'])
  rng = np.random.default_rng(0)
  variables = jax.tree.map(lambda x: rng.uniform(0.1, 1, x.shape).astype(np.float32), variables)
  part = lambda name: {group: tree[name] for group, tree in variables.items() if name in tree}

  @jax.jit
  def by_hand():
    body = block.apply(part('body'), batch['image'] / 255, False)
    neck, updated = block.apply(part('neck'), body, True, mutable=['batch_stats'])
    return neck, updated['batch_stats']

  taps, stats = jax.jit(lambda: apply_train(
      frozen, variables['params'], variables['batch_stats'], batch, jax.random.key(1)))()
  expected, neck = by_hand()
  np.testing.assert_allclose(taps['embedding'], expected, rtol=1e-4, atol=1e-4)
  jax.tree.map(np.testing.assert_array_equal, stats['body'], variables['batch_stats']['body'])
  jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-4), stats['neck'], neck)


@pytest.mark.parametrize('patterns', [('*/kernel',), ('*/kernel', '*/bias'), ('*/scale',)])
def test_a_batch_norm_that_is_frozen_in_part_or_not_at_all_goes_on(patterns):
  frozen = freezing.FrozenModel(toys.BodyAndHead(), patterns)
  variables = jax.tree.map(
      lambda x: np.ones(x.shape, x.dtype),
      jax.eval_shape(frozen.init, jax.random.key(0), batch_of()['image']))
  _, stats = jax.jit(lambda: apply_train(
      frozen, variables['params'], variables['batch_stats'], batch_of(), jax.random.key(1)))()
  assert len(changed(variables['batch_stats'], stats)) == 4


def test_the_clipped_norm_is_that_of_what_is_trained():
  tx = freezing.freeze_optimizer(
      experiment.optax.clip_by_global_norm(1.0), ('body/*',))
  params = {'student': {'body': {'w': jnp.ones(1)}, 'head': {'w': jnp.ones(1)}},
            'distiller': {'body': {'w': jnp.ones(1)}}}
  gradients = jax.tree.map(lambda x: 4 * x, params)
  updates, _ = tx.update(gradients, tx.init(params), params)
  assert updates['student']['body']['w'] == 0
  np.testing.assert_allclose(updates['student']['head']['w'], np.sqrt(0.5), rtol=1e-6)
  np.testing.assert_allclose(updates['distiller']['body']['w'], np.sqrt(0.5), rtol=1e-6)


@pytest.mark.parametrize('pattern, message', [
    ('boddy/*', "'boddy/\\*' matches no parameter .* Did you mean 'body'"),
    ('body', "as 'body/\\*' does; they are in: body, head, neck"),
    ('Body/*', "'Body/\\*' matches no parameter")])
def test_a_pattern_that_matches_nothing_names_the_nearest(pattern, message):
  with pytest.raises(ValueError, match=message):
    build(('head/*', pattern))
