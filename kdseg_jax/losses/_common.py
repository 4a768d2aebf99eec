"""What the losses share: input checks, precision, masked means across devices, normalisation."""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

NORMS = ('add_eps', 'clamp')
_STRIDES = (2, 4, 8, 16, 32)  # of maps against labels
_SLACK = 1e-4  # that rounding may take an overlap, or half precision a probability, beyond 1


def as_numbers(*arrays) -> list[jax.Array]:
  """The arrays in float32, or in float64 if one of them is: reductions in less lose digits.

  ValueError if one is complex.
  """
  converted = [jnp.asarray(x) for x in arrays]
  dtype = jnp.promote_types(jnp.float32, jnp.result_type(*converted))
  if not jnp.issubdtype(dtype, jnp.floating):
    raise ValueError(f'Expected real numbers, got {dtype}.')
  return [x.astype(dtype) for x in converted]


def as_float(loss: str, *arrays) -> list[jax.Array]:
  """As `as_numbers`, of floats of any width alone, or ValueError: integers have no gradient."""
  for dtype in (jnp.asarray(x).dtype for x in arrays):
    if not jnp.issubdtype(dtype, jnp.floating):
      raise ValueError(
          f'{loss} takes logits or scores of a float dtype, got {dtype}. Give what the model '
          'computes, not labels or masks.')
  return as_numbers(*arrays)


def as_features(loss: str, *arrays) -> list[jax.Array]:
  """As `as_numbers`, of arrays that have elements, or ValueError: nothing is learned from none."""
  for shape in map(np.shape, arrays):
    if 0 in shape:
      raise ValueError(f'{loss} takes arrays that have elements, got shape {shape}.')
  return as_numbers(*arrays)


def as_logits(loss: str, *arrays) -> list[jax.Array]:
  """As `as_features` of `as_float`."""
  return as_features(loss, *as_float(loss, *arrays))


def check_choice(name: str, value: str, choices: tuple[str, ...]) -> None:
  """Raises ValueError unless `value` is one of `choices`."""
  if value not in choices:
    raise ValueError(f'{name}={value!r} is unknown; expected one of {choices}.')


def check_positive(name: str, value) -> None:
  """Raises ValueError unless `value` is one finite number above 0; the value of tracers passes."""
  number = _number_of(name, value)
  if number is not None and not 0 < number < math.inf:
    raise ValueError(f'{name}={value} must be positive{" and finite" * (number == math.inf)}.')


def check_range(name: str, value, low: float, high: float = math.inf) -> None:
  """As `check_positive`, of a finite number in [low, high]."""
  number = _number_of(name, value)
  if number is not None and not (low <= number <= high and number < math.inf):
    end = f'{high})' if high == math.inf else f'{high}]'
    raise ValueError(f'{name}={value} must be in [{low}, {end}.')


def _number_of(name, value):
  """The number that `value` is, None if it is traced; ValueError if it is none or several."""
  if isinstance(value, (int, float)) and not isinstance(value, bool):
    return value
  traced = isinstance(value, jax.core.Tracer)
  array = value if traced else np.asarray(value)
  real = any(jnp.issubdtype(array.dtype, kind) for kind in (jnp.integer, jnp.floating))
  if array.shape != () or not real:
    raise ValueError(f'{name}={value!r} must be a number.')
  return None if traced else float(array)


def check_probabilities(loss: str, values: jax.Array) -> None:
  """Raises ValueError if targets, where they are known, leave [0, 1]; tracers pass."""
  if isinstance(values, jax.core.Tracer):
    return
  known = np.asarray(values)
  if np.any((known < -_SLACK) | (known > 1 + _SLACK)):
    raise ValueError(
        f'{loss} takes targets in [0, 1], got {known.min():g} to {known.max():g}. Of logits take '
        'the sigmoid, of class numbers jax.nn.one_hot.')


def as_mask(where, shape: tuple[int, ...]) -> jax.Array:
  """`where` as bool, or ValueError unless it has exactly this shape.

  It is bool, or, where its values are known, all of them are 0 or 1.
  """
  where = jnp.asarray(where)
  if where.shape != shape:
    raise ValueError(f'where must have the leading axes {shape}, got {where.shape}.')
  if where.dtype != bool and (
      isinstance(where, jax.core.Tracer) or not np.isin(np.asarray(where), (0, 1)).all()):
    raise ValueError(f'where must be bool, got {where.dtype}: a mask has no weights. Compare what '
                     'it is made of, as in labels != 255.')
  return where.astype(bool)


def as_labels(loss: str, labels) -> jax.Array:
  """Labels as int32, or ValueError unless they are integers."""
  labels = jnp.asarray(labels)
  if not jnp.issubdtype(labels.dtype, jnp.integer):
    raise ValueError(f'{loss} takes integer labels, got {labels.dtype}.')
  return labels.astype(jnp.int32)  # a uint8 cannot be compared with 256 classes or with -1


def check_classes(loss: str, shape: tuple[int, ...]) -> None:
  """Raises ValueError if logits `(..., C)` have less than two classes.

  The softmax over one class is 1 whatever its logit: a loss of 0 that teaches nothing.
  """
  if not shape or shape[-1] < 2:
    raise ValueError(
        f'{loss} takes logits (..., C) of at least 2 classes, got {shape}. A class and its '
        'background are two classes; channels go last.')


def check_channels_last(loss: str, maps: tuple[int, ...], labels: tuple[int, ...]) -> None:
  """Raises ValueError if the labels' shape tells that maps `(N, h, w, C)` are `(N, C, h, w)`.

  They are taken for channels first if their last two axes are

  - the labels' (H, W), and the two in the middle are not (H, W) over one whole number; or
  - (H, W) over 2, 4, 8, 16 or 32, rounded up, and the two in the middle are not (H, W) over any
    one factor, however rounded.

  So nothing is refused that reads as channels last: square maps of as many channels as columns,
  or labels that are larger by one factor.

  Args:
    loss: name in the message.
    maps: shape of logits or features.
    labels: shape `(N, H, W)` of the labels that they are compared with.
  """
  if len(maps) != 4 or len(labels) != 3:
    return
  size = labels[1:]
  over = lambda factor: tuple(-(-side // factor) for side in size)
  if maps[2:] == size:
    last = any(maps[1:3] in (over(factor), tuple(side // factor for side in size))
               for factor in range(1, max(size) + 1))
  else:
    last = maps[2:] not in map(over, _STRIDES) or _one_factor(maps[1:3], size)
  if not last:
    raise ValueError(
        f'{loss} takes maps (N, h, w, C), channels last; {maps} with labels {labels} are '
        '(N, C, h, w). Use jnp.moveaxis(x, 1, -1).')


def layout_hint(*shapes: tuple[int, ...]) -> str:
  """The end of a message about shapes that differ, where they would agree as `(N, C, H, W)`."""
  agree = all(len(shape) == 4 for shape in shapes) and len(
      {(shape[0], *shape[2:]) for shape in shapes}) == 1
  return ' They look like (N, C, H, W); channels go last: jnp.moveaxis(x, 1, -1).' * agree


def as_maps(
    loss: str,
    student: jax.Array,
    teacher: jax.Array,
    where: jax.Array | None,
    *,
    same_width: bool = False,
) -> tuple[jax.Array, jax.Array, jax.Array | None]:
  """Floats, the teacher stopped, and the mask, or ValueError unless all fit each other."""
  student, teacher = as_features(loss, student, lax.stop_gradient(teacher))
  if student.shape[:-1] != teacher.shape[:-1] or student.ndim < 2:
    raise ValueError(
        f'{loss} takes features (N, H, W, C) of the same N, H and W, got student {student.shape} '
        f'and teacher {teacher.shape}; resize one first (losses.resize_bilinear).'
        + layout_hint(student.shape, teacher.shape))
  if same_width and student.shape[-1] != teacher.shape[-1]:
    raise ValueError(
        f'{loss} takes features of the same width, got student {student.shape} and teacher '
        f'{teacher.shape}; project the student first (a 1x1 convolution).')
  return student, teacher, None if where is None else as_mask(where, student.shape[:-1])


def _one_factor(small: tuple[int, int], large: tuple[int, int]) -> bool:
  """Whether one factor makes a size the other, if each side may be off by less than one pixel."""
  low = max(b / (a + 1) for a, b in zip(small, large))
  high = min(b / (a - 1) if a > 1 else np.inf for a, b in zip(small, large))
  return low < high


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
  return _over_devices(total, count, axis_name)


def masked_mean(
    values: jax.Array, where: jax.Array | None, axis_name: str | None
) -> jax.Array:
  """psum(sum) / psum(count): the global mean, also of unequal counts; 0 if nothing counts."""
  return _ratio(*masked_sum(values, where, axis_name))


def mean_of(total: jax.Array, count: jax.Array | int, axis_name: str | None) -> jax.Array:
  """As `masked_mean`, of one device's sum and how many it is of."""
  return _ratio(*_over_devices(total, count, axis_name))


def _over_devices(total, count, axis_name):
  """Both, summed over the devices of `axis_name`."""
  if axis_name is None:
    return total, count
  return lax.psum(total, axis_name), lax.psum(count, axis_name)


def _ratio(total, count):
  if isinstance(count, int):
    return total / float(max(count, 1))  # as an int it may exceed int32
  return total / jnp.maximum(count, 1).astype(total.dtype)


def products(equation: str, *arrays: jax.Array) -> jax.Array:
  """`jnp.einsum` at the highest precision: similarities and their differences need it."""
  return jnp.einsum(equation, *arrays, precision=lax.Precision.HIGHEST)


def length_of(x: jax.Array, axis: int = -1) -> tuple[jax.Array, jax.Array]:
  """`(|x|, is_zero)` along an axis that is kept; what is 0 has length 1, a constant.

  The root has no gradient at 0. A square below the smallest normal number of the dtype counts as 0.
  """
  squared = jnp.sum(x * x, axis=axis, keepdims=True)
  is_zero = squared < jnp.finfo(x.dtype).tiny
  return jnp.sqrt(jnp.where(is_zero, 1, squared)), is_zero


def safe_normalize(
    x: jax.Array, *, eps: float, norm: str = 'add_eps', norm_gradient: bool = True, axis: int = -1
) -> jax.Array:
  """Vectors of unit length along an axis; a zero vector stays 0, with zero gradient.

  `x / (|x| + eps)` ('add_eps') or `x / max(|x|, eps)` ('clamp'). The derivative at exactly 0 would
  be 1 / eps, a spike of 1e8 on features that a ReLU has switched off: it is taken as 0.

  Args:
    x: floats.
    eps: positive; bounds the gradient of short vectors.
    norm: how eps guards the norm, see above.
    norm_gradient: False treats the norm as a constant in the gradient.
    axis: along which the vectors lie.
  """
  length, is_zero = length_of(x, axis)
  if not norm_gradient:
    length = lax.stop_gradient(length)
  divisor = length + eps if norm == 'add_eps' else jnp.maximum(length, eps)
  return jnp.where(is_zero, 0, x) / divisor


def spread_weights(weights, shape: tuple[int, ...]) -> jax.Array:
  """Weights of the leading axes for each element of the last: arrays of `shape`.

  Raises:
    ValueError: the weights do not have the leading axes.
  """
  weights = jnp.asarray(weights)
  if weights.shape != shape[:-1]:
    raise ValueError(f'weights must have the leading axes {shape[:-1]}, got {weights.shape}.')
  return jnp.broadcast_to(weights[..., None], shape)


def where_weighted(weights, *arrays: jax.Array) -> list[jax.Array]:
  """Arrays `(..., D)` with 0 in rows of weight 0: what is there reaches neither sum nor gradient.

  Raises:
    ValueError: the weights do not have the leading axes.
  """
  if weights is None:
    return list(arrays)
  return [jnp.where(spread_weights(weights, x.shape) != 0, x, 0) for x in arrays]


def weighted_sum(values: jax.Array, weights, normalizer, axis_name: str | None) -> jax.Array:
  """`sum(weights * values) / normalizer` over one device or all devices of `axis_name`.

  A normalizer that is an array of 0 counts as 1: nothing has a weight then, and the sum is 0.

  Raises:
    ValueError: the normalizer is a plain number that is not positive, or a negative array.
  """
  if not isinstance(normalizer, (np.ndarray, jax.Array)):
    check_positive('normalizer', normalizer)
  elif (_number_of('normalizer', normalizer) or 0) < 0:
    raise ValueError(f'normalizer={normalizer} must be positive.')
  if weights is not None:
    values = values * jnp.asarray(weights).astype(values.dtype)
  total = jnp.sum(values)
  if axis_name is not None:
    total = lax.psum(total, axis_name)
  normalizer = jnp.asarray(normalizer, total.dtype)
  return total / jnp.where(normalizer == 0, 1, normalizer)
