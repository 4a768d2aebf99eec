"""Distillation of the class distribution of every pixel."""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
from jax import lax

from kdseg_jax.losses import _common

FORMS = ('kl', 'cross_entropy')
REDUCTIONS = ('mean', 'sum_over_batch')


def pixelwise_kl(
    student: jax.Array,
    teacher: jax.Array,
    *,
    temperature: float = 1.0,
    where: jax.Array | None = None,
    form: str = 'kl',
    reduction: str = 'mean',
    axis_name: str | None = None,
) -> jax.Array:
  """KL(teacher || student) of the class distributions, averaged over pixels, times T**2.

  `T**2 * mean over pixels of sum over c of p_t[c] * (log p_t[c] - log p_s[c])`,
  `p_s = softmax(student / T)`, `p_t = softmax(teacher / T)`

  Args:
    student: logits `(N, H, W, C)`, or any `(..., C)`, before upsampling.
    teacher: logits of the same shape; no gradient flows into them.
    temperature: T > 0, divides both logits.
    where: bool `(N, H, W)` (the leading axes), True where a pixel counts; None counts all. Values
      at masked pixels are irrelevant, even NaN.
    form: 'kl', or 'cross_entropy', which leaves out the teacher's entropy `p_t * log p_t`: the
      same gradient, another value.
    reduction: 'mean' over the pixels that count, or 'sum_over_batch': the sum over batch and
      pixels, divided by the number of pixels of one image (masked or not), so that it grows with
      the batch.
    axis_name: mapped axis over which the batch is spread: mean or sum over all devices.

  Returns:
    float32 scalar (float64 for float64 logits); 0 with zero gradient if all pixels are masked.

  Raises:
    ValueError: shapes differ, C is 1, or an option is unknown.

  Reference: Liu et al., "Structured Knowledge Distillation for Semantic Segmentation" (CVPR 2019),
  eq. 1; T**2 as in Hinton et al., "Distilling the Knowledge in a Neural Network" (2015). Where
  official codes differ: SKD's (journal) is `form='cross_entropy', reduction='sum_over_batch'`, so
  that its weight of 10 at batch 8 acts like 80 on the mean of the paper; SKD's (CVPR) upsamples
  both logits by 8 and averages over classes too (1/C of the mean); CIRKD's is the default here.
  All of them include ignored pixels.
  """
  _common.check_choice('form', form, FORMS)
  _common.check_choice('reduction', reduction, REDUCTIONS)
  _common.check_positive('temperature', temperature)
  student, teacher = _common.as_logits('pixelwise_kl', student, lax.stop_gradient(teacher))
  if student.shape != teacher.shape:
    raise ValueError(
        'pixelwise_kl takes student and teacher logits of the same shape, got '
        f'{student.shape} and {teacher.shape}; resize one first (losses.resize_bilinear).')
  _common.check_classes('pixelwise_kl', student.shape)
  return divergence(student, teacher, temperature=temperature, where=where, form=form,
                    reduction=reduction, axis_name=axis_name)


def divergence(student, teacher, *, temperature=1.0, where=None, form='kl', reduction='mean',
               axis_name=None):
  """`pixelwise_kl` of floats whose last axis may be anything, a single pixel too."""
  if where is not None:
    where = _common.as_mask(where, student.shape[:-1])
    student = jnp.where(where[..., None], student, 0)
    teacher = jnp.where(where[..., None], teacher, 0)

  student = jax.nn.log_softmax(student / temperature, axis=-1)
  teacher = jax.nn.log_softmax(teacher / temperature, axis=-1)
  terms = teacher - student if form == 'kl' else -student
  # A class that the teacher excludes (logit -inf) adds 0, not 0 * inf.
  terms = jnp.where(jnp.isneginf(teacher), 0, jnp.exp(teacher) * terms)
  values = jnp.sum(terms, axis=-1)
  if reduction == 'mean':
    loss = _common.masked_mean(values, where, axis_name)
  else:
    total, _ = _common.masked_sum(values, where, axis_name)
    loss = total / math.prod(values.shape[1:])
  return temperature**2 * loss
