"""The four dense heads: what their raw outputs mean, what they learn, what they detect.

Raw outputs are `{'cls', 'reg'}`, of FCOS and ATSS also `'centerness'`: each a sequence of maps
`(N, h, w, channels)`, one a level, channels anchor by anchor, as `kdseg_jax.models` gives them.
"""

from __future__ import annotations

import abc
import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from kdseg_jax.losses import box_coding, cross_head, dense_boxes, detection
from kdseg_jax.losses import boxes as box_losses
from kdseg_jax.tasks.detection import assignment, suppression

Raw = Mapping[str, Sequence[jax.Array]]
FCOS_BOX_LOSSES = {'iou_log': box_losses.iou_log, 'giou': box_losses.giou}


class GroundTruth(NamedTuple):
  """What is in a batch of images, padded to M boxes each.

  Attributes:
    boxes: `(N, M, 4)` float, x1 y1 x2 y2 in pixels of the batch's images.
    classes: `(N, M)` int in [0, C).
    valid: `(N, M)` bool: no padding.
  """

  boxes: jax.Array
  classes: jax.Array
  valid: jax.Array


class Flat(NamedTuple):
  """Raw outputs of all levels, one after the other: P anchors or points.

  Attributes:
    cls: `(N, P, C)` float32 logits.
    reg: `(N, P, numbers of a box)` float32.
    centerness: `(N, P)` float32 logits; None if the head has none.
  """

  cls: jax.Array
  reg: jax.Array
  centerness: jax.Array | None


@dataclasses.dataclass(frozen=True)
class DenseHead(abc.ABC):
  """A head of `num_classes` sigmoids.

  Attributes:
    num_classes: C.
    strides: of the levels.
  """

  num_classes: int
  strides: tuple[int, ...] = box_coding.STRIDES

  per_position: ClassVar[int] = 1   # anchors
  iou_threshold: ClassVar[float] = 0.6  # of the suppression

  @abc.abstractmethod
  def priors(self, shapes: box_coding.Shapes) -> list[jax.Array]:
    """Of each level the anchors `(P, 4)` or points `(P, 2)`, in pixels."""

  @abc.abstractmethod
  def decode(self, reg: jax.Array, priors: jax.Array, strides: jax.Array) -> jax.Array:
    """The boxes `(..., P, 4)`, in pixels, of `reg` `(..., P, numbers)`."""

  @abc.abstractmethod
  def loss(
      self,
      raw: Raw,
      truth: GroundTruth,
      *,
      sizes: jax.Array | None = None,
      axis_name: str | None = None,
  ) -> tuple[jax.Array, tuple[dict[str, jax.Array], dict[str, jax.Array]]]:
    """The supervised loss.

    Args:
      raw: outputs of the head.
      truth: what is in the images.
      sizes: `(N, 2)` height and width of the part of each image that counts, from the top left:
        anchors beyond it, except one that begins in it, are left out (FCOS: none is). mmdetection's
        is the size rounded up to a multiple of 32. None is all.
      axis_name: mapped axis over which the batch is spread.

    Returns:
      `(loss, (targets, metrics))`; metrics are the terms, weighted, and the number of positive
      anchors. Targets, for P anchors of all levels:

      | name | |
      |---|---|
      | `positive` | `(N, P)` bool: learns a box |
      | `counts` | `(N, P)` bool: in the part that counts, and not ignored |
      | `inside` | `(N, P)` bool: the centre is in a box of the ground truth |
      | `valuable` | `(N, P)` bool: `assignment.valuable_region`; not of FCOS |
      | `assigned_classes` | `(N, P)` int32, C for background |
      | `assigned_boxes` | `(N, P, 4)` in pixels, of positive ones |
      | `priors`, `prior_strides` | `(P, 4)` or `(P, 2)`, `(P,)` |
      | `normalizer` | number of positive ones in the batch, at least one an image (FCOS: one) |
      | `centerness_normalizer` | sum of their centerness; of FCOS and ATSS |
    """

  def flatten(self, raw: Raw) -> Flat:
    """All levels one after the other, in float32.

    Raises:
      ValueError: channels that are not this head's.
    """
    def join(name, width):
      maps = raw[name]
      for x in maps:
        if x.shape[-1] % self.per_position or (width and x.shape[-1] != self.per_position * width):
          raise ValueError(
              f'{name} has maps of {x.shape[-1]} channels; {type(self).__name__} takes '
              f'{self.per_position} x {width or "the numbers of a box"}.')
      return dense_boxes.join(maps, self.per_position)
    centerness = join('centerness', 1)[..., 0] if 'centerness' in raw else None
    return Flat(join('cls', self.num_classes), join('reg', None), centerness)

  def shapes(self, raw: Raw) -> list[tuple[int, int]]:
    """(height, width) of every level."""
    return [(x.shape[1], x.shape[2]) for x in raw['cls']]

  def decoded(self, raw: Raw) -> suppression.Decoded:
    """Boxes and probabilities of raw outputs."""
    flat = self.flatten(raw)
    return suppression.Decoded(
        self.decode(flat.reg, *self.joined_priors(self.shapes(raw))), jax.nn.sigmoid(flat.cls),
        None if flat.centerness is None else jax.nn.sigmoid(flat.centerness))

  def detections(self, raw: Raw, **options: Any) -> suppression.Detections:
    """What is detected, with a leading axis of N images; see `select` for the options."""
    return self.select(self.decoded(raw), self.shapes(raw), **options)

  def select(self, found: suppression.Decoded, shapes: box_coding.Shapes, *,
             iou_threshold: float | None = None, **options: Any) -> suppression.Detections:
    """What is left of predictions.

    Args:
      found: the predictions.
      shapes: (height, width) of every level.
      iou_threshold: None is the head's own, 0.6 or 0.5.
      **options: of `suppression.detect_images`.
    """
    return suppression.detect_images(
        found, self.level_sizes(shapes),
        iou_threshold=self.iou_threshold if iou_threshold is None else iou_threshold, **options)

  def level_sizes(self, shapes: box_coding.Shapes) -> list[int]:
    """Number of anchors of every level."""
    return [height * width * self.per_position for height, width in shapes]

  def joined_priors(self, shapes: box_coding.Shapes) -> tuple[jax.Array, jax.Array]:
    """Anchors or points of all levels, and the stride `(P,)` of each."""
    priors = jnp.concatenate(self.priors(shapes))
    strides = np.repeat(np.asarray(self.strides, np.float32), self.level_sizes(shapes))
    return priors, jnp.asarray(strides)

  def counted(self, shapes: box_coding.Shapes, sizes: jax.Array | None, images: int) -> jax.Array:
    """`(N, P)` bool: anchors that begin in the part of the image that counts."""
    if sizes is None:
      return jnp.ones((images, sum(self.level_sizes(shapes))), bool)
    levels = []
    for (height, width), stride in zip(shapes, self.strides):
      rows, columns = (jnp.arange(side) * stride < sizes[:, i, None]
                       for i, side in enumerate((height, width)))
      inside = (rows[:, :, None] & columns[:, None]).reshape(images, -1)
      levels.append(jnp.repeat(inside, self.per_position, axis=1))
    return jnp.concatenate(levels, axis=1)

  def _targets(self, assigned, counts, truth, priors, strides, num_positive):
    """The targets that all heads have."""
    index = jnp.maximum(assigned.box, 0)
    classes = jnp.take_along_axis(truth.classes, index, axis=1)
    boxes = jnp.take_along_axis(truth.boxes, index[..., None], axis=1)
    positive = assigned.positive
    points = priors if priors.shape[-1] == 2 else box_coding.centers(priors)
    distances = box_coding.encode_distances(points, truth.boxes[:, :, None])
    inside = (jnp.min(distances, axis=-1) > 0) & truth.valid[..., None]
    return {
        'positive': positive, 'counts': counts & (assigned.box != assignment.IGNORED),
        'inside': jnp.any(inside, axis=1) & counts, 'assigned_boxes': boxes,
        'assigned_classes': jnp.where(positive, classes, self.num_classes).astype(jnp.int32),
        'priors': priors, 'prior_strides': strides, 'normalizer': num_positive}

  def class_targets(self, flat: Flat, targets: Mapping[str, jax.Array]) -> jax.Array:
    """`(N, P, C)`, the class scores that are learned: of `loss`'s targets, 0 in the background."""
    del flat
    return jax.nn.one_hot(targets['assigned_classes'], self.num_classes)  # C is a row of zeros


class _AnchorHead(DenseHead):
  """One square anchor a position, ATSS."""

  top_k: ClassVar[int] = 9

  def priors(self, shapes: box_coding.Shapes) -> list[jax.Array]:
    return dense_boxes.priors('gfl', shapes, strides=self.strides)

  def _assign(self, raw, truth, sizes, axis_name):
    shapes = self.shapes(raw)
    priors, strides = self.joined_priors(shapes)
    counts = self.counted(shapes, sizes, len(truth.boxes))
    of_images = lambda function: jax.vmap(lambda boxes, valid, where: function(
        priors, self.level_sizes(shapes), boxes, valid, where, top_k=self.top_k))(
            truth.boxes, truth.valid, counts)
    assigned = of_images(assignment.atss)
    return self._targets(assigned, counts, truth, priors, strides,
                         positives_by_image(assigned.positive, axis_name)) | {
                             'valuable': of_images(assignment.valuable_region)}


@dataclasses.dataclass(frozen=True)
class GFL(_AnchorHead):
  """Generalized focal loss: quality focal loss, GIoU and distribution focal loss, on ATSS.

  The two of boxes are weighted by the student's highest class probability, and divided by its sum
  over positive anchors, at least 1.

  Reference: Li et al., "Generalized Focal Loss" (NeurIPS 2020); mmdetection's `GFLHead`.
  """

  def decode(self, reg: jax.Array, priors: jax.Array, strides: jax.Array) -> jax.Array:
    return dense_boxes.decode('gfl', reg, priors, strides)

  def class_targets(self, flat: Flat, targets: Mapping[str, jax.Array]) -> jax.Array:
    """Soft labels: the IoU of the predicted box with the assigned one."""
    predicted = self.decode(flat.reg, targets['priors'], targets['prior_strides'])
    quality = box_losses.box_overlaps(lax.stop_gradient(predicted), targets['assigned_boxes'])
    return super().class_targets(flat, targets) * quality[..., None]

  def loss(self, raw, truth, *, sizes=None, axis_name=None):
    flat, targets = self.flatten(raw), self._assign(raw, truth, sizes, axis_name)
    strides = targets['prior_strides'][:, None]
    points = box_coding.centers(targets['priors']) / strides
    boxes = targets['assigned_boxes'] / strides
    predicted = box_coding.decode_distances(points, box_coding.integral(flat.reg))
    sides = box_coding.by_side(flat.reg)
    weights = cross_head.score_weights(flat.cls, targets['positive'])
    box_normalizer = jnp.maximum(_sum(weights, axis_name), 1)
    largest = sides.shape[-1] - 1.1
    return _finish(targets, {
        'quality_focal': detection.quality_focal(
            flat.cls, self.class_targets(flat, targets), beta=2.0, weights=targets['counts'],
            normalizer=targets['normalizer'], axis_name=axis_name),
        'giou': 2.0 * box_losses.giou(
            predicted, boxes, weights=weights, normalizer=box_normalizer, axis_name=axis_name),
        'distribution_focal': 0.25 * detection.distribution_focal(
            sides, box_coding.encode_distances(points, boxes, largest=largest),
            weights=jnp.broadcast_to(weights[..., None], sides.shape[:-1]),
            normalizer=4 * box_normalizer, axis_name=axis_name)}, axis_name)


@dataclasses.dataclass(frozen=True)
class ATSS(_AnchorHead):
  """Focal loss, GIoU weighted by centerness, and centerness.

  GIoU is divided by the sum of the centerness of positive anchors, at least 1.

  Reference: Zhang et al., "Bridging the Gap Between Anchor-based and Anchor-free Detection" (CVPR
  2020); mmdetection's `ATSSHead`.
  """

  def decode(self, reg: jax.Array, priors: jax.Array, strides: jax.Array) -> jax.Array:
    return dense_boxes.decode('atss', reg, priors, strides)

  def loss(self, raw, truth, *, sizes=None, axis_name=None):
    flat, targets = self.flatten(raw), self._assign(raw, truth, sizes, axis_name)
    centerness = jnp.where(targets['positive'], box_coding.centerness(
        box_coding.centers(targets['priors']), targets['assigned_boxes']), 0)
    targets['centerness_normalizer'] = jnp.maximum(_sum(centerness, axis_name), 1)
    return _finish(targets, {
        'focal': _focal(flat.cls, self.class_targets(flat, targets), targets, axis_name),
        'giou': 2.0 * box_losses.giou(
            self.decode(flat.reg, targets['priors'], targets['prior_strides']),
            targets['assigned_boxes'], weights=centerness,
            normalizer=targets['centerness_normalizer'], axis_name=axis_name),
        'centerness': _centerness_loss(flat, centerness, targets, axis_name)}, axis_name)


@dataclasses.dataclass(frozen=True)
class RetinaNet(DenseHead):
  """Focal loss, and L1 of deltas, on nine anchors a position and their highest IoU.

  Reference: Lin et al., "Focal Loss for Dense Object Detection" (ICCV 2017); mmdetection's
  `RetinaHead`, whose normalizer is that of each device.
  """

  per_position: ClassVar[int] = 9
  iou_threshold: ClassVar[float] = 0.5

  def priors(self, shapes: box_coding.Shapes) -> list[jax.Array]:
    return dense_boxes.priors('retinanet', shapes, strides=self.strides)

  def decode(self, reg: jax.Array, priors: jax.Array, strides: jax.Array) -> jax.Array:
    return dense_boxes.decode('retinanet', reg, priors, strides)

  def loss(self, raw, truth, *, sizes=None, axis_name=None):
    flat, shapes = self.flatten(raw), self.shapes(raw)
    priors, strides = self.joined_priors(shapes)
    counts = self.counted(shapes, sizes, len(truth.boxes))
    assigned = jax.vmap(lambda *of_image: assignment.max_iou(priors, *of_image))(
        truth.boxes, truth.valid, counts)
    targets = self._targets(assigned, counts, truth, priors, strides,
                            positives_by_image(assigned.positive, axis_name))
    positive = targets['positive']
    boxes = jnp.where(positive[..., None], targets['assigned_boxes'], priors)
    return _finish(targets, {
        'focal': _focal(flat.cls, self.class_targets(flat, targets), targets, axis_name),
        'l1': detection.smooth_l1(
            flat.reg, box_coding.encode_deltas(priors, boxes), weights=positive,
            normalizer=targets['normalizer'], axis_name=axis_name)}, axis_name)


@dataclasses.dataclass(frozen=True)
class FCOS(DenseHead):
  """Focal loss, overlap weighted by centerness, and centerness, on points.

  The loss of boxes is divided by the sum of the centerness of positive points. Padding takes part
  in the focal loss, as background.

  Attributes: those of `DenseHead`;
    box_loss: of `FCOS_BOX_LOSSES`.
    center_sampling: whether points must be near the centre of a box.

  Reference: Tian et al., "FCOS" (ICCV 2019); mmdetection's `FCOSHead`.
  """

  box_loss: str = 'iou_log'
  center_sampling: bool = False

  ranges: ClassVar[tuple] = ((-1, 64), (64, 128), (128, 256), (256, 512), (512, 1e8))
  iou_threshold: ClassVar[float] = 0.5

  def priors(self, shapes: box_coding.Shapes) -> list[jax.Array]:
    return dense_boxes.priors('fcos', shapes, strides=self.strides)

  def decode(self, reg: jax.Array, priors: jax.Array, strides: jax.Array) -> jax.Array:
    return dense_boxes.decode('fcos', reg, priors, strides)

  def loss(self, raw, truth, *, sizes=None, axis_name=None):
    del sizes
    flat, shapes = self.flatten(raw), self.shapes(raw)
    priors, strides = self.joined_priors(shapes)
    ranges = np.repeat(np.asarray(self.ranges, np.float32), self.level_sizes(shapes), axis=0)
    assigned = jax.vmap(lambda *of_image: assignment.fcos(
        priors, ranges, *of_image, strides=strides if self.center_sampling else None))(
            truth.boxes, truth.valid)
    positive = assigned.positive
    targets = self._targets(
        assigned, jnp.ones(positive.shape, bool), truth, priors, strides,
        jnp.maximum(_sum(positive, axis_name), 1))
    centerness = jnp.where(
        positive, box_coding.centerness(priors, targets['assigned_boxes']), 0)
    targets['centerness_normalizer'] = jnp.maximum(_sum(centerness, axis_name), 1e-6)
    box_loss = FCOS_BOX_LOSSES[self.box_loss]
    return _finish(targets, {
        'focal': _focal(flat.cls, self.class_targets(flat, targets), targets, axis_name),
        self.box_loss: box_loss(
            self.decode(flat.reg, priors, strides), targets['assigned_boxes'], weights=centerness,
            normalizer=targets['centerness_normalizer'], axis_name=axis_name),
        'centerness': _centerness_loss(flat, centerness, targets, axis_name)}, axis_name)


HEADS: dict[str, Any] = {'gfl': GFL, 'retinanet': RetinaNet, 'fcos': FCOS, 'atss': ATSS}


def positives_by_image(positive: jax.Array, axis_name: str | None) -> jax.Array:
  """The number of positive anchors of a batch, at least one an image, float32."""
  return _sum(jnp.maximum(jnp.sum(positive, axis=1), 1), axis_name)


def _focal(logits, one_hot, targets, axis_name):
  return detection.sigmoid_focal(logits, one_hot, weights=targets['counts'],
                                 normalizer=targets['normalizer'], axis_name=axis_name)


def _centerness_loss(flat, centerness, targets, axis_name):
  return detection.binary_cross_entropy(
      flat.centerness, centerness, weights=targets['positive'],
      normalizer=targets['normalizer'], axis_name=axis_name)


def _sum(x, axis_name):
  total = jnp.sum(x, dtype=jnp.promote_types(jnp.float32, x.dtype))
  return total if axis_name is None else lax.psum(total, axis_name)


def _finish(targets, terms, axis_name):
  """`(loss, (targets, metrics))`: the sum of the terms."""
  metrics = terms | {'positives': _sum(targets['positive'], axis_name)}
  return sum(terms.values()), (targets, metrics)
