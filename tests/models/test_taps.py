"""What the taps of stages are to each other, where official outputs are in slow tests alone."""

from typing import Any

import flax.linen as nn
import jax
import numpy as np
import pytest

from kdseg_jax.models import mobilenet, shufflenet, xception


class Signs(nn.Module):
  """In place of a `ConvNorm`, without variables: the mean of the channels, by turns negative."""

  features: int
  kernel_size: int = 3
  strides: int = 1
  dilation: int = 1
  groups: int = 1
  activation: Any = nn.relu
  epsilon: float = 1e-5
  axis_name: str | None = None
  dtype: Any = np.float32

  def __call__(self, x, train):
    x = x[:, ::self.strides, ::self.strides].mean(-1, keepdims=True)
    x = x * np.where(np.arange(self.features) % 3, 1.0, -0.5)
    return x if self.activation is None else self.activation(x)


@pytest.mark.parametrize('module, backbone, stages, short', [
    (mobilenet, mobilenet.MobileNetV1(0.125), 4, {'_STAGES_V1': ((128,), (256,), (512,), (1024,))}),
    (xception, xception.Xception(41, 0.125), 4, {'MIDDLE_MODULES': {41: 1}}),
    (shufflenet, shufflenet.ShuffleNetV1(), 3, {'_BLOCKS': (2, 1, 1)})],
    ids=['mobilenetv1', 'xception', 'shufflenetv1'])
def test_a_stage_is_its_preactivation_after_a_relu(module, backbone, stages, short, monkeypatch):
  for name, value in {'ConvNorm': Signs, **short}.items():
    monkeypatch.setattr(module, name, value)
  image = np.random.default_rng(0).uniform(0.5, 1, (1, 16, 16, 3)).astype(np.float32)
  taps = jax.jit(lambda x: backbone.apply({}, x, False))(image)
  for i in range(1, stages + 1):
    before = np.asarray(taps[f'stage{i}_preactivation'])
    assert before.min() < 0 < before.max()
    np.testing.assert_array_equal(taps[f'stage{i}'], np.maximum(before, 0))
