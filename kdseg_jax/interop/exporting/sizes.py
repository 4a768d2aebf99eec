"""Which images an exported model takes."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.export
import jax.numpy as jnp

from kdseg_jax.errors import UserError

# To which sizes the models are restricted whose layers depend on whether a map's size is odd.
_MULTIPLE = 32


class Sizes(NamedTuple):
  """Which images an exported model takes.

  Attributes:
    batch: how many at once; None is any number.
    size: (height, width); None is any that are multiples of `multiple`.
    multiple: of height and width.
  """

  batch: int | None = None
  size: tuple[int, int] | None = None
  multiple: int = 1

  @classmethod
  def of(cls, description: dict[str, Any]) -> Sizes:
    """From `export.json`."""
    size = description['size']
    return cls(description['batch'], None if size is None else tuple(size),
               description['multiple'])

  def abstract(self) -> jax.ShapeDtypeStruct:
    """Images `(N, H, W, 3)` uint8, symbolic where they are free."""
    times = '' if self.multiple == 1 else f'{self.multiple}*'
    batch = 'batch' if self.batch is None else str(self.batch)
    height, width = self.size or (f'{times}height', f'{times}width')
    shape = jax.export.symbolic_shape(f'{batch}, {height}, {width}, 3')
    return jax.ShapeDtypeStruct(shape, jnp.uint8)

  def examples(self) -> list[tuple[int, int, int]]:
    """`(N, H, W)` on which a file is checked: two, where anything is free."""
    first, second = (64, 96), (96, 64) if self.multiple > 1 else (75, 90)
    first, second = (self.size or first), (self.size or second)
    return [(1, *first), (2, *second)] if self.batch is None else [(self.batch, *first)]

  def __str__(self) -> str:
    number = 'any number of images' if self.batch is None else f'{self.batch} image at once'
    if self.size:
      return f'{number}, of {self.size[0]}x{self.size[1]} pixels'
    if self.multiple > 1:
      return f'{number}, whose height and width are multiples of {self.multiple} pixels'
    return f'{number} of any size'


def attempts(size: tuple[int, int] | None, usual: tuple[int, int]) -> list[Sizes]:
  """What to try, the freest first.

  Args:
    size: (height, width) that is asked for; None is free.
    usual: in its place where free sizes cannot be exported.

  Raises:
    UserError: a size that is not positive.
  """
  if size is not None:
    if min(size) < 1:
      raise UserError(f'--size={size[0]},{size[1]}: expected height and width in pixels.')
    return [Sizes(size=size), Sizes(batch=1, size=size)]
  return [Sizes(), Sizes(multiple=_MULTIPLE), Sizes(size=usual), Sizes(batch=1, size=usual)]
