"""Knowledge adaptation's losses: arrays of the equations, differences, masks, zeros, dtypes."""

import functools
import pathlib

import hypothesis
import hypothesis.extra.numpy as hnp
import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kdseg_jax import losses

GOLDEN = pathlib.Path(__file__).parents[1] / 'golden' / 'adaptation.npz'

adapt = jax.jit(losses.feature_adaptation, static_argnames=('p', 'q'))
reconstruct = jax.jit(losses.autoencoder_reconstruction)
adapt_gradient = jax.jit(jax.grad(losses.feature_adaptation, (0, 1)), static_argnames=('p', 'q'))


@pytest.fixture(scope='module')
def golden():
  with np.load(GOLDEN) as arrays:
    return {name.partition('/')[2]: np.moveaxis(arrays[name], 1, -1) if (
        arrays[name].ndim == 4) else arrays[name] for name in arrays if name.startswith('ka_')}


def features(seed, shape=(2, 4, 5, 6), dtype=np.float32):
  return np.random.default_rng(seed).normal(size=shape).astype(dtype)


@pytest.mark.parametrize('p', [1, 2])
@pytest.mark.parametrize('q', [1, 2])
def test_feature_adaptation_equals_the_equation(golden, p, q):
  value = adapt(golden['adapter'], golden['enc'], p=p, q=q)
  np.testing.assert_allclose(value, golden[f'adapt_p{p}q{q}'], rtol=1e-6)
  gradient, none = adapt_gradient(golden['adapter'], golden['enc'], p=p, q=q)
  wanted = golden[f'grad_adapt_p{p}q{q}']
  np.testing.assert_allclose(gradient, wanted, rtol=0, atol=1e-6 * np.abs(wanted).max())
  assert not np.any(none)


def test_reconstruction_equals_the_equation(golden):
  arrays = [golden[name] for name in ('psi', 'rec', 'z')]
  np.testing.assert_allclose(reconstruct(*arrays), golden['ae_mean'], rtol=1e-6)
  without, code = reconstruct(*arrays, alpha=0.0), np.abs(arrays[2]).sum()
  np.testing.assert_allclose(reconstruct(*arrays, alpha=0.5) - without, 0.5 * code, rtol=1e-5)


def test_affinities_are_those_of_pairwise_affinity(golden):
  difference = (golden['A_s'] - golden['A_t']) * golden['A_s'].shape[1]
  np.testing.assert_allclose(
      losses.pairwise_affinity(golden['affinity_adapter'], golden['enc']),
      np.mean(difference**2), rtol=1e-5)


@pytest.mark.parametrize('p, q', [(1, 2), (2, 2), (3, 1.5), (2, 4)])
def test_gradients_are_those_of_differences(p, q):
  with jax.enable_x64(True):
    student, code = features(0, dtype=np.float64), features(1, dtype=np.float64)
    direction = features(2, dtype=np.float64)
    of = lambda t: losses.feature_adaptation(student + t * direction, code, p=p, q=q)
    numeric = (of(1e-6) - of(-1e-6)) / 2e-6
    gradient = jax.grad(losses.feature_adaptation)(student, code, p=p, q=q)
    np.testing.assert_allclose(np.sum(gradient * direction), numeric, rtol=1e-6)
    assert of(0.0).dtype == jnp.float64


def test_gradients_of_the_reconstruction_are_those_of_differences():
  with jax.enable_x64(True):
    given = [features(i, dtype=np.float64) for i in range(3)]
    moves = [features(i + 3, dtype=np.float64) for i in range(2)]
    of = lambda t: losses.autoencoder_reconstruction(
        given[0], given[1] + t * moves[0], given[2] + t * moves[1], alpha=0.01)
    numeric = (of(1e-6) - of(-1e-6)) / 2e-6
    gradients = jax.grad(functools.partial(losses.autoencoder_reconstruction, alpha=0.01),
                         (0, 1, 2))(*given)
    assert not np.any(gradients[0])  # the teacher's
    np.testing.assert_allclose(
        sum(np.sum(g * move) for g, move in zip(gradients[1:], moves)), numeric, rtol=1e-6)


@pytest.mark.parametrize('p, q', [(1, 1), (2, 2), (3, 1.5)])
def test_zeros_normalise_to_zeros_with_bounded_gradients(p, q):
  student, code = features(0), features(1)
  student[0], code[1, 0], student[1, 0] = 0, 0, 0
  gradient = adapt_gradient(student, code, p=p, q=q)[0]
  assert np.all(np.isfinite(gradient)) and not np.any(gradient[0]) and np.any(gradient[1])
  ones = adapt(student[:1], code[:1], p=q, q=q)
  np.testing.assert_allclose(ones, 1.0, rtol=1e-5)  # the length of a direction
  assert adapt(0 * student, 0 * code, p=p, q=q) == 0
  same = adapt_gradient(code, code, p=p, q=q)[0]
  assert adapt(code, code, p=p, q=q) == 0 and not np.any(same)


@pytest.mark.parametrize('scale', [1e-30, 1e-15, 1e15, 1e30])
def test_small_and_large_features_are_finite(scale):
  student, code = np.float32(scale) * features(0), features(1)
  value, gradient = adapt(student, code), adapt_gradient(student, code)[0]
  assert np.isfinite(value) and np.all(np.isfinite(gradient))
  assert np.abs(gradient).max() <= 1e8


def test_masked_pixels_do_not_count_even_if_they_are_nan():
  student, code, where = features(0), features(1), features(2)[..., 0] > 0
  value = adapt(student, code, where=where)
  np.testing.assert_allclose(
      value, adapt(student[where][:, None, None], code[where][:, None, None]), rtol=1e-6)
  student[~where], code[~where] = np.nan, np.nan
  np.testing.assert_array_equal(adapt(student, code, where=where), value)
  gradient = adapt_gradient(student, code, where=where)[0]
  assert np.all(np.isfinite(gradient)) and not np.any(gradient[~where])
  assert adapt(student, code, where=np.zeros_like(where)) == 0
  assert not np.any(adapt_gradient(student, code, where=np.zeros_like(where))[0])


def test_masked_pixels_of_the_autoencoder_do_not_count():
  psi, rec = features(0, (2, 4, 6, 3)), features(1, (2, 4, 6, 3))
  code = features(2, (2, 2, 3, 5))
  where = np.random.default_rng(3).random((2, 4, 6)) < 0.5
  of_code = where[:, ::2, ::2]  # the nearest pixels
  wanted = np.mean((psi - rec)[where]**2) + 0.1 * np.abs(code[of_code]).sum()
  rec[~where], code[~of_code] = np.nan, np.inf
  np.testing.assert_allclose(reconstruct(psi, rec, code, alpha=0.1, where=where), wanted, rtol=1e-5)
  nothing = np.zeros_like(where)
  gradients = jax.grad(lambda *x: losses.autoencoder_reconstruction(
      psi, *x, alpha=0.1, where=nothing), (0, 1))(rec, code)
  assert reconstruct(psi, rec, code, alpha=0.1, where=nothing) == 0
  assert not any(np.any(x) for x in gradients)
  vectors = [features(i, (3, 4)) for i in range(3)]
  kept = np.array([True, False, True])
  np.testing.assert_allclose(
      reconstruct(*vectors, where=kept), reconstruct(*(x[kept] for x in vectors)), rtol=1e-6)


def test_reduced_in_float32():
  given = [features(i).astype(jnp.bfloat16) for i in range(3)]
  wide = [x.astype(np.float32) for x in given]
  for loss, count in ((adapt, 2), (reconstruct, 3)):
    value = loss(*given[:count])
    assert value.dtype == jnp.float32 and value == loss(*wide[:count])


FLOATS = hnp.arrays(np.float32, (2, 3, 2, 4), elements=st.floats(-100, 100, width=32))


@hypothesis.given(FLOATS, FLOATS, st.floats(0.125, 64, width=32))
@hypothesis.settings(max_examples=40)
def test_directions_alone_decide_and_their_distance_is_bounded(student, code, scale):
  value = float(adapt(student, code))
  assert 0 <= value <= 2 + 1e-5
  long = np.linalg.norm(student, axis=-1).min() > 1e-3
  if long:  # else eps shows
    np.testing.assert_allclose(adapt(scale * student, code), value, rtol=1e-3, atol=1e-5)
  np.testing.assert_allclose(
      adapt(student[..., ::-1], code[..., ::-1]), value, rtol=1e-5, atol=1e-6)
  np.testing.assert_allclose(
      adapt(student[:, ::-1], code[:, ::-1]), value, rtol=1e-5, atol=1e-6)


@hypothesis.given(FLOATS, FLOATS, FLOATS)
@hypothesis.settings(max_examples=25)
def test_the_reconstruction_is_no_less_than_the_error_and_grows_with_the_code(psi, rec, code):
  error = np.mean((psi.astype(np.float64) - rec)**2)
  value = float(reconstruct(psi, rec, code))
  assert value >= error * (1 - 1e-5)
  np.testing.assert_allclose(reconstruct(psi, rec, -code), value, rtol=1e-6)
  np.testing.assert_allclose(reconstruct(psi, psi, code, alpha=1.0), np.abs(code).sum(), rtol=1e-5)


@pytest.mark.parametrize('call, message', [
    (lambda: losses.feature_adaptation(features(0), features(1), p=0.5), r'p=0.5 must be in \[1'),
    (lambda: losses.feature_adaptation(features(0), features(1), q=0), 'q=0 must be in'),
    (lambda: losses.feature_adaptation(features(0), features(1, (2, 4, 4, 6))), 'same N, H and W'),
    (lambda: losses.feature_adaptation(features(0), features(1, (2, 4, 5, 3))), 'same width'),
    (lambda: losses.autoencoder_reconstruction(
        features(0), features(1), features(2), alpha=-1.0), 'alpha=-1.0 must be in'),
    (lambda: losses.autoencoder_reconstruction(
        features(0), features(1), features(2), alpha=np.nan), 'alpha=nan must be in'),
    (lambda: losses.feature_adaptation(features(0), features(1), p=np.inf), 'p=inf must be in'),
    (lambda: losses.autoencoder_reconstruction(
        features(0), features(1, (2, 4, 5, 3)), features(2)), 'same width'),
    (lambda: losses.autoencoder_reconstruction(
        features(0), features(1), features(2, (3, 2, 2, 6))), r'their code \(N, h, w, D\)')])
def test_what_cannot_be_compared_is_refused(call, message):
  with pytest.raises(ValueError, match=message):
    call()
