"""What the user is told about programs that compile: that they do, how long, and how many."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import jax
from absl import logging

_MANY_SIZES = 5
PADDING_NOTE = 'which changes their results, by points of mIoU'


def announced(what: str, program: Callable, *arguments: Any) -> Any:
  """`program(*arguments)`, its first call: says that it compiles, and then how long that took.

  Args:
    what: that is compiled, e.g. 'the train step'.
    program: function of arrays; its results are waited for.
    *arguments: of the program.
  """
  logging.info('Compiling %s; this takes a while ...', what)
  start = time.perf_counter()
  result = jax.block_until_ready(program(*arguments))
  logging.info('Compiled %s, and ran it once, in %.1f s.', what, time.perf_counter() - start)
  return result


class Sizes:
  """The image sizes that a program was compiled for; warns once when they are many.

  Args:
    multiple: of which the sizes are made a multiple by padding, `config.eval.pad_multiple`; None
      where that is not done.
  """

  def __init__(self, multiple: int | None = 1):
    self._multiple, self._known = multiple, set()

  def is_first(self, size: tuple[int, ...]) -> bool:
    """Whether an image size, (height, width), is the first of all; counts it."""
    first, new = not self._known, size not in self._known
    self._known.add(size)
    if new and len(self._known) == _MANY_SIZES:
      logging.warning(
          'Images of %d sizes so far, and a program is compiled for each, which can take longer '
          'than running it.%s', _MANY_SIZES, self._advice())
    return first

  def _advice(self):
    if self._multiple is None:
      return ''
    larger = 32 if self._multiple < 32 else 4 * self._multiple
    return (f' --config.eval.pad_multiple={larger} makes the sizes few by padding images, '
            f'{PADDING_NOTE}; "--config.data.size=(height,width)" brings all to one by resizing, '
            'in training and evaluation alike.')
