"""Distillation of class distributions: the classical form, and decoupled (CVPR 2022)."""

from __future__ import annotations

from kdseg_jax import losses
from kdseg_jax.distillers import core, resizing
from kdseg_jax.distillers.skd import pixelwise
from kdseg_jax.resizing import resize_nearest


def kd(
    *,
    temperature: float = 1.0,
    resize: bool = False,
    align_corners: bool = True,
    tap: str = 'logits',
    axis_name: str | None = None,
) -> core.Distiller:
  """Knowledge distillation of every pixel's class distribution (Hinton et al., 2015).

  `losses.pixelwise_kl(student[tap], teacher[tap])`, on logits before upsampling, over all pixels,
  ignored ones included. The default temperature is that of CIRKD's scripts; knowledge adaptation
  (CVPR 2019) compares itself with 2, 4 and 6 and `resize=True`.

  Args:
    temperature: divides both logits.
    resize: whether the smaller logits are resized to the size of the larger, bilinearly, so that
      every pixel of the student has a gradient; for models of different output strides.
    align_corners: of that, as in `losses.resize_bilinear`.
    tap: name of the logits of both models.
    axis_name: mesh axis over which the batch is spread.

  Returns:
    A distiller without state.
  """
  return pixelwise(
      temperature=temperature, resize=resize, align_corners=align_corners, tap=tap,
      axis_name=axis_name)


def decoupled(
    *,
    alpha: float = 1.0,
    beta: float = 8.0,
    temperature: float = 4.0,
    ignore_label: int = 255,
    tap: str = 'logits',
    axis_name: str | None = None,
) -> core.Distiller:
  """Decoupled knowledge distillation (Zhao et al., CVPR 2022), pixel by pixel.

  `losses.decoupled_kd(student[tap], teacher[tap], labels)`, on logits before upsampling: the
  labels of the batch are resized to them, by the nearest. Logits `(N, C)` of classifiers take the
  labels `(N,)` as they are.

  Args:
    alpha: weight of the labelled class against the rest.
    beta: weight of the rest among itself.
    temperature: divides both logits.
    ignore_label: label of the pixels that do not count; of images it is any outside [0, C).
    tap: name of the logits of both models.
    axis_name: mesh axis over which the batch is spread.

  Returns:
    A distiller without state. Student and teacher must have the same output stride.
  """
  def loss(inputs):
    student, teacher = inputs.student[tap], inputs.teacher[tap]
    labels, ignored = inputs.batch['label'], ignore_label
    if labels.ndim == 1:  # 255 may be a class
      labels, ignored = labels[:, None, None], -1
    student, teacher = resizing.as_map(student), resizing.as_map(teacher)
    return losses.decoupled_kd(
        student, teacher, resize_nearest(labels, student.shape[1:3]), alpha=alpha, beta=beta,
        temperature=temperature, ignore_label=ignored, axis_name=axis_name)
  return core.stateless(core.Requires(student=(tap,), teacher=(tap,)), loss)
