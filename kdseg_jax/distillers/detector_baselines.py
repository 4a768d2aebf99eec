"""What cross-head distillation is compared with: outputs and pyramids of dense detectors."""

from __future__ import annotations

from jax import lax

from kdseg_jax import losses, names
from kdseg_jax.distillers import core, dense_predictions
from kdseg_jax.distillers.declaration import Term
from kdseg_jax.distillers.features import fitnets
from kdseg_jax.errors import UserError
from kdseg_jax.losses import dense_boxes

# Name of a region -> the target that is its mask.
_REGIONS = {'all': 'counts', 'positive': 'positive', 'inside': 'inside', 'valuable': 'valuable'}
_OUTPUTS = ('cls', 'reg')
_IMAGES_OF_A_SUM = 2  # of a device in the official code, whose mean over devices is learned


def prediction_mimicking(
    *,
    region: str = 'all',
    teacher_head: str | None = None,
    uniform: bool = False,
    cls_weight: float | None = None,
    box_weight: float | None = None,
    axis_name: str | None = None,
) -> core.Distiller:
  """Distillation of a dense detector's outputs: `crosskd` on the student's own head.

  The losses of `crosskd`, without centerness, between the student's own outputs and the teacher's.
  Of unlike heads with as many anchors the boxes are decoded and compared by `losses.giou`, whose
  weight is 1.

  Args:
    region: anchors that are compared: 'all' that count, 'positive' ones, those with the centre
      'inside' a box of the ground truth, or the 'valuable' localization region (not of FCOS and
      RetinaNet students).
    teacher_head: 'gfl', 'retinanet', 'fcos' or 'atss'; None is the student's.
    uniform: as in `crosskd`.
    cls_weight: None is that of `crosskd`.
    box_weight: likewise.
    axis_name: mesh axis over which the batch is spread.

  Returns:
    A distiller without state; `init` raises ValueError if the heads have unlike numbers of anchors
    or outputs are not those of the teacher's head.

  Raises:
    ValueError: an unknown region or head.

  Reference: Wang et al., "CrossKD" (CVPR 2024), section 4.2, without official code.
  """
  dense_predictions.check_head_name('prediction_mimicking', teacher_head)
  names.require(region, _REGIONS, 'region of prediction_mimicking')

  def heads_of(inputs):
    student = dense_predictions.head_of_targets(inputs.targets)
    return student, teacher_head or student

  def init(rng, inputs):
    del rng
    student, teacher = heads_of(inputs)
    anchors = [dense_boxes.per_position(head) for head in (student, teacher)]
    if anchors[0] != anchors[1]:
      raise UserError(
          f'prediction_mimicking: a {student} head has {anchors[0]} anchors a position and a '
          f'{teacher} head {anchors[1]}; their outputs cannot be compared. Choose crosskd with '
          f"teacher_head={teacher}: it compares outputs of the teacher's head alone.")
    dense_predictions.check_teacher(student, teacher, inputs)
    return core.DistillerState()

  def loss(state, inputs):
    student, teacher = heads_of(inputs)
    terms = dense_predictions.compare(
        dense_predictions.predictions(student, inputs.student),
        dense_predictions.predictions(teacher, inputs.teacher),
        where=inputs.targets[_REGIONS[region]], uniform=uniform,
        normalizer=dense_predictions.normalizer_of(teacher, inputs.targets),
        weights=dense_predictions.Weights(cls_weight, box_weight), axis_name=axis_name)
    return sum(terms.values()), (state.memory, terms)

  return core.Distiller(
      requires=core.Requires(student=_OUTPUTS, teacher=_OUTPUTS, targets=_targets(region)),
      init=init, loss=loss)


def localization_distillation(
    *,
    temperature: float = 10.0,
    region: str = 'positive',
    axis_name: str | None = None,
) -> core.Distiller:
  """Localization distillation (Zheng et al., CVPR 2022) of GFL heads.

  `losses.localization_distillation` of the distributions of the sides, weighted by the highest
  class probability of the student: the sum over two images, whatever the batch. The official code
  sums over the images of a device, usually two, and takes the mean over devices.

  Args:
    temperature: divides the logits of both.
    region: as in `prediction_mimicking`; the official one is 'positive', the paper's second one
      'valuable'.
    axis_name: mesh axis over which the batch is spread.

  Returns:
    A distiller without state; `init` raises ValueError unless both heads are GFL's, alike.

  Raises:
    ValueError: an unknown region.

  Reference: Zheng et al., "Localization Distillation for Dense Object Detection" (CVPR 2022);
  mmdetection's `LDHead`.
  """
  names.require(region, _REGIONS, 'region of localization_distillation')

  def init(rng, inputs):
    del rng
    student = dense_predictions.head_of_targets(inputs.targets)
    shapes = {owner: [x.shape for x in getattr(inputs, owner)['reg']]
              for owner in ('student', 'teacher')}
    if student != 'gfl' or shapes['student'] != shapes['teacher']:
      raise UserError(
          'localization_distillation compares the distributions of two GFL heads with as many '
          f'bins; the student has a {student} head, and the maps of reg are {shapes["student"]} '
          f'in the student and {shapes["teacher"]} in the teacher.')
    return core.DistillerState()

  def loss(state, inputs):
    student = dense_predictions.predictions('gfl', inputs.student)
    images = len(student.cls)
    if axis_name is not None:
      images = lax.psum(images, axis_name)
    weights = losses.score_weights(student.cls, inputs.targets[_REGIONS[region]])
    value = losses.localization_distillation(
        student.reg, dense_boxes.join(inputs.teacher['reg'], 1), temperature=temperature,
        weights=weights, normalizer=images / _IMAGES_OF_A_SUM, axis_name=axis_name)
    return value, (state.memory, {})

  return core.Distiller(
      requires=core.Requires(student=_OUTPUTS, teacher=('reg',), targets=_targets(region)),
      init=init, loss=loss)


def pkd(
    *,
    taps: tuple[str, ...] = dense_predictions.PYRAMID,
    axis_name: str | None = None,
) -> core.Distiller:
  """Pearson correlation distillation of the pyramid (PKD, Cao et al., NeurIPS 2022).

  `losses.pearson_features(student[taps], teacher[taps])`. The weights that CrossKD adds it with
  are 6 for GFL, 2 for RetinaNet and FCOS, 1 for ATSS.

  Args:
    taps: names of maps of both models.
    axis_name: mesh axis over which the batch is spread.

  Returns:
    A distiller without state; `init` raises ValueError if shapes differ.

  Raises:
    ValueError: no taps.
  """
  _check_taps('pkd', taps)

  def init(rng, inputs):
    del rng
    for tap in taps:
      ours, theirs = inputs.student[tap].shape, inputs.teacher[tap].shape
      if ours != theirs:
        raise UserError(f'pkd: {tap} is {ours} in the student, {theirs} in the teacher; expected '
                        'the same. Give both pyramids one width.')
    return core.DistillerState()

  def loss(state, inputs):
    value = losses.pearson_features(
        *([taken[tap] for tap in taps] for taken in (inputs.student, inputs.teacher)),
        axis_name=axis_name)
    return value, (state.memory, {})

  return core.Distiller(
      requires=core.Requires(student=tuple(taps), teacher=tuple(taps)), init=init, loss=loss)


def pyramid_fitnets(
    *,
    projection: bool = True,
    taps: tuple[str, ...] = dense_predictions.PYRAMID,
    axis_name: str | None = None,
) -> core.Distiller:
  """The sum of `fitnets` over the levels of the pyramid.

  Args:
    projection: as in `fitnets`, a convolution a level.
    taps: names of maps of both models.
    axis_name: mesh axis over which the batch is spread.

  Returns:
    A distiller; `init` raises ValueError if widths differ without a projection.

  Raises:
    ValueError: no taps.
  """
  _check_taps('pyramid_fitnets', taps)
  return core.combine({tap: (1.0, fitnets(
      projection=projection, student_tap=tap, teacher_tap=tap, axis_name=axis_name))
      for tap in taps})


def _targets(region):
  return tuple(dict.fromkeys((*dense_predictions.TARGETS, _REGIONS[region])))


def _check_taps(method, taps):
  if not taps:
    raise UserError(f'{method}: taps={tuple(taps)}; expected names of maps, at least one.')


TERMS = {
    'prediction_mimicking': Term(prediction_mimicking, 1.0),
    'localization_distillation': Term(localization_distillation, 0.25),  # official code
    'pkd': Term(pkd, 6.0),  # official code of CrossKD, for GFL
    'pyramid_fitnets': Term(pyramid_fitnets, 1.0),  # no official code
}
