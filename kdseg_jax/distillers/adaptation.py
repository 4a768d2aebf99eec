"""Knowledge adaptation (He et al., CVPR 2019): features and affinities of a code of the teacher."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from kdseg_jax import losses
from kdseg_jax.distillers import core, ranges
from kdseg_jax.distillers.declaration import Term, declare
from kdseg_jax.errors import UserError
from kdseg_jax.models import adapters

# The paper's weights of both terms, beta and gamma.
_BETA, _GAMMA = 50.0, 1.0


class _Coder(NamedTuple):
  """The autoencoder of a teacher's tap, as the terms name its options; None follows from taps."""

  strides: tuple[int, ...] | None
  channels: int | None
  alpha: float
  student_tap: str
  teacher_tap: str
  axis_name: str | None

  def checked(self, term: str) -> _Coder:
    """Itself, or UserError for options that no autoencoder can have."""
    if self.strides is not None and (
        len(self.strides) != adapters.LAYERS or any(stride < 1 for stride in self.strides)):
      raise UserError(f'{term}: strides={tuple(self.strides)}; expected three whole numbers from '
                      '1, one a layer of the encoder, or None.')
    ranges.at_least(1, term, channels=self.channels)
    ranges.at_least(0, term, alpha=self.alpha)
    return self

  def options(self, inputs: core.DistillInputs) -> tuple[int, tuple[int, ...]]:
    """Channels of the code and strides of the encoder, for these taps."""
    student, teacher = (inputs.student[self.student_tap].shape,
                        inputs.teacher[self.teacher_tap].shape)
    strides = adapters.strides_between(teacher[1:3], student[1:3]) if (
        self.strides is None) else tuple(self.strides)
    return max(1, teacher[-1] // 2) if self.channels is None else self.channels, strides

  def encode(self, prepared: core.PyTree, inputs: core.DistillInputs) -> jax.Array:
    """The frozen code at the size of the student's map."""
    encoder = adapters.Encoder(*self.options(inputs))
    code: Any = encoder.apply(prepared, inputs.teacher[self.teacher_tap].astype(jnp.float32), False)
    return _resized(jax.lax.stop_gradient(code), inputs.student[self.student_tap])

  @property
  def preparation(self) -> core.Preparation:
    """How it is trained, and that the encoder alone is kept."""
    def module(inputs):
      return adapters.Autoencoder(*self.options(inputs), axis_name=self.axis_name)

    def init(rng, inputs):
      shape = inputs.teacher[self.teacher_tap].shape
      variables = module(inputs).init(rng, jnp.zeros((1, *shape[1:])), True)
      return core.DistillerState(
          prepared=variables['params'], memory={'batch_stats': variables['batch_stats']})

    def loss(state, inputs):
      features = jax.lax.stop_gradient(inputs.teacher[self.teacher_tap].astype(jnp.float32))
      (reconstruction, code), memory = module(inputs).apply(
          {'params': state.prepared, 'batch_stats': state.memory['batch_stats']}, features, True,
          mutable=['batch_stats'])
      value = losses.autoencoder_reconstruction(
          features, reconstruction, code, alpha=self.alpha, axis_name=self.axis_name)
      return value, (dict(memory), {})

    def finish(state):
      return {'params': state.prepared['encoder'],
              'batch_stats': state.memory['batch_stats']['encoder']}

    def describe(inputs):
      channels, strides = self.options(inputs)
      return {'factory': 'kdseg_jax.distillers.adaptation:autoencoder', 'channels': channels,
              'strides': strides, 'alpha': self.alpha, 'teacher_tap': self.teacher_tap}

    return core.Preparation(
        requires=core.Requires(student=(self.student_tap,), teacher=(self.teacher_tap,)),
        init=init, loss=loss, finish=finish, describe=describe)


@declare(maps_only=True)
def feature_adaptation(
    *,
    p: float = 2,
    q: float = 2,
    strides: tuple[int, ...] | None = None,
    channels: int | None = None,
    alpha: float = 1e-7,
    student_tap: str = 'embedding',
    teacher_tap: str = 'embedding',
    axis_name: str | None = None,
) -> core.Distiller:
  """Feature adaptation: the student's features against the code of an autoencoder of the teacher's.

  `losses.feature_adaptation(adapter(student[student_tap]), code)`. The adapter
  (`models.adapters.FeatureAdapter`) is trained with the student, the autoencoder
  (`models.adapters.Autoencoder`, under `losses.autoencoder_reconstruction`) before and by itself:
  the preparation of this term. The encoder is then frozen, its BatchNorms too; the decoder is
  dropped. Where the code is not of the size of the student's map, the code is resized to it,
  bilinearly (with aligned corners).

  From the paper: three strided convolutions and their mirror image, the adapter, one epoch at a
  learning rate of 0.1 with weight decay 1e-4 (defaults of `config.prepare`). Chosen here: strides,
  widths and norms of the autoencoder, p = q = 2, the resizing, and the poly schedule.

  Args:
    p: of `losses.feature_adaptation`.
    q: likewise.
    strides: of the encoder's three layers; None gives the code the student's resolution, as nearly
      as 1 and 2 can.
    channels: of the code; None is half of the teacher's.
    alpha: of `losses.autoencoder_reconstruction`.
    student_tap: name of the student's features.
    teacher_tap: name of the teacher's features.
    axis_name: mesh axis over which the batch is spread.

  Returns:
    A distiller with a preparation, whose params are those of the adapter.

  Raises:
    UserError: strides, channels or alpha out of their range.
  """
  coder = _Coder(strides, channels, alpha, student_tap, teacher_tap, axis_name).checked(
      'feature_adaptation')

  def adapter(width):
    return adapters.FeatureAdapter(width, axis_name)

  def init(rng, inputs, prepared=None):
    width = inputs.student[student_tap].shape[-1]
    variables = adapter(coder.options(inputs)[0]).init(rng, jnp.zeros((1, 1, 1, width)), True)
    return core.DistillerState(
        params=variables['params'], prepared=_require(prepared),
        memory={'batch_stats': variables['batch_stats']})

  def loss(state, inputs):
    code = coder.encode(state.prepared, inputs)
    adapted, memory = adapter(code.shape[-1]).apply(
        {'params': state.params, 'batch_stats': state.memory['batch_stats']},
        inputs.student[student_tap], True, mutable=['batch_stats'])
    return losses.feature_adaptation(
        adapted, code, p=p, q=q, axis_name=axis_name), (dict(memory), {})

  return core.Distiller(
      requires=coder.preparation.requires, init=init, loss=loss, prepare=coder.preparation)


@declare(maps_only=True)
def affinity_adaptation(
    *,
    autoencoder: bool = True,
    strides: tuple[int, ...] | None = None,
    channels: int | None = None,
    alpha: float = 1e-7,
    student_tap: str = 'embedding',
    teacher_tap: str = 'embedding',
    axis_name: str | None = None,
) -> core.Distiller:
  """Affinity of knowledge adaptation: cosines between all pixels of the student and of the code.

  `losses.pairwise_affinity(adapter(student[student_tap]), code)`, every pixel a node. The code is
  that of `feature_adaptation`, of whose options `strides`, `channels`, `alpha` and the taps are:
  where they agree, one autoencoder serves both terms. The adapter
  (`models.adapters.AffinityAdapter`) is trained with the student.

  The paper sums over the pixels the lengths of the differences between rows of the affinities, of
  which it has none by the name of this loss; the mean of the squared differences, which needs no
  m x m matrix, is the choice made here.

  Args:
    autoencoder: False compares the features themselves, without autoencoder and adapter, the
      teacher's resized to the size of the student's: the paper's study of affinity alone.
    strides: of the encoder, as in `feature_adaptation`.
    channels: of the code, likewise.
    alpha: of the autoencoder, likewise.
    student_tap: name of the student's features.
    teacher_tap: name of the teacher's features, which are resized to the size of the student's,
      bilinearly (with aligned corners), after the encoder.
    axis_name: mesh axis over which the batch is spread.

  Returns:
    A distiller with a preparation, whose params are those of the adapter; without autoencoder one
    without any state.

  Raises:
    UserError: strides, channels or alpha out of their range.
  """
  coder = _Coder(strides, channels, alpha, student_tap, teacher_tap, axis_name).checked(
      'affinity_adaptation')
  if not autoencoder:
    return core.comparing(
        lambda student, teacher: losses.pairwise_affinity(
            student, _resized(teacher, student), axis_name=axis_name), student_tap, teacher_tap)

  def init(rng, inputs, prepared=None):
    width = inputs.student[student_tap].shape[-1]
    variables = adapters.AffinityAdapter(coder.options(inputs)[0]).init(
        rng, jnp.zeros((1, 1, 1, width)))
    return core.DistillerState(
        params=variables['params'], prepared=_require(prepared))

  def loss(state, inputs):
    code = coder.encode(state.prepared, inputs)
    adapted = adapters.AffinityAdapter(code.shape[-1]).apply(
        {'params': state.params}, inputs.student[student_tap])
    return losses.pairwise_affinity(adapted, code, axis_name=axis_name), (state.memory, {})

  return core.Distiller(
      requires=coder.preparation.requires, init=init, loss=loss, prepare=coder.preparation)


def adaptation(
    *,
    beta: core.Weight = _BETA,
    gamma: core.Weight = _GAMMA,
    strides: tuple[int, ...] | None = None,
    channels: int | None = None,
    alpha: float = 1e-7,
    axis_name: str | None = None,
) -> core.Distiller:
  """Knowledge adaptation with both terms and the paper's weights.

  `combine` of `feature_adaptation` (beta) and `affinity_adaptation` (gamma) under these names, on
  one autoencoder. For other options combine them yourself.

  Args:
    beta: a number or an optax schedule of the step; 0 leaves the term out.
    gamma: likewise.
    strides: of the encoder, as in `feature_adaptation`.
    channels: of the code, likewise.
    alpha: of the autoencoder, likewise.
    axis_name: mesh axis over which the batch is spread.

  Reference: He et al., "Knowledge Adaptation for Efficient Semantic Segmentation" (CVPR 2019). No
  official code was released.
  """
  options: dict[str, Any] = {
      'strides': strides, 'channels': channels, 'alpha': alpha, 'axis_name': axis_name}
  return core.combine(core.without_zeros({
      'feature_adaptation': (beta, feature_adaptation(**options)),
      'affinity_adaptation': (gamma, affinity_adaptation(**options))}))


def _resized(teacher: jax.Array, student: jax.Array) -> jax.Array:
  """The teacher's map at the size of the student's, of which every pixel then has a gradient."""
  height, width = student.shape[1:3]
  return losses.resize_bilinear(teacher, (height, width), align_corners=True)


def _require(prepared):
  if prepared is None:
    raise UserError('init needs what was prepared: prepared=prepare.finish(state) of the '
                    "distiller's `prepare`, after it was trained.")
  return prepared


TERMS = {'feature_adaptation': Term(feature_adaptation, _BETA),
         'affinity_adaptation': Term(affinity_adaptation, _GAMMA)}
METHODS = {'adaptation': {name: term.weight for name, term in TERMS.items()}}
