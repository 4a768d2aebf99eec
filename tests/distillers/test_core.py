"""The Distiller interface: groups, combination, random draws, requirements."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from kdseg_jax import distillers
from kdseg_jax.distillers import core
from kdseg_jax.distillers.core import fold_in_name
from tests.toys import adversarial, everything, prepared, projected, unprepared


def inputs_of(student=1.0, teacher=3.0, **kwargs):
  return distillers.DistillInputs(
      student={'x': jnp.full((2, 3), student)}, teacher={'x': jnp.full((2, 3), teacher)},
      batch={'index': jnp.arange(2)}, rng=jax.random.key(0), step=jnp.int32(0), **kwargs)


def initial(method, rng, inputs):
  """The state of a method whose preparation was not trained."""
  return core.create_state(method, rng, inputs, unprepared(method, inputs))


def test_combine_nests_every_group_under_the_name_of_its_part():
  state = initial(everything(), jax.random.key(0), inputs_of())
  assert state.params == {'a': {'scale': 2.0}, 'b': {}, 'c': {}}
  assert list(state.critic['b']) == ['w'] and state.critic['a'] == {}
  assert state.prepared['c'] == {'mean': 0.0}
  assert state.memory == {'a': {'calls': 0}, 'b': {'calls': 0}, 'c': {}}


def test_combine_sums_weighted_losses_and_reports_raw_and_weighted():
  method = everything()
  state = initial(method, jax.random.key(0), inputs_of())
  loss, (memory, metrics) = method.loss(state, inputs_of())
  w = float(state.critic['b']['w'])
  np.testing.assert_allclose(loss, 1.0 * (2 * 1 - 3) ** 2 + 0.5 * -w + 2.0 * 1, rtol=1e-6)
  np.testing.assert_allclose(metrics['a/raw'], 1.0)
  np.testing.assert_allclose(metrics['b/weighted'], -0.5 * w, rtol=1e-6)
  np.testing.assert_allclose(metrics['c/weighted'], 2.0)
  assert metrics['a/scale'] == 2.0
  assert memory['a']['calls'] == 1 and memory['b']['calls'] == 1


def test_phases_touch_only_the_parts_that_have_them_and_keep_other_memory():
  method = everything()
  state = initial(method, jax.random.key(0), inputs_of())
  loss, (memory, metrics) = method.critic.loss(state, inputs_of())
  noise = metrics.pop('b/critic') - state.critic['b']['w'] * (1 - 3)
  assert noise != 0 and not metrics
  assert memory['b']['calls'] == 10 and memory['a']['calls'] == 0
  loss, (memory, metrics) = method.prepare.loss(
      method.prepare.init(jax.random.key(0), inputs_of()), inputs_of())
  assert loss == metrics['c/prepare'] and list(metrics) == ['c/prepare']
  assert memory == {'c': {'calls': 1}}


def test_phases_are_none_without_a_part_that_has_them():
  method = distillers.combine({'a': (1.0, projected())})
  assert method.critic is None and method.prepare is None


def test_critics_of_a_combination_keep_their_optimisers_and_steps():
  own = optax.sgd(0.1)
  inner = distillers.combine({'own': (1.0, adversarial(optimizer=own, steps=3))})
  method = distillers.combine(
      {'a': (1.0, projected()), 'b': (1.0, adversarial()), 'nested': (1.0, inner)})
  assert list(method.critic.parts) == ['b', 'nested']
  default, found = method.critic.parts['b'], method.critic.parts['nested'].parts['own']
  assert (default.optimizer, default.steps, default.parts) == (None, None, None)
  assert (found.optimizer, found.steps) == (own, 3)
  assert (method.critic.optimizer, method.critic.steps) == (None, None)
  assert method.prepare is None


@pytest.mark.parametrize('step,expected', [(0, 0.0), (5, 0.5), (10, 1.0), (20, 1.0)])
def test_a_weight_may_be_a_schedule_of_the_step(step, expected):
  method = distillers.combine({'a': (optax.linear_schedule(0.0, 1.0, 10), projected())})
  state = initial(method, jax.random.key(0), inputs_of())
  inputs = dataclasses.replace(inputs_of(), step=step)
  loss, _ = jax.jit(method.loss)(state, inputs)
  np.testing.assert_allclose(loss, expected, rtol=1e-6)


def test_combine_of_combines_is_a_distiller():
  inner = distillers.combine({'p': (3.0, projected())})
  outer = distillers.combine({'q': (2.0, inner), 'b': (0.0, adversarial())})
  state = initial(outer, jax.random.key(0), inputs_of())
  loss, (memory, metrics) = outer.loss(state, inputs_of())
  np.testing.assert_allclose(loss, 6.0)
  assert memory['q']['p']['calls'] == 1
  np.testing.assert_allclose(metrics['q/p/weighted'], 3.0)


def test_adding_a_part_leaves_the_draws_of_the_others_unchanged():
  alone = distillers.combine({'b': (1.0, adversarial())})
  both = everything()
  state_alone = initial(alone, jax.random.key(7), inputs_of())
  state_both = initial(both, jax.random.key(7), inputs_of())
  assert state_alone.critic['b']['w'] == state_both.critic['b']['w']
  noise = lambda method, state: method.loss(state, inputs_of())[1][1]['b/noise']
  assert noise(alone, state_alone) == noise(both, state_both)
  assert noise(alone, state_alone) != jax.random.normal(fold_in_name(jax.random.key(0), 'c'))


def test_parts_of_one_kind_start_unlike():
  method = distillers.combine({name: (1.0, adversarial()) for name in 'ab'})
  critics = initial(method, jax.random.key(7), inputs_of()).critic
  assert critics['a']['w'] != critics['b']['w']


def test_parts_of_one_kind_draw_unlike():
  method = distillers.combine({name: (1.0, adversarial()) for name in 'ab'})
  metrics = method.loss(initial(method, jax.random.key(7), inputs_of()), inputs_of())[1][1]
  assert metrics['a/noise'] != metrics['b/noise']


def test_gradient_reaches_student_and_params_only_through_loss():
  method = everything()
  state = initial(method, jax.random.key(0), inputs_of())

  def loss(params, student):
    inputs = dataclasses.replace(inputs_of(), student={'x': student})
    return method.loss(state._replace(params=params), inputs)[0]
  params_grad, student_grad = jax.grad(loss, (0, 1))(state.params, inputs_of().student['x'])
  np.testing.assert_allclose(params_grad['a']['scale'], 2 * (2 - 3) * 1)
  assert np.all(np.asarray(student_grad) != 0)


def test_state_and_inputs_are_pytrees_that_can_be_vmapped_over_seeds():
  method = everything()
  keys = jax.random.split(jax.random.key(0), 3)
  states = jax.vmap(lambda key: initial(method, key, inputs_of()))(keys)
  losses, (memory, _) = jax.vmap(method.loss, (0, None))(states, inputs_of())
  one, _ = method.loss(jax.tree.map(lambda x: x[1], states), inputs_of())
  np.testing.assert_allclose(losses[1], one, rtol=1e-6)
  assert memory['a']['calls'].shape == (3,)


def test_init_accepts_shapes_instead_of_arrays():
  shapes = jax.eval_shape(inputs_of)
  state = initial(everything(), jax.random.key(0), shapes)
  assert state.params['a']['scale'] == 2


def test_a_missing_tap_target_or_head_is_refused_and_the_nearest_named():
  inputs = distillers.DistillInputs(student={'logits': 0}, teacher={'stage1': 0, 'stage2': 0})
  distillers.check_requires(distillers.Requires(student=('logits',)), inputs)
  with pytest.raises(ValueError, match=r"student has no tap 'logit'.*Did you mean 'logits'"):
    distillers.check_requires(distillers.Requires(student=('logit',)), inputs)
  with pytest.raises(ValueError, match=r"teacher has no tap 'p3'; it has \['stage1', 'stage2'\]"):
    distillers.check_requires(distillers.Requires(teacher=('p3',)), inputs)
  with pytest.raises(ValueError, match="task has no target 'weights'"):
    distillers.check_requires(distillers.Requires(targets=('weights',)), inputs)
  with pytest.raises(ValueError, match='head of the teacher'):
    distillers.check_requires(distillers.Requires(teacher_head=True), inputs)


def test_requirements_of_a_combination_are_the_union():
  part = lambda **kwargs: distillers.stateless(
      distillers.Requires(**kwargs), lambda inputs: jnp.float32(0))
  method = distillers.combine({
      'a': (1.0, part(student=('x', 'y'), teacher=('x',))),
      'b': (1.0, part(student=('y', 'z'), targets=('w',), teacher_head=True,
                     teacher_batch_statistics=True))})
  assert method.requires == distillers.Requires(('x', 'y', 'z'), ('x',), ('w',), True, True)
  plain = distillers.combine({'a': (1.0, part(student=('x',)))}).requires
  assert not plain.teacher_head and not plain.teacher_batch_statistics


@pytest.mark.parametrize('weight', [
    '1', None, True, np.nan, np.inf, jnp.float32(jnp.nan), np.array(np.inf), np.ones(1)])
def test_what_is_no_finite_number_is_no_weight(weight):
  with pytest.raises(ValueError, match="weight of 'a'.*expected a finite number or a schedule"):
    distillers.combine({'a': (weight, projected())})


def test_a_weight_may_be_any_scalar_negative_or_traced():
  of = lambda weight: set(distillers.combine({'a': (weight, projected())}).requires.student)
  for weight in (1, -0.5, np.float32(2), np.array(2.), jnp.bfloat16(2), lambda step: 0.1 * step):
    assert of(weight) == set(projected().requires.student)
  assert jax.eval_shape(lambda weight: weight * len(of(weight)), 1.0).shape == ()


@pytest.mark.parametrize('name', ['', 'a/b'])
def test_a_name_that_would_break_the_metrics_is_refused(name):
  with pytest.raises(ValueError, match='no name of a part'):
    distillers.combine({name: (1.0, projected())})


def test_preparations_of_a_combination_are_each_their_own_and_may_be_nested():
  own = optax.sgd(0.1)
  inner = distillers.combine({'own': (1.0, prepared(optimizer=own, slope=2.0))})
  method = distillers.combine({'a': (1.0, projected()), 'c': (3.0, prepared()),
                               'nested': (1.0, inner)})
  whole = method.prepare
  assert list(whole.parts) == ['c', 'nested'] and whole.optimizer is None
  leaf = whole.parts['nested'].parts['own']
  assert (leaf.optimizer, leaf.parts) == (own, None)
  assert whole.requires.teacher == ('x',)
  assert whole.describe(inputs_of())['nested']['own'] == {
      'factory': 'toys:prepared', 'tap': 'x', 'slope': 2.0}
  state = whole.init(jax.random.key(0), inputs_of())
  assert state.prepared['c']['decoder'] != state.prepared['nested']['own']['decoder']
  loss, (memory, metrics) = whole.loss(state, inputs_of())
  decoders = state.prepared['c']['decoder']**2 + state.prepared['nested']['own']['decoder']**2
  np.testing.assert_allclose(loss, 3.0**2 + (2 * 3.0)**2 + decoders, rtol=1e-6)  # unweighted
  assert memory['nested']['own']['calls'] == 1 and 'nested/own/prepare' in metrics
  kept = whole.finish(state)
  assert kept == {'c': {'mean': 0}, 'nested': {'own': {'mean': 0}}}
  kept['nested']['own']['mean'] = 5.0
  assert method.init(jax.random.key(0), inputs_of(), prepared=kept).prepared == {'a': {}} | kept


def test_shapes_of_what_is_prepared():
  shapes = core.abstract_prepared(everything(), jax.eval_shape(inputs_of))
  assert shapes == {'c': {'mean': jax.ShapeDtypeStruct((), jnp.float32, weak_type=False)}}
  assert core.abstract_prepared(projected(), inputs_of()) is None


@pytest.mark.parametrize('owner', ['student', 'teacher'])
@pytest.mark.parametrize('tap, found', [
    (jnp.ones((2, 3)), r'vectors \(2, 3\)'), ((jnp.ones((2, 4, 4, 3)),) * 2, 'one a level')])
def test_taps_that_are_no_maps_are_refused(owner, tap, found):
  taps = {name: {'x': jnp.ones((2, 4, 4, 3))} for name in ('student', 'teacher')}
  inputs = dataclasses.replace(inputs_of(), **taps | {owner: {'x': tap}})
  with pytest.raises(ValueError, match=f"needs maps .* 'x' of the {owner} is {found}"):
    core.of_maps(projected()).init(jax.random.key(0), inputs)


def test_taps_that_are_no_maps_are_refused_in_a_preparation_too():
  method = core.of_maps(prepared())
  with pytest.raises(ValueError, match='needs maps'):
    method.prepare.init(jax.random.key(0), inputs_of())
