"""The modules of knowledge review, which bring a student's stages to the shapes of a teacher's."""

from __future__ import annotations

import functools
from collections.abc import Sequence

import flax.linen as nn
import jax
import jax.numpy as jnp

from kdseg_jax import names
from kdseg_jax.errors import UserError
from kdseg_jax.models.conv import Conv, uniform_fan_in
from kdseg_jax.models.normalization import BatchNorm
from kdseg_jax.resizing import resize_nearest

FORMS = ('single_stage', 'multi_stage', 'all_pairs', 'fused', 'residual')

# PyTorch's `kaiming_uniform(a=1)`: uniform in +-sqrt(3 / fan_in).
_kaiming_uniform = nn.initializers.variance_scaling(1.0, 'fan_in', 'uniform')


class LinearConvNorm(nn.Module):
  """Convolution without bias and BatchNorm, no activation.

  Attributes:
    features: output channels.
    kernel_size: of a square kernel.
    axis_name: of `BatchNorm`.
  """

  features: int
  kernel_size: int
  axis_name: str | None = None

  @nn.compact
  def __call__(self, x: jax.Array, train: bool) -> jax.Array:
    x = Conv(self.features, self.kernel_size, kernel_init=_kaiming_uniform, name='conv')(x)
    return BatchNorm(self.axis_name, name='norm')(x, train)


class AttentionFusion(nn.Module):
  """Attention-based fusion (ABF) of a stage with what comes from deeper ones.

  `x = BN(conv1x1(x))`; where there are deeper maps y_k, resized to x by the nearest pixel,
  `x = z_0 x + sum_k z_k y_k` with `z = sigmoid(conv1x1([x, y_1, ...]))`, one number a pixel and map
  (no softmax); resized to `size` by the nearest; the result is `BN(conv3x3(x))`. No activation
  follows.

  Variables: `params`, `batch_stats`.

  Attributes:
    channels: of the fused map and of those that it is fused with.
    features: output channels, the teacher's.
    attention: False adds the maps, z = 1.
    axis_name: of the BatchNorms.

  Reference: Chen et al., "Distilling Knowledge via Knowledge Review" (CVPR 2021), section 3.3 and
  figure 3(a); layers, BatchNorms and initial values of its official code (`ABF`), of whose
  attention alone the bias begins at 0 here.
  """

  channels: int
  features: int
  attention: bool = True
  axis_name: str | None = None

  @nn.compact
  def __call__(
      self,
      x: jax.Array,
      deeper: Sequence[jax.Array] = (),
      *,
      size: tuple[int, int] | None = None,
      train: bool,
  ) -> tuple[jax.Array, jax.Array]:
    """The map that is compared with the teacher's, and the fused one for shallower stages.

    Args:
      x: the student's map `(N, H, W, C)`.
      deeper: maps `(N, h, w, channels)`.
      size: `(H', W')` of the results; None is that of x.
      train: whether the BatchNorms use the batch, `mutable=['batch_stats']`.

    Returns:
      `(N, H', W', features)` and `(N, H', W', channels)`.
    """
    x = LinearConvNorm(self.channels, 1, self.axis_name, name='reduce')(x, train)
    if deeper:
      maps = [x, *(resize_nearest(y, x.shape[1:3]) for y in deeper)]
      x = self._weighted(maps) if self.attention else sum(maps[1:], maps[0])
    x = resize_nearest(x, size or x.shape[1:3])
    return LinearConvNorm(self.features, 3, self.axis_name, name='expand')(x, train), x

  def _weighted(self, maps):
    weights = nn.sigmoid(Conv(
        len(maps), 1, use_bias=True, kernel_init=uniform_fan_in, name='attention')(
            jnp.concatenate(maps, axis=-1)))
    return sum(weights[..., i, None] * y for i, y in enumerate(maps))


class Review(nn.Module):
  """Maps of a student in the shapes of its teacher's, for the forms that lead to knowledge review.

  Stages are numbered from shallow to deep, j of the teacher and i of the student; a map that no
  other is fused with passes an `AttentionFusion` of its own without one.

  | form | compared with stage j of the teacher | equation |
  |---|---|---|
  | `single_stage` | stage j, for the deepest j alone | 3 |
  | `multi_stage` | stage j | 4 |
  | `all_pairs` | each stage i >= j by itself | 6, 7 |
  | `fused` | all stages i >= j, fused at once | 8 |
  | `residual` | stage j, fused with what stage j + 1 has left: the method | 9 |

  Attributes:
    widths: channels of the teacher's maps.
    sizes: `(H, W)` of the teacher's maps.
    channels: of the fused maps.
    form: see above.
    attention: of `AttentionFusion`.
    axis_name: of the BatchNorms.

  Reference: Chen et al., "Distilling Knowledge via Knowledge Review" (CVPR 2021), sections 3.1 and
  3.2.
  """

  widths: tuple[int, ...]
  sizes: tuple[tuple[int, int], ...]
  channels: int
  form: str = 'residual'
  attention: bool = True
  axis_name: str | None = None

  @nn.compact
  def __call__(self, features: Sequence[jax.Array], *, train: bool) -> list[list[jax.Array]]:
    """For each stage of the teacher, from shallow to deep, the maps that are compared with it.

    Args:
      features: the student's maps `(N, H, W, C)`, one for each of `widths`.
      train: as of `AttentionFusion`.

    Raises:
      ValueError: an unknown form, or another number of maps.
    """
    names.require(self.form, FORMS, 'form of Review')
    if len(features) != len(self.widths):
      raise UserError(f'Knowledge review of {len(self.widths)} stages of the teacher takes as many '
                      f'of the student, got {len(features)}.')
    return getattr(self, f'_{self.form}')(features, train)

  def _block(self, stage, name):
    return functools.partial(
        AttentionFusion(self.channels, self.widths[stage], self.attention, self.axis_name,
                        name=name), size=self.sizes[stage])

  def _single_stage(self, features, train):
    last = len(features) - 1
    return [[]] * last + [[self._block(last, f'stage{last}')(features[last], train=train)[0]]]

  def _multi_stage(self, features, train):
    return [[self._block(j, f'stage{j}')(x, train=train)[0]] for j, x in enumerate(features)]

  def _all_pairs(self, features, train):
    return [[self._block(j, f'stage{j}_from{i}')(features[i], train=train)[0]
             for i in range(j, len(features))] for j in range(len(features))]

  def _fused(self, features, train):
    deeper = [LinearConvNorm(self.channels, 1, self.axis_name, name=f'reduce{i}')(x, train)
              for i, x in enumerate(features[1:], start=1)]
    return [[self._block(j, f'stage{j}')(x, deeper[j:], train=train)[0]]
            for j, x in enumerate(features)]

  def _residual(self, features, train):
    compared, left = [], ()
    for j in reversed(range(len(features))):
      x, fused = self._block(j, f'stage{j}')(features[j], left, train=train)
      compared.insert(0, [x])
      left = (fused,)
    return compared
