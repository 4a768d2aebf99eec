"""ESPNet: its modules by hand, the maps of its stages, sizes that do not divide."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kdseg_jax import models
from kdseg_jax.models import espnet
from kdseg_jax.models.conv import conv2d
from tests import toys

EVALUATION = 1 / np.sqrt(1 + 1e-3)  # of BatchNorm with fresh statistics


def _noise(*shape):
  return np.random.default_rng(0).standard_normal(shape).astype(np.float32)


def _fresh_norms(variables):
  """Variables whose BatchNorms and PReLUs are as after initialisation."""
  values = {'scale': 1, 'var': 1, 'bias': 0, 'mean': 0, 'slope': 0.25}
  return jax.tree_util.tree_map_with_path(
      lambda path, x: np.full_like(x, values[path[-1].key]) if x.ndim == 1 else x, variables)


def test_prelu():
  y, variables = espnet.PReLU().init_with_output(jax.random.key(0), jnp.array([[-4., 2.]]))
  np.testing.assert_array_equal(y, [[-1, 2]])
  assert variables['params']['slope'].shape == (2,)


@pytest.mark.parametrize('options, widths', [
    ({'channels': 11}, [3, 2, 2, 2, 2]),
    ({'channels': 5, 'strides': 2, 'residual': False}, [1, 1, 1, 1, 1])])
def test_spatial_pyramid(options, widths):
  x = _noise(2, 9, 7, 11)
  module = espnet.SpatialPyramid(**options)
  variables = _fresh_norms(toys.variables(module, x, False))
  y = jax.jit(module.apply, static_argnums=2)(variables, x, False)
  kernels = {name: leaf['kernel'] for name, leaf in variables['params'].items() if name != 'norm'}
  stride = options.get('strides', 1)
  reduced = conv2d(x, kernels['reduce'], strides=stride, padding=stride - 1)
  maps = [conv2d(reduced, kernels[f'dilated{d}'], dilation=d, padding=d) for d in (1, 2, 4, 8, 16)]
  assert [m.shape[-1] for m in maps] == widths
  expected = np.concatenate(
      [maps[0], maps[1], sum(maps[1:3]), sum(maps[1:4]), sum(maps[1:5])], -1)
  if options.get('residual', True):
    expected = expected + x
  expected = expected * EVALUATION
  np.testing.assert_allclose(y, np.where(expected > 0, expected, expected / 4), atol=1e-5)


@functools.cache
def _encoded():
  """An image, the taps of a small encoder and its variables."""
  x = _noise(1, 16, 24, 3)
  encoder = espnet.ESPNetEncoder(width=0.125, blocks=(1, 1))
  variables = _fresh_norms(toys.variables(encoder, x, False))
  return x, jax.jit(encoder.apply, static_argnums=2)(variables, x, False), variables


def test_stages():
  _, taps, variables = _encoded()
  shapes = {f'stage{i}': x for i, x in enumerate(((1, 8, 12, 11), (1, 4, 6, 19), (1, 2, 3, 32)), 1)}
  assert {name: taps[name].shape for name in shapes} == shapes
  assert {name.removesuffix('_preactivation') for name in taps} == set(shapes)
  for name in shapes:
    before = taps[f'{name}_preactivation']
    assert np.min(before) < 0
    np.testing.assert_allclose(taps[name], np.where(before > 0, before, before / 4), rtol=1e-6)
  assert 'stage2_block0' in variables['params'] and 'stage3_block1' not in variables['params']


def test_the_image_enters_stages_1_and_2():
  x, taps, _ = _encoded()

  def half(x):
    padded = np.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
    return sum(padded[:, i:i + x.shape[1]:2, j:j + x.shape[2]:2]
               for i in range(3) for j in range(3)) / 9

  np.testing.assert_allclose(
      taps['stage1_preactivation'][..., -3:], half(x) * EVALUATION, atol=1e-5)
  np.testing.assert_allclose(
      taps['stage2_preactivation'][..., -3:], half(half(x)) * EVALUATION, atol=1e-5)


def test_embedding_of_espnet_c_is_stage_3():
  _, taps, _ = _encoded()
  head = espnet.ESPNetCHead(7)
  (logits, embedding), variables = head.init_with_output(
      jax.random.key(0), taps, np.arange(1), False)
  assert embedding is taps['stage3']
  np.testing.assert_allclose(
      logits, embedding @ variables['params']['classifier']['kernel'][0, 0], atol=1e-5)


@pytest.mark.parametrize('size, expected', [
    ((32, 48), (32, 48)), ((180, 240), (180, 240)), ((33, 47), (34, 48))])
def test_espnet_decodes_to_full_size(size, expected):
  model = models.create('espnet', 11, width=0.125)
  image = jax.ShapeDtypeStruct((2, *size, 3), jnp.uint8)
  (logits, taps), _ = jax.eval_shape(model.init_with_output, {'params': jax.random.key(0)}, image)
  assert logits.shape == (2, *expected, 11)
  assert taps['embedding'].shape == (2, *taps['stage1'].shape[1:3], 11)


def test_decoder_reads_every_stage_where_it_is():
  _, taps, _ = _encoded()
  taps = {name: taps[name] for name in ('stage1', 'stage2', 'stage3')}
  head = espnet.ESPNetHead(6)
  run = jax.jit(lambda variables, taps: head.apply(variables, taps, np.arange(1), False)[0])
  variables = toys.variables(head, taps, np.arange(1), False)
  before = run(variables, taps)
  assert before.shape == (1, 16, 24, 6)
  for name, x in taps.items():  # the influence of the last pixel ends at the last corner
    after = run(variables, taps | {name: x.at[:, -1, -1].add(1)})
    assert np.any(after[:, -2:, -2:] != before[:, -2:, -2:])
  after = run(variables, taps | {'stage1': taps['stage1'].at[:, -1, -1].add(1)})
  np.testing.assert_array_equal(after[:, :-4, :-4], before[:, :-4, :-4])


def test_too_few_classes_are_refused():
  model = models.create('espnet', 4)
  with pytest.raises(ValueError, match='num_classes=4 is too few for ESPNet.* use espnet_c'):
    jax.eval_shape(model.init, {'params': jax.random.key(0)}, np.zeros((1, 32, 32, 3), np.uint8))
