"""kdseg_jax: knowledge distillation of dense prediction as pure, composable functions.

`kdseg_jax.losses`, `.distillers`, `.models` and the other parts are imported when they are first
asked for, and so are `kdseg_jax.load` and `.Model`: importing `kdseg_jax` costs nothing.

>>> import kdseg_jax
>>> float(kdseg_jax.losses.wasserstein_critic([1.0, 3.0], [0.5, 0.5]))
-1.5
"""

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # what an editor or type checker sees
  from kdseg_jax import (
      data,
      distillers,
      host_memory,
      inference,
      losses,
      metrics,
      models,
      recipes,
      tasks,
  )
  from kdseg_jax.inference import Model, load

__version__ = '0.2.0'

__all__ = ['Model', 'data', 'distillers', 'host_memory', 'inference', 'load', 'losses', 'metrics',
           'models', 'recipes', 'tasks']
_OF_INFERENCE = ('Model', 'load')


def __getattr__(name):
  if name in _OF_INFERENCE:
    return getattr(importlib.import_module(f'{__name__}.inference'), name)
  if name in __all__:
    return importlib.import_module(f'{__name__}.{name}')
  raise AttributeError(f'module {__name__!r} has no attribute {name!r}')


def __dir__():
  return sorted({*globals(), *__all__})
