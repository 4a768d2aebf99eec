"""Small made-up models and distillers, one for each part of the interface."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from kdseg_jax import default_config, distillers, inference, models
from kdseg_jax.distillers import DistillerState, Requires, methods
from kdseg_jax.losses import box_coding
from kdseg_jax.models.layers import ConvNorm
from kdseg_jax.training.state import Optimizers, TrainState


def variables(module, *args):
  """Made-up variables of a module: cheaper than compiling its `init`, and no trivial ones."""
  return filled(jax.eval_shape(lambda: module.init({'params': jax.random.key(0)}, *args)))


def filled(shapes):
  """Made-up values of variables of these shapes."""
  rng = np.random.default_rng(1)

  def make(path, leaf):
    if len(leaf.shape) == 4:
      deviation = np.sqrt(2 / np.prod(leaf.shape[:3]))
      return (deviation * rng.standard_normal(leaf.shape)).astype(np.float32)
    center = 1 if path[-1].key in ('scale', 'var') else 0
    return (center + 0.1 * rng.uniform(-1, 1, leaf.shape)).astype(np.float32)

  return jax.tree_util.tree_map_with_path(make, shapes)


def loaded(module, variables=None, **fields):
  """A model as it is loaded, of three classes."""
  return inference.Model(module, variables or {}, tuple('abc'), default_config.segmentation(),
                         **fields)


def projected(axis_name=None, tap='x'):
  """Params and memory: mean (scale * student - teacher)^2, and a count of the calls."""
  def loss(state, inputs):
    value = _mean((state.params['scale'] * inputs.student[tap] - inputs.teacher[tap]) ** 2,
                  axis_name)
    return value, ({'calls': state.memory['calls'] + 1}, {'scale': state.params['scale']})
  return distillers.Distiller(
      requires=Requires(student=(tap,), teacher=(tap,)),
      init=lambda rng, inputs: DistillerState(
          params={'scale': jnp.float32(2)}, memory={'calls': jnp.int32(0)}),
      loss=loss)


def adversarial(axis_name=None, tap='x', optimizer=None, steps=None):
  """A critic, memory that both phases change, and a draw an example."""
  def noise(inputs):
    keys = jax.vmap(jax.random.fold_in, (None, 0))(inputs.rng, inputs.batch['index'])
    return _mean(jax.vmap(jax.random.normal)(keys), axis_name)

  def critic_loss(state, inputs):
    value = state.critic['w'] * _mean(inputs.student[tap] - inputs.teacher[tap], axis_name)
    return value + noise(inputs), ({'calls': state.memory['calls'] + 10}, {})

  def loss(state, inputs):
    value = -state.critic['w'] * _mean(inputs.student[tap], axis_name)
    return value, ({'calls': state.memory['calls'] + 1}, {'noise': noise(inputs)})
  return distillers.Distiller(
      requires=Requires(student=(tap,), teacher=(tap,)),
      init=lambda rng, inputs: DistillerState(
          critic={'w': jax.random.normal(rng)}, memory={'calls': jnp.int32(0)}),
      loss=loss, critic=distillers.Critic(critic_loss, optimizer, steps))


def prepared(axis_name=None, tap='x', optimizer=None, slope=1.0):
  """A preparation, which fits the mean of the teacher's tap; a decoder is not kept."""
  mse = lambda x, mean: _mean((x - mean) ** 2, axis_name)

  def prepare_loss(state, inputs):
    value = mse(slope * inputs.teacher[tap], state.prepared['mean']) + state.prepared['decoder']**2
    return value, ({'calls': state.memory['calls'] + 1}, {})

  requires = Requires(student=(tap,), teacher=(tap,))
  return distillers.Distiller(
      requires=requires,
      init=lambda rng, inputs, prepared: DistillerState(prepared=prepared),
      loss=lambda state, inputs: (
          mse(inputs.student[tap], state.prepared['mean']), (state.memory, {})),
      prepare=distillers.Preparation(
          requires=requires, loss=prepare_loss, optimizer=optimizer,
          init=lambda rng, inputs: DistillerState(
              prepared={'mean': jnp.float32(0), 'decoder': jax.random.normal(rng)},
              memory={'calls': jnp.int32(0)}),
          finish=lambda state: {'mean': state.prepared['mean']},
          describe=lambda inputs: {'factory': 'toys:prepared', 'tap': tap, 'slope': slope}))


def unprepared(method, inputs):
  """What the preparation of a method leaves before its first step; None if it has none."""
  if method.prepare is None:
    return None
  return method.prepare.finish(method.prepare.init(jax.random.key(0), inputs))


def everything(weights=(1.0, 0.5, 2.0), axis_name=None, tap='x'):
  """All groups of the state at once."""
  return distillers.combine({
      'a': (weights[0], projected(axis_name, tap)), 'b': (weights[1], adversarial(axis_name, tap)),
      'c': (weights[2], prepared(axis_name, tap))})


def fresh_preparation(preparation, optimizer, inputs):
  """The state of a preparation before its first step."""
  made = preparation.init(jax.random.key(0), inputs)
  return TrainState(
      step=jnp.int32(0), params=made.prepared, batch_stats={}, rng=jax.random.key(1),
      opt_state=Optimizers(optimizer.init(made.prepared), {}),
      distiller=made._replace(prepared={}))


class Model(nn.Module):
  """A one-layer segmenter with synchronised BatchNorm and one tap, `x`."""

  num_classes: int = 3
  axis_name: str | None = None
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, image, mask=None, index=None, train=False):
    x = nn.Conv(self.num_classes, (3, 3), use_bias=False, param_dtype=self.dtype)(
        image.astype(self.dtype) / 255)
    x = nn.BatchNorm(use_running_average=not train, momentum=0.9, axis_name=self.axis_name,
                     param_dtype=self.dtype)(x)
    return x, {'x': x, 'logits': x, 'embedding': x}


class Classifier(nn.Module):
  """A classifier of one layer."""

  num_classes: int = 3
  axis_name: str | None = None

  @nn.compact
  def __call__(self, image, mask=None, index=None, train=False):
    pooled = (image / 255).mean(axis=(1, 2))
    x = nn.Dense(self.num_classes)(pooled)
    return x, {'pooled': pooled, 'embedding': pooled, 'logits': x}


class BodyAndHead(nn.Module):
  """A segmenter of two parts, of which the head alone depends on the number of classes."""

  num_classes: int = 3
  axis_name: str | None = None
  width: int = 8

  @nn.compact
  def __call__(self, image, mask=None, index=None, train=False):
    x = ConvNorm(self.width, axis_name=self.axis_name, name='body')(image / 255, train)
    embedding = ConvNorm(8, axis_name=self.axis_name, name='neck')(x, train)
    x = nn.Conv(self.num_classes, (1, 1), name='head')(embedding)
    return x, {'x': x, 'logits': x, 'embedding': embedding}


def maker_of(toy):
  """A `models.create` that makes a toy whatever model a config names; it compiles fast."""
  return lambda name, num_classes, axis_name, **_: toy(
      num_classes=num_classes, axis_name=axis_name)


def replace_models(patch, toy=Model):
  """Has a toy made whatever model a config names."""
  patch.setattr(models, 'create', maker_of(toy))


def replace_segmenters_and_classifiers(patch):
  """As `replace_models`, by what a model of the name is."""
  patch.setattr(models, 'create', lambda name, num_classes, axis_name, **_: (
      Classifier if name in models.CLASSIFIERS else Model)(num_classes, axis_name))


# Methods that read what only detectors have.
OF_DETECTORS = frozenset(
    name for name in methods.METHODS
    if {'p3', 'cls', 'reg'} & {*distillers.create(distillers.terms_of(name)).requires.teacher})
LEVELS = ((3, 4), (2, 2), (1, 1), (1, 1), (1, 1))  # (height, width) of a detector's maps
_NUMBERS = {'cls': 4, 'reg': 8}  # of a GFL head with two bins a side


def detector_taps(images, width, rng, numbers=None):
  """Random taps of a detector with a GFL head, or of other numbers of channels."""
  make = lambda channels: tuple(
      rng.normal(size=(images, *size, channels)).astype(np.float32) for size in LEVELS)
  channels = {f'{branch}_tower_{i}': width for branch in ('cls', 'reg') for i in (2, 3)}
  taps = {name: make(number) for name, number in (channels | _NUMBERS | (numbers or {})).items()}
  return taps | dict(zip(('p3', 'p4', 'p5', 'p6', 'p7'), make(width)))


def detector_masks(images, rng):
  """What a GFL head's loss assigns to the anchors `(N, P)`, random."""
  anchors = sum(height * width for height, width in LEVELS)
  return {name: rng.random((images, anchors)) < share for name, share in (
      ('positive', 0.3), ('counts', 0.8), ('inside', 0.5), ('valuable', 0.4))}


def detector_targets(masks):
  """The targets of these masks."""
  return dict(masks) | {'normalizer': jnp.float32(5),
                        'priors': jnp.concatenate(box_coding.anchors(LEVELS))}


def detector_head(width, numbers=None):
  """`DistillInputs.teacher_head` of one product for each output; towers are as wide as given."""
  rng = np.random.default_rng(7)
  kernels = {name: rng.normal(size=(width, number)).astype(np.float32)
             for name, number in (_NUMBERS | (numbers or {})).items()}
  return jax.tree_util.Partial(_run_detector_head, kernels)


def _run_detector_head(kernels, features, layer):
  tower = lambda name: features[f'{"cls" if name == "cls" else "reg"}_tower_{layer}']
  return {name: tuple(jnp.tanh((layer + 1) * x) @ kernel for x in tower(name))
          for name, kernel in kernels.items()}


def _mean(x, axis_name):
  return lax.pmean(jnp.mean(x), axis_name) if axis_name else jnp.mean(x)
