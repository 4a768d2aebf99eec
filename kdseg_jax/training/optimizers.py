"""Optimisers and schedules from a config: optax, nothing of our own."""

from __future__ import annotations

import jax
import optax

from kdseg_jax import outside, references
from kdseg_jax.errors import UserError

OPTIMIZERS = ('sgd', 'adamw')
SCHEDULES = ('poly', 'steps', 'constant')
WARMUPS = ('linear', 'constant')


def create_schedule(config, steps: int, learning_rate: jax.Array | None = None) -> optax.Schedule:
  """The learning rate as a function of the step.

  'poly': `learning_rate * (1 - t / T) ** power` after a warm-up of `warmup_steps`, where T is the
  number of steps after it. 'steps': `learning_rate * factor ** k`, where k is the number of
  `milestones`, shares of T, that t has reached. 'constant': warm-up only. The warm-up begins at
  `warmup_factor * learning_rate`, and grows ('linear') or stays there ('constant').

  Args:
    config: `schedule`, `learning_rate`, `power`, `milestones`, `factor`, `warmup`, `warmup_factor`,
      `warmup_steps`.
    steps: number of updates of the whole phase; the schedule is for updates 0 to steps - 1.
    learning_rate: a scalar in place of the config's; it may be traced.

  Raises:
    ValueError: unknown schedule or warm-up, a warm-up as long as the phase, milestones that are no
      growing shares, a factor that is not above 0, or one of the warm-up that is no share.
  """
  if config.schedule not in SCHEDULES:
    raise UserError(
        f'optimizer.schedule={config.schedule!r} is unknown; expected one of {SCHEDULES}.')
  if not 0 <= config.warmup_steps < max(steps, 1):
    raise UserError(
        f'optimizer.warmup_steps={config.warmup_steps} must be at least 0 and less than the '
        f'{steps} steps of the phase.')
  if config.warmup not in WARMUPS:
    raise UserError(f'optimizer.warmup={config.warmup!r} is unknown; expected one of {WARMUPS}.')
  if not 0 <= config.warmup_factor <= 1:
    raise UserError(f'optimizer.warmup_factor={config.warmup_factor}: expected a share of the '
                    'learning rate, 0 to 1.')
  peak = config.learning_rate if learning_rate is None else learning_rate
  after = _after_warmup(config, peak, max(steps - config.warmup_steps, 1))
  if not config.warmup_steps:
    return after
  first = config.warmup_factor * peak
  warmup = optax.constant_schedule(first) if config.warmup == 'constant' else (
      optax.linear_schedule(first, peak, config.warmup_steps))
  return optax.join_schedules([warmup, after], [config.warmup_steps])


def _after_warmup(config, peak, steps):
  if config.schedule == 'constant':
    return optax.constant_schedule(peak)
  if config.schedule == 'poly':
    return optax.polynomial_schedule(peak, 0.0, config.power, steps)
  shares = tuple(config.milestones)
  if not all(0 < share < 1 for share in shares) or sorted(set(shares)) != list(shares):
    raise UserError(f'optimizer.milestones={shares}: expected shares of the steps, each between 0 '
                    'and 1 and larger than the one before.')
  if not config.factor > 0:
    raise UserError(f'optimizer.factor={config.factor} must be above 0.')
  boundaries = [round(share * steps) for share in shares]
  rates = [peak * config.factor ** i for i in range(len(shares) + 1)]
  return optax.join_schedules(list(map(optax.constant_schedule, rates)), boundaries)


def create_optimizer(config, steps: int) -> optax.GradientTransformationExtraArgs:
  """Clipping, weight decay and SGD with momentum or AdamW, by config.

  Decay of SGD is added to the gradient before the momentum (as in PyTorch), that of AdamW is
  decoupled. `decay='kernels'` leaves out biases and the scales of BatchNorm, 'all_but_biases' the
  biases of convolutions alone. The updates of these are multiplied by `bias_factor`.

  A `module:attribute`, as 'optax:lion', is imported and called with the schedule first, with
  `config.options`, and with `weight_decay` and `mask` (of what is decayed) if it names them; where
  it has no `weight_decay`, decay is added to the gradient, as of SGD.

  `update` takes a `learning_rate` in place of the config's: a program that has it as an argument is
  compiled once for all of them.

  Args:
    config: `name` ('sgd', 'adamw' or `module:attribute`), `options`, `momentum`, `nesterov`, `b1`,
      `b2`, `weight_decay`, `decay` ('kernels', 'all_but_biases' or 'all'), `bias_factor`,
      `clip_norm` (global norm, 0 is off), and `create_schedule`'s fields.
    steps: number of updates of the whole phase.

  Raises:
    ValueError: unknown optimiser, a value out of its range, or an option that it does not have.
  """
  if not references.is_reference(config.name) and config.name not in OPTIMIZERS:
    raise UserError(f'optimizer.name={config.name!r} is unknown; expected one of {OPTIMIZERS}, or '
                    'the module:attribute of another.')
  if config.decay not in _DECAYED:
    raise UserError(
        f'optimizer.decay={config.decay!r} is unknown; expected one of {tuple(_DECAYED)}.')
  for field in ('clip_norm', 'weight_decay', 'learning_rate', 'bias_factor'):
    if config[field] < 0:
      raise UserError(f'optimizer.{field}={config[field]} is negative; expected 0 or more.')
  configured = _create_chain(config, create_schedule(config, steps))

  def update(updates, state, params=None, *, learning_rate=None, **_):
    chain = configured if learning_rate is None else (
        _create_chain(config, create_schedule(config, steps, learning_rate)))
    return chain.update(updates, state, params)

  return optax.GradientTransformationExtraArgs(configured.init, update)


def _create_chain(config, schedule):
  mask = _DECAYED[config.decay]
  chain = [optax.clip_by_global_norm(config.clip_norm)] if config.clip_norm else []
  if references.is_reference(config.name):
    chain += _from_outside(config, schedule, mask)
  elif config.name == 'sgd':
    chain += [optax.add_decayed_weights(config.weight_decay, mask),
              optax.sgd(schedule, momentum=config.momentum or None, nesterov=config.nesterov)]
  else:
    chain += [optax.adamw(schedule, b1=config.b1, b2=config.b2, mask=mask,
                          weight_decay=config.weight_decay)]
  if config.bias_factor != 1:
    chain += [optax.masked(optax.scale(config.bias_factor), biases)]
  return optax.chain(*chain)


def _from_outside(config, schedule, mask):
  """The chain of an optimiser from elsewhere and, where it has none itself, of weight decay."""
  optimizer = outside.build(
      outside.OPTIMIZER, config.name, dict(config.options.items()), schedule,
      weight_decay=config.weight_decay, mask=mask)
  outside.require(optimizer, ('init', 'update'), where=config.name,
                  expected='an optax.GradientTransformation')
  decays = outside.takes(config.name, outside.OPTIMIZER, 'weight_decay')
  return [optimizer] if decays or not config.weight_decay else [
      optax.add_decayed_weights(config.weight_decay, mask), optimizer]


def kernels(params):
  """Mask of the leaves named `kernel`: the weights that are decayed."""
  is_kernel = lambda path, _: getattr(path[-1], 'key', None) == 'kernel' if path else False
  return jax.tree_util.tree_map_with_path(is_kernel, params)


def biases(params):
  """Mask of the biases of convolutions: leaves named `bias` beside a `kernel`."""
  paths = {path for path, _ in jax.tree_util.tree_leaves_with_path(params)}
  is_bias = lambda path, _: bool(path) and getattr(path[-1], 'key', None) == 'bias' and (
      (*path[:-1], jax.tree_util.DictKey('kernel')) in paths)
  return jax.tree_util.tree_map_with_path(is_bias, params)


def _all_but_biases(params):
  return jax.tree.map(lambda is_bias: not is_bias, biases(params))


_DECAYED = {'kernels': kernels, 'all_but_biases': _all_but_biases, 'all': None}  # decay -> mask
