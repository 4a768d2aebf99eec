"""Parts of a student that stay as they are, named by the paths of their parameters."""

from __future__ import annotations

import fnmatch
from typing import Any

import flax.linen as nn
import jax
import optax
from jax import lax

from kdseg_jax import names
from kdseg_jax.errors import UserError
from kdseg_jax.models.normalization import BatchNorm

PyTree = Any


def matches(path: str, patterns: tuple[str, ...]) -> bool:
  """True if one of the patterns matches the whole path, case and all.

  Shell patterns (`fnmatch`) on paths such as 'backbone/stage1_block0/conv1/kernel'; `*` also stands
  for slashes, so that 'backbone/stage1*' is all of a stage.
  """
  return any(fnmatch.fnmatchcase(path, pattern) for pattern in patterns)


def check_patterns(patterns: tuple[str, ...], params: PyTree) -> None:
  """Raises ValueError if a pattern matches no parameter; names the nearest paths."""
  paths = _paths(params)
  modules = {'/'.join(path.split('/')[:depth]) for path in paths for depth in range(1, 9)}
  for pattern in patterns:
    if not any(matches(path, (pattern,)) for path in paths):
      raise UserError(
          f'config.train.freeze: {pattern!r} matches no parameter of the student.'
          f'{names.hint(pattern.rstrip("*/"), sorted(modules))} A pattern must match whole paths, '
          f"as '{paths[0].split('/')[0]}/*' does; they are in: "
          f'{", ".join(sorted({path.split("/")[0] for path in paths}))}.')


def freeze_optimizer(
    optimizer: optax.GradientTransformation, patterns: tuple[str, ...]
) -> optax.GradientTransformation:
  """The optimiser of `{'student', 'distiller'}`, with updates of 0 where the student is frozen.

  What is frozen is not decayed, does not count in the norm that is clipped, and has no momentum.
  """
  def label(path, _):
    group, _, rest = _name(path).partition('/')
    return 'frozen' if group == 'student' and matches(rest, patterns) else 'trained'
  return optax.multi_transform(
      {'trained': optimizer, 'frozen': optax.set_to_zero()},
      lambda params: jax.tree_util.tree_map_with_path(label, params))


class FrozenModel:
  """A model as the trainer sees it, of which parts are constants.

  No gradient is computed for parameters that match. A BatchNorm whose parameters all match works by
  its statistics also in training, and leaves them as they are: with the weights before it fixed
  too, a frozen part is one fixed function.

  Args:
    model: a model of `kdseg_jax.models`.
    patterns: see `matches`.
  """

  def __init__(self, model: nn.Module, patterns: tuple[str, ...]):
    self._model, self._patterns = model, patterns
    self.init = model.init

  def apply(self, variables: PyTree, *args, **kwargs):
    """As `model.apply`."""
    paths = _paths(variables['params'])
    params = jax.tree_util.tree_map_with_path(
        lambda path, x: lax.stop_gradient(x) if matches(_name(path), self._patterns) else x,
        variables['params'])

    def is_frozen(module):
      inside = '/'.join(module.path) + '/'
      return all(matches(path, self._patterns) for path in paths if path.startswith(inside))

    def hold_statistics(call, args, kwargs, context):
      if isinstance(context.module, BatchNorm) and is_frozen(context.module):
        return call(args[0], train=False)
      return call(*args, **kwargs)

    with nn.intercept_methods(hold_statistics):
      return self._model.apply({**variables, 'params': params}, *args, **kwargs)


def _paths(params):
  return [_name(path) for path, _ in jax.tree_util.tree_leaves_with_path(params)]


def _name(path):
  return jax.tree_util.keystr(path, simple=True, separator='/')
