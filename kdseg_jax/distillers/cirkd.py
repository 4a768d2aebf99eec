"""Cross-image relational knowledge distillation (Yang et al., CVPR 2022)."""

from __future__ import annotations

import functools
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from kdseg_jax import losses
from kdseg_jax.distillers import core, ranges
from kdseg_jax.distillers.declaration import Term, declare
from kdseg_jax.distillers.logits import kd
from kdseg_jax.errors import UserError
from kdseg_jax.losses import queues
from kdseg_jax.losses._common import valid_labels
from kdseg_jax.losses.cross_image import normalize
from kdseg_jax.models.conv import Conv
from kdseg_jax.models.layers import ConvNorm


def cirkd(
    *,
    kd_weight: float = 1.0,
    cross_image_weight: float = 1.0,
    pixel_weight: float = 0.1,
    region_weight: float = 0.1,
    axis_name: str | None = None,
) -> core.Distiller:
  """The whole method: `kd`, `cross_image` and `memory` with the paper's options.

  Args:
    kd_weight: of the pixel-wise KL at temperature 1.
    cross_image_weight: alpha.
    pixel_weight: beta, of the pixel queue; the official scripts use 0.01 on Pascal VOC.
    region_weight: gamma, of the region queue; likewise.
    axis_name: mesh axis over which the batch is spread.

  Returns:
    A combination; a term of weight 0 is left out. For other options combine the terms' factories.
  """
  parts = {'kd': (kd_weight, kd(axis_name=axis_name)),
           'cross_image': (cross_image_weight, cross_image(axis_name=axis_name))}
  if pixel_weight or region_weight:
    parts['memory'] = 1.0, memory(
        pixel_weight=pixel_weight, region_weight=region_weight, axis_name=axis_name)
  return core.combine(core.without_zeros(parts))


@declare(maps_only=True)
def cross_image(
    *,
    temperature: float = 0.1,
    pool: int | None = None,
    student_tap: str = 'embedding',
    teacher_tap: str = 'embedding',
    axis_name: str | None = None,
) -> core.Distiller:
  """Similarities of pixels to all pixels of the batch: mini-batch pixel-to-pixel distillation.

  `losses.cross_image_pixel(student[student_tap], teacher[teacher_tap])` over all pixels, ignored
  ones included, and over the images of all devices; widths may differ.

  Args:
    temperature: divides the cosines.
    pool: side of mean pooling before all else; None is none.
    student_tap: name of the student's features.
    teacher_tap: name of the teacher's features.
    axis_name: mesh axis over which the batch is spread.

  Returns:
    A distiller without state. Student and teacher must have the same output stride.

  Raises:
    ValueError: pool is below 1.
  """
  ranges.at_least(1, 'cross_image', pool=pool)
  loss = functools.partial(
      losses.cross_image_pixel, temperature=temperature, pool=pool, axis_name=axis_name)
  return core.comparing(loss, student_tap, teacher_tap)


class ProjectionHead(nn.Module):
  """1x1 convolution, BatchNorm, ReLU, 1x1 convolution: to the width of the teacher.

  Attributes:
    features: channels of both convolutions.
    axis_name: mapped axis over which the statistics are synchronised.
  """

  features: int
  axis_name: str | None = None

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    x = ConvNorm(self.features, 1, axis_name=self.axis_name, name='hidden')(x, train=True)
    return Conv(self.features, 1, name='projection')(x)


def init_head(head: ProjectionHead, rng: jax.Array, student_width: int) -> core.DistillerState:
  """State of a head: its params, and `batch_stats` in the memory."""
  variables = head.init(core.fold_in_name(rng, 'head'), jnp.zeros((1, 1, 1, student_width)))
  return core.DistillerState(
      params=variables['params'], memory={'batch_stats': variables['batch_stats']})


def apply_head(
    head: ProjectionHead, state: core.DistillerState, x: jax.Array
) -> tuple[jax.Array, dict]:
  """The projected features, and the `batch_stats` after them."""
  features, memory = head.apply(
      {'params': state.params, 'batch_stats': state.memory['batch_stats']}, x,
      mutable=['batch_stats'])
  return features, dict(memory)


class _Bank(NamedTuple):
  """One of the two queues: its weight, its size, and how much of it is compared with."""

  weight: float
  slots: int
  samples: int


@declare(maps_only=True, small={
    'pixel_slots': 64, 'region_slots': 16, 'pixel_samples': 64, 'region_samples': 16})
def memory(
    *,
    pixel_weight: float = 0.1,
    region_weight: float = 0.1,
    pixel_slots: int = 20_000,
    region_slots: int = 2_000,
    pixel_samples: int = 4_096,
    region_samples: int = 1_024,
    pixels_per_class: int = 16,
    anchors_per_image: int | None = None,
    only_filled: bool = True,
    temperature: float = 0.1,
    kd_temperature: float = 1.0,
    ignore_label: int = 255,
    student_tap: str = 'embedding',
    teacher_tap: str = 'embedding',
    axis_name: str | None = None,
) -> core.Distiller:
  """Similarities of pixels to remembered pixels and regions of the teacher.

  `pixel_weight * losses.memory_similarity(anchors, sample of the pixel queue)` and the same with
  the region queue. Anchors are the labelled pixels; the student's pass through a projection head
  that both parts share and that is trained along. Each step first pushes the teacher's
  embeddings, then samples. A part of weight 0 is not computed and has no queue. Metrics are
  `pixel/raw`, `pixel/weighted`, `region/raw`, `region/weighted`.

  Args:
    pixel_weight: of memory-based pixel-to-pixel distillation.
    region_weight: of memory-based pixel-to-region distillation.
    pixel_slots: embeddings a class that the pixel queue holds: `classes * pixel_slots * width * 4`
      bytes.
    region_slots: likewise, of the region queue.
    pixel_samples: embeddings compared with, spread over classes: `pixel_samples // classes + 1`
      of each.
    region_samples: likewise, of the region queue.
    pixels_per_class: pixels of a class and image that are pushed; of regions it is one.
    anchors_per_image: number of labelled pixels drawn as anchors in each image; None is all.
    only_filled: sample as in `queues.sample`; False is the official rule.
    temperature: divides the cosines.
    kd_temperature: temperature of the distillation, also squared as a factor.
    ignore_label: label of the pixels that are no anchors and push nothing.
    student_tap: name of the student's features.
    teacher_tap: name of the teacher's features.
    axis_name: mesh axis over which the batch is spread.

  Returns:
    A distiller whose params are the head and whose memory are the queues and the head's BatchNorm
    statistics. Student and teacher must have the same output stride.

  Raises:
    ValueError: both weights are 0, or a number of embeddings or pixels is below 1.
  """
  ranges.at_least(
      1, 'memory', pixel_slots=pixel_slots, region_slots=region_slots, pixel_samples=pixel_samples,
      region_samples=region_samples, pixels_per_class=pixels_per_class,
      anchors_per_image=anchors_per_image)
  banks = {name: bank for name, bank in (
      ('pixel', _Bank(pixel_weight, pixel_slots, pixel_samples)),
      ('region', _Bank(region_weight, region_slots, region_samples))) if bank.weight}
  if not banks:
    raise UserError('memory: pixel_weight and region_weight are both 0. Leave the term out.')

  def init(rng, inputs):
    student, teacher = inputs.student[student_tap].shape, inputs.teacher[teacher_tap].shape
    state = init_head(ProjectionHead(teacher[-1], axis_name), rng, student[-1])
    classes = inputs.student['logits'].shape[-1]
    return state._replace(memory=state.memory | {
        name: queues.init(classes, bank.slots, teacher[-1], core.fold_in_name(rng, name))
        for name, bank in banks.items()})

  def push(name, queue, embeddings, labels, inputs):
    if name == 'region':
      return queues.push_regions(
          queue, embeddings, labels, ignore_label=ignore_label, axis_name=axis_name)
    return queues.push_pixels(
        queue, embeddings, labels, core.fold_in_name(inputs.rng, 'push'),
        per_class=pixels_per_class, ignore_label=ignore_label, axis_name=axis_name)

  def loss(state, inputs):
    teacher = normalize(jax.lax.stop_gradient(inputs.teacher[teacher_tap]).astype(jnp.float32))
    student, updated = apply_head(
        ProjectionHead(teacher.shape[-1], axis_name), state, inputs.student[student_tap])
    labels = losses.resize_nearest(inputs.batch['label'], teacher.shape[1:3]).astype(jnp.int32)
    classes = inputs.student['logits'].shape[-1]
    where = valid_labels(labels, classes, ignore_label)
    anchors = student, teacher
    if anchors_per_image is not None:
      *anchors, where = _draw_anchors(
          core.fold_in_name(inputs.rng, 'anchors'), inputs.batch['index'], anchors_per_image,
          student, teacher, where)
    total, metrics, memory = 0, {}, dict(updated)
    for name, bank in banks.items():
      memory[name] = push(name, state.memory[name], teacher, labels, inputs)
      contrast, contrast_where = queues.sample(
          memory[name], core.fold_in_name(inputs.rng, name),
          bank.samples // classes + 1, only_filled=only_filled)
      value = losses.memory_similarity(
          *anchors, contrast, where=where, contrast_where=contrast_where, temperature=temperature,
          kd_temperature=kd_temperature, axis_name=axis_name)
      total += bank.weight * value
      metrics |= {f'{name}/raw': value, f'{name}/weighted': bank.weight * value}
    return total, (memory, metrics)

  return core.Distiller(
      requires=core.Requires(student=(student_tap, 'logits'), teacher=(teacher_tap,)),
      init=init, loss=loss)


def _draw_anchors(rng, index, count, student, teacher, where):
  """Draws `count` of the pixels of each image that count: `(N, count, D)`, twice, and a mask."""
  keys = jax.vmap(jax.random.fold_in, (None, 0))(rng, index)

  def draw(key, where, *pixels):
    noise = jnp.where(where, jax.random.uniform(key, where.shape), -1).ravel()
    found, chosen = jax.lax.top_k(noise, min(count, noise.size))
    return *(x.reshape(-1, x.shape[-1])[chosen] for x in pixels), found >= 0
  return jax.vmap(draw)(keys, where, student, teacher)


TERMS = {
    'cross_image': Term(cross_image, 1.0),
    'memory': Term(memory, 1.0),  # its two parts have weights of their own
}
METHODS: dict[str, dict[str, Any]] = {
    'cirkd': {'kd': 1.0, 'cross_image': 1.0, 'memory': 1.0},
}
