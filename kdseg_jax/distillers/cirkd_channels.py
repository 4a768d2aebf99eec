"""The second version of cross-image relational distillation (CIRKD-V2, 2025): channels, context.

The official recipe is the method string `cirkd_v2+context`; FitNets has weight 10 in the scripts of
MobileNetV3 on other data than Cityscapes.
"""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from kdseg_jax import losses
from kdseg_jax.distillers import core, ranges
from kdseg_jax.distillers.cirkd import ProjectionHead, apply_head, init_head
from kdseg_jax.distillers.declaration import Term, declare
from kdseg_jax.errors import UserError
from kdseg_jax.losses import pooling, queues
from kdseg_jax.models.conv import Conv
from kdseg_jax.models.layers import ConvNorm

_CHANNELS_PUSHED = 256  # of a whole batch, in each step


@declare(maps_only=True, small={'slots': 64, 'samples': 32})
def channels(
    *,
    cross_weight: float = 1.0,
    mse_weight: float = 100.0,
    memory_weight: float = 0.1,
    slots: int = 10_000,
    samples: int = 2_048,
    pool: int | None = 4,
    temperature: float = 0.1,
    student_tap: str = 'embedding',
    teacher_tap: str = 'embedding',
    axis_name: str | None = None,
) -> core.Distiller:
  """Relations of channels, each the unit vector of its pooled map.

  `cross_weight * losses.cross_image_channel + mse_weight * losses.channel_mse + memory_weight *
  losses.memory_similarity(channels, sample of the channel queue)`. Both maps are pooled first; the
  student's then passes through a projection head of its own that the parts share, so that the
  head's BatchNorm sees pooled maps. Each step first pushes 256 of the batch's
  channels, then samples. A part of weight 0 is not computed. Metrics are `cross/raw`,
  `cross/weighted`, and the same of `mse` and `memory`.

  Args:
    cross_weight: of the relations within the batch.
    mse_weight: of the squared difference.
    memory_weight: of the relations to the queue.
    slots: channels that the queue holds: `slots * positions * 4` bytes, of pooled positions.
    samples: channels compared with.
    pool: side of mean pooling; None is none.
    temperature: divides the cosines.
    student_tap: name of the student's features.
    teacher_tap: name of the teacher's features.
    axis_name: mesh axis over which the batch is spread.

  Returns:
    A distiller whose params are the head and whose memory are the queue and the head's BatchNorm
    statistics. Student and teacher must have the same output stride.

  Raises:
    ValueError: all weights are 0, or slots, samples or pool is below 1.
  """
  ranges.at_least(1, 'channels', slots=slots, samples=samples, pool=pool)
  weights = {name: weight for name, weight in (
      ('cross', cross_weight), ('mse', mse_weight), ('memory', memory_weight)) if weight}
  if not weights:
    raise UserError('channels: all weights are 0. Leave the term out.')

  def init(rng, inputs):
    student, teacher = inputs.student[student_tap].shape, inputs.teacher[teacher_tap].shape
    state = init_head(ProjectionHead(teacher[-1], axis_name), rng, student[-1])
    if memory_weight:
      positions = math.prod(-(-side // (pool or 1)) for side in teacher[1:3])
      state.memory['queue'] = queues.init(1, slots, positions, core.fold_in_name(rng, 'queue'))
    return state

  def loss(state, inputs):
    student, teacher = (
        _pooled(taps, pool) for taps in (inputs.student[student_tap], inputs.teacher[teacher_tap]))
    teacher = jax.lax.stop_gradient(teacher)
    student, updated = apply_head(ProjectionHead(teacher.shape[-1], axis_name), state, student)
    memory, values = dict(updated), {}
    if cross_weight:
      values['cross'] = losses.cross_image_channel(
          student, teacher, temperature=temperature, pool=None, axis_name=axis_name)
    if mse_weight:
      values['mse'] = losses.channel_mse(student, teacher, pool=None, axis_name=axis_name)
    if memory_weight:
      anchors = [losses.channel_vectors(x, pool=None) for x in (student, teacher)]
      memory['queue'] = queues.push_drawn(
          state.memory['queue'], anchors[1], core.fold_in_name(inputs.rng, 'push'),
          _CHANNELS_PUSHED, axis_name=axis_name)
      contrast, where = queues.sample(
          memory['queue'], core.fold_in_name(inputs.rng, 'sample'), samples)
      values['memory'] = losses.memory_similarity(
          *anchors, contrast, contrast_where=where, temperature=temperature, axis_name=axis_name)
    metrics = {}
    for name, value in values.items():
      metrics |= {f'{name}/raw': value, f'{name}/weighted': weights[name] * value}
    return sum(weights[name] * value for name, value in values.items()), (memory, metrics)

  return core.Distiller(
      requires=core.Requires(student=(student_tap,), teacher=(teacher_tap,)), init=init, loss=loss)


def _pooled(x, side):
  """`(N, H, W, C)` averaged over windows, in float32 at least: sums in less lose digits."""
  x = x.astype(jnp.promote_types(jnp.float32, x.dtype))
  return pooling.pool(x, pooling.window_of('pool', side), 'mean')


class ContextBlock(nn.Module):
  """Non-local block: `ReLU(BN(conv[x, ReLU(BN(conv(attention(x))))]))`, all convolutions 1x1.

  Queries, keys and values are half as wide as x. The attention of a block of pixels is computed at
  a time and again for the gradient, so that memory is linear in the number of pixels.

  Attributes:
    axis_name: mapped axis over which BatchNorm statistics are synchronised.
    block_size: pixels at a time.
  """

  axis_name: str | None = None
  block_size: int = 256

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    width = x.shape[-1]
    half = max(1, width // 2)
    query, key, value = (
        Conv(half, 1, name=name)(x).reshape(x.shape[0], -1, half)
        for name in ('query', 'key', 'value'))

    def attend(query, key, value):
      @jax.checkpoint
      def pixel(row):
        return jax.nn.softmax(key @ row / math.sqrt(half)) @ value
      return jax.lax.map(pixel, query, batch_size=min(self.block_size, len(query)))

    seen = jax.vmap(attend)(query, key, value).reshape(*x.shape[:-1], half)
    norm = lambda name, x: ConvNorm(
        width, 1, axis_name=self.axis_name, name=name)(x, train=True)
    return norm('out', jnp.concatenate([x, norm('back', seen)], axis=-1))


@declare(maps_only=True)
def with_context(
    distiller: core.Distiller, *, tap: str = 'embedding', axis_name: str | None = None
) -> core.Distiller:
  """The same method on a student tap that passes through a `ContextBlock`, trained along, first.

  The official second version does so for FitNets and all relations, without averaging the block's
  gradients over processes.

  Args:
    distiller: the method; every part that reads the tap reads the block's result.
    tap: name of the student's tap.
    axis_name: mesh axis over which the batch is spread.

  Raises:
    ValueError: the method has a critic or a preparation.
  """
  if distiller.critic is not None or distiller.prepare is not None:
    raise UserError('with_context: the method must have neither critic nor preparation.')
  block = ContextBlock(axis_name)

  def init(rng, inputs):
    variables = block.init(
        core.fold_in_name(rng, 'context'), jnp.zeros((1, 1, 1, inputs.student[tap].shape[-1])))
    state = distiller.init(rng, inputs)
    return state._replace(
        params={'context': variables['params'], 'method': state.params},
        memory={'batch_stats': variables['batch_stats'], 'method': state.memory})

  def loss(state, inputs):
    seen, updated = block.apply(
        {'params': state.params['context'], 'batch_stats': state.memory['batch_stats']},
        inputs.student[tap], mutable=['batch_stats'])
    value, (memory, metrics) = distiller.loss(
        state._replace(params=state.params['method'], memory=state.memory['method']),
        dataclasses.replace(inputs, student={**inputs.student, tap: seen}))
    return value, ({**updated, 'method': memory}, metrics)

  return core.Distiller(
      requires=distiller.requires._replace(
          student=tuple(dict.fromkeys((*distiller.requires.student, tap)))), init=init, loss=loss)


TERMS = {
    'channels': Term(channels, 1.0),  # its three parts have weights of their own
    'context': Term(with_context, 1.0),  # it wraps all the others: its weight only switches it on
}
METHODS: dict[str, dict[str, Any]] = {
    'cirkd_v2': {'kd': 1.0, 'fitnets': 1.0, 'cross_image': 1.0, 'memory': 1.0, 'channels': 1.0},
}
