"""The feature pyramid."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kdseg_jax.models.fpn import FeaturePyramid, upsample_nearest
from kdseg_jax.resizing import resize_nearest
from tests.models import official_detectors as official


def stages(size=(11, 6), channels=(4, 6, 8)):
  """Of an image whose map at stride 8 has this size."""
  rng, taps = np.random.default_rng(0), {}
  for stage, features in zip(('stage2', 'stage3', 'stage4'), channels):
    taps[stage] = rng.standard_normal((2, *size, features)).astype(np.float32)
    size = [-(-side // 2) for side in size]
  return taps


@pytest.mark.parametrize('size', [(1, 1), (2, 7), (9, 8)])
def test_upsampling_is_that_of_the_nearest_pixel(size):
  x = np.random.default_rng(0).standard_normal(
      (2, *(-(-side // 2) for side in size), 3)).astype(np.float32)
  np.testing.assert_array_equal(upsample_nearest(x, size), resize_nearest(x, size))


@pytest.mark.parametrize('extra_relu, last', [(False, 'out4'), (True, 'fcos_out4')])
def test_equals_the_official_pyramid(extra_relu, last):
  """P6 and P7 of P5; what comes before P7 is the only difference of FCOS."""
  expected = official.arrays('cross_fpn')
  variables = official.variables(expected, 'w.', 'neck.', 'fpn')
  taps = {f'stage{i + 1}': expected[f'in{i}'] for i in (1, 2, 3)}
  levels = FeaturePyramid(5, extra_relu=extra_relu).apply(variables, taps)
  outputs = [*(f'out{i}' for i in range(4)), last]
  for level, output in zip(levels, outputs, strict=True):
    np.testing.assert_allclose(levels[level], expected[output], atol=1e-5)


def test_sizes_are_rounded_up_and_p6_can_be_made_of_the_last_stage():
  taps = stages()
  for extra_convs, channels in (('on_input', 8), ('on_output', 5)):
    pyramid = FeaturePyramid(5, extra_convs=extra_convs)
    levels, variables = pyramid.init_with_output(jax.random.key(0), taps)
    assert list(levels) == ['p3', 'p4', 'p5', 'p6', 'p7']
    assert [x.shape for x in levels.values()] == [
        (2, rows, columns, 5) for rows, columns in ((11, 6), (6, 3), (3, 2), (2, 1), (1, 1))]
    assert variables['params']['p6']['kernel'].shape == (3, 3, channels, 5)


def test_p6_of_the_last_stage_is_a_strided_convolution_of_it():
  taps = stages()
  pyramid = FeaturePyramid(5, extra_convs='on_input')
  levels, variables = pyramid.init_with_output(jax.random.key(0), taps)
  others = taps | {'stage2': 0 * taps['stage2'], 'stage3': 0 * taps['stage3']}
  again = pyramid.apply(variables, others)
  np.testing.assert_array_equal(levels['p6'], again['p6'])
  assert jnp.abs(levels['p3'] - again['p3']).max() > 0.1
  limit = np.sqrt(6 / (9 * 8 + 9 * 5))  # Xavier's, of the channels of both sides
  assert 0.95 < np.abs(variables['params']['p6']['kernel']).max() / limit <= 1

