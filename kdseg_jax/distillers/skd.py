"""Structured knowledge distillation (Liu et al., CVPR 2019; journal 2020)."""

from __future__ import annotations

from kdseg_jax import losses
from kdseg_jax.distillers import core, resizing
from kdseg_jax.distillers.holistic import holistic

# CVPR 2019, section 3.3: lambda_1 = 10 on the first two, lambda_2 = 0.1.
WEIGHTS = {'pixelwise': 10.0, 'pairwise': 10.0, 'holistic': 0.1}


def pixelwise(
    *,
    temperature: float = 1.0,
    form: str = 'kl',
    reduction: str = 'mean',
    resize: bool = False,
    align_corners: bool = True,
    tap: str = 'logits',
    axis_name: str | None = None,
) -> core.Distiller:
  """Pixel-wise distillation of the class distributions (CVPR 2019, eq. 1).

  `losses.pixelwise_kl(student[tap], teacher[tap])`, on logits before upsampling, over all
  pixels, ignored ones included. The official code is `form='cross_entropy'`,
  `reduction='sum_over_batch'`.

  Args:
    temperature: divides both logits.
    form: 'kl' or 'cross_entropy'.
    reduction: 'mean' or 'sum_over_batch'.
    resize: whether the student's logits are resized to the teacher's size, bilinearly; for models
      of different output strides (ESPNet).
    align_corners: of that, as in `losses.resize_bilinear`.
    tap: name of the logits of both models.
    axis_name: mesh axis over which the batch is spread.

  Returns:
    A distiller without state.
  """
  def loss(student, teacher):
    student = resizing.to_teacher_size(
        student, teacher, resize=resize, align_corners=align_corners)
    return losses.pixelwise_kl(
        student, teacher, temperature=temperature, form=form, reduction=reduction,
        axis_name=axis_name)
  return core.comparing(loss, tap, tap)


def pairwise(
    *,
    node_scale: float = 0.5,
    node_size: int | None = None,
    pool: str = 'max',
    norm_gradient: bool = True,
    norm: str = 'add_eps',
    eps: float = 1e-8,
    neighbourhood: int | None = None,
    student_tap: str = 'embedding',
    teacher_tap: str = 'embedding',
    axis_name: str | None = None,
) -> core.Distiller:
  """Pair-wise distillation of cosine affinities between nodes (CVPR 2019, eq. 2).

  `losses.pairwise_affinity(student[student_tap], teacher[teacher_tap])`; widths may differ.

  Args:
    node_scale: side of a node (pooling window) as a share of the map: 0.5 is the official rule.
    node_size: side of a node in pixels; overrides `node_scale`. 1 makes every pixel a node.
    pool: 'max' or 'mean' inside a node.
    norm_gradient: False detaches the norms, as the official journal code does.
    norm: 'add_eps' or 'clamp', how `eps` guards the norms.
    eps: see `norm`.
    neighbourhood: only pairs of nodes at most this far apart count; None is all.
    student_tap: name of the student's features.
    teacher_tap: name of the teacher's features.
    axis_name: mesh axis over which the batch is spread.

  Returns:
    A distiller without state. Student and teacher must have the same output stride.
  """
  def loss(student, teacher):
    nodes = (losses.scaled_node_size(student.shape[1:3], node_scale) if node_size is None
             else node_size)
    return losses.pairwise_affinity(
        student, teacher, node_size=nodes, pool=pool, norm_gradient=norm_gradient, norm=norm,
        eps=eps, neighbourhood=neighbourhood, axis_name=axis_name)
  return core.comparing(loss, student_tap, teacher_tap)


def skd(
    *,
    pixelwise_weight: core.Weight = WEIGHTS['pixelwise'],
    pairwise_weight: core.Weight = WEIGHTS['pairwise'],
    holistic_weight: core.Weight = WEIGHTS['holistic'],
    axis_name: str | None = None,
) -> core.Distiller:
  """Structured knowledge distillation: pixel-wise, pair-wise and holistic (CVPR 2019, section 3.3).

  `combine` of `pixelwise()`, `pairwise()` and `holistic()` under these names, with the paper's
  weights and the options' defaults; for other options combine them yourself. SKD's journal code
  has pairwise_weight=1 (0.5 in its script) and forms of its own for each term: see there.

  Args:
    pixelwise_weight: a number or an optax schedule of the step.
    pairwise_weight: likewise.
    holistic_weight: likewise.
    axis_name: mesh axis over which the batch is spread.

  Returns:
    A distiller with the critic and memory of `holistic`; a term of weight 0 is left out.
  """
  return core.combine(core.without_zeros({
      'pixelwise': (pixelwise_weight, pixelwise(axis_name=axis_name)),
      'pairwise': (pairwise_weight, pairwise(axis_name=axis_name)),
      'holistic': (holistic_weight, holistic(axis_name=axis_name))}))
