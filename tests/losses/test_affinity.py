"""Pair-wise affinity: against a direct form in numpy, gradients, zero vectors, properties."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jax.test_util import check_grads

from kdseg_jax import losses
from kdseg_jax.losses import affinity

# Compiled: op by op, the first call of each shape takes a second.
pairwise_affinity = jax.jit(losses.pairwise_affinity, static_argnames=(
    'node_size', 'pool', 'norm_gradient', 'norm', 'neighbourhood'))

WIDE = (2, 4, 5, 40)    # few nodes of many channels: the direct form
NARROW = (2, 7, 9, 4)   # many nodes of few channels: the Gram form


def features(shape, seed=0, dtype=jnp.float32):
  rng = np.random.default_rng(seed)
  student, teacher = rng.normal(size=shape), rng.normal(size=(*shape[:3], shape[3] + 2))
  return jnp.asarray(student, dtype), jnp.asarray(teacher, dtype)


def reference(student, teacher, neighbourhood=np.inf):
  """The definition, node pair by node pair in float64; no pooling, no eps."""
  difference, near = 0, None
  for x, sign in ((student, 1), (teacher, -1)):
    x = np.asarray(x, np.float64)
    images, height, width, _ = x.shape
    row, column = (i.ravel() for i in np.indices((height, width)))
    distance = lambda i: np.abs(i[:, None] - i)
    near = (distance(row) <= neighbourhood) & (distance(column) <= neighbourhood)
    x = (x / np.linalg.norm(x, axis=-1, keepdims=True)).reshape(images, height * width, -1)
    difference = difference + sign * x @ x.swapaxes(1, 2)
  return np.mean(difference[:, near]**2)


def test_value_by_hand():
  # Cosines of the student's two nodes: 0. Of the teacher's: 0.6. Pairs (1, 2) and (2, 1) differ.
  student = jnp.array([[1., 0.], [0., 5.]]).reshape(1, 1, 2, 2)
  teacher = jnp.array([[2., 0., 0.], [3., 4., 0.]]).reshape(1, 1, 2, 3)
  loss = pairwise_affinity(student, teacher)
  np.testing.assert_allclose(loss, 2 * 0.6**2 / 4, rtol=1e-6)
  assert loss.shape == () and loss.dtype == jnp.float32


@pytest.mark.parametrize('shape', [WIDE, NARROW])
def test_equals_the_definition(shape):
  student, teacher = features(shape)
  np.testing.assert_allclose(
      pairwise_affinity(student, teacher), reference(student, teacher), rtol=1e-5)


@pytest.mark.parametrize('shape', [WIDE, NARROW, (1, 1, 6, 3), (1, 6, 1, 3)])
@pytest.mark.parametrize('neighbourhood', [0, 1, 3, 20])
def test_neighbourhood_equals_the_definition(shape, neighbourhood):
  student, teacher = features(shape)
  np.testing.assert_allclose(
      pairwise_affinity(student, teacher, neighbourhood=neighbourhood),
      reference(student, teacher, neighbourhood), rtol=1e-5, atol=1e-12)


@pytest.mark.parametrize('noise', [1.0, 0.1, 0.01])
def test_gram_equals_direct_in_float64(noise):
  # Positive features, a teacher close to a rotated student: the three large terms cancel.
  rng = np.random.default_rng(0)
  unit = lambda x: (x / np.linalg.norm(x, axis=-1, keepdims=True)).astype(np.float32)
  base = np.abs(rng.normal(size=(2, 300, 16)))
  rotation = np.linalg.qr(rng.normal(size=(24, 24)))[0][:16]
  student, teacher = unit(base), unit(base @ rotation + noise * rng.normal(size=(2, 300, 24)))
  with jax.enable_x64(True):
    exact, in_float64 = (
        jax.tree.map(np.asarray, jax.jit(jax.value_and_grad(form))(
            student.astype(np.float64), teacher.astype(np.float64)))
        for form in (affinity._direct, affinity._gram))
  np.testing.assert_allclose(in_float64[0], exact[0], rtol=1e-9)
  np.testing.assert_allclose(in_float64[1], exact[1], atol=1e-9 * np.abs(exact[1]).max())
  value, gradient = jax.jit(jax.value_and_grad(affinity._gram))(student, teacher)
  pairs = 2 * 300**2
  np.testing.assert_allclose(value / pairs, exact[0] / pairs, rtol=1e-5, atol=1e-7)
  np.testing.assert_allclose(gradient, exact[1], atol=1e-3 * np.abs(exact[1]).max())


def test_compensated_sum_keeps_what_cancels():
  x = jnp.array([1e8, 1.0, -1e8, 0.5, 3e7, -3e7, 0.25])
  assert jax.jit(affinity._compensated_sum)(x) == 1.75


def test_chooses_the_cheaper_form(monkeypatch):
  for form in ('_direct', '_gram'):
    monkeypatch.setattr(affinity, form, lambda s, t, form=form: jnp.float32(form == '_gram'))
  assert losses.pairwise_affinity(*features(NARROW)) > 0
  assert losses.pairwise_affinity(*features(WIDE)) == 0


@pytest.mark.parametrize('shape, options', [
    (WIDE, {}),
    (NARROW, {}),
    (NARROW, {'neighbourhood': 2}),
    (NARROW, {'node_size': (2, 3)}),
    (NARROW, {'node_size': 2, 'pool': 'mean', 'norm': 'clamp', 'eps': 1e-12}),
])
def test_finite_differences(shape, options):
  with jax.enable_x64(True):
    student, teacher = features(shape, dtype=jnp.float64)
    loss = lambda x: pairwise_affinity(x, teacher, **options)
    assert loss(student).dtype == jnp.float64
    check_grads(jax.jit(loss), (student,), order=1, modes=['rev'])


def test_detached_norm_leaves_the_value_and_changes_the_gradient():
  student, teacher = features(NARROW)
  attached, detached = (
      jax.jit(jax.value_and_grad(functools.partial(pairwise_affinity, norm_gradient=flag)))(
          student, teacher) for flag in (True, False))
  np.testing.assert_array_equal(attached[0], detached[0])
  # Scaling a node changes nothing, so only the attached gradient is orthogonal to the node.
  along = lambda gradient: jnp.abs(jnp.sum(gradient * student, axis=-1)).max()
  assert along(attached[1]) < 1e-7 < 1e-4 < along(detached[1])


def test_node_size():
  student, teacher = features((1, 6, 8, 3))
  loss = lambda **options: pairwise_affinity(student, teacher, **options)
  np.testing.assert_array_equal(loss(node_size=2), loss(node_size=(2, 2)))
  np.testing.assert_array_equal(loss(node_size=1), loss())
  np.testing.assert_allclose(loss(node_size=100), 0, atol=1e-12)  # one node is like itself
  assert loss(node_size=(2, 4)) != loss(node_size=(4, 2))


def test_scaled_node_size():
  assert losses.scaled_node_size((65, 65), 0.5) == (32, 32)
  assert losses.scaled_node_size((17, 24), 0.5) == (8, 12)
  assert losses.scaled_node_size((3, 1), 0.25) == (1, 1)
  with pytest.raises(ValueError, match='scale'):
    losses.scaled_node_size((4, 4), 0)


@pytest.mark.parametrize('norm', ['add_eps', 'clamp'])
@pytest.mark.parametrize('options', [{}, {'neighbourhood': 1}, {'node_size': 2}])
def test_zero_vectors_have_no_affinity_and_no_gradient(norm, options):
  student, teacher = features(NARROW)
  zeroed = student.at[:, :2, :2].set(0)
  value_and_grad = jax.jit(jax.value_and_grad(functools.partial(
      pairwise_affinity, norm=norm, **options)))
  value, gradient = value_and_grad(zeroed, teacher)
  assert np.isfinite(value)
  np.testing.assert_array_equal(gradient[:, :2, :2], 0)
  assert 0 < np.abs(gradient).max() < 1
  everything = value_and_grad(jnp.zeros_like(student), jnp.zeros_like(teacher))
  assert everything[0] == 0
  np.testing.assert_array_equal(everything[1], 0)


def test_no_gradient_into_the_teacher():
  student, teacher = features(NARROW)
  np.testing.assert_array_equal(
      jax.jit(jax.grad(pairwise_affinity, argnums=1))(student, teacher), 0)


@pytest.mark.parametrize('options', [{}, {'neighbourhood': 1}, {'node_size': 2}])
def test_bfloat16_is_reduced_in_float32(options):
  student, teacher = (x.astype(jnp.bfloat16) for x in features(NARROW))
  value, gradient = jax.jit(jax.value_and_grad(functools.partial(
      pairwise_affinity, **options)))(student, teacher)
  assert value.dtype == jnp.float32 and gradient.dtype == jnp.bfloat16
  np.testing.assert_array_equal(
      value, pairwise_affinity(
          student.astype(jnp.float32), teacher.astype(jnp.float32), **options))


@pytest.mark.parametrize('options', [{}, {'neighbourhood': 1}, {'node_size': 2}])
def test_vmap_and_remat(options):
  student, teacher = features(NARROW)
  loss = lambda s, t: losses.pairwise_affinity(s, t, **options)
  expected, gradient = jax.jit(jax.value_and_grad(loss))(student, teacher)
  each, again = jax.jit(jax.vmap(jax.value_and_grad(jax.checkpoint(loss))))(
      student[:, None], teacher[:, None])
  np.testing.assert_allclose(each.mean(), expected, rtol=1e-5)
  np.testing.assert_allclose(again[:, 0] / 2, gradient, atol=1e-8)


@settings(deadline=None, max_examples=15, database=None)
@given(st.integers(0, 10**6), st.floats(1e-3, 1e3), st.sampled_from([WIDE, NARROW]))
def test_properties(seed, scale, shape):
  student, teacher = features(shape, seed)
  loss = pairwise_affinity(student, teacher)
  images, height, width, _ = shape
  order = np.random.default_rng(seed).permutation(height * width)
  mix = lambda x: x.reshape(images, height * width, -1)[::-1, order].reshape(x.shape)
  np.testing.assert_allclose(
      pairwise_affinity(mix(student), mix(teacher)), loss, rtol=1e-5)
  np.testing.assert_allclose(
      pairwise_affinity(scale * student, teacher / scale), loss, rtol=1e-4)
  itself = pairwise_affinity(student, student[..., ::-1])  # a rotation, not a difference
  assert 0 <= itself < 1e-7


def test_errors_say_what_to_do():
  student, teacher = features(NARROW)
  with pytest.raises(ValueError, match=r'\(2, 7, 9, 4\).*\(2, 6, 9, 6\).*resize'):
    losses.pairwise_affinity(student, teacher[:, :6])
  for options in (
      {'pool': 'min'}, {'norm': 'l1'}, {'eps': 0.0}, {'neighbourhood': -1}, {'node_size': 0},
      {'node_size': (2, 2, 2)}):
    [name] = options
    with pytest.raises(ValueError, match=f'{name}='):
      losses.pairwise_affinity(student, teacher, **options)
