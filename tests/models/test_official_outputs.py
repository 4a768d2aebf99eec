"""Models against outputs of the official implementations; see tests/golden/README.md.

Both sides take weights drawn from the official names of the parameters, ours through the naming
schemes, so that what is compared is the architecture: paddings, strides, dilations, epsilons,
activations, order of layers. The inputs are given as the networks see them.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests import official


def arrays(file, case):
  """Those of a case, channels last."""
  with np.load(official.FOLDER / file) as found:
    return {key.removeprefix(f'{case}/'): np.moveaxis(x, 1, -1) if x.ndim == 4 else x
            for key, x in found.items() if key.startswith(f'{case}/')}


def run(case, image, **options):
  model, variables = official.load(
      case, official.state_dict(case, official.drawn),
      mean=(0, 0, 0), std=(1, 1, 1), channel_order='rgb', **options)
  return jax.jit(model.apply)(variables, image)


def assert_close(ours, official, tolerance):
  np.testing.assert_allclose(ours, official, rtol=0, atol=tolerance * official.std())


@pytest.mark.parametrize('case, tap, tolerance', [
    ('cirkd_v1_deeplabv3_resnet18', 'aux_logits', 2e-5),
    ('cirkd_v1_deeplab_mobile_mobilenetv2', 'embedding', 3e-4),  # 53 layers of random weights
    ('skd19_espnet_c', 'stage3', 4e-5),
])
def test_equals_the_official_model(case, tap, tolerance):
  expected = arrays('models.npz', case)
  logits, taps = run(case, expected['x'])
  assert_close(logits, expected['out0'], tolerance)
  assert_close(taps[tap], expected['out1'], tolerance)


def test_pspnet_equals_that_of_structured_distillation():
  """Its conventions too: |gamma| + eps, leaky heads, first blocks dilated in full."""
  expected = arrays('more_models.npz', 'skd_pspnet_resnet18')
  logits, taps = run('skd_pspnet_resnet18', expected['x'])
  assert_close(logits, expected['out0'], 2e-5)
  assert_close(taps['aux_logits'], expected['out1'], 2e-5)


def test_espnet_equals_the_official_model():
  """Every third pixel of the logits (all phases of the transposed convolutions) and channel."""
  expected = arrays('more_models.npz', 'skd19_espnet')
  logits, taps = run('skd19_espnet', expected['x'])
  assert_close(logits[:, ::3, ::3], expected['out0'], 1e-4)
  assert_close(taps['stage3'][..., ::4], expected['out1'], 4e-5)


@pytest.mark.parametrize('case, tolerance', [
    ('torchvision_resnet18', 2e-5), ('torchvision_mobilenet_v2', 5e-4), ('timm_resnet18d', 2e-5)])
def test_equals_the_official_classifier(case, tolerance):
  """Logits, and that the stages end where ours do."""
  expected = arrays('more_models.npz', case)
  logits, taps = run(case, expected['x'])
  assert_close(logits, expected['logits'], tolerance)
  for stage in (1, 2, 3, 4):
    mean = jnp.mean(taps[f'stage{stage}'], axis=(1, 2))
    assert_close(mean, expected[f'stage{stage}_mean'], tolerance)
  if 'stage4' in expected:
    assert_close(taps['stage4'], expected['stage4'], tolerance)


@pytest.mark.slow
@pytest.mark.parametrize('output_stride, case', [
    (32, 'timm_xception41'), (16, 'timm_xception41_os16')])
def test_xception_equals_the_official_classifier(output_stride, case):
  """Modules end before the next ReLU, but for the last one."""
  expected = arrays('xception.npz', case)
  image = arrays('xception.npz', 'timm_xception41')['x']
  logits, taps = run('timm_xception41', image, output_stride=output_stride)
  assert_close(logits, expected['logits'], 1e-4)
  ends = {'stage1_preactivation': 0, 'stage2_preactivation': 1, 'stage3_preactivation': 10,
          'stage4': 12}
  for tap, module in ends.items():
    mean = jnp.mean(taps[tap], axis=(1, 2))
    assert_close(mean, expected[f'blocks.{module}/mean'], 1e-4)
  assert taps['stage4'].shape[1:3] == (96 // output_stride,) * 2
