"""A distiller, and what is none."""

import jax.numpy as jnp

from kdseg_jax import distillers
from kdseg_jax.distillers import core

NOTHING_TO_CALL = 3


@distillers.declare(small={'power': 1})
def my_term(*, power: int = 2, tap: str = 'logits', levels: tuple[int, ...] = (1,),
            axis_name: str | None = None):
  """The difference of two taps, to a power."""
  del levels, axis_name
  return core.comparing(
      lambda student, teacher: jnp.mean(jnp.abs(student - teacher) ** power), tap, tap)


def kd(*, temperature: float):
  """Named as one of ours; its option has no default."""
  return distillers.kd(temperature=temperature)


def doubled(distiller, *, factor: float = 2.0):
  """Wraps all other terms."""
  return distillers.combine({'inside': (factor, distiller)})


def no_distiller():
  """Returns something else."""
  return 3
