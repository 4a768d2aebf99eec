"""One program for one device, many devices or many hosts: a one-axis mesh.

A step is written for one device's slice of the batch, with collectives over `AXIS`, and mapped
by `jax.shard_map` or `jax.pmap` (in maintenance, and itself built on shard_map today).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.sharding import AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

AXIS = 'data'
MODES = ('shard_map', 'pmap')
PyTree = Any


def create_mesh(devices: list | None = None) -> Mesh:
  """A mesh of one axis, `AXIS`, over the given devices (default: all)."""
  devices = jax.devices() if devices is None else devices
  return jax.make_mesh((len(devices),), (AXIS,), devices=devices, axis_types=(AxisType.Auto,))


def replicate(tree: PyTree, mesh: Mesh) -> PyTree:
  """Puts the same arrays on every device of the mesh, in buffers of its own."""
  return jax.jit(lambda x: x, out_shardings=NamedSharding(mesh, P()))(tree)


def check_batch_size(batch_size: int, mesh: Mesh, field: str) -> None:
  """Raises ValueError if a global batch cannot be spread evenly over the mesh."""
  if batch_size < 1 or batch_size % mesh.size:
    raise ValueError(
        f'config.{field}={batch_size} cannot be spread evenly over {mesh.size} devices. Use a '
        f'multiple of {mesh.size}.')


def data_parallel(
    step: Callable, mesh: Mesh, *, mode: str = 'shard_map', donate_state: bool = False
) -> Callable:
  """Maps `step(constants, state, batch) -> outputs` over the devices of a mesh.

  Args:
    step: per-device function; `constants` and `state` are the same on every device, `batch`
      holds the device's slice, and everything that it returns must be the same on every device.
    mesh: from `create_mesh`.
    mode: 'shard_map' or 'pmap'.
    donate_state: the state's buffers are given up to the result.

  Returns:
    A function of `(constants, state, batch)`, `batch` being this process's part of the global
    batch as numpy arrays: a contiguous block, in the order of the processes.

  Raises:
    ValueError: unknown mode.
  """
  donate = (1,) if donate_state else ()
  if mode == 'shard_map':
    mapped = jax.jit(
        jax.shard_map(step, mesh=mesh, in_specs=(P(), P(), P(AXIS)), out_specs=P()),
        donate_argnums=donate)
    sharding = NamedSharding(mesh, P(AXIS))
    place = lambda x: jax.make_array_from_process_local_data(sharding, x)
  elif mode == 'pmap':
    mapped = jax.pmap(
        step, axis_name=AXIS, in_axes=(None, None, 0), out_axes=None,
        devices=list(mesh.devices.flat), donate_argnums=donate)
    local = len(mesh.local_devices)
    place = lambda x: np.reshape(x, (local, x.shape[0] // local, *x.shape[1:]))
  else:
    raise ValueError(f'config.parallel={mode!r} is unknown; expected one of {MODES}.')

  def run(constants, state, batch):
    return mapped(constants, state, jax.tree.map(place, batch))
  return run


def value_and_grad(function: Callable, *, axis_name: str | None) -> Callable:
  """`jax.value_and_grad(function, has_aux=True)` for replicated arguments inside a map.

  The gradient is that of the global loss, which `function` returns on every device: the mean of
  per-device losses, or one that its own collectives already made the same everywhere. The one
  place that knows the trap: under shard_map gradients of replicated values would arrive already
  summed, and those of an already invariant loss too small by the device count. Both differentiated
  argument and loss are therefore made device-varying, and the gradients averaged; right under
  shard_map (with and without check_vma) and under pmap.

  Args:
    function: `(params) -> (loss, aux)`.
    axis_name: the mapped axis, or None outside a map.
  """
  if axis_name is None:
    return jax.value_and_grad(function, has_aux=True)

  def varying_loss(params):
    loss, aux = function(params)
    return loss * lax.pcast(jnp.float32(1), axis_name, to='varying'), aux

  def wrapped(params):
    params = lax.pcast(params, axis_name, to='varying')
    (loss, aux), grads = jax.value_and_grad(varying_loss, has_aux=True)(params)
    return (lax.pmean(loss, axis_name), aux), lax.pmean(grads, axis_name)
  return wrapped
