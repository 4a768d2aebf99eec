"""How far a teacher's predictions disagree with what a student is assigned to learn."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from kdseg_jax.errors import UserError
from kdseg_jax.inference.views import Inference, apply_frozen
from kdseg_jax.losses.boxes import box_overlaps
from kdseg_jax.models import DETECTORS
from kdseg_jax.tasks.base import Field, Outputs
from kdseg_jax.tasks.detection import heads
from kdseg_jax.tasks.detection.task import (
  DetectionTask,
  FoundBoxes,
  check_views,
  counted_sizes,
  sizes_of,
)

THRESHOLDS = tuple(round(0.05 * i, 2) for i in range(1, 20))
CONFLICT = 0.5  # discrepancy of positions whose distances have a mean of their own
PAIRS = ('student_target', 'teacher_target', 'student_teacher')
MEANS = ('positive_scores', 'conflict_scores', 'positive_boxes')


class Said(NamedTuple):
  """What a head says, or is to say, at each of P positions of all levels.

  Attributes:
    scores: `(N, P, C)` probabilities of classes, without centerness.
    boxes: `(N, P, 4)` in pixels.
  """

  scores: jax.Array
  boxes: jax.Array


def conflict_sums(student: Said, teacher: Said, target: Said, *, positive: jax.Array,
                  where: jax.Array) -> dict[str, Any]:
  """Counts of the conflicts between a teacher and the targets of a student, and distances.

  The discrepancy of a position is `max_c |teacher_c - target_c|`, and it is a conflict above a
  threshold if it is greater. Distances are this maximum between scores, and `1 - IoU` between
  boxes.

  Args:
    student: its predictions.
    teacher: those of its teacher, at the same positions.
    target: what the student is assigned: 0 in the background.
    positive: `(N, P)` bool: a box is assigned.
    where: `(N, P)` bool: positions that count.

  Returns:
    Sums over positions: `positive`, `background` how many there are, `positive_above`,
    `background_above` `(T,)` conflicts above each of `THRESHOLDS`, and of each of `MEANS` distances
    `(3,)` of `PAIRS`.
  """
  pairs = ((student, target), (teacher, target), (student, teacher))
  scores = jnp.stack([jnp.max(jnp.abs(a.scores - b.scores), axis=-1) for a, b in pairs])
  boxes = jnp.stack([1 - box_overlaps(a.boxes, b.boxes) for a, b in pairs])
  positive, background = positive & where, ~positive & where
  discrepancy = scores[1]
  above = discrepancy[..., None] > jnp.asarray(THRESHOLDS, discrepancy.dtype)
  count = lambda x: jnp.sum(x, axis=(0, 1), dtype=jnp.int32)
  total = lambda x, kept: jnp.sum(jnp.where(kept, x, 0), axis=(1, 2))
  return {
      'positive': count(positive), 'background': count(background),
      'positive_above': count(above & positive[..., None]),
      'background_above': count(above & background[..., None]),
      'positive_scores': total(scores, positive), 'positive_boxes': total(boxes, positive),
      'conflict_scores': total(scores, above[..., THRESHOLDS.index(CONFLICT)] & where)}


def summarize(sums: Mapping[str, Any]) -> dict[str, Any]:
  """The target conflict of a teacher and a student.

  Args:
    sums: of `conflict_sums`, added up.

  Returns:
    `thresholds`; `positive` and `background`, how many positions there are; `positive_share`, of
    positive positions those in conflict, and `background_ratio`, positions in conflict in the
    background for each positive one, a list of as many as there are thresholds; and for each of
    `MEANS` the number of `positions` and the mean distance of each of `PAIRS`. NaN where there is
    nothing to count.
  """
  sums = {name: np.asarray(value, np.float64) for name, value in sums.items()}
  share = lambda count, of: (count / of if of else np.full_like(count, np.nan)).tolist()
  conflicts = sums['positive_above'] + sums['background_above']
  counts = dict.fromkeys(MEANS, sums['positive']) | {
      'conflict_scores': conflicts[THRESHOLDS.index(CONFLICT)]}
  return {
      'thresholds': list(THRESHOLDS),
      'positive': int(sums['positive']), 'background': int(sums['background']),
      'positive_share': share(sums['positive_above'], sums['positive']),
      'background_ratio': share(sums['background_above'], sums['positive']),
      **{name: {'positions': int(counts[name])} | dict(zip(
          PAIRS, share(sums[name], counts[name]), strict=True)) for name in MEANS}}


class Conflict:
  """Detection, evaluated beside the teacher: COCO AP of the student, and the target conflict.

  Dense detectors learn what an assigner gives to each of their anchors, and in distillation what
  the teacher predicts there; where these disagree, mimicking the teacher works against the
  detection loss. At each position of each level stand

  - the *target* of the student, of its own assigner: 1 for the assigned class, of GFL its soft
    label, the IoU of the box that it predicts with the one that it is assigned;
  - the teacher's class probabilities;
  - the student's own.

  Where a head has several anchors a position (RetinaNet), the highest score of each class counts,
  the box is that of the surest anchor, the assigned one that of the first positive anchor, and
  background is where all anchors count and none is positive. So heads of unlike anchors are
  compared. Padding is left out. How far they are apart: `conflict_sums`.

  Of the paper's analysis it is known that maps of the targets and of the teacher's predictions are
  shown (figure 2; by its authors of class scores, soft labels of GFL's assigner, the highest over
  classes and levels), that conflicts are counted, and that distances of the student's predictions
  to the teacher's and to the targets are given (figure 6). There is no official code of it. Chosen
  here: counts at each level by itself, a curve over all thresholds, both for positive positions and
  for the background, relative to positive ones, of which there are few; the measures of distance.

  Args:
    task: of the student.
    teacher: a detector (`inference.Model`) of the same classes and strides, of any head.

  Raises:
    UserError: the teacher is no detector.

  Reference: Wang et al., "CrossKD" (CVPR 2024), section 3.1 and figures 2, 3 and 6.
  """

  def __init__(self, task: DetectionTask, teacher: Any):
    if teacher.task.name != DetectionTask.name:
      raise UserError(f'The teacher {teacher.workdir} is no detector; target conflict is between '
                      f'detectors, as {", ".join(DETECTORS[:3])}.')
    self._task, self._teacher = task, teacher

  @property
  def fields(self) -> Mapping[str, Field]:
    """Those of the task."""
    return self._task.fields

  def scorer(self, model: Any, views: Inference) -> Any:
    """`((student's variables, teacher's), batch) -> (suppression.Detections, sums)`.

    Raises:
      UserError: as `DetectionTask.scorer`.
    """
    check_views(views)
    head = self._task.dense_head(model)
    of_teacher = self._teacher.task.dense_head(self._teacher.module)

    def score(variables, batch):
      raw, teacher = (apply_frozen(module, own, batch)[0] for module, own in zip(
          (model, self._teacher.module), variables, strict=True))
      targets = self._task.loss(raw, batch)[1][0]
      counted = head.counted(head.shapes(raw), counted_sizes(batch['mask']), len(batch['mask']))
      targets['counts'] &= counted  # FCOS learns from all of the padding
      sums = _conflict(head, raw, of_teacher, teacher, targets, batch['index'] >= 0)
      return head.detections(raw, sizes=sizes_of(batch['mask'])), sums
    return score

  def outputs(self, scores: Any, batch: Mapping[str, Any]) -> Outputs:
    """What the task needs of each image, and the sums of `conflict_sums`."""
    detections, sums = scores
    return self._task.outputs(detections, batch)._replace(sums=sums)

  def accumulator(self) -> FoundConflict:
    """A fresh one."""
    return FoundConflict(self._task)


class FoundConflict(FoundBoxes):
  """`FoundBoxes`, and in `summarize` the conflict; of no image there is none."""

  def __init__(self, task: DetectionTask):
    super().__init__(task)
    self._sums: dict[str, Any] = {}

  def add(self, outputs: Outputs) -> None:
    """Adds one batch."""
    super().add(outputs)
    for name, value in outputs.sums.items():
      self._sums[name] = self._sums.get(name, 0) + np.asarray(value, np.float64)

  @property
  def conflict(self) -> dict[str, Any]:
    """What `summarize` makes of the sums of all batches."""
    return summarize(self._sums)

  def summarize(self) -> dict[str, Any]:
    """The metrics of `FoundBoxes`, and `conflict`."""
    return super().summarize() | {'conflict': self.conflict}


def _conflict(head, raw, of_teacher, teacher, targets, real):
  """`conflict_sums` of raw outputs."""
  if head.shapes(raw) != of_teacher.shapes(teacher):
    raise UserError(f'The levels of the student are {head.shapes(raw)}, those of the teacher '
                    f'{of_teacher.shapes(teacher)}; expected the same strides in both.')
  positive, counts = (_by_position(head, targets[name]) for name in ('positive', 'counts'))
  target = _said(head, head.class_targets(head.flatten(raw), targets), targets['assigned_boxes'],
                 first=positive)
  some = jnp.any(positive, axis=2)
  return conflict_sums(
      _predicted(head, raw), _predicted(of_teacher, teacher), target, positive=some,
      where=(some | jnp.all(counts, axis=2)) & real[:, None])


def _predicted(head: heads.DenseHead, raw: heads.Raw) -> Said:
  flat = head.flatten(raw)
  boxes = head.decode(flat.reg, *head.joined_priors(head.shapes(raw)))
  return _said(head, jax.nn.sigmoid(flat.cls), boxes)


def _said(head, scores, boxes, *, first=None):
  """Of all anchors of a position the highest scores and the box of the surest, or the `first`."""
  scores, boxes = _by_position(head, scores), _by_position(head, boxes)
  chosen = jnp.argmax(jnp.max(scores, axis=-1) if first is None else first, axis=2)
  return Said(jnp.max(scores, axis=2),
              jnp.take_along_axis(boxes, chosen[..., None, None], axis=2)[:, :, 0])


def _by_position(head, x):
  """`(N, anchors of all positions, ...)` as `(N, P, anchors, ...)`."""
  return x.reshape(x.shape[0], -1, head.per_position, *x.shape[2:])
