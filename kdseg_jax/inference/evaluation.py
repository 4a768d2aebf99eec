"""Evaluation of a model over a whole source, exactly once an image."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.experimental import multihost_utils
from jax.sharding import Mesh
from ml_collections import ConfigDict

from kdseg_jax import compiling, parallel
from kdseg_jax.data import pipeline, subset
from kdseg_jax.data.json_files import read_rows
from kdseg_jax.inference.model import Model
from kdseg_jax.inference.views import WHOLE_IMAGE, Inference, create_inference
from kdseg_jax.tasks import Accumulator, Outputs


class Predicted(NamedTuple):
  """An image `(H, W, 3)` uint8, its fields and what was predicted, by name."""

  image: np.ndarray
  fields: dict[str, np.ndarray]
  predicted: dict[str, np.ndarray]


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
    self._stacked = mode == 'pmap'  # sharded outputs have one more axis, that of the devices
    self._known = (None, None)
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
    found = self.accumulate(variables, source, should_stop=should_stop, shown=shown)
    return None if found is None else found.summarize()

  def accumulate(self, variables: Any, source: Any, *,
                 should_stop: Callable[[], bool] = lambda: False,
                 shown: list[Predicted] | None = None) -> Accumulator | None:
    """As a call, but the task's accumulator, from which the metrics are made."""
    found = self._task.accumulator()
    for batch in self._batches(source):
      outputs, predicted = self._run(variables, batch)
      if shown is not None and len(shown) < self._pictures:
        shown += self._shown(batch, predicted)[:self._pictures - len(shown)]
      found.add(outputs)
      if should_stop():
        return None
    return found

  def _batches(self, source):
    """This process's part of the batches."""
    count, sizes = jax.process_count(), None
    if count > 1:
      if self._known[0] is not source:  # they stay as they are from one evaluation to the next
        self._known = source, sizes_of_all(subset.first(source, self._limit))
      sizes = self._known[1]
    return pipeline.evaluation_batches(
        subset.first(source, self._limit), fields=self._task.fields, batch_size=self._batch_size,
        multiple=self._multiple, process_index=jax.process_index(), process_count=count,
        sizes=sizes)

  def _run(self, variables, batch):
    """Outputs of a batch without padding, and predictions on the devices or None."""
    if self._sizes.is_first(batch['image'].shape[1:3]):
      result = compiling.announced('the evaluation step', self._step, variables, {}, batch)
    else:
      result = self._step(variables, {}, batch)
    outputs, predicted = result if self._pictures else (result, None)
    sums, examples = jax.device_get(tuple(outputs))
    if examples:
      real = examples['index'] >= 0
      examples = {name: value[real] for name, value in examples.items()}
    return Outputs(sums, examples), predicted

  def _shown(self, batch, predicted):
    """The images of this process's part of a batch, without padding."""
    fields = self._task.fields
    maps = {name for name, field in fields.items() if field.geometry == 'map'}
    arrays = {name: batch[name] for name in fields}
    predicted = {name: parallel.local_part(x, dimensions=x.ndim - self._stacked)
                 for name, x in predicted.items()}
    found = []
    for i in np.flatnonzero(batch['index'] >= 0):
      height, width = (np.flatnonzero(batch['mask'][i].any(axis=axis)).max() + 1 for axis in (1, 0))
      whole = (slice(height), slice(width))
      found.append(Predicted(batch['image'][i][whole], *(
          {name: x[i][whole] if name in maps else x[i] for name, x in named.items()}
          for named in (arrays, predicted))))
    return found


def make_evaluation_step(task: Any, model: Any, *, inference: Inference = WHOLE_IMAGE,
                         with_predictions: bool = False,
                         axis_name: str | None = None) -> Callable:
  """The evaluation step `(variables, {}, batch) -> Outputs`, of all devices.

  Beside what stays with its example (`Outputs.examples`) stands its `index`, -1 for padding. With
  `with_predictions` it returns `(Outputs, predictions)`, the latter those of the device's images.
  """
  score = task.scorer(model, inference)

  def evaluation_step(variables, _, batch):
    scores = score(variables, batch)
    outputs = _of_all_devices(task.outputs(scores, batch), batch['index'], axis_name)
    return (outputs, task.predictions(scores, batch)) if with_predictions else outputs

  return evaluation_step


def _of_all_devices(outputs, index, axis_name):
  """Sums over devices, and what stays with its example put together, with the examples' index."""
  sums, examples = dict(outputs.sums), dict(outputs.examples)
  if examples:
    examples['index'] = index
  if axis_name:
    gather = lambda x: lax.all_gather(x, axis_name, tiled=True, to='invarying')
    sums, examples = lax.psum(sums, axis_name), jax.tree.map(gather, examples)
  return Outputs(sums, examples)


def sizes_of_all(source: Any) -> list[tuple[int, int]]:
  """(height, width) of every image; of a source that does not tell, each process reads its part."""
  size = getattr(source, 'size', None)
  if size:
    return [tuple(size)] * len(source)
  size_of = getattr(source, 'size_of', None)
  if size_of is not None:
    return [tuple(size_of(index)) for index in range(len(source))]
  index, count = jax.process_index(), jax.process_count()
  own = np.zeros((-(-len(source) // count), 2), np.int32)
  found = pipeline.read_sizes(source, start=index, step=count)
  own[:len(found)] = np.reshape(found, (-1, 2))
  every = multihost_utils.process_allgather(own)  # (processes, images, 2)
  return [tuple(map(int, size))
          for size in np.swapaxes(every, 0, 1).reshape(-1, 2)[:len(source)]]


def recorded_metric(model: Model, config: ConfigDict, split: str | None, name: str
                    ) -> float | None:
  """A metric that a run logged for a checkpoint, where it was measured as a config says.

  Args:
    model: that was loaded from the checkpoint.
    config: whose data and way of looking at images must be those of the run's evaluation.
    split: likewise.
    name: of the metric.

  Returns:
    It, or None: nothing was logged for the checkpoint, or of another split, data, or inference.
  """
  def measured(config, split):
    return (split, config.data.name, config.data.root, tuple(config.data.size),
            config.data.tfds.to_dict(), config.data.options.to_dict(), config.eval.pad_multiple,
            config.task.to_dict(), create_inference(config))

  own = model.config
  if own.eval.limit not in (0, config.eval.limit) or (
      measured(own, own.eval.split) != measured(config, split)):
    return None
  return next((row[name] for row in reversed(read_rows(model.workdir))
               if row['phase'] == 'evaluation' and row['step'] == model.train_step), None)


def throughput(model: Model, image: np.ndarray, *, seconds: float = 1.0) -> float:
  """Images/s of whole predictions, all that follows the forward pass too, by the model's views.

  Args:
    model: with a task.
    image: `(N, H, W, 3)` uint8, the batch that is timed.
    seconds: for how long, after the program is compiled and warm.
  """
  batch = {'image': jnp.asarray(image), 'mask': jnp.ones(image.shape[:3], bool),
           'index': jnp.arange(len(image))}
  task = model.task
  score = task.scorer(model.module, model.views)
  predict = jax.jit(lambda variables, batch: task.predictions(score(variables, batch), batch))
  jax.block_until_ready(predict(model.variables, batch))
  start, runs = time.perf_counter(), 0
  while time.perf_counter() - start < seconds:
    jax.block_until_ready(predict(model.variables, batch))
    runs += 1
  return runs * len(image) / (time.perf_counter() - start)
