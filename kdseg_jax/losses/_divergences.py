"""KL between the similarities of many rows to many columns, a block of rows at a time."""

from __future__ import annotations

import functools
import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from kdseg_jax import target_platform
from kdseg_jax.losses import _common

# Similarities held at a time where the caller names no block size, of which a handful live at once.
# On the CPU 4 MB in float32, which stay in its caches; elsewhere 16, for fewer and larger products.
_BLOCK_ENTRIES, _BLOCK_ENTRIES_CPU = 1 << 22, 1 << 20


class _Plan(NamedTuple):
  """How many rows are taken at a time, and whether the student's columns receive a gradient."""

  block_size: int
  learned_columns: bool


def total(
    rows: tuple[jax.Array, jax.Array],
    columns: tuple[jax.Array, jax.Array],
    *,
    scale: jax.Array | float,
    where: jax.Array | None = None,
    learned_columns: bool,
    block_size: int | None = None,
) -> jax.Array:
  """Sum over rows of KL(teacher || student), averaged over groups of columns.

  `sum over rows r of 1 / G * sum over groups g of KL(p_t[r, g] || p_s[r, g])`,
  `p_s[r, g] = softmax over n of (scale * row_s[r] . column_s[g, n])`, p_t likewise. Rows that are 0
  in both add 0, with zero gradient.

  The gradient, `p_s - p_t` times columns and rows, is found in the same pass over the similarities
  as the value, so that they are neither kept nor computed twice. There is no forward-mode
  derivative.

  Args:
    rows: of student and teacher, `(M, D)` and `(M, E)`; the teacher's receive no gradient.
    columns: of student and teacher, `(G, n, D)` and `(G, n, E)`; likewise.
    scale: of the dot products; receives no gradient.
    where: bool `(n,)`, False leaves a column out of the softmax; None is all True.
    learned_columns: False where the student's columns need no gradient: they receive none.
    block_size: rows at a time; None chooses.

  Returns:
    Scalar of the dtype of the rows.
  """
  student, teacher = rows
  if block_size is None:
    entries = _BLOCK_ENTRIES_CPU if target_platform.current() == 'cpu' else _BLOCK_ENTRIES
    block_size = max(1, entries // math.prod(columns[0].shape[:2]))
  scale = lax.stop_gradient(scale)
  return _total(_Plan(min(block_size, len(student)), learned_columns), scale * student,
                columns[0], scale * teacher, columns[1], where)


class _Softmax(NamedTuple):
  """Of a block of rows over the columns of each group, `(m, G, n)`.

  With these one exponential an entry serves value and gradient, where log-probabilities take two.

  Attributes:
    logits: less their largest.
    probabilities: `(m, G, n)`.
    log_total: of the exponentials of the logits, `(m, G, 1)`.
  """

  logits: jax.Array
  probabilities: jax.Array
  log_total: jax.Array


def _value(plan, student, columns, teacher, teacher_columns, where):
  """The sum alone."""
  softmax = _softmax_of(columns, teacher_columns, where)

  def block(_, part):
    return None, _divergence(*softmax(*part))

  _, values = lax.scan(block, None, _blocks(plan, student, teacher))
  return jnp.sum(values)


def _value_and_gradients(plan, student, columns, teacher, teacher_columns, where):
  """The sum, and its gradients with respect to the student's rows and columns."""
  softmax = _softmax_of(columns, teacher_columns, where)
  flat = columns.reshape(-1, columns.shape[-1])

  def block(columns_gradient, part):
    own, (of_student, of_teacher) = part[0], softmax(*part)
    difference = (of_student.probabilities - of_teacher.probabilities) / len(columns)
    difference = difference.reshape(len(own), -1)
    if plan.learned_columns:  # transposed, as the other order would transpose every difference
      columns_gradient += _common.products('md,mk->dk', own, difference)
    gradient = _common.products('mk,kd->md', difference, flat)
    return columns_gradient, (_divergence(of_student, of_teacher), gradient)

  start = lax.full_like(flat.T, 0) if plan.learned_columns else None
  columns_gradient, (values, gradients) = lax.scan(block, start, _blocks(plan, student, teacher))
  gradients = gradients.reshape(-1, student.shape[-1])[:len(student)]
  if plan.learned_columns:
    columns_gradient = columns_gradient.T.reshape(columns.shape)
  return jnp.sum(values), (gradients, columns_gradient)


def _scaled_gradients(plan, gradients, cotangent):
  del plan
  rows, columns = gradients
  scaled = None if columns is None else cotangent * columns
  return cotangent * rows, scaled, None, None, None


_total = functools.partial(jax.custom_vjp, nondiff_argnums=(0,))(_value)
_total.defvjp(_value_and_gradients, _scaled_gradients)


def _blocks(plan, *arrays):
  """Each array in blocks of rows, filled up with zeros."""
  def split(x):
    missing = -len(x) % plan.block_size
    x = jnp.pad(x, [(0, missing)] + [(0, 0)] * (x.ndim - 1))
    return x.reshape(-1, plan.block_size, *x.shape[1:])

  return tuple(map(split, arrays))


def _softmax_of(columns, teacher_columns, where):
  """Function from blocks of rows of student and teacher to the `_Softmax` of each."""
  groups = columns.shape[:2]
  # Transposed once here: in the loop XLA would do so for every block.
  transposed = [x.reshape(-1, x.shape[-1]).T for x in (columns, teacher_columns)]

  def softmax(rows, columns):
    logits = _common.products('md,dk->mk', rows, columns).reshape(-1, *groups)
    if where is not None:  # finite, so that a softmax over nothing is no NaN
      logits = jnp.where(where, logits, jnp.finfo(logits.dtype).min)
    logits -= jnp.max(logits, axis=-1, keepdims=True)
    exponentials = jnp.exp(logits)
    total = jnp.sum(exponentials, axis=-1, keepdims=True)
    return _Softmax(logits, exponentials / total, jnp.log(total))

  return lambda *rows: tuple(map(softmax, rows, transposed))


def _divergence(student, teacher):
  """Sum over rows of the mean KL over groups, of two `_Softmax`."""
  log_ratio = teacher.logits - student.logits - (teacher.log_total - student.log_total)
  return jnp.sum(teacher.probabilities * log_ratio) / student.logits.shape[1]
