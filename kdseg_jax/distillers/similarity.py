"""Distillation of similarities within an image: intra-class variation, double similarity."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

from kdseg_jax import losses
from kdseg_jax.distillers import core
from kdseg_jax.distillers.declaration import Term, declare


@declare(maps_only=True)
def intra_class_variation(
    *,
    ignore_label: int = 255,
    student_tap: str = 'embedding',
    teacher_tap: str = 'embedding',
    axis_name: str | None = None,
) -> core.Distiller:
  """Distillation of the similarity of pixels to the centre of their class (ECCV 2020).

  `losses.intra_class_variation(student[student_tap], teacher[teacher_tap], labels)` with the
  labels of the batch and as many classes as the student has logits; widths may differ.
  CIRKD's script adds two: the method `intra_class_variation+kd+adversarial`.

  Args:
    ignore_label: label of pixels without a class.
    student_tap: name of the student's features.
    teacher_tap: name of the teacher's features.
    axis_name: mesh axis over which the batch is spread.

  Returns:
    A distiller without state. Student and teacher must have the same output stride.
  """
  def loss(inputs):
    return losses.intra_class_variation(
        inputs.student[student_tap], inputs.teacher[teacher_tap], inputs.batch['label'],
        num_classes=inputs.student['logits'].shape[-1], ignore_label=ignore_label,
        axis_name=axis_name)
  return core.stateless(
      core.Requires(student=(student_tap, 'logits'), teacher=(teacher_tap,)), loss)


@declare(maps_only=True, without_auxiliary_head={'taps': ('embedding', 'logits')})
def double_similarity_pixel(
    *,
    taps: Sequence[str] = ('aux_logits', 'embedding', 'logits'),
    axis_name: str | None = None,
) -> core.Distiller:
  """Distillation of how attention changes from layer to layer (TIP 2021, pixel-wise).

  `losses.double_similarity_pixel([student[tap], ...], [teacher[tap], ...])`; widths may differ.

  Args:
    taps: names of the layers of both models. Where one of them has no auxiliary head, use
      `('embedding', 'logits')`, which compares like with like; CIRKD's code puts the student's
      logits in the place of the missing head's.
    axis_name: mesh axis over which the batch is spread.

  Returns:
    A distiller without state. Student and teacher must have the same output stride.
  """
  taps = tuple(taps)
  loss = lambda inputs: losses.double_similarity_pixel(
      [inputs.student[tap] for tap in taps], [inputs.teacher[tap] for tap in taps],
      axis_name=axis_name)
  return core.stateless(core.Requires(student=taps, teacher=taps), loss)


@declare(maps_only=True)
def double_similarity_category(
    *,
    temperature: float = 4.0,
    tap: str = 'logits',
    axis_name: str | None = None,
) -> core.Distiller:
  """Distillation of how much the activations of two classes overlap (TIP 2021, category-wise).

  `losses.double_similarity_category(student[tap], teacher[tap])`, on logits before upsampling.

  Args:
    temperature: divides both logits.
    tap: name of the logits of both models.
    axis_name: mesh axis over which the batch is spread.

  Returns:
    A distiller without state. Student and teacher must have the same output stride.
  """
  loss = functools.partial(
      losses.double_similarity_category, temperature=temperature, axis_name=axis_name)
  return core.comparing(loss, tap, tap)


# With the weights of CIRKD's scripts.
TERMS = {
    'intra_class_variation': Term(intra_class_variation, 20.0),
    'double_similarity_pixel': Term(double_similarity_pixel, 1000.0),
    'double_similarity_category': Term(double_similarity_category, 10.0),
}
METHODS: dict[str, dict[str, Any]] = {
    'double_similarity': {
        'double_similarity_pixel': 1000.0, 'double_similarity_category': 10.0},
}
