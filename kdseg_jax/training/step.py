"""The steps that train and prepare: pure functions of one device's slice.

Mapped over devices by `parallel.data_parallel`. Order within a train step: the distiller's loss
with the old critic, the student's update, then the critic's steps on the same detached taps;
memory is threaded in that order.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax import lax

from kdseg_jax import distillers, parallel
from kdseg_jax.distillers.core import fold_in_name, state_of_part, with_own_key
from kdseg_jax.inference.views import apply_frozen
from kdseg_jax.models.folding import Folded
from kdseg_jax.training.state import Optimizers, TrainState, move_average

PyTree = Any
TEACHER_TAPS = 'teacher_taps'  # in a batch: the taps that another program has computed


def apply_train(
    model: Any,
    params: PyTree,
    batch_stats: PyTree,
    batch: dict,
    rng: jax.Array,
    *,
    micro_batches: int = 1,
) -> tuple[dict, PyTree]:
  """`(taps, new batch_stats)` of a model in training mode.

  Args:
    model: the model.
    params: its parameters.
    batch_stats: its BatchNorm statistics.
    batch: `image`, `mask` and `index`.
    rng: key of Dropout, which folds in the index of an example.
    micro_batches: k > 1 runs k equal parts of the batch one after the other, example i in part
      i % k, and recomputes each part's forward in its backward pass: what is kept for the whole
      batch are the taps alone. Taps and gradients are those of k = 1, except that BatchNorm
      normalises by each part, and its statistics move k times.
  """
  def apply(batch_stats, batch):
    (_, taps), updated = model.apply(
        {'params': params, 'batch_stats': batch_stats}, batch['image'], mask=batch['mask'],
        index=batch['index'], train=True, mutable=['batch_stats'], rngs={'dropout': rng})
    return updated.get('batch_stats', {}), taps

  batch = {name: batch[name] for name in ('image', 'mask', 'index')}
  if micro_batches == 1:
    batch_stats, taps = apply(batch_stats, batch)
    return taps, batch_stats
  # i % k, and not blocks: so the parts do not depend on how many devices share the batch.
  split = lambda x: jnp.swapaxes(x.reshape(-1, micro_batches, *x.shape[1:]), 0, 1)
  merge = lambda x: jnp.swapaxes(x, 0, 1).reshape(-1, *x.shape[2:])
  batch_stats, taps = lax.scan(
      jax.checkpoint(apply, prevent_cse=False), batch_stats, jax.tree.map(split, batch))
  return jax.tree.map(merge, taps), batch_stats


def make_teacher_step(teacher: Any, requires: distillers.Requires) -> Callable:
  """The teacher's own pass `(variables, {}, batch) -> taps`, with the taps that are required.

  The variables may be folded (`models.folding`) unless the teacher normalises by the batch.
  """

  def teacher_step(variables, _, batch):
    _, taps = apply_frozen(
        Folded(teacher), variables, batch, batch_statistics=requires.teacher_batch_statistics)
    return {name: taps[name] for name in requires.teacher}

  return teacher_step


def teacher_head(teacher: Any, variables: PyTree) -> jax.tree_util.Partial:
  """`(features, layer) -> taps`, what the frozen teacher's head makes of features from a layer on.

  A pytree of the variables. Gradients go to the features, not to the teacher.
  """
  return jax.tree_util.Partial(_head(teacher), lax.stop_gradient(variables))


@functools.lru_cache(maxsize=16)  # equal functions are one structure to jax
def _head(teacher):
  return functools.partial(_run_head, teacher)


def _run_head(teacher, variables, features, layer):
  return Folded(teacher).apply(variables, features, layer, method='head_from')


def make_train_step(
    task: Any,
    student: Any,
    teacher: Any | None,
    distiller: distillers.Distiller,
    optimizers: Optimizers,
    *,
    critic_steps: int = 1,
    accumulate: int = 1,
    ema_decay: float = 0.0,
    axis_name: str | None = None,
) -> Callable:
  """The train step `(teacher_variables, state, batch, learning_rate=None) -> (state, metrics)`.

  Args:
    task: supervised loss and targets (`kdseg_jax.tasks`).
    student: the model that is trained.
    teacher: the frozen model; None for a method that reads no teacher. It is not run where its taps
      come in the batch, under `TEACHER_TAPS`.
    distiller: the method.
    optimizers: `Optimizers`; that of the student is given the step's `learning_rate`, if there is
      one, as `optimizers.create_optimizer` takes it.
    critic_steps: critic steps a train step, of the critics that bring no number of their own.
    accumulate: number of micro-batches in which the student runs, see `apply_train`. The losses,
      the method's memory and the critic see the taps of the whole batch, so that all of them are
      those of the large batch, also means over unequal counts and terms between images; only
      BatchNorm is not. (`optax.MultiSteps` would average the losses of micro-batches, show a
      term between images a part of them, and move critic, memory, schedules and averages by
      micro-batches.) It costs one more forward of the student.
    ema_decay: of the moving average of the student's params and batch_stats; 0 keeps none.
    axis_name: mesh axis, or None for one device without a map.

  Returns:
    A pure function. Metrics are float32 scalars: `loss`, `task/<term>`,
    `distill/<name>/raw|weighted`, `gradient_norm`; the same on every device.
  """

  update = optax.with_extra_args_support(optimizers.trained).update

  def train_step(teacher_variables, state: TrainState, batch, learning_rate=None):
    rng = jax.random.fold_in(state.rng, state.step)
    batch, teacher_taps = _teacher_taps(teacher, distiller.requires, teacher_variables, batch)
    head = teacher_head(teacher, teacher_variables) if distiller.requires.teacher_head else None

    def loss_fn(trained):
      taps, batch_stats = apply_train(
          student, trained['student'], state.batch_stats, batch, fold_in_name(rng, 'dropout'),
          micro_batches=accumulate)
      task_loss, (targets, task_metrics) = task.loss(taps, batch, axis_name=axis_name)
      inputs = distillers.DistillInputs(
          student=taps, teacher=teacher_taps, batch=batch, targets=targets,
          rng=fold_in_name(rng, 'distill'), step=state.step, teacher_head=head)
      distill_loss, (memory, distill_metrics) = distiller.loss(
          state.distiller._replace(params=trained['distiller']), inputs)
      metrics = _prefixed('task', task_metrics) | _prefixed('distill', distill_metrics)
      return task_loss + distill_loss, (batch_stats, memory, inputs, metrics)

    trained = {'student': state.params, 'distiller': state.distiller.params}
    (loss, (batch_stats, memory, inputs, metrics)), grads = parallel.value_and_grad(
        loss_fn, axis_name=axis_name)(trained)
    options = {} if learning_rate is None else {'learning_rate': learning_rate}
    updates, trained_opt = update(grads, state.opt_state.trained, trained, **options)
    trained = optax.apply_updates(trained, updates)
    distiller_state, critic_opt, critic_metrics = advance_critics(
        distiller.critic, distillers.Critic(None, optimizers.critic, critic_steps), axis_name,
        state.distiller._replace(params=trained['distiller'], memory=memory),
        state.opt_state.critic, lax.stop_gradient(inputs))
    metrics |= _prefixed('distill', critic_metrics)
    metrics |= {'loss': loss, 'gradient_norm': optax.tree.norm(grads)}
    state = state._replace(
        step=state.step + 1, params=trained['student'], batch_stats=batch_stats,
        opt_state=state.opt_state._replace(trained=trained_opt, critic=critic_opt),
        distiller=distiller_state)
    if ema_decay:
      latest = {'params': state.params, 'batch_stats': state.batch_stats}
      state = state._replace(
          average=move_average(state.average, latest, state.step, ema_decay))
    return state, _global_mean(metrics, axis_name)

  return train_step


def make_prepare_step(
    teacher: Any,
    preparation: distillers.Preparation,
    optimizer: optax.GradientTransformation,
    student: distillers.Taps,
    *,
    axis_name: str | None = None,
) -> Callable:
  """The step of a preparation, `(teacher_variables, state, batch) -> (state, metrics)`.

  The state is a `TrainState` as of a student: what is prepared are its `params`, what the
  preparation carries along is `distiller.memory`.

  Args:
    teacher: the frozen model.
    preparation: of a method.
    optimizer: of what is prepared.
    student: shapes of the student's taps, of the whole batch.
    axis_name: as of `make_train_step`.
  """

  def prepare_step(teacher_variables, state: TrainState, batch):
    rng = jax.random.fold_in(state.rng, state.step)
    batch, taps = _teacher_taps(teacher, preparation.requires, teacher_variables, batch)
    inputs = distillers.DistillInputs(
        student=student, teacher=taps, batch=batch, rng=rng, step=state.step)
    (loss, (memory, metrics)), fitted, opt_state = _descend(
        preparation.loss, 'prepared', optimizer, axis_name,
        state.distiller._replace(prepared=state.params), state.opt_state.trained, inputs)
    state = state._replace(
        step=state.step + 1, params=fitted,
        opt_state=state.opt_state._replace(trained=opt_state),
        distiller=state.distiller._replace(memory=memory))
    return state, _global_mean(metrics | {'loss': loss}, axis_name)

  return prepare_step


def _teacher_taps(teacher, requires, variables, batch):
  """The batch without taps, and the taps that are required."""
  batch = dict(batch)
  taps = batch.pop(TEACHER_TAPS, {} if teacher is None else None)
  if taps is None:
    taps = make_teacher_step(teacher, requires)(variables, {}, batch)
  return batch, taps


def advance_critics(
    critic: distillers.Critic | None, default: distillers.Critic, axis_name: str | None,
    state: distillers.DistillerState, opt_state: PyTree, inputs: distillers.DistillInputs
) -> tuple[distillers.DistillerState, PyTree, dict]:
  """`(state, opt_state, metrics)` after the steps of a critic, or of all critics of a combination.

  `default` is a `Critic` whose optimiser and steps are those of critics without any; the taps in
  the inputs are stopped already.
  """
  if critic is None:
    return state, opt_state, {}
  metrics = {}
  if critic.parts is not None:
    for name, part in critic.parts.items():
      own, own_opt_state, reported = advance_critics(
          part, default, axis_name, state_of_part(state, name), opt_state[name],
          with_own_key(inputs, name))
      state = state._replace(critic=state.critic | {name: own.critic},
                             memory=state.memory | {name: own.memory})
      opt_state = opt_state | {name: own_opt_state}
      metrics |= _prefixed(name, reported)
    return state, opt_state, metrics
  optimizer = critic.optimizer or default.optimizer
  for k in range(default.steps if critic.steps is None else critic.steps):
    (loss, (memory, metrics)), params, opt_state = _descend(
        critic.loss, 'critic', optimizer, axis_name, state, opt_state,
        with_own_key(inputs, f'critic{k}'))
    state = state._replace(critic=params, memory=memory)
    metrics = {'critic': loss} | metrics
  return state, opt_state, metrics


def _descend(objective, group, optimizer, axis_name, state, opt_state, inputs):
  """One optimiser step on one group of a distiller's state."""
  values = getattr(state, group)
  result, grads = parallel.value_and_grad(
      lambda x: objective(state._replace(**{group: x}), inputs), axis_name=axis_name)(values)
  updates, opt_state = optimizer.update(grads, opt_state, values)
  return result, optax.apply_updates(values, updates), opt_state


def _prefixed(prefix, metrics):
  return {f'{prefix}/{name}': value for name, value in metrics.items()}


def _global_mean(metrics, axis_name):
  return lax.pmean(metrics, axis_name) if axis_name else metrics
