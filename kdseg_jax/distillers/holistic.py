"""Adversarial distillation: a critic learns to tell the student's maps from the teacher's."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import optax
from jax import lax

from kdseg_jax import losses
from kdseg_jax.distillers import core, ranges, resizing
from kdseg_jax.distillers.declaration import Term, declare
from kdseg_jax.errors import UserError
from kdseg_jax.models import normalization
from kdseg_jax.models.critic import Critic

_CRITIC_LOSSES = {'wasserstein': losses.wasserstein_critic, 'hinge': losses.hinge_critic}


@declare(maps_only=True)
def holistic(
    *,
    conditional: bool = True,
    input_norm: bool = False,
    critic_loss: str = 'wasserstein',
    gradient_penalty_weight: float = 10.0,
    critic_weight: float = 0.1,
    critic_learning_rate: float | None = None,
    critic_b1: float = 0.9,
    critic_b2: float = 0.99,
    critic_steps: int | None = None,
    width: float = 1.0,
    resize: bool = False,
    align_corners: bool = True,
    tap: str = 'logits',
    axis_name: str | None = None,
) -> core.Distiller:
  """Holistic distillation against a critic of whole class maps (CVPR 2019, section 3.2).

  The student minimises `-mean D(student)`, the critic
  `critic_weight * (mean D(student) - mean D(teacher) + gradient_penalty_weight * penalty)`, with
  D = `models.critic.Critic`, trained by the critic's optimiser within the same step on the same
  detached maps; the student's gradient comes from D as it was before.

  D sees `[image, softmax(logits)]`, the image normalised and resized to the logits with aligned
  corners (paper; SKD's CVPR code is alike, but for the scale of its images), or the logits alone.
  SKD's journal code is `conditional=False, input_norm=True`, and so is CIRKD's with
  `critic_loss='hinge', gradient_penalty_weight=0`: the term `adversarial` of configs. The penalty
  is on the gradient with respect to all that D sees, the image included, as in SKD's CVPR code.

  Memory is D's spectral-norm vectors and, with `input_norm`, BatchNorm statistics. They advance
  once at each scoring: once in `loss`, then in `critic.loss` for the teacher's maps, the
  student's and the interpolated ones, in this order (SKD's; CIRKD scores the student's first).
  D is in training mode throughout, as in both codes: its BatchNorm uses the maps it scores.
  The singular values of a scoring are differentiated with the vectors of that scoring; both codes
  take those of a step's last one, as their autograd sees vectors that were overwritten.

  Watch `score_gap`: a critic that cannot tell the maps apart teaches nothing. Seen on noisy against
  sure maps of 8x8 after 300 updates of a critic of width 0.25: under the SGD of SKD's journal code
  (4e-4, momentum 0.9) the penalty moved alone, from 0.93 to 0.19, and the gap stayed within 0.07 of
  0 (0.97 to 0.91 and 0.02 in the journal's form). `critic_learning_rate=4e-4` brought the gap to
  3.7 (65), and the hinge of `adversarial` to 7.8, where SGD left it at 0.00.

  Args:
    conditional: whether D sees the image too.
    input_norm: whether D begins with a BatchNorm.
    critic_loss: 'wasserstein' or 'hinge'.
    gradient_penalty_weight: against slopes of D other than 1; 0 leaves the penalty out.
    critic_weight: scales all of the critic's loss (its learning rate, under SGD). The papers say
      nothing of it; 0.1 is SKD's journal code and CIRKD's.
    critic_learning_rate: of an Adam of D's own, constant and without decay; None is the trainer's
      optimiser for critics.
    critic_b1: of that Adam.
    critic_b2: of that Adam.
    critic_steps: updates of D in each train step; None is the trainer's number.
    width: of D, multiplies its channels.
    resize: whether the smaller logits are resized to the size of the larger, bilinearly, so that
      every pixel of the student has a gradient; for models of different output strides (ESPNet).
    align_corners: of that, as in `losses.resize_bilinear`.
    tap: name of the logits of both models; the larger at least 4x4.
    axis_name: mesh axis over which the batch is spread.

  Returns:
    A distiller with a critic and memory. Reads `image` (if conditional), `mask` and `index` of the
    batch. `critic.loss` reports `score_gap` (mean D(teacher) - mean D(student)) and
    `gradient_penalty`, both unweighted.

  Raises:
    ValueError: an unknown loss, a negative weight, learning rate or number of steps, a width that
      is not positive, or a decay of Adam outside [0, 1).
  """
  if critic_loss not in _CRITIC_LOSSES:
    raise UserError(
        f'critic_loss={critic_loss!r} is unknown; expected one of {tuple(_CRITIC_LOSSES)}.')
  ranges.at_least(
      0, 'holistic', gradient_penalty_weight=gradient_penalty_weight, critic_weight=critic_weight,
      critic_learning_rate=critic_learning_rate, critic_steps=critic_steps)
  if not width > 0:
    raise UserError(f'holistic: width={width}; expected more than 0.')
  for name, value in (('critic_b1', critic_b1), ('critic_b2', critic_b2)):
    if not 0 <= value < 1:
      raise UserError(f'holistic: {name}={value}; expected 0 or more, and less than 1.')
  critic = Critic(width, input_norm, axis_name)

  def view(logits, batch):
    """What the critic sees."""
    if not conditional:
      return logits
    image = normalization.normalize_image(
        batch['image'], batch.get('mask'), mean=normalization.IMAGENET_MEAN,
        std=normalization.IMAGENET_STD)
    image = losses.resize_bilinear(image, logits.shape[1:3], align_corners=True)
    logits = logits.astype(jnp.promote_types(jnp.float32, logits.dtype))
    return jnp.concatenate([image, jax.nn.softmax(logits)], axis=-1)

  def at_common_size(inputs):
    """The logits of student and teacher."""
    return resizing.to_common_size(
        inputs.student[tap], inputs.teacher[tap], resize=resize, align_corners=align_corners)

  def score(params, memory, x):
    return critic.apply({'params': params, **memory}, x, train=True, mutable=list(memory))

  def init(rng, inputs):
    if conditional and 'image' not in inputs.batch:
      raise UserError("holistic(conditional=True) reads batch['image']; the batch has "
                      f'{sorted(inputs.batch)}.')
    size = resizing.common_size(inputs.student[tap], inputs.teacher[tap], resize=resize)
    channels = inputs.student[tap].shape[-1] + 3 * conditional
    variables = critic.init(rng, jnp.zeros((1, *size, channels)))
    return core.DistillerState(
        critic=variables['params'],
        memory={name: value for name, value in variables.items() if name != 'params'})

  def loss(state, inputs):
    student = at_common_size(inputs)[0] if resize else inputs.student[tap]
    scores, memory = score(state.critic, state.memory, view(student, inputs.batch))
    return losses.wasserstein_generator(scores, axis_name=axis_name), (memory, {})

  def critics_loss(state, inputs):
    fake, real = (
        lax.stop_gradient(view(logits, inputs.batch)) for logits in at_common_size(inputs))
    real_scores, memory = score(state.critic, state.memory, real)
    fake_scores, memory = score(state.critic, memory, fake)
    value = _CRITIC_LOSSES[critic_loss](real_scores, fake_scores, axis_name=axis_name)
    metrics = {'score_gap': -losses.wasserstein_critic(
        real_scores, fake_scores, axis_name=axis_name)}
    if gradient_penalty_weight:
      alpha = _draw_alpha(inputs.rng, inputs.batch['index'])
      penalty, memory = losses.gradient_penalty(
          lambda x: score(state.critic, memory, x), real, fake, alpha, has_aux=True,
          axis_name=axis_name)
      value += gradient_penalty_weight * penalty
      metrics['gradient_penalty'] = penalty
    return critic_weight * value, (_replicated(memory, axis_name), metrics)

  optimizer = None if critic_learning_rate is None else optax.adam(
      critic_learning_rate, b1=critic_b1, b2=critic_b2)
  return core.Distiller(
      requires=core.Requires(student=(tap,), teacher=(tap,)), init=init, loss=loss,
      critic=core.Critic(critics_loss, optimizer, critic_steps))


def _draw_alpha(rng, index):
  """Uniform in [0, 1), one an example, on any number of devices."""
  keys = jax.vmap(jax.random.fold_in, (None, 0))(rng, index)
  return jax.vmap(jax.random.uniform)(keys)


def _replicated(memory, axis_name):
  """Memory, told to be the same on every device, as it is: exact, where a mean would round.

  While the critic is differentiated its weights count as device-varying, and spectral vectors with
  them. BatchNorm statistics are replicated already.
  """
  if axis_name is None:
    return memory
  return memory | {'spectral': lax.pmax(memory['spectral'], axis_name)}


TERMS = {
    'holistic': Term(holistic, 0.1),  # CVPR 2019, section 3.3: lambda_2
    # The baseline "adversarial logits" of CIRKD's code, and its script's weight.
    'adversarial': Term(holistic, 0.001, {
        'conditional': False, 'input_norm': True, 'critic_loss': 'hinge',
        'gradient_penalty_weight': 0.0, 'critic_learning_rate': 4e-4}),
}
