"""Schedules and optimisers against values by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from configs import common
from kdseg_jax.training.freezing import freeze_optimizer
from kdseg_jax.training.optimizers import biases, create_optimizer, create_schedule, kernels


def test_poly_schedule_with_warm_up():
  schedule = create_schedule(common.optimizer(learning_rate=0.5, warmup_steps=10), 110)
  np.testing.assert_allclose(
      [schedule(k) for k in (0, 5, 10, 60, 110)],
      [0.0, 0.25, 0.5, 0.5 * 0.5 ** 0.9, 0.0], atol=1e-7)


def test_poly_schedule_without_warm_up_starts_at_the_full_rate():
  schedule = create_schedule(common.optimizer(learning_rate=0.5), 100)
  np.testing.assert_allclose([schedule(0), schedule(25)], [0.5, 0.5 * 0.75 ** 0.9], rtol=1e-6)


def test_constant_schedule():
  schedule = create_schedule(common.optimizer(schedule='constant', learning_rate=0.5), 100)
  assert schedule(0) == schedule(99) == 0.5


def test_no_learning_rate_of_a_phase_is_nan():
  for steps in (1, 3, 12, 49, 1000):
    rates = jax.jit(jax.vmap(create_schedule(common.optimizer(), steps)))(jnp.arange(steps))
    assert np.all(np.isfinite(rates)) and np.all(np.asarray(rates) > 0), steps


def one_update(gradient=1.0, **overrides):
  config = common.optimizer(schedule='constant', learning_rate=0.1, **overrides)
  params = {'conv': {'kernel': jnp.float32(2), 'bias': jnp.float32(2)}}
  optimizer = create_optimizer(config, 10)
  state = optimizer.init(params)
  gradients = {'conv': {'kernel': jnp.float32(gradient), 'bias': jnp.float32(gradient)}}
  for _ in range(2):
    updates, state = optimizer.update(gradients, state, params)
    params = optax.apply_updates(params, updates)
  return params['conv']


def test_sgd_adds_decay_of_kernels_to_the_gradient_before_the_momentum():
  params = one_update(momentum=0.5, weight_decay=0.1)
  first = 1 + 0.1 * 2
  kernel = 2 - 0.1 * first
  kernel -= 0.1 * (0.5 * first + 1 + 0.1 * kernel)
  np.testing.assert_allclose(params['kernel'], kernel, rtol=1e-6)
  np.testing.assert_allclose(params['bias'], 2 - 0.1 * 1 - 0.1 * 1.5, rtol=1e-6)


def test_nesterov_looks_one_step_of_the_momentum_ahead():
  params = one_update(momentum=0.5, nesterov=True, weight_decay=0.0)
  # Momenta 1 and 1.5, and updates of half of each beside the gradient.
  np.testing.assert_allclose(params['kernel'], 2 - 0.1 * (0.5 + 1) - 0.1 * (0.75 + 1), rtol=1e-6)


def test_adamw_has_an_average_of_the_gradients_and_one_of_their_squares():
  config = common.optimizer(name='adamw', schedule='constant', learning_rate=0.1, b1=0.5, b2=0.8,
                            weight_decay=0.0)
  optimizer, params = create_optimizer(config, 10), {'kernel': jnp.float32(2)}
  state, mean, square = optimizer.init(params), 0.0, 0.0
  for t, gradient in enumerate((1.0, -3.0, 2.0), start=1):
    updates, state = optimizer.update({'kernel': jnp.float32(gradient)}, state, params)
    mean, square = 0.5 * mean + 0.5 * gradient, 0.8 * square + 0.2 * gradient**2
    expected = -0.1 * (mean / (1 - 0.5**t)) / np.sqrt(square / (1 - 0.8**t))
    np.testing.assert_allclose(updates['kernel'], expected, rtol=1e-5)


def test_adamw_decay_is_decoupled():
  params = one_update(name='adamw', weight_decay=0.1)
  kernel = 2.0
  for _ in range(2):
    kernel -= 0.1 * (1 + 0.1 * kernel)
  np.testing.assert_allclose(params['kernel'], kernel, rtol=1e-5)
  np.testing.assert_allclose(params['bias'], 2 - 0.2, rtol=1e-5)


def test_steps_multiply_the_rate_at_shares_of_the_steps_after_the_warmup():
  config = common.optimizer(schedule='steps', learning_rate=1.0, milestones=(0.5, 0.75), factor=0.1,
                            warmup_steps=2)
  schedule = create_schedule(config, 10)
  np.testing.assert_allclose(
      [schedule(t) for t in range(10)], [0, 0.5, 1, 1, 1, 1, 0.1, 0.1, 0.01, 0.01], rtol=1e-6)
  config.update(milestones=(), warmup_steps=0)
  assert create_schedule(config, 10)(9) == 1


def test_a_warm_up_begins_at_its_factor_and_grows_or_stays():
  config = common.optimizer(schedule='steps', learning_rate=2.0, milestones=(0.5,), warmup_steps=4,
                            warmup_factor=0.25)
  rates = lambda: [create_schedule(config, 10)(t) for t in (0, 1, 3, 4, 6, 7)]
  np.testing.assert_allclose(rates(), [0.5, 0.875, 1.625, 2, 2, 0.2], rtol=1e-6)
  config.warmup = 'constant'
  np.testing.assert_allclose(rates(), [0.5, 0.5, 0.5, 2, 2, 0.2], rtol=1e-6)


def test_adamw_without_decay_is_the_adam_of_a_critic():
  config = common.optimizer(name='adamw', schedule='constant', learning_rate=4e-4, b2=0.99,
                            weight_decay=0.0)
  params = {'kernel': jnp.array([1., -2.])}
  ours, adam = create_optimizer(config, 10), optax.adam(4e-4, b1=0.9, b2=0.99)
  states = [optimizer.init(params) for optimizer in (ours, adam)]
  for gradient in (0.5, -3.0):
    updates = []
    for i, optimizer in enumerate((ours, adam)):
      update, states[i] = optimizer.update({'kernel': jnp.full(2, gradient)}, states[i], params)
      updates.append(update['kernel'])
    np.testing.assert_allclose(*updates, rtol=1e-6)


def test_decay_of_all_reaches_the_bias():
  assert one_update(decay='all', weight_decay=0.1)['bias'] < one_update(weight_decay=0.1)['bias']


def test_biases_of_convolutions_have_a_rate_and_a_decay_of_their_own():
  params = one_update(decay='all_but_biases', weight_decay=0.1, momentum=0.5, bias_factor=2.0)
  plain = one_update(decay='kernels', weight_decay=0.1, momentum=0.5)
  assert params['kernel'] == plain['kernel']
  np.testing.assert_allclose(params['bias'], 2 + 2 * (plain['bias'] - 2), rtol=1e-6)
  norms = {'norm': {'scale': jnp.ones(2), 'bias': jnp.ones(2)}}
  optimizer = create_optimizer(common.optimizer(
      decay='all_but_biases', bias_factor=2.0, schedule='constant', learning_rate=0.1,
      weight_decay=0.1), 10)
  updates, _ = optimizer.update(
      jax.tree.map(jnp.zeros_like, norms), optimizer.init(norms), norms)
  np.testing.assert_allclose(updates['norm']['bias'], -0.01, rtol=1e-6)  # decayed, at 0.1


def test_clipping_is_by_the_global_norm():
  params = one_update(gradient=100.0, momentum=0.0, weight_decay=0.0, clip_norm=1.0)
  np.testing.assert_allclose(params['kernel'], 2 - 2 * 0.1 / np.sqrt(2), rtol=1e-5)


def test_kernels_are_found_by_name_at_any_depth():
  params = {'student': {'a': {'kernel': 1, 'bias': 2}, 'bn': {'scale': 3}}, 'distiller': {}}
  assert kernels(params) == {
      'student': {'a': {'kernel': True, 'bias': False}, 'bn': {'scale': False}}, 'distiller': {}}


def test_biases_of_convolutions_are_found_by_the_kernel_beside_them():
  params = {'student': {'a': {'kernel': 1, 'bias': 2}, 'bn': {'scale': 3, 'bias': 4}}}
  assert biases(params) == {'student': {
      'a': {'kernel': False, 'bias': True}, 'bn': {'scale': False, 'bias': False}}}


@pytest.mark.parametrize('overrides,message', [
    ({'name': 'lion'}, "optimizer.name='lion' is unknown"),
    ({'schedule': 'steps', 'milestones': (0.75, 0.5)}, 'larger than the one before'),
    ({'schedule': 'steps', 'milestones': (0.5, 0.5)}, 'larger than the one before'),
    ({'schedule': 'steps', 'milestones': (50,)}, 'each between 0 and 1'),
    ({'schedule': 'steps', 'factor': 0.0}, 'factor=0.0 must be above 0'),
    ({'schedule': 'cosine'}, "optimizer.schedule='cosine' is unknown"),
    ({'decay': 'none'}, "optimizer.decay='none' is unknown"),
    ({'warmup_steps': 10}, 'less than the 10 steps'),
    ({'warmup': 'cosine'}, "optimizer.warmup='cosine' is unknown"),
    ({'warmup_factor': 1.5}, 'warmup_factor=1.5: expected a share'),
    ({'clip_norm': -1.0}, 'clip_norm=-1.0 is negative'),
    ({'bias_factor': -1.0}, 'bias_factor=-1.0 is negative'),
    ({'weight_decay': -0.1}, 'weight_decay=-0.1 is negative'),
    ({'learning_rate': -0.1}, 'learning_rate=-0.1 is negative'),
    ({'warmup_steps': -1}, 'warmup_steps=-1 must be at least 0'),
])
def test_values_that_cannot_work_are_refused(overrides, message):
  with pytest.raises(ValueError, match=message):
    create_optimizer(common.optimizer(**overrides), 10)


@pytest.mark.parametrize('overrides', [
    {'momentum': 0.9, 'weight_decay': 0.1}, {'name': 'adamw', 'weight_decay': 0.1},
    {'schedule': 'steps', 'milestones': (0.5,), 'warmup_steps': 2},
    {'schedule': 'constant', 'clip_norm': 0.5, 'warmup_steps': 1, 'warmup_factor': 0.1,
     'warmup': 'constant', 'bias_factor': 2.0},
    {'name': 'optax:lion', 'weight_decay': 0.1}])
@pytest.mark.parametrize('freeze', [(), ('conv/bias',)])
def test_a_learning_rate_that_is_given_takes_the_place_of_the_config_s(overrides, freeze):
  params = {'student': {'conv': {'kernel': jnp.float32(2), 'bias': jnp.float32(2)}}}

  def trained(configured, given):
    optimizer = create_optimizer(common.optimizer(**{
        'learning_rate': configured, 'schedule': 'poly', **overrides}), 6)
    optimizer = freeze_optimizer(optimizer, freeze) if freeze else optimizer

    @jax.jit
    def step(params, state, options):
      gradients = jax.tree.map(jnp.sin, params)
      updates, state = optax.with_extra_args_support(optimizer).update(
          gradients, state, params, **options)
      return optax.apply_updates(params, updates), state

    options = {} if given is None else {'learning_rate': jnp.float32(given)}
    now, state = params, optimizer.init(params)
    for _ in range(6):
      now, state = step(now, state, options)
    return now['student']['conv']

  got, want = trained(0.5, 0.125), trained(0.125, None)
  assert want != trained(0.5, None)
  for name in want:
    np.testing.assert_allclose(got[name], want[name], rtol=1e-6, err_msg=name)
