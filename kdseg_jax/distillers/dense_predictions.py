"""What the methods for dense detectors share: raw outputs of two heads, compared.

What a student's anchors are is read from what its task assigned (`DistillInputs.targets`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from kdseg_jax import losses, names
from kdseg_jax.errors import UserError
from kdseg_jax.losses import dense_boxes

PYRAMID = ('p3', 'p4', 'p5', 'p6', 'p7')
TARGETS = ('counts', 'normalizer', 'positive', 'priors')
_WEIGHTS = {'gfl': (1.0, 4.0), 'retinanet': (1.0, 1.0), 'fcos': (0.4, 0.75), 'atss': (1.0, 1.0)}


class Predictions(NamedTuple):
  """Raw outputs of a head, of all levels one after the other.

  Attributes:
    head: its name, of `losses.dense_boxes.HEADS`.
    cls: `(N, P, C)` logits.
    reg: `(N, P, numbers of a box)`.
    shapes: (height, width) of every level.
  """

  head: str
  cls: jax.Array
  reg: jax.Array
  shapes: Sequence[tuple[int, int]]

  @property
  def boxes(self) -> jax.Array:
    """`(N, P, 4)`, in pixels."""
    return dense_boxes.decode(
        self.head, self.reg, *dense_boxes.joined_priors(self.head, self.shapes))


class Weights(NamedTuple):
  """Factors of the terms; None is the official one of the head."""

  cls: float | None = None
  boxes: float | None = None


def predictions(head: str, outputs: Mapping[str, Sequence[jax.Array]]) -> Predictions:
  """`Predictions` from `cls` and `reg`, a map a level each."""
  anchors = dense_boxes.per_position(head)
  return Predictions(
      head, dense_boxes.join(outputs['cls'], anchors), dense_boxes.join(outputs['reg'], anchors),
      [(x.shape[1], x.shape[2]) for x in outputs['cls']])


def head_of_targets(targets: Mapping[str, Any]) -> str:
  """The name of the head whose loss assigned these targets."""
  if targets['priors'].shape[-1] == 2:
    return 'fcos'
  if 'valuable' not in targets:
    return 'retinanet'
  return 'atss' if 'centerness_normalizer' in targets else 'gfl'


def check_head_name(method: str, head: str | None) -> None:
  """Raises UserError unless it is the name of a head, or None."""
  if head is not None:
    names.require(head, dense_boxes.HEADS, f'teacher_head of {method}')


def check_teacher(student: str, teacher: str, inputs: Any) -> None:
  """Raises UserError where the teacher's raw outputs are not those of the head `teacher`."""
  channels = {owner: getattr(inputs, owner)['cls'][0].shape[-1] for owner in ('student', 'teacher')}
  numbers = inputs.teacher['reg'][0].shape[-1]
  anchors = dense_boxes.per_position(teacher)
  classes = channels['student'] // dense_boxes.per_position(student)
  of_a_box = numbers / anchors
  fits = of_a_box % 4 == 0 and of_a_box > 4 if teacher == 'gfl' else of_a_box == 4
  if channels['teacher'] != classes * anchors or not fits:
    raise UserError(
        f'the student has a {student} head of {classes} classes, and the outputs of the teacher, '
        f'{channels["teacher"]} channels of cls and {numbers} of reg, are not those of a {teacher} '
        'head with these classes. Set the field teacher_head of this term to the head of the '
        f'teacher: {", ".join(dense_boxes.HEADS)}. The classes of both must be the same.')
  sizes = {owner: [x.shape[1:3] for x in getattr(inputs, owner)['cls']]
           for owner in ('student', 'teacher')}
  if sizes['student'] != sizes['teacher']:
    raise UserError(f'the levels of the student are {sizes["student"]}, those of the teacher '
                    f'{sizes["teacher"]}; expected the same strides in both.')


def on_anchors_of(head: str, where: jax.Array, student: str) -> jax.Array:
  """A mask `(N, P)` of the student's anchors as one of those of a head.

  Where the heads have unlike numbers of anchors, positions of which any anchor counts.
  """
  ours, theirs = dense_boxes.per_position(student), dense_boxes.per_position(head)
  if ours == theirs:
    return where
  positions = jnp.any(where.reshape(len(where), -1, ours), axis=-1)
  return jnp.repeat(positions, theirs, axis=1)


def normalizer_of(teacher: str, targets: Mapping[str, Any]) -> jax.Array:
  """By what the losses are divided: see `losses.cross_head_classification`.

  For FCOS the sum of centerness; where no point is positive 1, and not 1e-6 as in the official
  code, which makes such a step a million times as large.
  """
  if teacher != 'fcos' or 'centerness_normalizer' not in targets:
    return targets['normalizer']
  centerness = targets['centerness_normalizer']
  return jnp.where(centerness > 1e-5, centerness, 1)


def compare(
    student: Predictions,
    teacher: Predictions,
    *,
    where: jax.Array,
    normalizer: jax.Array,
    uniform: bool,
    weights: Weights,
    axis_name: str | None,
) -> dict[str, jax.Array]:
  """The weighted terms `cls` and `boxes` between outputs on the same anchors.

  `losses.cross_head_classification`, and of boxes `losses.cross_head_distribution` if both are
  distributions of as many bins, `losses.iou_log` if both are of FCOS, else `losses.giou` of the
  decoded boxes.

  Args:
    student: whose gradient is taken; of CrossKD they are made by the teacher's head.
    teacher: outputs on as many anchors.
    where: `(N, P)`, which anchors count.
    normalizer: of all but `cross_head_distribution`, which is a weighted mean.
    uniform: of `losses.score_weights`.
    weights: `Weights`; official are those of the teacher's head, of `losses.giou` 1.
    axis_name: mesh axis over which the batch is spread.
  """
  heads = {student.head, teacher.head}
  distributions = heads == {'gfl'} and student.reg.shape == teacher.reg.shape
  official = _WEIGHTS[teacher.head]
  if teacher.head == 'gfl' and not distributions:
    official = official[0], _WEIGHTS['atss'][1]  # of GIoU, which takes the place of its own loss
  cls_weight, box_weight = (
      default if given is None else given for given, default in zip(weights, official))
  scores = losses.score_weights(teacher.cls, where, uniform=uniform)
  cls = losses.cross_head_classification(
      student.cls, teacher.cls, weights=where, normalizer=normalizer, axis_name=axis_name)
  if distributions:
    boxes = losses.cross_head_distribution(
        student.reg, teacher.reg, weights=scores, axis_name=axis_name)
  else:
    overlap = losses.iou_log if heads == {'fcos'} else losses.giou
    boxes = overlap(student.boxes, teacher.boxes, weights=scores, normalizer=normalizer,
                    axis_name=axis_name)
  return {'cls': cls_weight * cls, 'boxes': box_weight * boxes}
