"""Checkpoints of a run: Orbax behind one small module.

A checkpoint has three items: `model` (the params and batch_stats of the student that is to be used:
its moving average where one is kept), `training` (the rest of `TrainState`, then with the weights
that are trained) and `meta` (config, classes, position in the data, versions, name of the metric,
checksums of all arrays). The frozen teacher is never saved with the student.
"""

from __future__ import annotations

import contextlib
import math
import os
import zlib
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
from orbax.checkpoint import checkpoint_managers

from kdseg_jax import tasks
from kdseg_jax.errors import UserError

PyTree = Any
FOLDER = 'checkpoints'
_REASONS = {
    'opened': 'is it a folder of checkpoints, and may it be read and written?',
    'read': 'it is damaged or incomplete. Copy it again, or remove this folder to go on from the '
            'checkpoint before it.',
    'written': 'is there space left, and may it be written?'}


class CheckpointError(UserError):
  """A checkpoint is missing or does not fit; the message says what to do."""


class Checkpointer:
  """Asynchronous checkpoints of one work directory: the latest `keep` and the best.

  Args:
    workdir: work directory; its folder `checkpoints` is made unless it is only read.
    metric: name of the metric that ranks what is saved; NaN is the worst value there is. None is
      for reading only: the rank is by the metric that was named when they were saved.
    maximize: whether more of it is better.
    keep: how many of the latest are kept, beside the best.

  Raises:
    CheckpointError: for reading only, and there is no checkpoint.
  """

  def __init__(self, workdir: str, *, metric: str | None = None, maximize: bool = True,
               keep: int = 2):
    self._workdir = os.path.abspath(workdir)
    self._metric, self._maximize = metric, maximize
    create = metric is not None
    folder = os.path.join(self._workdir, FOLDER)
    rank = lambda metrics: _rank(metrics, self._metric, self._maximize)
    policies = [
        checkpoint_managers.LatestN(keep),
        checkpoint_managers.BestN(
            n=1, get_metric_fn=rank, keep_checkpoints_without_metrics=False)]
    if not create and not os.path.isdir(folder):
      raise CheckpointError(_missing(self._workdir))
    with self._library('opened'):
      self._manager = ocp.CheckpointManager(
          folder,
          item_handlers={
              'model': ocp.StandardCheckpointHandler(),
              'training': ocp.StandardCheckpointHandler(),
              'meta': ocp.JsonCheckpointHandler()},
          # Not `read_only`, by which nothing less is written here, and of which Orbax warns twice.
          options=ocp.CheckpointManagerOptions(
              best_fn=rank, create=create, enable_async_checkpointing=create,
              cleanup_tmp_directories=create,
              # Processes wait for each other by step; the runs of a study save the same steps.
              multiprocessing_options=ocp.options.MultiprocessingOptions(
                  barrier_sync_key_prefix=f'{zlib.crc32(folder.encode()):08x}'),
              preservation_policy=checkpoint_managers.AnyPreservationPolicy(policies)))
    if not create:
      if self.latest_step() is None:
        raise CheckpointError(_missing(self._workdir))
      meta = self.read_meta(self.latest_step())
      self._metric = meta.get('metric', tasks.FIRST_METRIC)
      self._maximize = meta.get('maximize', True)

  def latest_step(self) -> int | None:
    """Number of the newest checkpoint, or None."""
    return self._manager.latest_step()

  def best_step(self) -> int | None:
    """Number of the checkpoint with the best metric; the newest where none was evaluated."""
    best = self._manager.best_step()
    return self.latest_step() if best is None else best

  def has_metrics(self, step: int) -> bool:
    """Whether the checkpoint of a step was saved with metrics."""
    return bool(self._manager.metrics(step))

  def reached_preemption(self, step: int) -> bool:
    """True once all processes agree that the machines are to be taken away."""
    return self._manager.reached_preemption(step)

  def save(self, step: int, state: Any, meta: dict, metrics: dict | None = None) -> None:
    """Starts writing a `TrainState`, in place of one of this step; returns once it is copied."""
    model, training = _split(jax.tree.map(_one_copy, state))
    with self._library('written', step):
      if step in self._manager.all_steps():
        self._manager.wait_until_finished()
        self._manager.delete(step)
      self._manager.save(
          step, metrics=metrics, force=True,
          args=ocp.args.Composite(
              model=ocp.args.StandardSave(model), training=ocp.args.StandardSave(training),
              meta=ocp.args.JsonSave(meta | self._own_meta(model=model, training=training))))

  def _own_meta(self, **items):
    return {'metric': self._metric, 'maximize': self._maximize,
            'checksums': {name: _checksums(item) for name, item in items.items()}}

  def save_model(self, variables: PyTree, meta: dict) -> None:
    """Writes a model that was not trained here, as checkpoint 0: no run can go on from it."""
    with self._library('written', 0):
      self._manager.save(0, force=True, args=ocp.args.Composite(
          model=ocp.args.StandardSave(variables),
          meta=ocp.args.JsonSave(meta | self._own_meta(model=variables))))

  def read_meta(self, step: int) -> dict:
    """The `meta` item of a checkpoint."""
    return self._restore(step, meta=ocp.args.JsonRestore())['meta']

  def restore(self, step: int, like: Any) -> Any:
    """The state of a checkpoint, with the shapes, types and placement of the state `like`.

    Leaves are found by their paths. What holds none does not count: a term without a state of its
    own, or a link of an optimiser's chain that has none, may come and go between runs.

    Raises:
      CheckpointError: the saved leaves differ from those of `like`, or are damaged; says which.
    """
    model, training = jax.tree.map(ocp.utils.to_shape_dtype_struct, _split(like))
    averaged = 'params' in self._saved(step, 'training')
    if averaged != bool(like.average):
      saved, needed = ('with', 'above 0') if averaged else ('without', '0')
      raise CheckpointError(
          f'Checkpoint {step} of {self._workdir} was saved {saved} a moving average of the '
          f'weights: config.train.ema_decay must be {needed} to go on from there.')
    self._check(step, 'model', model)
    saved = self._saved(step, 'training')
    unused = _unused(saved, training)
    self._check(step, 'training', training, unused)
    restored = self._restore(
        step, model=ocp.args.StandardRestore(model),
        training=ocp.args.StandardRestore(_rearranged(training, saved, unused)))
    self._verify(step, restored)
    return _join(type(like), restored['model'], _rearranged(restored['training'], training))

  def restore_model(self, step: int, like: PyTree) -> PyTree:
    """`{'params', 'batch_stats'}` of a checkpoint, placed as `like` is.

    Raises:
      CheckpointError: the saved leaves differ from those of `like`, or are damaged; says which.
    """
    like = jax.tree.map(ocp.utils.to_shape_dtype_struct, like)
    self._check(step, 'model', like)
    restored = self._restore(step, model=ocp.args.StandardRestore(like))
    self._verify(step, restored)
    return restored['model']

  def wait(self) -> None:
    """Waits for what is being written."""
    with self._library('written'):
      self._manager.wait_until_finished()

  def close(self) -> None:
    """Waits for what is being written, and ends."""
    self.wait()
    self._manager.close()

  def _restore(self, step, **items):
    with self._library('read', step):
      return self._manager.restore(step, args=ocp.args.Composite(**items))

  def _verify(self, step, restored):
    """Refuses arrays that are not what was saved: the library checks its index alone."""
    saved = self.read_meta(step).get('checksums', {})  # older checkpoints have none
    for item, tree in restored.items():
      known = saved.get(item, {})
      wrong = [
          path for path, found in _checksums(tree).items() if known.get(path, found) != found]
      if wrong:
        raise CheckpointError(
            f'{self._path(step)}: cannot be read: {_REASONS["read"]} ({len(wrong)} arrays have '
            f'another checksum than when saved, as {wrong[0]}.)')

  def _saved(self, step, item):
    with self._library('read', step):
      items = self._manager.item_metadata(step)
      saved = items[item] if item in items else None
    if saved is None and 'data' not in self.read_meta(step):
      raise CheckpointError(
          f'{self._path(step)} holds a model that was imported, and no run that could go on. Train '
          f'in another work directory, with config.student.init={self._workdir}.')
    if saved is None:
      raise CheckpointError(f'{self._path(step)}: cannot be read: {_REASONS["read"]} (It has no '
                            f'item {item!r}.)')
    return saved.tree

  def _path(self, step=None):
    return os.path.join(self._workdir, FOLDER, *([] if step is None else [str(step)]))

  @contextlib.contextmanager
  def _library(self, what, step=None):
    """Around the calls of Orbax, whose errors are those of files: damaged, full disks, ..."""
    try:
      yield
    except (MemoryError, jax.errors.JaxRuntimeError):
      raise  # of the devices
    except Exception as error:
      reason = next(iter(str(error).splitlines()), '')
      raise CheckpointError(
          f'{self._path(step)}: cannot be {what}: {_REASONS[what]} '
          f'({type(error).__name__}: {reason:.200})') from error

  def _check(self, step, item, like, unused=()):
    saved = {path: leaf for path, leaf in _leaves(self._saved(step, item)).items()
             if path not in unused}
    differences = describe_differences(saved, like)
    if differences:
      raise CheckpointError(
          f'Checkpoint {step} of {self._workdir} does not fit: these leaves of {item!r} differ '
          'from what the config describes:\n' + differences)


def saved_steps(workdir: str) -> list[int]:
  """Numbers of the checkpoints in a work directory, ascending."""
  folder = os.path.join(os.path.abspath(workdir), FOLDER)
  return sorted(ocp.utils.checkpoint_steps(folder)) if os.path.isdir(folder) else []


def has_checkpoint(workdir: str) -> bool:
  """True if a run of this work directory has saved, and so would be resumed."""
  return bool(saved_steps(workdir))


def describe_differences(saved: PyTree, expected: PyTree, limit: int = 6) -> str:
  """Lists the leaves that are missing, unexpected or of another shape or type; '' if none."""
  saved, expected = ({path: f'{tuple(leaf.shape)} {leaf.dtype}' for path, leaf in _leaves(
      tree).items()} for tree in (saved, expected))
  rows = []
  for path in sorted(saved.keys() | expected.keys()):
    if path not in saved:
      rows.append(f'  {path}: expected {expected[path]}, not in the checkpoint')
    elif path not in expected:
      rows.append(f'  {path}: not expected, the checkpoint has {saved[path]}')
    elif saved[path] != expected[path]:
      rows.append(f'  {path}: expected {expected[path]}, the checkpoint has {saved[path]}')
  if len(rows) > limit:
    rows = rows[:limit] + [f'  ... and {len(rows) - limit} more']
  return '\n'.join(rows)


def _leaves(tree):
  """The leaves of a tree by path, in its order; items of a sequence that hold none not counted."""
  found, numbers = {}, {}
  for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
    keys = [getattr(k, 'key', getattr(k, 'name', getattr(k, 'idx', k))) for k in path]
    for depth, key in enumerate(keys):
      if isinstance(key, int):
        siblings = numbers.setdefault(tuple(keys[:depth]), {})
        keys = [*keys[:depth], siblings.setdefault(key, len(siblings)), *keys[depth + 1:]]
    found['/'.join(map(str, keys))] = leaf
  return found


def _checksums(tree):
  """CRC-32 of the bytes of every array, by path; of a key those of its data."""
  def of(leaf):
    if jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key):
      leaf = jax.random.key_data(leaf)
    return zlib.crc32(np.ascontiguousarray(jax.device_get(leaf)).reshape(-1).view(np.uint8))
  return {path: of(leaf) for path, leaf in _leaves(tree).items()}


def _unused(saved, like):
  """What older versions saved of every run, by path: counters of critics and of preparations."""
  parts = ('prepare_step', 'opt_state/prepared/') + (
      () if like['opt_state'].critic else ('opt_state/critic/',))
  return {path: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=like['step'].sharding)
          for path, leaf in _leaves(saved).items() if path.startswith(parts)}


def _rearranged(tree, like, more=None):
  """The leaves of a tree, and more by path, in the structure of one that has all of them."""
  leaves = _leaves(tree) | (more or {})
  return jax.tree.unflatten(jax.tree.structure(like), [leaves[path] for path in _leaves(like)])


def _split(state):
  """The items `model` and `training` of a state."""
  training = state._asdict()
  average = training.pop('average')
  model = average or {name: training.pop(name) for name in ('params', 'batch_stats')}
  return model, training


def _one_copy(array):
  """That of the first device of what all devices of the only process hold.

  Orbax would let each device write a slice, for which a program is compiled for every shape.
  """
  alone = isinstance(array, jax.Array) and array.is_fully_replicated and jax.process_count() == 1
  return array.addressable_data(0) if alone else array


def _join(kind, model, training):
  """The state of two items; a model beside the weights that are trained is their average."""
  return kind(**training, average=model) if 'params' in training else kind(**model, **training)


def _rank(metrics, name, maximize):
  value = metrics.get(name, math.nan)
  return -math.inf if math.isnan(value) else value if maximize else -value


def _missing(workdir):
  return (f'{workdir} has no checkpoint (expected {os.path.join(workdir, FOLDER)}/<step>). Give a '
          'work directory in which `train` has saved one.')
