"""What the losses share: input checks, precision, masked means across devices, normalisation."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

NORMS = ('add_eps', 'clamp')


def as_float(*arrays) -> list[jax.Array]:
  """The arrays in float32, or in float64 if one of them is: reductions in less lose digits."""
  converted = [jnp.asarray(x) for x in arrays]
  dtype = jnp.promote_types(jnp.float32, jnp.result_type(*converted))
  return [x.astype(dtype) for x in converted]


def check_choice(name: str, value: str, choices: tuple[str, ...]) -> None:
  """Raises ValueError unless `value` is one of `choices`."""
  if value not in choices:
    raise ValueError(f'{name}={value!r} is unknown; expected one of {choices}.')


def check_positive(name: str, value) -> None:
  """Raises ValueError if `value` is a plain number that is not positive; tracers pass."""
  if isinstance(value, (int, float, np.number)) and not value > 0:
    raise ValueError(f'{name}={value} must be positive.')


def as_mask(where, shape: tuple[int, ...]) -> jax.Array:
  """`where` as bool, or ValueError unless it has exactly this shape."""
  where = jnp.asarray(where)
  if where.shape != shape:
    raise ValueError(f'where must have the leading axes {shape}, got {where.shape}.')
  return where.astype(bool)


def as_labels(loss: str, labels) -> jax.Array:
  """Labels as int32, or ValueError unless they are integers."""
  labels = jnp.asarray(labels)
  if not jnp.issubdtype(labels.dtype, jnp.integer):
    raise ValueError(f'{loss} takes integer labels, got {labels.dtype}.')
  return labels.astype(jnp.int32)  # a uint8 cannot be compared with 256 classes or with -1


def valid_labels(labels: jax.Array, num_classes: int, ignore_label: int) -> jax.Array:
  """Bool: a label in [0, num_classes) that is not `ignore_label`."""
  return (labels != ignore_label) & (labels >= 0) & (labels < num_classes)


def masked_sum(
    values: jax.Array, where: jax.Array | None, axis_name: str | None
) -> tuple[jax.Array, jax.Array | int]:
  """Sum of the values and how many they are, over one device or all devices of `axis_name`.

  The mask must have the shape of the values. Masked values do not reach the sum, even if NaN; a
  caller whose gradient they must not reach either masks its inputs too.
  """
  if where is None:
    total = jnp.sum(values)
    count: jax.Array | int = values.size
  else:
    total = jnp.sum(jnp.where(where, values, 0))
    count = jnp.sum(where, dtype=jnp.int32)  # float32 would lose pixels above 2**24
  if axis_name is None:
    return total, count
  return lax.psum(total, axis_name), lax.psum(count, axis_name)


def masked_mean(
    values: jax.Array, where: jax.Array | None, axis_name: str | None
) -> jax.Array:
  """psum(sum) / psum(count): the global mean, also of unequal counts; 0 if nothing counts."""
  total, count = masked_sum(values, where, axis_name)
  if isinstance(count, int):
    return total / float(max(count, 1))  # as an int it may exceed int32
  return total / jnp.maximum(count, 1).astype(total.dtype)


def products(equation: str, *arrays: jax.Array) -> jax.Array:
  """`jnp.einsum` at the highest precision: similarities and their differences need it."""
  return jnp.einsum(equation, *arrays, precision=lax.Precision.HIGHEST)


def safe_normalize(
    x: jax.Array, *, eps: float, norm: str = 'add_eps', norm_gradient: bool = True
) -> jax.Array:
  """Rows of unit length along the last axis; a zero row stays 0, with zero gradient.

  `x / (|x| + eps)` ('add_eps') or `x / max(|x|, eps)` ('clamp'). The derivative at exactly 0 would
  be 1 / eps, a spike of 1e8 on features that a ReLU has switched off: it is taken as 0.

  Args:
    x: floats `(..., D)`.
    eps: positive; bounds the gradient of short rows.
    norm: how eps guards the norm, see above.
    norm_gradient: False treats the norm as a constant in the gradient.
  """
  squared = jnp.sum(x * x, axis=-1, keepdims=True)
  is_zero = squared < jnp.finfo(x.dtype).tiny
  length = jnp.sqrt(jnp.where(is_zero, 1, squared))
  if not norm_gradient:
    length = lax.stop_gradient(length)
  divisor = length + eps if norm == 'add_eps' else jnp.maximum(length, eps)
  return jnp.where(is_zero, 0, x) / divisor
