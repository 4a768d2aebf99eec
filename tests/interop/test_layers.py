"""How the arrays of one layer are laid out there and here."""

import numpy as np
import pytest
from jax import lax

from kdseg_jax.interop.layers import Layer, conv_norm

RNG = np.random.default_rng(0)


def test_a_convolution_by_hand():
  """y[o] = sum_i,a,b w[o, i, a, b] x[i, a, b], as PyTorch defines it."""
  weight, image = RNG.normal(size=(4, 3, 2, 2)), RNG.normal(size=(3, 2, 2))
  kernel = Layer('conv', 'body/conv').to_ours('kernel', weight)
  ours = lax.conv_general_dilated(
      image.transpose(1, 2, 0)[None], kernel, (1, 1), 'VALID',
      dimension_numbers=('NHWC', 'HWIO', 'NHWC'))
  np.testing.assert_allclose(ours.ravel(), np.einsum('oiab,iab->o', weight, image), rtol=1e-5)


@pytest.mark.parametrize('layer, leaf, shape, expected', [
    (Layer('a', 'b'), 'kernel', (4, 3, 2, 1), (2, 1, 3, 4)),
    (Layer('a', 'b', transposed=True), 'kernel', (3, 4, 2, 1), (2, 1, 3, 4)),
    (Layer('a', 'b'), 'kernel', (4, 3), (3, 4)),
    (Layer('a', 'b', roll=1), 'kernel', (4, 3, 2, 1), (2, 1, 3, 4)),
    (Layer('a', 'b', magnitude=1e-5), 'scale', (4,), (4,)), (Layer('a', 'b'), 'mean', (4,), (4,))])
def test_there_and_back(layer, leaf, shape, expected):
  array = np.abs(RNG.normal(size=shape)).astype(np.float32)
  ours = layer.to_ours(leaf, array)
  assert ours.shape == expected
  np.testing.assert_allclose(layer.to_source(leaf, ours), array, rtol=0, atol=1e-7)


def test_inputs_that_stand_behind_the_others_come_first_here():
  weight = np.arange(3.0).reshape(1, 3, 1, 1)
  assert Layer('a', 'b', roll=1).to_ours('kernel', weight).ravel().tolist() == [2, 0, 1]


def test_a_magnitude_is_that_of_the_weight():
  ours = Layer('a', 'b', magnitude=0.5).to_ours('scale', np.array([-2.0, 0.0, 3.0], np.float32))
  assert ours.tolist() == [2.5, 0.5, 3.5]


def test_names():
  conv, norm = conv_norm('x.0', 'x.1', 'backbone/stem')
  assert conv.key('kernel') == 'x.0.weight' and norm.key('var') == 'x.1.running_var'
  assert conv.path('kernel') == 'params/backbone/stem/conv/kernel'
  assert norm.path('mean') == 'batch_stats/backbone/stem/norm/norm/mean'
  assert (norm.key('scale'), norm.key('bias')) == ('x.1.weight', 'x.1.bias')
  assert Layer('act', 'p').key('slope') == 'act.weight'
