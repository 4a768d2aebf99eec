"""Knowledge review (Chen et al., CVPR 2021): deep stages of the student review the teacher's."""

from __future__ import annotations

import jax.numpy as jnp

from kdseg_jax import losses, names
from kdseg_jax.distillers import core, ranges, resizing
from kdseg_jax.distillers.declaration import Term, declare
from kdseg_jax.errors import UserError
from kdseg_jax.models.fusion import FORMS, Review

_STAGES = ('stage1', 'stage2', 'stage3', 'stage4')
_PREACTIVATIONS = tuple(f'{stage}_preactivation' for stage in _STAGES)
_PYRAMID = ('p3', 'p4', 'p5', 'p6', 'p7')
_MOST_CHANNELS = 512


@declare(of_detectors={'student_taps': _PYRAMID, 'teacher_taps': _PYRAMID, 'channels': 256})
def review(
    *,
    form: str = 'residual',
    attention: bool = True,
    levels: tuple[int, ...] = (4, 2, 1),
    channels: int | None = None,
    teacher_batch_statistics: bool = False,
    student_taps: tuple[str, ...] = _STAGES,
    teacher_taps: tuple[str, ...] = _PREACTIVATIONS,
    axis_name: str | None = None,
) -> core.Distiller:
  """Knowledge review: the student's stages, fused from deep to shallow, against the teacher's.

  `losses.hierarchical_context(models.fusion.Review(student_taps), teacher_taps)`, the i-th tap of
  the student beside the i-th of the teacher, from shallow to deep. Widths and sizes may differ: the
  fusion, which is trained with the student, ends in the teacher's, by the nearest pixel (of a map
  larger than the teacher's, not every pixel is read). As published, the student's stages are taken
  after their last ReLU, the teacher's before it.

  The official codes: dense prediction takes the maps of the neck, ImageNet the four stages (after
  the ReLU in both models, as it is in-place there) and `pooled`, CIFAR three and `pooled`. Their
  weights are 0.6 to 8; on CIFAR it grows linearly over the first 20 of 240 epochs (`warmup_steps`
  of the term, or an optax schedule as weight in `combine`), by whole epochs there.

  Args:
    form: the method, 'residual', or what leads to it in the paper: 'single_stage', 'multi_stage',
      'all_pairs', 'fused'; see `models.fusion.Review`.
    attention: False adds maps where attention would fuse them.
    levels: of `losses.hierarchical_context`; () compares by the mean squared error alone.
    channels: of the fused maps; None is the width of the student's last tap, at most 512 (the
      official code on CIFAR; on MobileNet and detectors it is 256).
    teacher_batch_statistics: whether the BatchNorms of the teacher normalise by the batch instead
      of their statistics, for all terms that read it: in the official code on CIFAR the teacher
      stays in training mode.
    student_taps: names of maps `(N, H, W, C)` or vectors `(N, C)`, from shallow to deep.
    teacher_taps: as many of the teacher.
    axis_name: mesh axis over which the batch is spread.

  Returns:
    A distiller whose params are those of the fusion and whose memory are its BatchNorm statistics.

  Raises:
    ValueError: an unknown form, levels or channels below 1, or taps that are none or not as many.
  """
  names.require(form, FORMS, 'form of review')
  if any(level < 1 for level in levels):
    raise UserError(f'review: levels={tuple(levels)}; expected whole numbers from 1, or ().')
  ranges.at_least(1, 'review', channels=channels)
  if not student_taps or len(student_taps) != len(teacher_taps):
    raise UserError(
        f'review: student_taps={tuple(student_taps)} and teacher_taps={tuple(teacher_taps)}; '
        'expected as many of the one as of the other, at least one.')

  def module(student, teacher, sizes):
    return Review(
        widths=tuple(x.shape[-1] for x in teacher), sizes=sizes,
        channels=min(_MOST_CHANNELS, student[-1].shape[-1]) if channels is None else channels,
        form=form, attention=attention, axis_name=axis_name)

  def taps_of(inputs):
    return ([inputs.student[tap] for tap in student_taps],
            [inputs.teacher[tap] for tap in teacher_taps])

  def init(rng, inputs):
    student, teacher = taps_of(inputs)
    variables = module(student, teacher, ((1, 1),) * len(teacher)).init(
        rng, [jnp.zeros((1, 1, 1, x.shape[-1])) for x in student], train=True)
    return core.DistillerState(
        params=variables['params'], memory={'batch_stats': variables['batch_stats']})

  def loss(state, inputs):
    student, teacher = (list(map(resizing.as_map, taps)) for taps in taps_of(inputs))
    fusion = module(student, teacher, tuple(x.shape[1:3] for x in teacher))
    compared, memory = fusion.apply(
        {'params': state.params, 'batch_stats': state.memory['batch_stats']}, student, train=True,
        mutable=['batch_stats'])
    pairs = [(x, target) for maps, target in zip(compared, teacher) for x in maps]
    value = losses.hierarchical_context(*zip(*pairs), levels=levels, axis_name=axis_name)
    return value, (dict(memory), {})

  return core.Distiller(
      requires=core.Requires(
          student=tuple(student_taps), teacher=tuple(teacher_taps),
          teacher_batch_statistics=teacher_batch_statistics),
      init=init, loss=loss)


TERMS = {'review': Term(review, 1.0)}  # official code; its scripts have 0.6 to 8
