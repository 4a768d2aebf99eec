"""Hierarchical context: official arrays, a plain reference, masks, dtypes, what does not matter."""

import functools
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jax.test_util import check_grads

from kdseg_jax import losses

GOLDEN = pathlib.Path(__file__).parents[1] / 'golden'
SHAPES = [(2, 9, 6, 3), (2, 4, 7, 5), (2, 1, 2, 4), (2, 6)]

context = jax.jit(losses.hierarchical_context, static_argnames='levels')
gradient = jax.jit(jax.grad(losses.hierarchical_context, (0, 1)))


def stages(seed, dtype=np.float32, shapes=SHAPES):
  rng = np.random.default_rng(seed)
  return [rng.normal(size=shape).astype(dtype) for shape in shapes]


def masks(seed=2, shapes=SHAPES):
  rng = np.random.default_rng(seed)
  return [rng.random(shape[:-1]) < 0.5 for shape in shapes]


def pooled(x, where, bins):
  """`(images, bins * bins, C)` and which bins count, by plain loops."""
  height, width = x.shape[1:3]
  means, counts = [], []
  for i in range(bins):
    for j in range(bins):
      window = np.s_[:, i * height // bins:-(-(i + 1) * height // bins),
                     j * width // bins:-(-(j + 1) * width // bins)]
      weights = where[window][..., None].astype(np.float64)
      count = weights.sum((1, 2))
      means.append((x[window] * weights).sum((1, 2)) / np.maximum(count, 1))
      counts.append(count[:, 0] > 0)
  return np.stack(means, 1), np.stack(counts, 1)


def reference(student, teacher, where, levels=(4, 2, 1)):
  """The definition in float64."""
  total = 0.0
  for s, t, mask in zip(student, teacher, where):
    if s.ndim == 2:
      s, t, mask = s[:, None, None], t[:, None, None], mask[:, None, None]
    difference = s.astype(np.float64) - t
    mean = lambda values, counts: values[counts].mean() if counts.any() else 0.0
    terms, weights = [mean(difference**2, mask)], [1.0]
    for level in levels:
      if level < s.shape[1]:
        means, counts = pooled(difference, mask, level)
        terms.append(mean(means**2, counts))
        weights.append(weights[-1] / 2)
    total += np.dot(terms, weights) / sum(weights)
  return total


def test_equals_the_official_code():
  with np.load(GOLDEN / 'review.npz') as golden:
    of = lambda name: [np.moveaxis(golden[f'review_hcl_842/{name}{i}'], 1, -1) for i in range(3)]
    student, teacher, gradients = of('fs'), of('ft'), of('grad_fs')
    loss, each = golden['review_hcl_842/loss'], golden['review_hcl_842/per_level']
  np.testing.assert_allclose(context(student, teacher), loss, rtol=1e-6)
  np.testing.assert_allclose(
      [losses.hierarchical_context(s, t) for s, t in zip(student, teacher)], each, rtol=1e-6)
  for got, want in zip(gradient(student, teacher)[0], gradients, strict=True):
    np.testing.assert_allclose(got, want, rtol=0, atol=1e-6 * np.abs(want).max())


@pytest.mark.parametrize('levels', [(4, 2, 1), (3, 8), ()])
def test_equals_the_definition_where_bins_overlap_and_pixels_are_masked(levels):
  student, teacher = stages(0), stages(1)
  every = [np.ones(mask.shape, bool) for mask in masks()]
  for passed, where in ((None, every), (every, every), (masks(), masks())):
    np.testing.assert_allclose(context(student, teacher, levels=levels, where=passed),
                               reference(student, teacher, where, levels), rtol=1e-5)


@settings(deadline=None, max_examples=15, database=None)
@given(st.integers(0, 10**6), st.floats(0.01, 100), st.booleans())
def test_properties(seed, scale, masked):
  student, teacher, where = stages(seed), stages(seed + 1), masks(seed + 2)
  where = where if masked else [np.ones(mask.shape, bool) for mask in where]
  value = context(student, teacher, where=where)
  assert value >= 0 and context(student, student, where=where) == 0
  close = functools.partial(np.testing.assert_allclose, desired=value, rtol=1e-4, atol=1e-7)
  close(context(teacher, student, where=where))
  order = np.random.default_rng(seed).permutation(len(student[0]))
  of_images = lambda xs: [x[order] for x in xs]
  close(context(of_images(student), of_images(teacher), where=of_images(where)))
  times = lambda xs: [np.float32(scale) * x for x in xs]
  close(context(times(student), times(teacher), where=where) / scale**2)
  more = lambda xs: [x + np.float32(2) for x in xs]
  close(context(more(student), more(teacher), where=where))


@pytest.mark.parametrize('size', [(8, 8), (8, 6), (12, 8), (9, 6), (6, 12)])
def test_means_of_means_are_means(size):
  """Where bins are equal the coarse grids are made from finer ones; masked ones never are."""
  with jax.enable_x64(True):
    student, teacher = (
        jnp.asarray(stages(seed, np.float64, [(2, *size, 3)])[0]) for seed in (0, 1))
    of = jax.value_and_grad(functools.partial(losses.hierarchical_context, levels=(4, 3, 2, 1)))
    plain = of(student, teacher, where=jnp.ones((2, *size), bool))
    nested = of(student, teacher)
  for ours, theirs in zip(nested, plain, strict=True):
    np.testing.assert_allclose(np.asarray(ours), np.asarray(theirs), rtol=1e-12, atol=1e-14)


def test_finite_differences():
  with jax.enable_x64(True):
    student, teacher = stages(0, np.float64), stages(1, np.float64)
    loss = lambda features: losses.hierarchical_context(features, teacher, where=masks())
    check_grads(jax.jit(loss), (student,), order=1, modes=['rev'])


def test_float64_is_kept():
  with jax.enable_x64(True):
    student, teacher = stages(0, np.float64), stages(1, np.float64)
    value = context(student, teacher, where=masks())
    assert value.dtype == jnp.float64
    np.testing.assert_allclose(value, reference(student, teacher, masks()), rtol=1e-12)


def test_equal_features_give_zero_with_zero_gradient_and_the_teacher_has_none():
  same = stages(0)
  assert context(same, same) == 0
  for student, teacher in zip(*gradient(same, same)):
    assert not np.any(student) and not np.any(teacher)
  student, teacher = gradient(same, stages(1))
  assert all(map(np.any, student)) and not any(map(np.any, teacher))


def test_the_order_of_images_channels_and_stages_does_not_matter():
  student, teacher = stages(0), stages(1)
  expected = context(student, teacher)
  for permute in (lambda x: x[::-1], lambda x: np.roll(x, 1, -1)):
    np.testing.assert_allclose(
        context(*([permute(x) for x in xs] for xs in (student, teacher))), expected, rtol=1e-6)
  np.testing.assert_allclose(context(student[::-1], teacher[::-1]), expected, rtol=1e-6)


def test_masked_values_do_not_matter_even_if_not_finite():
  where = masks()
  spoil = lambda xs, value: [
      np.where(mask[..., None], x, value) for x, mask in zip(xs, where, strict=True)]
  student, teacher = stages(0), stages(1)
  loss = jax.jit(jax.value_and_grad(functools.partial(losses.hierarchical_context, where=where)))
  expected, clean = loss(student, teacher)
  value, spoilt = loss(spoil(student, np.nan), spoil(teacher, np.inf))
  np.testing.assert_array_equal(value, expected)
  jax.tree.map(np.testing.assert_array_equal, spoilt, clean)
  assert all(not np.any(g[~mask]) for g, mask in zip(clean, where))


def test_without_a_pixel_the_loss_is_zero_with_zero_gradient():
  nothing = [np.zeros(mask.shape, bool) for mask in masks()]
  loss = jax.value_and_grad(functools.partial(losses.hierarchical_context, where=nothing))
  value, gradients = jax.jit(loss)(stages(0), stages(1))
  assert value == 0 and not any(map(np.any, gradients))


def test_half_precision_is_compared_in_float32():
  student, teacher = ([jnp.asarray(x, jnp.bfloat16) for x in stages(seed)] for seed in (0, 1))
  value = context(student, teacher)
  assert value.dtype == jnp.float32 and value.shape == ()
  exact = ([np.asarray(x, np.float32) for x in xs] for xs in (student, teacher))
  np.testing.assert_allclose(value, context(*exact), rtol=1e-6)


def test_one_map_is_a_stage_and_vectors_are_maps_of_one_pixel():
  student, teacher = stages(0), stages(1)
  each = [context(s, t) for s, t in zip(student, teacher)]
  np.testing.assert_allclose(sum(each), context(student, teacher), rtol=1e-6)
  as_map = lambda x: x[:, None, None]
  np.testing.assert_array_equal(each[-1], context(as_map(student[-1]), as_map(teacher[-1])))
  batched = jax.jit(jax.vmap(lambda s, t: losses.hierarchical_context(s[None], t[None])))
  np.testing.assert_allclose(batched(student[0], teacher[0]).mean(), each[0], rtol=1e-6)


@pytest.mark.parametrize('arguments, options, message', [
    (([], []), {}, 'one or more.*got 0, 0'),
    ((stages(0), stages(1)[:2]), {}, 'got 4, 2 and 4'),
    ((stages(0), stages(1)), {'where': masks()[:3]}, 'got 4, 4 and 3'),
    ((stages(0)[0], stages(0)[0][:, :4]), {}, 'resize one first'),
    ((stages(0)[0], stages(0)[0][..., :2]), {}, 'project the student first'),
    ((np.zeros((2, 3, 4)), np.zeros((2, 3, 4))), {}, r'maps \(N, H, W, C\)'),
    ((stages(0)[0], stages(1)[0]), {'levels': (4, 0)}, 'level.*0 must be positive'),
    ((stages(0)[0], stages(1)[0]), {'where': np.ones((2, 9))}, 'leading axes')])
def test_what_does_not_fit_is_refused(arguments, options, message):
  with pytest.raises(ValueError, match=message):
    losses.hierarchical_context(*arguments, **options)
