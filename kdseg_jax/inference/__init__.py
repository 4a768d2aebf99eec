"""Trained models in other programs: `load` and what it returns.

Its attributes are imported when they are first asked for: `views` and `windows` serve the tasks,
which `model` and `evaluation` are above.
"""

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # what an editor or type checker sees
  from kdseg_jax.inference.model import Model, load
  from kdseg_jax.inference.views import Inference
  from kdseg_jax.tasks import Classification, Detections, Segmentation

__all__ = ['Classification', 'Detections', 'Inference', 'Model', 'Segmentation', 'load']
_HOMES = {'Classification': 'tasks', 'Detections': 'tasks', 'Segmentation': 'tasks',
          'Inference': 'inference.views', 'Model': 'inference.model', 'load': 'inference.model'}


def __getattr__(name):
  if name in _HOMES:
    return getattr(importlib.import_module(f'kdseg_jax.{_HOMES[name]}'), name)
  raise AttributeError(f'module {__name__!r} has no attribute {name!r}')


def __dir__():
  return sorted({*globals(), *__all__})
