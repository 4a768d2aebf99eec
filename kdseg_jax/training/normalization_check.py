"""Refuses batches in which a BatchNorm would see one value a channel."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.sharding import Mesh
from jax.sharding import PartitionSpec as P
from ml_collections import ConfigDict

from kdseg_jax.distillers import core
from kdseg_jax.distillers.core import DistillInputs
from kdseg_jax.errors import UserError


def check_normalization(
    config: ConfigDict, mesh: Mesh, student: Any, distiller: Any, inputs: DistillInputs) -> None:
  """Checks that every BatchNorm which trains has two values a channel to normalise.

  Of one value the variance is 0 and the result is the bias alone, whatever the image: training
  goes on without that branch, the running variance shrinks to 0, and the model predicts at chance
  when it is evaluated. It takes one image on all devices together and a map of one pixel, as image
  pooling makes it. Models see micro-batches (`config.train.accumulate`), methods whole batches.

  Args:
    config: of the run.
    mesh: devices, over which the statistics are synchronised.
    student: the model that is trained.
    distiller: the method.
    inputs: shapes of what the method reads, of a whole batch.

  Raises:
    UserError: says which layer, and what to do.
  """
  images = config.train.batch_size // config.train.accumulate
  if images == 1:  # two images are two values
    batch = {name: jax.ShapeDtypeStruct((1, *x.shape[1:]), x.dtype)
             for name, x in inputs.batch.items()}
    variables = jax.eval_shape(lambda image: student.init(
        {'params': jax.random.key(0)}, jnp.zeros(image.shape, image.dtype)), batch['image'])
    _check(config, mesh, f'the student {config.student.name}', lambda v, b: student.apply(
        v, b['image'], mask=b['mask'], index=b['index'], train=True, mutable=['batch_stats'],
        rngs={'dropout': jax.random.key(0)}), variables, batch)
  if config.train.batch_size == 1:
    state = jax.eval_shape(
        lambda prepared: core.create_state(distiller, jax.random.key(0), inputs, prepared),
        core.abstract_prepared(distiller, inputs))
    _check(config, mesh, f'method={config.method}', distiller.loss, state, inputs)


def _check(config, mesh, owner, function, *arguments):
  alone = [path for path, values in _batch_norms(function, mesh, *arguments) if values == 1]
  if alone:
    raise UserError(
        f'config.train.batch_size={config.train.batch_size} and config.train.accumulate='
        f'{config.train.accumulate} leave one image to a (micro-)batch, of which the BatchNorm '
        f'{alone[0]} of {owner} sees one value a channel: its variance would be 0, and the '
        'trained model useless. Make batch_size / accumulate at least 2, or take what does not '
        'pool a whole map to one pixel (a model espnet_*, a larger crop for a method).')


def _batch_norms(function: Callable, mesh: Mesh, *arguments: Any) -> list[tuple[str, int]]:
  """Path of every BatchNorm that computes statistics in a mapped function, and of how many values.

  The function is shaped, not run.
  """
  found = []

  def record(call, args, kwargs, context):
    module = context.module
    if isinstance(module, nn.BatchNorm) and not module.use_running_average:
      found.append(('/'.join(module.path), math.prod(args[0].shape[:-1])))
    return call(*args, **kwargs)

  with nn.intercept_methods(record):
    jax.eval_shape(jax.shard_map(
        function, mesh=mesh, in_specs=P(), out_specs=P(), check_vma=False), *arguments)
  return found
