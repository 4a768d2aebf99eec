"""Dense one-stage detectors: a backbone, a feature pyramid and a head shared by its levels.

A level's raw outputs, channels last, for A anchors or points a position and C classes:

| head | `cls` | `reg` | `centerness` |
|---|---|---|---|
| gfl | C logits | 4 (reg_max + 1) logits: of left, top, right and bottom, in strides | |
| retinanet | A C logits, anchor by anchor | 4 A deltas, anchor by anchor | |
| fcos | C logits | 4 distances to left, top, right and bottom, in pixels | 1 logit |
| atss | C logits | 4 deltas | 1 logit |
"""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from kdseg_jax.errors import UserError
from kdseg_jax.models.conv import Conv
from kdseg_jax.models.fpn import LEVELS, STRIDES
from kdseg_jax.models.network import Network

Maps = Sequence[jax.Array]  # one a level, P3 to P7

_normal = nn.initializers.normal(0.01)
_GROUP = 8  # channels of a GroupNorm's group where the number of groups is not given
_PRIOR = 0.01  # probability of every class before training (arXiv:1708.02002, section 3.3)


class Detector(Network, kw_only=True):
  """Raw outputs of the head for each level, and taps.

  The prediction is `{'cls', 'reg'}`, in FCOS and ATSS also `'centerness'`, each a tuple of float32
  maps `(N, ceil(H / stride), ceil(W / stride), channels)` for the strides 8, 16, 32, 64 and 128.
  The taps are those of the backbone, `p3` to `p7`, the prediction, and as tuples of one map a level
  `cls_tower_<i>` and `reg_tower_<i>`: after i convolutions with norm and ReLU; i = 0 is P3 to P7.

  Attributes:
    fpn: `taps of the backbone -> {'p3', ..., 'p7'}`.
    frozen_statistics: training normalises by the running statistics of the backbone's BatchNorms
      and leaves these as they are; their scales and biases are trained all the same.
  """

  fpn: nn.Module
  frozen_statistics: bool = False

  @property
  def head_kind(self) -> str:
    """Which of `detectors.HEADS` it has: what the prediction means."""
    return self.head.kind

  def __call__(
      self,
      image: jax.Array,
      mask: jax.Array | None = None,
      index: jax.Array | None = None,
      train: bool = False,
  ) -> tuple[dict[str, tuple], dict[str, Any]]:
    """As `Network`."""
    return super().__call__(image, mask, index, train and not self.frozen_statistics)

  def heads(
      self, taps: dict[str, Any], index: jax.Array, train: bool
  ) -> tuple[dict[str, tuple], dict[str, Any]]:
    """`(prediction, taps)` from the taps of the backbone."""
    del index, train  # no Dropout, no BatchNorm
    levels = self.fpn(taps)
    maps = tuple(levels.values())
    made = self.head({'cls_tower_0': maps, 'reg_tower_0': maps}, 0)
    return {name: made[name] for name in self.head.outputs}, taps | levels | made

  def head_from(self, features: Mapping[str, Maps], layer: int) -> dict[str, tuple]:
    """What the head makes of features, from a layer on: its taps, see `DenseHead`.

    Raises:
      UserError: as there, or features of another width.
    """
    expected = self.head.channels if layer else self.fpn.channels
    for name, maps in features.items():
      channels = {x.shape[-1] for x in maps}
      if name in (f'cls_tower_{layer}', f'reg_tower_{layer}') and channels != {expected}:
        raise UserError(f'{name} has {", ".join(map(str, sorted(channels)))} channels; the head '
                        f'takes {expected} from layer {layer} on.')
    return self.head(features, layer)


class DenseHead(nn.Module):
  """Two towers of 3x3 convolutions and a convolution on either for each output; see the module.

  Both are the same for all levels. Kernels begin as N(0, 0.01), the bias of `cls` such that every
  probability is 0.01. A subclass says what the outputs are.

  Attributes:
    num_classes: number of classes.
    channels: of the towers.
    stacked_convs: convolutions of a tower, each with GroupNorm and ReLU.
    norm_groups: groups of the GroupNorms; None is one for 8 channels, as 32 for 256; 0 is without,
      and the convolutions have a bias.
    tower_bias: the convolutions before GroupNorms have a bias too.
    dtype: of the computation; the last convolutions compute in float32.
  """

  num_classes: int
  channels: int
  stacked_convs: int = 4
  norm_groups: int | None = None
  tower_bias: bool = False
  dtype: Any = jnp.float32
  outputs = ('cls', 'reg')
  anchors = 1  # a position
  kind = ''  # in `detectors.HEADS`: what the outputs mean

  @property
  def groups(self) -> int:
    """Groups of a GroupNorm; 0 is without."""
    return self.channels // _GROUP if self.norm_groups is None else self.norm_groups

  def check(self) -> None:
    """Raises UserError unless there can be such towers, their groups dividing the channels."""
    if self.stacked_convs < 0:
      raise UserError(f'stacked_convs={self.stacked_convs} must be at least 0.')
    if self.groups and self.channels % self.groups:
      raise UserError(f'norm_groups={self.groups} does not divide the {self.channels} channels of '
                      "the detector's head. Choose another of either.")

  def setup(self):
    layer = functools.partial(
        TowerLayer, self.channels, self.groups, self.tower_bias or not self.groups, self.dtype)
    self.cls_convs = [layer() for _ in range(self.stacked_convs)]
    self.reg_convs = [layer() for _ in range(self.stacked_convs)]
    self.cls = Conv(
        self.anchors * self.num_classes, 3, use_bias=True, kernel_init=_normal,
        bias_init=nn.initializers.constant(-math.log((1 - _PRIOR) / _PRIOR)))
    self.reg = _output(self.anchors * self.numbers())

  def numbers(self) -> int:
    """Of a box, in the output `reg`."""
    return 4

  def __call__(self, features: Mapping[str, Maps], layer: int) -> dict[str, tuple]:
    """The taps from a layer on, over all levels: further towers, and the outputs.

    Args:
      features: `cls_tower_<layer>` and `reg_tower_<layer>`, after the ReLU, P3 to P7; others are
        not read.
      layer: how many convolutions the features have behind them: 0 are the levels of the pyramid,
        `stacked_convs` runs the last convolutions alone.

    Returns:
      `cls_tower_<i>` and `reg_tower_<i>` for i of layer to `stacked_convs`, and `outputs`: tuples
      of one map a level.

    Raises:
      UserError: a layer that there is not, or features that are missing.
    """
    self._check(features, layer)
    made = {f'{branch}_tower_{layer}': tuple(features[f'{branch}_tower_{layer}'])
            for branch in ('cls', 'reg')}
    for branch, convs in (('cls', self.cls_convs), ('reg', self.reg_convs)):
      for i, conv in enumerate(convs[layer:], start=layer + 1):
        made[f'{branch}_tower_{i}'] = tuple(map(conv, made[f'{branch}_tower_{i - 1}']))
    towers = (made[f'{branch}_tower_{self.stacked_convs}'] for branch in ('cls', 'reg'))
    levels = [self.predict(level, *maps) for level, maps in enumerate(zip(*towers, strict=True))]
    return made | {name: tuple(outputs[name] for outputs in levels) for name in self.outputs}

  def predict(self, level: int, cls: jax.Array, reg: jax.Array) -> dict[str, jax.Array]:
    """The outputs of a level, whose number counts from P3, from the ends of both towers."""
    raise NotImplementedError

  def _check(self, features, layer):
    if layer not in range(self.stacked_convs + 1):
      raise UserError(f'layer={layer}: the head has {self.stacked_convs} convolutions in a tower; '
                      f'expected 0 to {self.stacked_convs}.')
    for name in (f'cls_tower_{layer}', f'reg_tower_{layer}'):
      if name not in features:
        raise UserError(f'The head from layer {layer} on takes {name}, got '
                        f'{", ".join(features) or "nothing"}.')
      if len(features[name]) != len(LEVELS):
        raise UserError(f'{name}: expected a map of each of the {len(LEVELS)} levels, got '
                        f'{len(features[name])}.')


class GFLHead(DenseHead):
  """Generalized focal loss (Li et al., 2020, arXiv:2006.04388): a distribution for each side.

  Attributes: those of `DenseHead`;
    reg_max: the farthest side, in strides; each has `reg_max + 1` logits, side by side.
  """

  reg_max: int = 16
  kind = 'gfl'

  def setup(self):
    super().setup()
    self.scales = [Scale() for _ in LEVELS]

  def numbers(self) -> int:
    return 4 * (self.reg_max + 1)

  def predict(self, level: int, cls: jax.Array, reg: jax.Array) -> dict[str, jax.Array]:
    return {'cls': self.cls(cls), 'reg': self.scales[level](self.reg(reg))}


class RetinaNetHead(DenseHead):
  """RetinaNet (Lin et al., 2017, arXiv:1708.02002, section 4): nine anchors a position, no norm."""

  norm_groups: int | None = 0
  anchors = 9
  kind = 'retinanet'

  def predict(self, level: int, cls: jax.Array, reg: jax.Array) -> dict[str, jax.Array]:
    del level
    return {'cls': self.cls(cls), 'reg': self.reg(reg)}


class _CenternessHead(DenseHead):
  """Scales, and a third output."""

  outputs = ('cls', 'reg', 'centerness')

  def setup(self):
    super().setup()
    self.scales = [Scale() for _ in LEVELS]
    self.centerness = _output(1)


class ATSSHead(_CenternessHead):
  """ATSS (Zhang et al., 2020, arXiv:1912.02424): one anchor a position, centerness beside `reg`."""

  kind = 'atss'

  def predict(self, level: int, cls: jax.Array, reg: jax.Array) -> dict[str, jax.Array]:
    return {'cls': self.cls(cls), 'reg': self.scales[level](self.reg(reg)),
            'centerness': self.centerness(reg)}


class FCOSHead(_CenternessHead):
  """FCOS (Tian et al., 2019, arXiv:1904.01355): points instead of anchors.

  `reg` is `exp(scale * conv)`, in pixels. Those of mmdetection are the same, but for its
  `norm_on_bbox`, whose distances in training are in strides.

  Attributes: those of `DenseHead`;
    norm_on_bbox: `reg` is `relu(scale * conv)` times the stride instead.
    centerness_on_reg: centerness is made of the tower of `reg`, not of `cls`.
  """

  norm_on_bbox: bool = False
  centerness_on_reg: bool = False
  kind = 'fcos'

  def predict(self, level: int, cls: jax.Array, reg: jax.Array) -> dict[str, jax.Array]:
    distances = self.scales[level](self.reg(reg))
    distances = (nn.relu(distances) * STRIDES[level] if self.norm_on_bbox else jnp.exp(distances))
    return {'cls': self.cls(cls), 'reg': distances,
            'centerness': self.centerness(reg if self.centerness_on_reg else cls)}


class TowerLayer(nn.Module):
  """3x3 convolution, GroupNorm and ReLU.

  Attributes:
    channels: of the output.
    groups: of the GroupNorm; 0 is without.
    use_bias: whether the convolution has a bias.
    dtype: of the computation; statistics are float32.
  """

  channels: int
  groups: int
  use_bias: bool
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    x = Conv(self.channels, 3, use_bias=self.use_bias, kernel_init=_normal, dtype=self.dtype,
             name='conv')(x)
    if self.groups:
      x = nn.GroupNorm(self.groups, epsilon=1e-5, use_fast_variance=False, dtype=self.dtype,
                       name='norm')(x)
    return nn.relu(x)


class Scale(nn.Module):
  """A trained factor, 1 at first."""

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    return x * self.param('factor', nn.initializers.ones, ())


def _output(features):
  """The convolution of an output, in float32."""
  return Conv(features, 3, use_bias=True, kernel_init=_normal)
