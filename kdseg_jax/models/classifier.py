"""An image classifier: a backbone, global pooling and a linear layer."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from kdseg_jax.models.conv import uniform_fan_in
from kdseg_jax.models.dropout import Dropout
from kdseg_jax.models.layers import ConvNorm
from kdseg_jax.models.network import Network


class Classifier(Network):
  """Logits `(N, num_classes)`, and taps; `pooled` is the mean over all positions."""

  def heads(
      self, taps: dict[str, jax.Array], index: jax.Array, train: bool
  ) -> tuple[jax.Array, dict[str, jax.Array]]:
    """`(logits, taps)` from the taps of the backbone."""
    logits, pooled, embedding = self.head(taps, index, train)
    return logits, taps | {'pooled': pooled, 'embedding': embedding, 'logits': logits}


class ClassifierHead(nn.Module):
  """A 1x1 convolution where there is one, global mean, Dropout and a linear layer with bias.

  Attributes:
    num_classes: number of classes.
    channels: of the 1x1 convolution with BatchNorm and activation; 0 is without.
    dropout: rate before the linear layer.
    epsilon: of the BatchNorm.
    tap: what it takes: of the backbone's taps the last stage's, as a rule.
    activation: after the 1x1 convolution.
    axis_name: of `BatchNorm`.
    dtype: of the computation; mean and linear layer compute in float32.
  """

  num_classes: int
  channels: int = 0
  dropout: float = 0.0
  epsilon: float = 1e-5
  tap: str = 'stage4'
  activation: Callable = nn.relu6
  axis_name: str | None = None
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(
      self, taps: dict[str, jax.Array], index: jax.Array, train: bool
  ) -> tuple[jax.Array, jax.Array, jax.Array]:
    """`(logits, pooled, embedding)` of the tap."""
    x = taps[self.tap]
    if self.channels:
      x = ConvNorm(self.channels, 1, activation=self.activation, axis_name=self.axis_name,
                   epsilon=self.epsilon, dtype=self.dtype, name='conv')(x, train)
    pooled = jnp.mean(x, axis=(1, 2), dtype=jnp.float32)
    embedding = Dropout(self.dropout, name='dropout')(pooled, index, train)
    return nn.Dense(self.num_classes, kernel_init=uniform_fan_in, name='classifier')(
        embedding), pooled, embedding
