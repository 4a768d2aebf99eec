"""Structured knowledge distillation (Liu et al., CVPR 2019; journal 2020), its published forms."""

from __future__ import annotations

from typing import Any

from kdseg_jax import losses
from kdseg_jax.distillers import core, ranges, resizing
from kdseg_jax.distillers.declaration import Term, declare
from kdseg_jax.distillers.holistic import holistic

# method -> term -> weight, or weight and the options in which it differs from its factory.
METHODS: dict[str, dict[str, Any]] = {
    # The conference: lambda_1 = 10 on the first two, lambda_2 = 0.1 (section 3.3). The options are
    # the factories' defaults: KL, averaged (eq. 1); every pixel a node (eq. 2); a conditional
    # critic under Wasserstein's loss with gradient penalty (section 3.2).
    'skd': {'pixelwise': 10.0, 'pairwise': 10.0, 'holistic': 0.1},
    # The journal's run_train_val.sh, with its criterion.py and kd_model.py. Its optimisers are the
    # recipes' `settings=skd`, whose maps are of the script's size: 65x65 of crops of 512, 9 nodes.
    'skd_journal': {
        'pixelwise': {'weight': 10.0, 'form': 'cross_entropy', 'reduction': 'sum_over_batch'},
        'pairwise': {'weight': 0.5, 'node_scale': 0.5, 'norm_gradient': False},
        'holistic': {'weight': 0.1, 'conditional': False, 'input_norm': True},
    },
    # What CIRKD (CVPR 2022) compares itself with: its scripts and its `CriterionStructuralKD`.
    'skd_cirkd': {
        'kd': 1.0,
        'pairwise': {'weight': 10.0, 'node_size': 2, 'norm': 'clamp', 'eps': 1e-12},
        'adversarial': 0.001,
    },
}


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
  `reduction='sum_over_batch'`. `kd`, Hinton's distillation (2015) of every pixel, is the same
  factory; as methods of configs they differ in their weights, 10 here and 1 of `kd`.

  Args:
    temperature: divides both logits.
    form: 'kl' or 'cross_entropy'.
    reduction: 'mean' or 'sum_over_batch'.
    resize: whether the smaller logits are resized to the size of the larger, bilinearly, so that
      every pixel of the student has a gradient; for models of different output strides (ESPNet).
    align_corners: of that, as in `losses.resize_bilinear`.
    tap: name of the logits of both models.
    axis_name: mesh axis over which the batch is spread.

  Returns:
    A distiller without state.
  """
  def loss(student, teacher):
    student, teacher = resizing.to_common_size(
        resizing.as_map(student), resizing.as_map(teacher), resize=resize,
        align_corners=align_corners)
    return losses.pixelwise_kl(
        student, teacher, temperature=temperature, form=form, reduction=reduction,
        axis_name=axis_name)
  return core.comparing(loss, tap, tap)


@declare(maps_only=True)
def pairwise(
    *,
    node_scale: float | None = None,
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

  `losses.pairwise_affinity(student[student_tap], teacher[teacher_tap])`; widths may differ. By
  default every pixel is a node, as in the equation and the conference's code. SKD's journal code
  is `node_scale=0.5, norm_gradient=False`, CIRKD's `node_size=2, norm='clamp', eps=1e-12`: the
  methods `skd_journal` and `skd_cirkd`.

  Args:
    node_scale: side of a node (pooling window) as a share of the map, as in
      `losses.scaled_node_size`.
    node_size: side of a node in pixels; overrides `node_scale`. Both None: every pixel is a node.
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

  Raises:
    ValueError: node_size is below 1.
  """
  ranges.at_least(1, 'pairwise', node_size=node_size)

  def loss(student, teacher):
    nodes = node_size
    if nodes is None and node_scale is not None:
      nodes = losses.scaled_node_size(student.shape[1:3], node_scale)
    return losses.pairwise_affinity(
        student, teacher, node_size=nodes, pool=pool, norm_gradient=norm_gradient, norm=norm,
        eps=eps, neighbourhood=neighbourhood, axis_name=axis_name)
  return core.comparing(loss, student_tap, teacher_tap)


def skd(
    *,
    pixelwise_weight: core.Weight = METHODS['skd']['pixelwise'],
    pairwise_weight: core.Weight = METHODS['skd']['pairwise'],
    holistic_weight: core.Weight = METHODS['skd']['holistic'],
    axis_name: str | None = None,
) -> core.Distiller:
  """Structured knowledge distillation: pixel-wise, pair-wise and holistic (CVPR 2019, section 3.3).

  `combine` of `pixelwise()`, `pairwise()` and `holistic()` under these names, with the paper's
  weights and the options' defaults; for other options combine them yourself. The other published
  forms are `create(terms_of('skd_journal'))`, the script of SKD's journal version, and
  `create(terms_of('skd_cirkd'))`, what CIRKD compares itself with.

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


TERMS = {
    'pixelwise': Term(pixelwise, 10.0),  # CVPR 2019, section 3.3: lambda_1
    'pairwise': Term(pairwise, 10.0),
}
