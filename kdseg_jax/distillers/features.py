"""Distillation of one layer's features: FitNets, attention transfer, channel-wise."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import jax.numpy as jnp

from kdseg_jax import losses
from kdseg_jax.distillers import core, resizing
from kdseg_jax.distillers.declaration import Term, declare
from kdseg_jax.errors import UserError
from kdseg_jax.models.conv import Conv, uniform_fan_in

_PROJECTION = 'projection'


def fitnets(
    *,
    projection: bool = True,
    resize: bool = False,
    align_corners: bool = True,
    student_tap: str = 'embedding',
    teacher_tap: str = 'embedding',
    axis_name: str | None = None,
) -> core.Distiller:
  """Regression of the teacher's features (Romero et al., ICLR 2015).

  `losses.fitnets(projection(student[student_tap]), teacher[teacher_tap])`. CIRKD's form is the
  default, and its baseline the method `fitnets+kd`; knowledge adaptation (CVPR 2019) compares
  itself with `projection=False, resize=True`.

  Args:
    projection: whether the student's features pass a learned 1x1 convolution without bias, which
      is trained with the student.
    resize: whether the smaller of the two features is resized to the size of the larger,
      bilinearly, so that every pixel of the student has a gradient; for models of different output
      strides. In knowledge adaptation it is the student's.
    align_corners: of that, as in `losses.resize_bilinear`.
    student_tap: name of the student's features.
    teacher_tap: name of the teacher's features.
    axis_name: mesh axis over which the batch is spread.

  Returns:
    A distiller; `init` raises ValueError if the widths differ without a projection.
  """
  def compare(student, teacher, width):
    del width
    student, teacher = resizing.to_common_size(
        student, teacher, resize=resize, align_corners=align_corners)
    return losses.fitnets(student, teacher, axis_name=axis_name)
  return _projected('fitnets', compare, projection, student_tap, teacher_tap)


@declare(maps_only=True)
def attention_transfer(
    *,
    student_tap: str = 'embedding',
    teacher_tap: str = 'embedding',
    axis_name: str | None = None,
) -> core.Distiller:
  """Distillation of the attention map (Zagoruyko and Komodakis, ICLR 2017).

  `losses.attention_transfer(student[student_tap], teacher[teacher_tap])`; widths may differ.

  Args:
    student_tap: name of the student's features.
    teacher_tap: name of the teacher's features.
    axis_name: mesh axis over which the batch is spread.

  Returns:
    A distiller without state. Student and teacher must have the same output stride.
  """
  loss = functools.partial(losses.attention_transfer, axis_name=axis_name)
  return core.comparing(loss, student_tap, teacher_tap)


@declare(maps_only=True)
def channel_wise_features(
    *,
    temperature: float = 4.0,
    projection: bool | None = None,
    official_channel_count: bool = False,
    student_tap: str = 'embedding',
    teacher_tap: str = 'embedding',
    axis_name: str | None = None,
) -> core.Distiller:
  """Channel-wise distillation of features (Shu et al., ICCV 2021).

  `losses.channel_wise(projection(student[student_tap]), teacher[teacher_tap])`

  Args:
    temperature: divides both features.
    projection: whether the student's features pass a learned 1x1 convolution without bias, which
      is trained with the student; None is only where the widths differ, as in CIRKD's code.
    official_channel_count: True divides by the student's width before the projection instead of
      the number of channels that are compared, as CIRKD's code does.
    student_tap: name of the student's features.
    teacher_tap: name of the teacher's features.
    axis_name: mesh axis over which the batch is spread.

  Returns:
    A distiller; `init` raises ValueError if the widths differ without a projection. Student and
    teacher must have the same output stride.
  """
  def compare(student, teacher, width):
    return losses.channel_wise(
        student, teacher, temperature=temperature,
        official_channel_count=width if official_channel_count else None, axis_name=axis_name)
  return _projected('channel_wise_features', compare, projection, student_tap, teacher_tap)


@declare(maps_only=True)
def channel_wise_logits(
    *,
    temperature: float = 4.0,
    tap: str = 'logits',
    axis_name: str | None = None,
) -> core.Distiller:
  """Channel-wise distillation of logits (Shu et al., ICCV 2021).

  `losses.channel_wise(student[tap], teacher[tap])`, on logits before upsampling.

  Args:
    temperature: divides both logits.
    tap: name of the logits of both models.
    axis_name: mesh axis over which the batch is spread.

  Returns:
    A distiller without state. Student and teacher must have the same output stride.
  """
  loss = functools.partial(losses.channel_wise, temperature=temperature, axis_name=axis_name)
  return core.comparing(loss, tap, tap)


def _projected(
    name: str,
    compare: Callable,
    projection: bool | None,
    student_tap: str,
    teacher_tap: str,
) -> core.Distiller:
  """`compare(projected student, teacher, student's own width)`; params hold the projection."""
  module = lambda width: Conv(width, 1, kernel_init=uniform_fan_in)

  def init(rng, inputs):
    student, teacher = (
        tap.shape[-1] for tap in (inputs.student[student_tap], inputs.teacher[teacher_tap]))
    if projection is False and student != teacher:
      raise UserError(
          f'{name}: the tap {student_tap!r} of the student is {student} wide and '
          f'{teacher_tap!r} of the teacher {teacher}, which projection=False cannot compare. '
          'Set projection=True, or choose taps of equal width.')
    if projection or student != teacher:
      variables = module(teacher).init(rng, jnp.zeros((1, 1, 1, student)))
      return core.DistillerState(params={_PROJECTION: variables['params']})
    return core.DistillerState()

  def loss(state, inputs):
    student = resizing.as_map(inputs.student[student_tap])
    teacher = resizing.as_map(inputs.teacher[teacher_tap])
    width = student.shape[-1]
    if _PROJECTION in state.params:
      student = module(teacher.shape[-1]).apply({'params': state.params[_PROJECTION]}, student)
    return compare(student, teacher, width), (state.memory, {})

  return core.Distiller(
      requires=core.Requires(student=(student_tap,), teacher=(teacher_tap,)), init=init, loss=loss)


# With the weights of CIRKD's scripts, which add `kd` to each: `fitnets+kd`.
TERMS = {
    'fitnets': Term(fitnets, 10.0),
    'attention_transfer': Term(attention_transfer, 10_000.0),
    'channel_wise_features': Term(channel_wise_features, 50.0),
    'channel_wise_logits': Term(channel_wise_logits, 3.0),
}
# Its script adds the adversarial loss too: `channel_wise+adversarial`.
METHODS: dict[str, dict[str, Any]] = {
    'channel_wise': {'kd': 1.0, 'channel_wise_features': 50.0, 'channel_wise_logits': 3.0},
}
