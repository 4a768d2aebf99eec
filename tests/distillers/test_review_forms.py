"""Every form of knowledge review against its equation, written out in float64."""

import functools
import itertools

import jax
import numpy as np
import pytest

from kdseg_jax import distillers
from kdseg_jax.models.fusion import FORMS
from tests import toys

TAPS = ('stage2', 'stage3', 'pooled')
CHANNELS = 4
SETTINGS = list(itertools.product((True, False), ((4, 2, 1), ())))  # attention, levels


def taps_of(seed, *shapes):
  rng = np.random.default_rng(seed)
  return {tap: rng.normal(size=(3, *shape)).astype(np.float32) for tap, shape in zip(TAPS, shapes)}


STUDENT = taps_of(0, (6, 5, 3), (3, 4, 5), (4,))
TEACHER = taps_of(1, (6, 7, 2), (2, 3, 6), (5,))


def as_maps(taps):
  return [x.astype(np.float64).reshape(len(x), *(x.shape[1:3] if x.ndim == 4 else (1, 1)), -1)
          for x in taps.values()]


def convolved(x, conv):
  """Stride 1, padded by zeros to the same size."""
  kernel = np.asarray(conv['kernel'], np.float64)
  rim = kernel.shape[0] // 2
  x = np.pad(x, ((0, 0), (rim, rim), (rim, rim), (0, 0)))
  windows = np.lib.stride_tricks.sliding_window_view(x, kernel.shape[:2], axis=(1, 2))
  return np.einsum('nhwcij,ijco->nhwo', windows, kernel) + conv.get('bias', 0)


def conv_norm(x, layer):
  """Normalised by the batch, as in training."""
  x = convolved(x, layer['conv'])
  norm = layer['norm']['norm']
  mean, var = x.mean((0, 1, 2)), x.var((0, 1, 2))
  return (x - mean) / np.sqrt(var + 1e-5) * norm['scale'] + norm['bias']


def resized(x, size):
  rows, columns = (np.arange(n) * old // n for n, old in zip(size, x.shape[1:3]))
  return x[:, rows][:, :, columns]


def fused(x, deeper, block, attention):
  """A map of `CHANNELS` with those of deeper stages."""
  x = conv_norm(x, block['reduce'])
  if not deeper:
    return x
  maps = [x, *(resized(y, x.shape[1:3]) for y in deeper)]
  weights = np.ones((*x.shape[:3], len(maps)))
  if attention:
    weights = 1 / (1 + np.exp(-convolved(np.concatenate(maps, -1), block['attention'])))
  return sum(weights[..., i, None] * y for i, y in enumerate(maps))


def compared(form, params, attention):
  """(map, number of the teacher's stage) of all that a form compares."""
  student, sizes = as_maps(STUDENT), [x.shape[1:3] for x in as_maps(TEACHER)]
  deepest = len(student) - 1
  left = None
  for j in reversed(range(len(student))):
    if form == 'all_pairs':
      for i in range(j, len(student)):
        block = params[f'stage{j}_from{i}']
        x = resized(fused(student[i], [], block, attention), sizes[j])
        yield conv_norm(x, block['expand']), j
      continue
    if form == 'single_stage' and j < deepest:
      continue
    deeper = []
    if form == 'fused':
      deeper = [conv_norm(student[i], params[f'reduce{i}']) for i in range(j + 1, len(student))]
    elif form == 'residual' and left is not None:
      deeper = [left]
    block = params[f'stage{j}']
    left = resized(fused(student[j], deeper, block, attention), sizes[j])
    yield conv_norm(left, block['expand']), j


def binned(x, bins):
  height, width = x.shape[1:3]
  return np.stack([
      x[:, i * height // bins:-(-(i + 1) * height // bins),
        j * width // bins:-(-(j + 1) * width // bins)].mean((1, 2))
      for i in range(bins) for j in range(bins)], 1)


def difference(student, teacher, levels):
  levels = [level for level in levels if level < student.shape[1]]
  weights = 0.5 ** np.arange(1 + len(levels))
  squares = [np.mean((student - teacher) ** 2)] + [
      np.mean((binned(student, level) - binned(teacher, level)) ** 2) for level in levels]
  return weights @ squares / weights.sum()


@pytest.mark.parametrize('form', FORMS)
def test_a_form_equals_its_equation_with_and_without_attention_and_levels(form):
  inputs = distillers.DistillInputs(STUDENT, TEACHER)
  method = functools.partial(
      distillers.review, form=form, student_taps=TAPS, teacher_taps=TAPS, channels=CHANNELS)
  states = {attention: toys.filled(jax.eval_shape(
      method(attention=attention).init, jax.random.key(0), inputs)) for attention in (True, False)}
  got = jax.jit(lambda states: [
      method(attention=attention, levels=levels).loss(states[attention], inputs)[0]
      for attention, levels in SETTINGS])(states)
  teacher = as_maps(TEACHER)
  want = [sum(difference(x, teacher[j], levels)
              for x, j in compared(form, states[attention].params, attention))
          for attention, levels in SETTINGS]
  np.testing.assert_allclose(got, want, rtol=1e-5)
  with_both, without_levels, without_attention, _ = got
  assert (abs(with_both - without_attention) > 1e-3) == (form in ('fused', 'residual'))
  # The deepest is of one pixel, whose mean it is itself.
  assert (abs(with_both - without_levels) > 1e-3) == (form != 'single_stage')
