"""Channel terms and the context block; one device against eight is in test_cirkd.py."""

import jax
import numpy as np
import pytest

from kdseg_jax import distillers, losses
from kdseg_jax.distillers.cirkd_channels import ContextBlock
from tests import toys

SMALL = {'slots': 300, 'samples': 7}


def inputs_of():
  keys = jax.random.split(jax.random.key(0), 2)
  return distillers.DistillInputs(
      student={'embedding': jax.random.normal(keys[0], (2, 6, 8, 4))},
      teacher={'embedding': jax.random.normal(keys[1], (2, 6, 8, 5))}, rng=jax.random.key(1))


def test_channels_are_the_weighted_sum_of_their_parts():
  inputs = inputs_of()
  method = distillers.channels(**SMALL, mse_weight=10.0)
  state = jax.jit(method.init)(jax.random.key(0), inputs)
  assert state.memory['queue'].embeddings.shape == (1, 300, 4)  # 2 x 2 pooled positions
  (loss, (memory, metrics)), gradient = jax.jit(jax.value_and_grad(
      lambda params: method.loss(state._replace(params=params), inputs), has_aux=True))(
          state.params)
  raw = [metrics[f'{name}/raw'] for name in ('cross', 'mse', 'memory')]
  assert min(raw) > 0
  np.testing.assert_allclose(loss, np.dot([1, 10, 0.1], raw), rtol=1e-5)
  assert all(np.any(x) for x in jax.tree.leaves(gradient))
  np.testing.assert_array_equal(memory['queue'].filled, 10)  # all there are: 2 images, 5 channels
  known = np.asarray(jax.jit(losses.channel_vectors)(inputs.teacher['embedding'])).reshape(10, 4)
  stored = np.asarray(memory['queue'].embeddings[0, :10])
  np.testing.assert_allclose(np.sort(stored[:, 0]), np.sort(known[:, 0]), atol=1e-6)


def test_of_many_channels_256_unlike_ones_are_remembered_in_a_step():
  rng = np.random.default_rng(0)
  teacher = rng.normal(size=(3, 2, 4, 100)).astype(np.float32)
  inputs = distillers.DistillInputs(
      {'embedding': teacher[..., :4]}, {'embedding': teacher}, rng=jax.random.key(1))
  method = distillers.channels(**SMALL, pool=2, cross_weight=0.0, mse_weight=0.0)
  state = jax.tree.map(lambda x: np.zeros(x.shape, x.dtype),
                       jax.eval_shape(method.init, jax.random.key(0), inputs))
  queue = jax.jit(lambda state, inputs: method.loss(state, inputs)[1][0]['queue'])(state, inputs)
  np.testing.assert_array_equal(queue.filled, 256)
  known = teacher.reshape(3, 1, 2, 2, 2, 100).mean((2, 4)).reshape(3, 2, 100).swapaxes(1, 2)
  known = known.reshape(300, 2) / np.linalg.norm(known.reshape(300, 2), axis=1, keepdims=True)
  stored = np.asarray(queue.embeddings[0, :256])
  nearest = np.linalg.norm(stored[:, None] - known, axis=-1)
  assert nearest.min(axis=1).max() < 1e-5 and len(set(nearest.argmin(axis=1))) == 256


def test_a_part_of_weight_zero_is_not_computed():
  inputs = inputs_of()
  method = distillers.channels(memory_weight=0.0, cross_weight=0.0)
  state = jax.eval_shape(method.init, jax.random.key(0), inputs)
  assert set(state.memory) == {'batch_stats'}
  metrics = jax.eval_shape(method.loss, state, inputs)[1][1]
  assert set(metrics) == {'mse/raw', 'mse/weighted'}
  with pytest.raises(ValueError, match='all weights are 0'):
    distillers.channels(cross_weight=0, mse_weight=0, memory_weight=0)


def test_context_block_equals_its_equation():
  x = inputs_of().student['embedding']
  block = ContextBlock(block_size=9)
  variables = jax.jit(block.init)(jax.random.key(0), x)
  got, _ = jax.jit(lambda variables: block.apply(variables, x, mutable=['batch_stats']))(variables)
  matrix = lambda *path: np.asarray(_at(variables['params'], *path, 'kernel'))[0, 0]

  def norm_relu(y, name):
    y = y @ matrix(name, 'conv')
    return np.maximum((y - y.mean((0, 1))) / np.sqrt(y.var((0, 1)) + 1e-5), 0)
  pixels = np.asarray(x).reshape(2, 48, 4)
  query, key, value = (pixels @ matrix(name) for name in ('query', 'key', 'value'))
  weights = np.exp(query @ key.swapaxes(1, 2) / np.sqrt(2))
  seen = weights / weights.sum(-1, keepdims=True) @ value
  expected = norm_relu(np.concatenate([pixels, norm_relu(seen, 'back')], axis=-1), 'out')
  np.testing.assert_allclose(got.reshape(2, 48, 4), expected, atol=1e-4)


def _at(tree, *path):
  for name in path:
    tree = tree[name]
  return tree


def test_context_changes_what_the_method_reads_and_is_trained():
  inputs = inputs_of()
  terms = distillers.terms_of('cross_image+context')
  method = distillers.create(terms)
  state = jax.jit(method.init)(jax.random.key(0), inputs)
  loss = lambda params: method.loss(state._replace(params=params), inputs)[0]
  value, gradient = jax.jit(jax.value_and_grad(loss))(state.params)

  @jax.jit
  def expected(params):
    seen, _ = ContextBlock().apply(
        {'params': params}, inputs.student['embedding'], mutable=['batch_stats'])
    return losses.cross_image_pixel(seen, inputs.teacher['embedding'])
  np.testing.assert_allclose(value, expected(state.params['context']), rtol=1e-5)
  assert all(np.any(x) for x in jax.tree.leaves(gradient['context']))
  terms['context']['weight'] = 0.0
  assert distillers.create(terms).init(jax.random.key(0), inputs).memory == {'cross_image': {}}


def test_context_leaves_the_start_of_the_method_as_it_is_without():
  method, inputs = distillers.channels(**SMALL), inputs_of()
  alone, beside = jax.jit(lambda key: (
      method.init(key, inputs), distillers.with_context(method, tap='embedding').init(key, inputs)
  ))(jax.random.key(0))
  for part, wanted in (('params', alone.params), ('memory', alone.memory)):
    jax.tree.map(np.testing.assert_array_equal, getattr(beside, part)['method'], wanted)


def test_context_refuses_a_critic():
  with pytest.raises(ValueError, match='neither critic nor preparation'):
    distillers.with_context(toys.adversarial())


def test_the_official_recipe_has_all_terms():
  terms = distillers.terms_of('cirkd_v2+context')
  assert set(terms) == {'kd', 'fitnets', 'cross_image', 'memory', 'channels', 'context'}
  assert terms['channels'] | SMALL == {
      'factory': 'kdseg_jax.distillers:channels', 'warmup_steps': 0,
      'weight': 1.0, 'cross_weight': 1.0, 'mse_weight': 100.0, 'memory_weight': 0.1, 'pool': 4,
      'temperature': 0.1, 'student_tap': 'embedding', 'teacher_tap': 'embedding', **SMALL}
  assert terms['context'] == {
      'factory': 'kdseg_jax.distillers:with_context', 'weight': 1.0, 'tap': 'embedding'}
