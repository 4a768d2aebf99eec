"""The adjoint of a strided convolution as matrix products: transposed convolutions, gradients.

XLA writes it as a convolution of an image with zeros between its pixels. On CPU the derivative of
that with respect to the kernel reads a kernel backwards, for which there is nothing fast: of an
autoencoder's last layer 2.5 s where its forward pass takes 35 ms; gradient penalties take it too.
"""

from __future__ import annotations

import itertools

import jax
import jax.numpy as jnp

Array = jax.Array
Pair = tuple[int, int]


def transpose(y: Array, kernel: Array, strides: Pair, padding: Pair, size: Pair) -> Array:
  """What the convolution of an image with a kernel, transposed, makes of its result.

  `x[n, i s + a - p, j s + b - p, c] = sum over i, j, a, b, o of y[n, i, j, o] kernel[a, b, c, o]`:
  one matrix product, whose parts are shifted and added at each of the s x s phases of the image.

  Args:
    y: `(N, h, w, O)`; N may be symbolic.
    kernel: `(k, l, C, O)`.
    strides: of rows and columns.
    padding: of rows and columns, on both sides.
    size: (rows, columns) of the image.

  Returns:
    `(N, *size, C)`, in float32 at least.
  """
  batch, *sides, outputs = y.shape
  taps, channels = kernel.shape[:2], kernel.shape[2]
  matrix = kernel.transpose(3, 0, 1, 2).reshape(outputs, -1)
  products = jnp.matmul(y.reshape(-1, outputs), matrix,
                        preferred_element_type=jnp.promote_types(y.dtype, jnp.float32))
  products = products.reshape(batch, *sides, *taps, channels)
  # Tap a of y's pixel i reads pixel s (i + a // s) + a % s of the padded image.
  most = [(count - 1) // stride for count, stride in zip(taps, strides)]
  shape = (batch, *(side + more for side, more in zip(sides, most)), channels)
  phases = {phase: jnp.zeros(shape, products.dtype)
            for phase in itertools.product(*map(range, strides))}
  for tap in itertools.product(*map(range, taps)):
    later, phase = zip(*map(divmod, tap, strides))
    margins = [(shift, end - shift) for shift, end in zip(later, most)]
    phases[phase] += jnp.pad(products[:, :, :, *tap], ((0, 0), *margins, (0, 0)))
  rows = [jnp.stack([phases[row, column] for column in range(strides[1])], axis=3)
          for row in range(strides[0])]
  padded = jnp.stack(rows, axis=2).reshape(
      batch, *(side * stride for side, stride in zip(shape[1:3], strides)), channels)
  cut = [(-p, p_size - p_all + p, 0)
         for p, p_size, p_all in zip(padding, size, padded.shape[1:3])]
  return jax.lax.pad(padded, jnp.zeros((), padded.dtype), [(0, 0, 0), *cut, (0, 0, 0)])
