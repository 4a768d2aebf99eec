"""CrossKD (Wang et al., CVPR 2024): the student's features through the teacher's head."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from kdseg_jax import losses
from kdseg_jax.distillers import core, dense_predictions, ranges
from kdseg_jax.distillers.declaration import Term, declare
from kdseg_jax.errors import UserError
from kdseg_jax.losses import dense_boxes
from kdseg_jax.models.conv import Conv, uniform_fan_in

_BRANCHES = ('cls', 'reg')
_LAYER, _LAYER_OF_FCOS = 3, 2


@declare(small={'layer': 1})
def crosskd(
    *,
    layer: int | None = None,
    teacher_head: str | None = None,
    projection: bool = False,
    uniform: bool = False,
    cls_weight: float | None = None,
    box_weight: float | None = None,
    centerness_weight: float = 1.0,
    axis_name: str | None = None,
) -> core.Distiller:
  """Cross-head distillation of dense detectors.

  The student's towers after `layer` convolutions, aligned with the teacher's there
  (`losses.cross_head_input`), pass the rest of the teacher's frozen head; what it makes of them is
  compared with the teacher's own outputs:

  `cls_weight * losses.cross_head_classification + box_weight * boxes`, where boxes are
  `losses.cross_head_distribution` of a GFL teacher, `losses.giou` of RetinaNet and ATSS (decoded)
  and `losses.iou_log` of FCOS; of ATSS also `centerness_weight * losses.binary_cross_entropy` on
  positive anchors. No gradient reaches the student's own head from `layer` on.

  Student and teacher may have unlike backbones and heads: both outputs are of the teacher's head,
  so its losses apply, with the masks and normalizers of the student's assignment. Where the heads
  have unlike numbers of anchors, an anchor counts if any of the student's at its position does.

  Args:
    layer: convolutions of the student's towers before the teacher's take over, from 0 (the levels
      of the pyramid) to all of them (4); None is 3, for FCOS teachers 2.
    teacher_head: 'gfl', 'retinanet', 'fcos' or 'atss'; None is the student's. Heads of fewer than
      3 convolutions need `layer` or `teacher_head`: without both the taps of 2 and 3 are read.
    projection: whether the student's features pass a learned 1x1 convolution, one a branch for all
      levels, before they are aligned: for towers of other widths than the teacher's.
    uniform: all boxes weigh the same, S(r) = 1, as in the paper; the official code weighs them by
      the highest class probability of the teacher.
    cls_weight: None is official: 1, FCOS 0.4.
    box_weight: None is official: GFL 4, RetinaNet and ATSS 1, FCOS 0.75.
    centerness_weight: of the centerness of an ATSS teacher.
    axis_name: mesh axis over which the batch is spread.

  Returns:
    A distiller whose params are those of the projections. `init` raises ValueError if widths differ
    without a projection, or outputs are not those of the teacher's head.

  Raises:
    ValueError: a negative layer or an unknown head.

  Reference: Wang et al., "CrossKD" (CVPR 2024), section 3; official `CrossKDGFL`, `CrossKDATSS`,
  `CrossKDRetinaNet`, `CrossKDFCOS`.
  """
  dense_predictions.check_head_name('crosskd', teacher_head)
  ranges.at_least(0, 'crosskd', layer=layer)

  def heads_of(inputs):
    student = dense_predictions.head_of_targets(inputs.targets)
    return student, teacher_head or student

  def layer_of(head):
    if layer is not None:
      return layer
    return _LAYER_OF_FCOS if head == 'fcos' else _LAYER

  layers = {layer_of(head) for head in (
      dense_boxes.HEADS if teacher_head is None else (teacher_head,))}
  towers = tuple(f'{branch}_tower_{i}' for branch in _BRANCHES for i in sorted(layers))

  def init(rng, inputs):
    student, teacher = heads_of(inputs)
    dense_predictions.check_teacher(student, teacher, inputs)
    params = {}
    for branch in _BRANCHES:
      tower = f'{branch}_tower_{layer_of(teacher)}'
      ours, theirs = (x[tower][0].shape[-1] for x in (inputs.student, inputs.teacher))
      if projection:
        rng, key = jax.random.split(rng)
        params[branch] = _projection(theirs).init(key, jnp.zeros((1, 1, 1, ours)))['params']
      elif ours != theirs:
        raise UserError(
            f'crosskd: {tower} of the student is {ours} wide and that of the teacher {theirs}. Set '
            "projection=True, or give the student's head (the pyramid, for layer 0) the width of "
            "the teacher's.")
    return core.DistillerState(params=params)

  def loss(state, inputs):
    student, head = heads_of(inputs)
    i, targets = layer_of(head), inputs.targets
    features = {f'{branch}_tower_{i}': _features(
        state.params.get(branch), inputs, f'{branch}_tower_{i}', i, axis_name)
        for branch in _BRANCHES}
    crossed = inputs.teacher_head(features, i)
    mask = lambda name: dense_predictions.on_anchors_of(head, targets[name], student)
    over = {'axis_name': axis_name, 'normalizer': dense_predictions.normalizer_of(head, targets)}
    terms = dense_predictions.compare(
        dense_predictions.predictions(head, crossed),
        dense_predictions.predictions(head, inputs.teacher), where=mask('counts'), uniform=uniform,
        weights=dense_predictions.Weights(cls_weight, box_weight), **over)
    if head == 'atss':
      # The teacher's own, of its towers: no tap that the other heads have.
      own = inputs.teacher_head(
          {name: inputs.teacher[name] for name in features}, i)['centerness']
      centerness, wanted = (dense_boxes.join(x, 1)[..., 0] for x in (crossed['centerness'], own))
      terms['centerness'] = centerness_weight * losses.binary_cross_entropy(
          centerness, jax.nn.sigmoid(wanted), weights=mask('positive'), **over)
    return sum(terms.values()), (state.memory, terms)

  return core.Distiller(
      requires=core.Requires(
          student=(*towers, 'cls'), teacher=(*towers, *_BRANCHES),
          targets=dense_predictions.TARGETS, teacher_head=True),
      init=init, loss=loss)


def _projection(width: int) -> Any:
  return Conv(width, 1, use_bias=True, kernel_init=uniform_fan_in)


def _features(params, inputs, tower, layer, axis_name):
  """What the teacher's head is given of a branch: a map a level."""
  levels = []
  for student, teacher in zip(inputs.student[tower], inputs.teacher[tower], strict=True):
    if params is not None:
      student = _projection(teacher.shape[-1]).apply({'params': params}, student)
    levels.append(losses.cross_head_input(student, teacher, layer=layer, axis_name=axis_name))
  return tuple(levels)


TERMS = {'crosskd': Term(crosskd, 1.0)}
