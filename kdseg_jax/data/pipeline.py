"""From a source to batches of numpy arrays, the same on any number of processes and threads.

A source has `len(source)` and `source[i]`, a dict with `image` `(H, W, 3)` uint8 and the fields of
a task (`tasks.Field`), as `label` `(H, W)` uint8, and may be read by many threads at once.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import grain
import numpy as np

from kdseg_jax.data import boxed, streams
from kdseg_jax.errors import UserError

Batch = dict[str, np.ndarray]
_THREADS = min(16, os.cpu_count() or 1)


def train_batches(source: Any, *, batch_size: int, seed: int,
                  augmentation: Callable[[Mapping[str, Any], np.random.Generator], dict[str, Any]],
                  by_orientation: bool = False, start: int = 0, process_index: int = 0,
                  process_count: int = 1, num_threads: int = _THREADS) -> Iterator[Batch]:
  """Endless shuffled, augmented batches; batch k is a function of (seed, k) alone.

  The source is shuffled anew in each epoch; batches run on over the ends of epochs. Process p of P
  gets examples kB + pB/P to kB + (p+1)B/P - 1 of the stream for batch k of B examples, so that the
  processes' parts, put one after the other, are the batch of one process.

  What a batch holds of a source of two, and of images of two orientations, `streams.shuffled` says.

  Args:
    source: where examples come from, see the module.
    batch_size: B, of all processes together.
    seed: 0 to 2**32 - 1.
    augmentation: function of (example, generator) that returns `image`, `mask` and the fields, of
      one shape for all examples of a batch; see `Augmentation`.
    by_orientation: whether a batch holds images of one orientation.
    start: number of the first batch; no earlier one is computed.
    process_index: p.
    process_count: P.
    num_threads: threads that prepare batches ahead; they do not change them.

  Yields:
    `image` `(b, h, w, 3)` uint8, `mask` `(b, h, w)` bool with False = padding, `index` `(b,)`
    int32, the example's number in the stream, and the fields, as `label` `(b, h, w)` uint8.

  Raises:
    ValueError: the source is empty, the batch cannot be shared by the processes, or as
      `streams.shuffled`.
  """
  share = _share(source, batch_size, process_index, process_count)
  dataset = streams.shuffled(source, batch_size=batch_size, seed=seed,
                             by_orientation=by_orientation, num_threads=num_threads)
  dataset = dataset.random_map(augmentation).map_with_index(
      lambda index, example: example | {'index': np.int32(index)})
  # Batch j of this size is the part of process j % P in batch j // P.
  dataset = dataset.batch(share, drop_remainder=True)
  dataset = dataset[start * process_count + process_index::process_count]
  return iter(dataset.to_iter_dataset(_read_options(num_threads)))


def evaluation_batches(source: Any, *, fields: Mapping[str, Any], batch_size: int,
                       multiple: int = 1, process_index: int = 0, process_count: int = 1,
                       sizes: Sequence[tuple[int, int]] | None = None,
                       num_threads: int = _THREADS) -> Iterator[Batch]:
  """Batches of one size that hold every image exactly once, whole.

  A batch has images of one size only, so that no image's result depends on the others: images wait
  in one buffer for each size, which is emptied when it is full, and at the end. For data of many
  sizes `multiple` makes them few, by padding at the bottom and right with mask False (and 255 in
  label maps). That is an approximation, not to be reported as the result of whole images: models
  pool over the padding, logits are upsampled on its grid, and behind the first BatchNorm it is not
  0 for the convolutions that reach into it. Measured on 25 validation images of CamVid, cut to
  333x451, at multiples 1, 8 and 128: a DeepLabV3-ResNet18 (width 0.25, 300 steps) gives 2.0% and
  5.0% of the pixels another class (mean IoU 17.9, 17.9, 18.1), the released ESPNet-C, which pools
  nothing, 3.9% and 3.7% (77.2, 80.3, 80.8). With pooling and upsampling kept to the image 4.4% and
  1.2% are left at 128: masks there alone do not mend it.
  What is missing then is filled up by examples of index -1: image 0, mask False, fields of their
  padding. Within a size, images come in the order of the source. All processes see batches of the
  same shapes in the same order; each reads its own part, a contiguous one, of each.

  Args:
    source: where examples come from, see the module.
    fields: what an example holds beside the image, see `tasks.Field`.
    batch_size: of all processes together.
    multiple: of which height and width become a multiple by padding; 1 pads nothing and is exact.
    process_index: number of this process.
    process_count: number of processes.
    sizes: (height, width) of every image of the source, which several processes must know
      beforehand, see `read_sizes`; None for one process.
    num_threads: threads that read ahead; they do not change the batches.

  Yields:
    As `train_batches`; `index` is the position in the source, or -1.

  Raises:
    ValueError: the source is empty or the batch cannot be shared by the processes.
  """
  share = _share(source, batch_size, process_index, process_count)
  read_in = lambda order: iter(grain.MapDataset.source(order).map(
      lambda index: _whole(index, source[index], fields, multiple)).to_iter_dataset(
          _read_options(num_threads)))
  if process_count == 1:
    groups = _grouped(((_size(example), example) for example in read_in(range(len(source)))),
                      batch_size)
    return (_filled(group, size, share, fields) for size, group in groups)
  if sizes is None or len(sizes) != len(source):
    raise ValueError(f'{process_count} processes need the sizes of all {len(source)} images.')
  part = slice(process_index * share, (process_index + 1) * share)
  padded = (tuple(side + -side % multiple for side in size) for size in sizes)
  plan = [(size, group[part]) for size, group in _grouped(
      ((size, index) for index, size in enumerate(padded)), batch_size)]
  order = [index for _, group in plan for index in group]
  return _planned(plan, read_in(order), share, fields)


def read_sizes(source: Any, *, start: int = 0, step: int = 1, num_threads: int = _THREADS
               ) -> list[tuple[int, int]]:
  """(height, width) of the images `start`, `start + step`, ... of a source; reads them."""
  dataset = grain.MapDataset.source(source)[start::step].map(_size)
  return list(dataset.to_iter_dataset(_read_options(num_threads)))


def read(source: Any, function: Callable[[Mapping[str, Any]], Any], *,
         num_threads: int = _THREADS) -> Iterator[Any]:
  """Reads every example of a source once, in order; what is wrong with one is raised.

  Yields:
    What the function returns of the example.
  """
  return iter(grain.MapDataset.source(source).map(function).to_iter_dataset(
      _read_options(num_threads)))


def pad_to_multiple(array: np.ndarray, multiple: int, value: int) -> np.ndarray:
  """Pads `(H, W, ...)` at the bottom and right so that H and W are multiples of a number."""
  widths = [(0, -side % multiple) for side in array.shape[:2]]
  if not any(after for _, after in widths):
    return array
  return np.pad(array, widths + [(0, 0)] * (array.ndim - 2), constant_values=value)


def _share(source, batch_size, process_index, process_count):
  """Examples of a batch for each process."""
  if not len(source):
    raise UserError('The source holds no examples.')
  if batch_size < 1 or batch_size % process_count:
    raise UserError(f'batch_size={batch_size} cannot be shared by {process_count} processes: '
                    'it must be a positive multiple of their number.')
  if not 0 <= process_index < process_count:
    raise UserError(f'process_index={process_index}: expected 0 to {process_count - 1}.')
  return batch_size // process_count


def _read_options(num_threads):
  return grain.ReadOptions(num_threads=num_threads, prefetch_buffer_size=2 * num_threads)


def _size(example):
  return example['image'].shape[:2]


def _whole(index, example, fields, multiple):
  """A whole image, padded, with mask, fields and number; sources may hold more."""
  mask = example.get('mask')
  if mask is None:
    mask = np.ones(_size(example), bool)
  maps = {name: field.padding for name, field in fields.items() if field.geometry == 'map'}
  example = boxed.fill({'image': example['image'], 'mask': mask, 'index': np.int32(index)} | {
      name: example[name] for name in fields}, fields,
      evaluated=True)
  return example | {name: pad_to_multiple(example[name], multiple, value)
                    for name, value in ({'image': 0, 'mask': False} | maps).items()}


def _grouped(items: Iterable, batch_size: int):
  """`(size, list of up to batch_size)` of the `(size, item)`s of one size."""
  waiting: dict[Any, list] = {}
  for size, item in items:
    group = waiting.setdefault(size, [])
    group.append(item)
    if len(group) == batch_size:
      yield size, waiting.pop(size)
  yield from waiting.items()


def _planned(plan, examples, share, fields):
  """The batches of a plan, whose examples come in its order."""
  for size, group in plan:
    yield _filled([next(examples) for _ in group], size, share, fields)


def _filled(examples, size, count, fields):
  """A batch of so many examples of one size, filled up with padding examples."""
  padding = {'image': np.zeros((*size, 3), np.uint8), 'mask': np.zeros(size, bool),
             'index': np.int32(-1)} | {
      name: np.full(field.shape(size), field.padding, field.dtype)
      for name, field in fields.items()}
  examples = examples + [padding] * (count - len(examples))
  return {name: np.stack([example[name] for example in examples]) for name in padding}
