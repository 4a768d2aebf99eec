"""First-in-first-out memories of embeddings, one ring a class: pure functions of fixed shapes.

A queue must be the same on every device: what is pushed is selected on the device that holds the
image, gathered, and pushed alike everywhere. Never average a queue over devices.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from kdseg_jax import resizing
from kdseg_jax.losses import _common, cross_image


class Queue(NamedTuple):
  """K slots for each of C classes.

  Attributes:
    embeddings: `(C, K, D)` float32.
    pointer: `(C,)` int32, the slot that is written next.
    filled: `(C,)` int32, how many slots hold what was pushed: the last so many before `pointer`.
  """

  embeddings: jax.Array
  pointer: jax.Array
  filled: jax.Array


def init(num_classes: int, size: int, dim: int, rng: jax.Array) -> Queue:
  """An empty queue of `num_classes * size * dim * 4` bytes; its slots hold unit-length noise.

  Raises:
    ValueError: a size is not positive.
  """
  if min(num_classes, size, dim) < 1:
    raise ValueError(
        f'A queue needs classes, slots and channels, got {num_classes}, {size} and {dim}.')
  noise = jax.random.normal(rng, (num_classes, size, dim), jnp.float32)
  zeros = jnp.zeros(num_classes, jnp.int32)
  return Queue(cross_image.normalize(noise), zeros, zeros)


def push(queue: Queue, embeddings: jax.Array, classes: jax.Array, where: jax.Array) -> Queue:
  """Appends rows to the rings of their classes, in order; the oldest are overwritten.

  Of more rows of a class than it has slots, the last are kept, as if pushed one by one.

  Args:
    queue: `Queue`.
    embeddings: `(M, D)`, stored as they are, without gradient.
    classes: integers `(M,)`; a row whose class is not in [0, C) is left out.
    where: bool `(M,)`, False leaves a row out.

  Raises:
    ValueError: the shapes do not fit, or classes are not integers.
  """
  queue, embeddings, classes, where = jax.tree.map(
      jnp.asarray, (queue, embeddings, classes, where))  # numpy's cannot be updated
  count, size, dim = queue.embeddings.shape
  if embeddings.ndim != 2 or embeddings.shape[1] != dim or not (
      embeddings.shape[:1] == classes.shape == where.shape):
    raise ValueError(
        f'push takes embeddings (M, {dim}), classes (M,) and where (M,), got {embeddings.shape}, '
        f'{classes.shape} and {where.shape}.')
  classes, where = _common.as_labels('push', classes), _common.as_mask(where, classes.shape)
  member = where[:, None] & (classes[:, None] == jnp.arange(count))  # (M, C)
  pushed = jnp.sum(member, axis=0, dtype=jnp.int32)
  rank = jnp.sum(jnp.where(member, jnp.cumsum(member, axis=0, dtype=jnp.int32) - 1, 0), axis=1)
  kept = jnp.any(member & (rank[:, None] >= pushed - size), axis=1)
  ring = jnp.where(kept, classes, count)  # beyond the queue: dropped
  slot = (jnp.take(queue.pointer, classes, mode='clip') + rank) % size
  rows = lax.stop_gradient(embeddings).astype(queue.embeddings.dtype)
  return Queue(
      queue.embeddings.at[ring, slot].set(rows, mode='drop'),
      (queue.pointer + pushed) % size,
      jnp.minimum(queue.filled + pushed, size))


def push_pixels(
    queue: Queue,
    embeddings: jax.Array,
    labels: jax.Array,
    rng: jax.Array,
    *,
    per_class: int = 16,
    ignore_label: int = 255,
    axis_name: str | None = None,
) -> Queue:
  """Pushes up to `per_class` pixels of every class of every image, drawn uniformly.

  Images in order; those of an image in the order drawn. The draws depend on `rng` and the number
  of the image in the global batch alone, so the result is the same on any number of devices.

  Args:
    queue: `Queue`.
    embeddings: `(N, H, W, D)`, stored as they are, without gradient: normalise them first.
    labels: integers `(N, h, w)`, resized to (H, W) by nearest neighbour. Those that are
      `ignore_label` or no class push nothing.
    rng: a key, the same on every device.
    per_class: pixels of a class and image; all of them where there are fewer.
    ignore_label: label of the pixels that do not count.
    axis_name: mapped axis over which the batch is spread, in contiguous blocks: the images of all
      devices are pushed, on every device.

  Raises:
    ValueError: the shapes do not fit, or labels are not integers.

  Reference: the pixel queue of Yang et al., "Cross-Image Relational Knowledge Distillation for
  Semantic Segmentation" (CVPR 2022). The official code counts the pixels of a class, but then
  takes as many from the top of the image, whatever they are; what would run over the end of the
  ring it writes to the last slots instead. Tested against its arrays: how many of which class and
  image, in which order; not which pixels.
  """
  labels = _prepare(queue, embeddings, labels, ignore_label)
  images, count = labels.shape[0], queue.embeddings.shape[0]
  pixels = embeddings.reshape(images, -1, embeddings.shape[-1])
  per_class = min(per_class, pixels.shape[1])

  def choose(number, pixels, labels):
    """`(C, per_class, D)` and which of them there are."""
    noise = jax.random.bits(jax.random.fold_in(rng, number), labels.shape)
    order = jnp.lexsort((noise, labels))  # by class, at random within
    of_class = jnp.sum(labels[:, None] == jnp.arange(count), axis=0, dtype=jnp.int32)
    first = jnp.cumsum(of_class) - of_class
    draw = jnp.arange(per_class)
    chosen = jnp.take(order, first[:, None] + draw, mode='clip')
    return pixels[chosen], draw < of_class[:, None]

  chosen, where = jax.vmap(choose)(_image_numbers(images, axis_name), pixels, labels)
  return _push_gathered(queue, chosen, where, axis_name)


def push_regions(
    queue: Queue,
    embeddings: jax.Array,
    labels: jax.Array,
    *,
    ignore_label: int = 255,
    axis_name: str | None = None,
) -> Queue:
  """Pushes one embedding of every class of every image: its pixels' mean, at unit length.

  Args:
    queue: `Queue`.
    embeddings: `(N, H, W, D)`, without gradient; normalise them first, for pixels to weigh alike.
    labels: as in `push_pixels`.
    ignore_label: as in `push_pixels`.
    axis_name: as in `push_pixels`.

  Raises:
    ValueError: the shapes do not fit, or labels are not integers.

  Reference: the region queue of Yang et al. (CVPR 2022), whose code this equals.
  """
  labels = _prepare(queue, embeddings, labels, ignore_label)
  count = queue.embeddings.shape[0]
  pixels = embeddings.reshape(*labels.shape, -1).astype(queue.embeddings.dtype)
  pixels = jnp.where((labels < count)[..., None], pixels, 0)  # 0 times NaN would be NaN
  member = labels[..., None] == jnp.arange(count)
  sums = _common.products('npc,npd->ncd', member.astype(pixels.dtype), pixels)
  of_class = jnp.sum(member, axis=1, dtype=jnp.int32)
  means = sums / jnp.maximum(of_class, 1)[..., None]
  return _push_gathered(
      queue, cross_image.normalize(means)[:, :, None], of_class[..., None] > 0, axis_name)


def push_drawn(
    queue: Queue,
    embeddings: jax.Array,
    rng: jax.Array,
    count: int,
    *,
    axis_name: str | None = None,
) -> Queue:
  """Pushes `count` embeddings to the first class, drawn uniformly from the whole batch.

  Args:
    queue: `Queue`; of one class, usually.
    embeddings: `(N, M, D)`, M of every image, stored as they are, without gradient.
    rng: a key, the same on every device.
    count: how many; all of them where there are fewer.
    axis_name: as in `push_pixels`.

  Reference: the channel queue of the official second version of CIRKD (2025).
  """
  images, each, dim = embeddings.shape
  keys = jax.vmap(jax.random.fold_in, (None, 0))(rng, _image_numbers(images, axis_name))
  noise = jax.vmap(lambda key: jax.random.uniform(key, (each,)))(keys).ravel()
  rows = lax.stop_gradient(embeddings).reshape(-1, dim)

  def draw(noise, rows):
    noise, chosen = lax.top_k(noise, min(count, noise.size))
    return noise, rows[chosen]

  noise, rows = draw(noise, rows)
  if axis_name is not None:  # the drawn ones of the batch are among the drawn ones of its parts
    noise, rows = draw(
        *lax.all_gather((noise, rows), axis_name, tiled=True, to='invarying'))
  return push(queue, rows, jnp.zeros(len(rows), jnp.int32), jnp.ones(len(rows), bool))


def sample(
    queue: Queue, rng: jax.Array, per_class: int, *, only_filled: bool = True
) -> tuple[jax.Array, jax.Array]:
  """Draws `per_class` embeddings of every class.

  Args:
    queue: `Queue`.
    rng: a key, the same on every device.
    per_class: k, embeddings of a class.
    only_filled: draw from what was pushed, independently for each class: without replacement, or
      with it where less than k was pushed. False is the official rule: one draw of slots for all
      classes, and the noise in slots that nothing was pushed to counts as well.

  The draws are random and so tested by what they hold, not against official arrays.

  Returns:
    Embeddings `(C * k, D)`, class by class, and bool `(C * k,)`: False for a class of which
    nothing was pushed.

  Raises:
    ValueError: `only_filled=False`, and k exceeds the number of slots.
  """
  count, size, dim = queue.embeddings.shape
  if only_filled:
    slots = jax.vmap(_draw, (0, 0, 0, None, None))(
        jax.random.split(rng, count), queue.pointer, queue.filled, size, per_class)
    where = jnp.repeat(queue.filled > 0, per_class)
  else:
    if per_class > size:
      raise ValueError(f'per_class={per_class} slots cannot be drawn from {size}.')
    slots = jnp.tile(jax.random.permutation(rng, size)[:per_class], (count, 1))
    where = jnp.ones(count * per_class, bool)
  drawn = jnp.take_along_axis(queue.embeddings, slots[..., None], axis=1)
  return drawn.reshape(count * per_class, dim), where


def _draw(rng, pointer, filled, size, count):
  """`count` of the `filled` slots before `pointer`; only one of the two draws is used."""
  again = jax.random.randint(rng, (count,), 0, jnp.maximum(filled, 1))
  noise = jnp.where(jnp.arange(size) < filled, jax.random.uniform(rng, (size,)), -1)
  _, once = lax.top_k(noise, min(count, size))
  once = jnp.pad(once, (0, count - once.size))  # not taken where count exceeds the size
  return (pointer - filled + jnp.where(filled < count, again, once)) % size


def _prepare(queue, embeddings, labels, ignore_label):
  """Labels `(N, H * W)` int32 at the size of the embeddings, C where a pixel does not count."""
  count, _, dim = queue.embeddings.shape
  if embeddings.ndim != 4 or embeddings.shape[-1] != dim or (
      labels.ndim != 3 or labels.shape[0] != embeddings.shape[0]):
    raise ValueError(
        f'A queue of width {dim} takes embeddings (N, H, W, {dim}) and labels (N, h, w), got '
        f'{embeddings.shape} and {labels.shape}.')
  labels = _common.as_labels('A queue', labels)
  _common.check_channels_last('A queue', embeddings.shape, labels.shape)
  labels = resizing.resize_nearest(labels, embeddings.shape[1:3])
  valid = _common.valid_labels(labels, count, ignore_label)
  return jnp.where(valid, labels, count).reshape(labels.shape[0], -1)


def _image_numbers(images, axis_name):
  """Numbers of a device's images in the global batch, whose blocks are contiguous."""
  first = 0 if axis_name is None else lax.axis_index(axis_name) * images
  return first + jnp.arange(images)


def _push_gathered(queue, chosen, where, axis_name):
  """Pushes `(N, C, k, D)` of the images of all devices; only these few cross between devices."""
  chosen = lax.stop_gradient(chosen).astype(queue.embeddings.dtype)
  if axis_name is not None:
    chosen, where = lax.all_gather((chosen, where), axis_name, tiled=True, to='invarying')
  classes = jnp.broadcast_to(jnp.arange(where.shape[1])[:, None], where.shape)
  return push(queue, chosen.reshape(-1, chosen.shape[-1]), classes.ravel(), where.ravel())
