"""One program for one device, many devices or many hosts: a one-axis mesh.

A step is written for one device's slice of the batch, with collectives over `AXIS`, and mapped
by `jax.shard_map` or `jax.pmap` (in maintenance, and itself built on shard_map today).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.sharding import AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from kdseg_jax.errors import UserError

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


def with_sharding(tree: PyTree, mesh: Mesh) -> PyTree:
  """ShapeDtypeStructs of a tree that is to be the same on every device."""
  sharding = NamedSharding(mesh, P())
  return jax.tree.map(
      lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding), tree)


def check_batch_size(batch_size: int, mesh: Mesh, field: str) -> None:
  """Raises ValueError if a global batch cannot be spread evenly over the mesh."""
  if batch_size < 1 or batch_size % mesh.size:
    raise UserError(
        f'config.{field}={batch_size} cannot be spread evenly over {mesh.size} devices. Use a '
        f'multiple of {mesh.size}.')


class Costs(NamedTuple):
  """What a compiled program takes of a device, as XLA counts.

  Attributes:
    flops: operations, 2 of a multiply-add; of calls into libraries XLA may know none.
    bytes: read and written by all operations, those that stay in caches too.
    peak_bytes: memory for arguments, results and temporaries.
  """

  flops: float
  bytes: float
  peak_bytes: int


class Program:
  """A step that is mapped over the devices of a mesh; compiled once for each shape of the batch.

  Called as `program(constants, state, batch)`. Numpy arrays of the batch are this process's part
  of the global batch, a contiguous block in the order of the processes; arrays that are on the
  devices already (`place`, or the sharded result of another program) are taken as they are.

  Args:
    mapped: the jitted map of the step.
    place: puts one numpy array of the batch on the devices.
    placed: one ShapeDtypeStruct of the global batch as it will be there.
    mesh: of the devices.
  """

  def __init__(self, mapped: Callable, place: Callable, placed: Callable, mesh: Mesh):
    self._mapped, self._place, self._placed, self._mesh = mapped, place, placed, mesh
    self._lowered = {}

  def trace(self, constants: PyTree, state: PyTree, batch: PyTree) -> None:
    """Traces the step for arguments of these shapes; a call with such does not trace it again.

    Args:
      constants: as the program is called with, of arrays or ShapeDtypeStructs.
      state: likewise.
      batch: the global batch, likewise.
    """
    constants, state = with_sharding((constants, state), self._mesh)
    jax.eval_shape(self._mapped, constants, state, jax.tree.map(self._placed, batch))

  def place(self, batch: PyTree) -> PyTree:
    """The batch on the devices, for several programs of the same mesh and mode to read."""
    return jax.tree.map(lambda x: x if isinstance(x, jax.Array) else self._place(x), batch)

  def __call__(self, constants: PyTree, state: PyTree, batch: PyTree) -> PyTree:
    batch = self.place(batch)
    shapes = tuple((x.shape, x.dtype) for x in jax.tree.leaves(batch))
    if shapes not in self._lowered:
      self._lowered[shapes] = self._mapped.lower(constants, state, batch)
    return self._mapped(constants, state, batch)

  def costs(self) -> Costs:
    """Those of the compiled form for the latest shapes of the batch; call the program first."""
    found = self._latest().cost_analysis() or {}
    return Costs(found.get('flops', 0.0), found.get('bytes accessed', 0.0), self.peak_bytes())

  def hlo(self) -> str:
    """The text of the compiled form that `costs` is of."""
    return self._latest().as_text()

  def _latest(self):
    *_, lowered = self._lowered.values()
    return lowered.compile()  # jax has it compiled already

  def peak_bytes(self) -> int:
    """Memory that the largest compiled form needs of a device: arguments, results, temporaries."""
    sizes = [0]
    for lowered in self._lowered.values():
      memory = lowered.compile().memory_analysis()  # jax has it compiled already
      sizes.append(memory.argument_size_in_bytes + memory.output_size_in_bytes
                   + memory.temp_size_in_bytes - memory.alias_size_in_bytes)
    return max(sizes)


def compiler_options(level: int) -> dict[str, int] | None:
  """Options of `jax.jit` for XLA's backend optimisation level, 0 to 3; 3 is XLA's own default."""
  return None if level == 3 else {'xla_backend_optimization_level': level}


def data_parallel(
    step: Callable, mesh: Mesh, *, mode: str = 'shard_map', donate_state: bool = False,
    sharded: PyTree = False, compile_level: int = 3,
) -> Program:
  """Maps `step(constants, state, batch) -> outputs` over the devices of a mesh.

  Args:
    step: per-device function; `constants` and `state` are the same on every device, `batch`
      holds the device's slice.
    mesh: from `create_mesh`.
    mode: 'shard_map' or 'pmap'.
    donate_state: the state's buffers are given up to the result.
    sharded: the outputs are slices of a batch, one a device, to be read by another program or
      by `local_part`; otherwise they must be the same on every device. One answer for all
      outputs, or a tuple of answers for a tuple of them.
    compile_level: see `compiler_options`; pmap has no such option, and takes XLA's default.

  Raises:
    ValueError: unknown mode.
  """
  donate = (1,) if donate_state else ()
  if mode == 'shard_map':
    mapped = jax.jit(
        jax.shard_map(step, mesh=mesh, in_specs=(P(), P(), P(AXIS)),
                      out_specs=jax.tree.map(lambda x: P(AXIS) if x else P(), sharded)),
        donate_argnums=donate, compiler_options=compiler_options(compile_level))
    sharding = NamedSharding(mesh, P(AXIS))
    placed = lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding)
    return Program(
        mapped, lambda x: jax.make_array_from_process_local_data(sharding, x), placed, mesh)
  if mode == 'pmap':
    mapped = jax.pmap(
        step, axis_name=AXIS, in_axes=(None, None, 0),
        out_axes=jax.tree.map(lambda x: 0 if x else None, sharded),
        devices=list(mesh.devices.flat), donate_argnums=donate)
    local = len(mesh.local_devices)
    # Under pmap the devices are an axis of their own; put there once, not at every call.
    sharding = NamedSharding(mesh, P(AXIS))
    split = lambda x: np.reshape(x, (local, x.shape[0] // local, *x.shape[1:]))
    placed = lambda x: jax.ShapeDtypeStruct(
        (mesh.size, x.shape[0] // mesh.size, *x.shape[1:]), x.dtype)
    return Program(
        mapped, lambda x: jax.make_array_from_process_local_data(sharding, split(x)), placed, mesh)
  raise UserError(f'config.parallel={mode!r} is unknown; expected one of {MODES}.')


def local_part(sharded: jax.Array, dimensions: int) -> np.ndarray:
  """This process's part of a sharded output, a contiguous block of the batch.

  Args:
    sharded: from a program of either mode.
    dimensions: of the output in the step, that of the batch among them.
  """
  shards = sorted(sharded.addressable_shards, key=lambda shard: shard.index[0].start or 0)
  shape = sharded.shape[sharded.ndim - dimensions + 1:]
  return np.concatenate([np.reshape(shard.data, (-1, *shape)) for shard in shards])


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
