"""Adversarial distillation: what a critic and its adversary minimise."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from kdseg_jax.losses import _common


def wasserstein_critic(
    real_scores: jax.Array, fake_scores: jax.Array, *, axis_name: str | None = None
) -> jax.Array:
  """What a Wasserstein critic minimises: `mean(fake_scores) - mean(real_scores)`.

  The critic learns to score the real (the teacher's maps) high and the fake (the student's) low;
  minus this value estimates the Wasserstein distance, up to the critic's Lipschitz constant.

  Args:
    real_scores: `(N, ...)`, the critic's scores of the teacher's maps.
    fake_scores: `(N, ...)`, its scores of the student's.
    axis_name: mapped axis over which the batch is spread: means over all devices.

  Returns:
    float32 scalar (float64 for float64 scores). Gradient flows into both, towards the critic.

  Reference: Liu et al., "Structured Knowledge Distillation for Semantic Segmentation" (CVPR 2019),
  section 3.2, holistic distillation, where it is to be maximised with the opposite sign;
  Gulrajani et al., "Improved Training of Wasserstein GANs" (2017), eq. 3. Official: SKD.
  """
  real_scores, fake_scores = _common.as_logits('wasserstein_critic', real_scores, fake_scores)
  mean = lambda scores: _common.masked_mean(scores, None, axis_name)
  return mean(fake_scores) - mean(real_scores)


def wasserstein_generator(
    fake_scores: jax.Array, *, axis_name: str | None = None
) -> jax.Array:
  """What the student minimises against any critic: `-mean(fake_scores)`.

  Args:
    fake_scores: `(N, ...)`, the critic's scores of the student's maps.
    axis_name: mapped axis over which the batch is spread: mean over all devices.

  Returns:
    float32 scalar (float64 for float64 scores).

  Reference: as `wasserstein_critic`. It is also the adversary of `hinge_critic`.
  """
  [fake_scores] = _common.as_logits('wasserstein_generator', fake_scores)
  return -_common.masked_mean(fake_scores, None, axis_name)


def hinge_critic(
    real_scores: jax.Array, fake_scores: jax.Array, *, axis_name: str | None = None
) -> jax.Array:
  """The hinge form: `mean(relu(1 - real_scores)) + mean(relu(1 + fake_scores))`.

  Args:
    real_scores: `(N, ...)`, the critic's scores of the teacher's maps.
    fake_scores: `(N, ...)`, its scores of the student's.
    axis_name: mapped axis over which the batch is spread: means over all devices.

  Returns:
    float32 scalar (float64 for float64 scores), at least 0.

  Reference: Zhang et al., "Self-Attention Generative Adversarial Networks" (2019), eq. 4. It is
  the critic of the adversarial baselines in CIRKD's official code, and an option of SKD's.
  """
  real_scores, fake_scores = _common.as_logits('hinge_critic', real_scores, fake_scores)
  mean = lambda scores: _common.masked_mean(jax.nn.relu(scores), None, axis_name)
  return mean(1 - real_scores) + mean(1 + fake_scores)


def gradient_penalty(
    critic_fn: Callable[[jax.Array], Any],
    real: jax.Array,
    fake: jax.Array,
    alpha: jax.Array,
    *,
    has_aux: bool = False,
    axis_name: str | None = None,
) -> Any:
  """How far a critic is from slope 1 between real and fake, not yet times its weight.

  `mean over samples of (|d sum(critic_fn(x)) / dx|_2 - 1)**2` at
  `x = alpha * real + (1 - alpha) * fake`, with the norm over all of a sample. Differentiable with
  respect to whatever `critic_fn` closes over.

  A critic that mixes samples (BatchNorm) makes a sample's gradient that of the sum of all scores.
  The same holds across devices: inside a map, the gradient is that of the scores of all devices
  if the critic's statistics are synchronised over them.

  Args:
    critic_fn: maps `(N, H, W, C)` to scores `(N, ...)`.
    real: `(N, H, W, C)`, or any `(N, ...)`: what the critic sees of the teacher.
    fake: the same of the student. No gradient flows into either.
    alpha: `(N,)`, one a sample, uniform in [0, 1).
    has_aux: whether `critic_fn` returns `(scores, aux)`.
    axis_name: mapped axis over which the batch is spread: mean over the samples of all devices.

  Returns:
    float32 scalar (float64 for float64 inputs), or `(scalar, aux)`. Where a gradient is 0, the
    penalty is 1 and its derivative is taken as 0.

  Raises:
    ValueError: shapes that do not fit each other.

  Reference: Gulrajani et al., "Improved Training of Wasserstein GANs" (2017), eq. 3, with weight
  10; used by SKD (CVPR 2019). The official code multiplies by the weight and is otherwise equal.
  """
  real, fake, alpha = _common.as_features(
      'gradient_penalty', *map(lax.stop_gradient, (real, fake, alpha)))
  if real.shape != fake.shape or alpha.shape != real.shape[:1]:
    raise ValueError(
        'gradient_penalty takes real and fake of the same shape (N, ...) and alpha (N,), got '
        f'{real.shape}, {fake.shape} and {alpha.shape}.')
  alpha = alpha.reshape(-1, *[1] * (real.ndim - 1))

  def total(x):
    scores, aux = critic_fn(x) if has_aux else (critic_fn(x), None)
    return jnp.sum(scores), aux

  gradient, aux = jax.grad(total, has_aux=True)(alpha * real + (1 - alpha) * fake)
  squared = jnp.sum(gradient**2, axis=tuple(range(1, gradient.ndim)))
  is_zero = squared < jnp.finfo(squared.dtype).tiny  # where the square root has no derivative
  norm = jnp.where(is_zero, 0, jnp.sqrt(jnp.where(is_zero, 1, squared)))
  penalty = _common.masked_mean((norm - 1)**2, None, axis_name)
  return (penalty, aux) if has_aux else penalty
