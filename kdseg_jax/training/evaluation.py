"""Evaluation of a segmentation model over a whole source, exactly once an image."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from ml_collections import ConfigDict

from kdseg_jax.data import pipeline, subset
from kdseg_jax.inference.model import Model
from kdseg_jax.training import compiling, parallel
from kdseg_jax.training.inference import WHOLE_IMAGE, Inference, create_inference, make_scorer
from kdseg_jax.training.step import make_evaluation_step
from kdseg_jax.training.writers import read_rows


class Predicted(NamedTuple):
  """An image `(H, W, 3)`, its label and its predicted label `(H, W)`, all uint8."""

  image: np.ndarray
  label: np.ndarray
  predicted: np.ndarray


class Evaluator:
  """`evaluator(variables, source) -> metrics`, one compiled program an image size.

  Args:
    task: a task of `kdseg_jax.tasks`.
    model: the model.
    mesh: devices over which a batch is spread.
    mode: 'shard_map' or 'pmap'.
    batch_size: global; rounded up to a multiple of the device count.
    limit: number of images to evaluate, the first ones of the source; 0 is all.
    multiple: see `pipeline.evaluation_batches`.
    inference: what the model is shown of an image.
    pictures: number of images whose predictions are handed out, the first that this process sees.
  """

  def __init__(self, task: Any, model: Any, mesh: Mesh, *, mode: str = 'shard_map',
               batch_size: int = 8, limit: int = 0, multiple: int = 1,
               inference: Inference = WHOLE_IMAGE, pictures: int = 0):
    self._task, self._limit, self._multiple = task, limit, multiple
    self._pictures, self._sizes = pictures, compiling.Sizes(multiple)
    self._batch_size = -(-batch_size // mesh.size) * mesh.size
    self._step = parallel.data_parallel(
        make_evaluation_step(task, model, inference=inference, with_predictions=pictures > 0,
                             axis_name=parallel.AXIS),
        mesh, mode=mode, sharded=(False, True) if pictures else False)

  def __call__(self, variables: Any, source: Any, *,
               should_stop: Callable[[], bool] = lambda: False,
               shown: list[Predicted] | None = None) -> dict[str, Any] | None:
    """Metrics of the task on the source, or None if `should_stop()` became true on the way.

    The list `shown`, if there is one, gets `pictures` of the images with what was predicted.
    """
    counts = self.count(variables, source, should_stop=should_stop, shown=shown)
    return None if counts is None else self._task.summarize(counts)

  def count(self, variables: Any, source: Any, *,
            should_stop: Callable[[], bool] = lambda: False,
            shown: list[Predicted] | None = None) -> dict[str, Any] | None:
    """As a call, but the summed counts (int64) from which `task.summarize` makes the metrics."""
    total = None
    batches = pipeline.evaluation_batches(
        subset.first(source, self._limit), batch_size=self._batch_size,
        multiple=self._multiple, process_index=jax.process_index(),
        process_count=jax.process_count())
    for batch in batches:
      counts, predicted = self._run(variables, batch)
      if shown is not None and len(shown) < self._pictures:
        shown += _predictions(batch, predicted)[:self._pictures - len(shown)]
      counts = jax.tree.map(lambda x: np.asarray(x, np.int64), counts)
      total = counts if total is None else jax.tree.map(np.add, total, counts)
      if should_stop():
        return None
    return total

  def _run(self, variables, batch):
    """Counts of a batch, and its predicted labels on the devices (None without pictures)."""
    if self._sizes.is_first(batch['image'].shape[1:3]):
      outputs = compiling.announced('the evaluation step', self._step, variables, {}, batch)
    else:
      outputs = self._step(variables, {}, batch)
    counts, predicted = outputs if self._pictures else (outputs, None)
    return jax.device_get(counts), predicted


def _predictions(batch, predicted):
  """The images of this process's part of a batch, without padding."""
  found = []
  labels = parallel.local_part(predicted, dimensions=3)
  for i in np.flatnonzero(batch['index'] >= 0):
    height, width = (np.flatnonzero(batch['mask'][i].any(axis=axis)).max() + 1 for axis in (1, 0))
    found.append(Predicted(*(
        x[i, :height, :width] for x in (batch['image'], batch['label'], labels))))
  return found


def recorded_mean_iou(model: Model, config: ConfigDict, split: str | None) -> float | None:
  """The mIoU that a run logged for a checkpoint, where it was measured as a config says.

  Args:
    model: that was loaded from the checkpoint.
    config: whose data and way of looking at images must be those of the run's evaluation.
    split: likewise.

  Returns:
    It, or None: nothing was logged for the checkpoint, or of another split, data, or inference.
  """
  def measured(config, split):
    return (split, config.data.name, config.data.root, tuple(config.data.size),
            config.data.tfds.to_dict(), config.eval.pad_multiple,
            config.eval.absent_as_zero, config.align_corners, create_inference(config))

  own = model.config
  if own.eval.limit not in (0, config.eval.limit) or (
      measured(own, own.eval.split) != measured(config, split)):
    return None
  return next((row['mean_iou'] for row in reversed(read_rows(model.workdir))
               if row['phase'] == 'evaluation' and row['step'] == model.train_step), None)


def throughput(model: Model, image: np.ndarray, *, seconds: float = 1.0) -> float:
  """Images/s of whole predictions (forward, upsampling, argmax), by the model's views.

  Args:
    model: a segmenter.
    image: `(N, H, W, 3)` uint8, the batch that is timed.
    seconds: for how long, after the program is compiled and warm.
  """
  batch = {'image': jnp.asarray(image), 'mask': jnp.ones(image.shape[:3], bool),
           'index': jnp.arange(len(image))}
  task, size = model.task, image.shape[1:3]
  score = make_scorer(task, model.module, model.views)
  predict = jax.jit(lambda variables, batch: task.predict(score(variables, batch, size), size))
  predict(model.variables, batch).block_until_ready()
  start, runs = time.perf_counter(), 0
  while time.perf_counter() - start < seconds:
    predict(model.variables, batch).block_until_ready()
    runs += 1
  return runs * len(image) / (time.perf_counter() - start)
