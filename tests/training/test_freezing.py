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
  model = toys.BodyAndHead()
  frozen = freezing.FrozenModel(model, ('body/*',))
  batch = batch_of()
  variables = model.init(jax.random.key(0), batch['image'])
  variables = jax.tree.map(lambda x: x + 0.5, variables)
  taps, stats = apply_train(frozen, variables['params'], variables['batch_stats'], batch,
                            jax.random.key(1))
  body = toys.ConvNorm(8)
  inner = {group: tree['body'] for group, tree in variables.items()}
  neck = {group: tree['neck'] for group, tree in variables.items()}
  x = body.apply(inner, batch['image'] / 255, False)
  expected, updated = body.apply(neck, x, True, mutable=['batch_stats'])
  np.testing.assert_allclose(taps['embedding'], expected, atol=1e-5)
  np.testing.assert_allclose(
      stats['neck']['norm']['norm']['mean'], updated['batch_stats']['norm']['norm']['mean'],
      rtol=1e-5)
  np.testing.assert_allclose(frozen.apply(variables, batch['image'])[0],
                             model.apply(variables, batch['image'])[0], atol=1e-6)


def test_a_batch_norm_that_is_frozen_in_part_goes_on():
  frozen = freezing.FrozenModel(toys.BodyAndHead(), ('*/kernel',))
  variables = frozen.init(jax.random.key(0), batch_of()['image'])
  _, stats = apply_train(
      frozen, variables['params'], variables['batch_stats'], batch_of(), jax.random.key(1))
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
