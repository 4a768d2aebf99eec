"""What a term is told, its losses are told; what a whole method is told, its terms are."""

import dataclasses
import functools
import inspect

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kdseg_jax import distillers, losses
from kdseg_jax.distillers import core, methods
from kdseg_jax.losses import queues
from tests import test_term_options as options_of
from tests import toys

CLASSES, TEACHER = 4, (2, 8, 10)
# Losses of terms, and what fills their queues.
CALLED = {(owner, name): function for owner in (losses, queues)
          for name, function in inspect.getmembers(owner, inspect.isfunction)
          if not name.startswith(('_', 'resize'))}
ARGUMENTS = {name for function in CALLED.values()
             for name in inspect.signature(function).parameters}
# What terms do themselves, before the losses.
BY_ITSELF = {'align_corners', 'strides', 'channels', 'student_taps', 'teacher_taps',
             'official_channel_count', ('channels', 'pool'), ('review', 'form')}
OF_LOSSES = {term: [option for option in options_of.defaults_of(term)
                    if option in ARGUMENTS and not {option, (term, option)} & BY_ITSELF]
             for term in methods.TERMS}
NAMED_OTHERWISE = {('memory', 'pixels_per_class'): ('push_pixels', 'per_class')}


def inputs_of(term, rng=None):
  """Maps of unlike sizes, widths and levels, of which no two are alike."""
  rng = np.random.default_rng(0)
  if term in toys.OF_DETECTORS:
    return distillers.DistillInputs(
        *(toys.detector_taps(2, 4, rng) for _ in range(2)), rng=jax.random.key(0),
        targets=toys.detector_targets(toys.detector_masks(2, rng)),
        teacher_head=toys.detector_head(4))
  batch = options_of.batch_of()
  tap = lambda width: rng.normal(size=(*TEACHER, width)).astype(np.float32)
  taps = lambda width: {'logits': tap(CLASSES), 'aux_logits': tap(CLASSES), 'embedding': tap(width)}
  return distillers.DistillInputs(taps(6), taps(8), batch=batch, rng=jax.random.key(0), step=0)


def calls_of(method, inputs):
  """(name, its arguments) of all losses that a method calls; nothing is computed."""
  calls = []

  def record(name, function):
    signature = inspect.signature(function)

    def recorded(*given, **named):
      bound = signature.bind(*given, **named)
      bound.apply_defaults()
      calls.append((name, bound.arguments))
      return function(*given, **named)
    return recorded

  with pytest.MonkeyPatch.context() as patch:
    for (owner, name), function in CALLED.items():
      patch.setattr(owner, name, record(name, function))
    method = method()
    state = jax.eval_shape(lambda: core.create_state(
        method, jax.random.key(0), inputs, toys.unprepared(method, inputs)))
    jax.eval_shape(method.loss, state, inputs)
    if method.prepare is not None:
      prepared = jax.eval_shape(lambda: method.prepare.init(jax.random.key(0), inputs))
      jax.eval_shape(method.prepare.loss, prepared, inputs)
  return calls


@pytest.mark.parametrize('term', [term for term in OF_LOSSES if OF_LOSSES[term]])
def test_every_loss_of_a_term_is_told_its_options(term):
  defaults = options_of.defaults_of(term)
  given = {option: options_of.another(term, option, defaults[option])
           for option in OF_LOSSES[term]}
  others = {option: options_of.another(term, option, defaults[option])
            for owner, option in NAMED_OTHERWISE if owner == term}
  small = options_of.BASE.get(term, {})
  method = functools.partial(methods.TERMS[term].factory, **small | given | others)
  calls = calls_of(method, inputs_of(term))
  for option, value in given.items():
    told = [arguments[option] for _, arguments in calls if option in arguments]
    assert told and all(one == value for one in told), (option, value, told)
  for (owner, option), (loss, argument) in NAMED_OTHERWISE.items():
    if owner == term:
      assert [arguments[argument] for name, arguments in calls if name == loss] == [others[option]]


def program_of(method, inputs):
  """The text of what a method computes."""
  state = jax.eval_shape(lambda: core.create_state(
      method, jax.random.key(0), inputs, toys.unprepared(method, inputs)))
  text = str(jax.make_jaxpr(method.loss)(state, inputs))
  if method.prepare is None:
    return text
  prepared = jax.eval_shape(lambda: method.prepare.init(jax.random.key(0), inputs))
  return text + str(jax.make_jaxpr(method.prepare.loss)(prepared, inputs))


@pytest.mark.parametrize('factory, given, terms', [
    (distillers.skd, {'pixelwise_weight': 3.0, 'pairwise_weight': 5.0, 'holistic_weight': 7.0},
     {'pixelwise': {'weight': 3.0}, 'pairwise': {'weight': 5.0}, 'holistic': {'weight': 7.0}}),
    (distillers.cirkd, {'kd_weight': 3.0, 'cross_image_weight': 5.0, 'pixel_weight': 0.7,
                        'region_weight': 0.3},
     {'kd': {'weight': 3.0}, 'cross_image': {'weight': 5.0},
      'memory': {'pixel_weight': 0.7, 'region_weight': 0.3}}),
    (distillers.adaptation, {'beta': 3.0, 'gamma': 5.0, 'strides': (2, 1, 2), 'channels': 3,
                             'alpha': 0.1},
     {term: {'weight': weight, 'strides': (2, 1, 2), 'channels': 3, 'alpha': 0.1}
      for term, weight in (('feature_adaptation', 3.0), ('affinity_adaptation', 5.0))})])
def test_a_whole_method_is_its_terms_with_the_options_that_it_is_given(factory, given, terms):
  assert given.keys() == inspect.signature(factory).parameters.keys() - {'axis_name'}
  inputs = inputs_of('kd')
  fields = {term: distillers.terms_of(term)[term] | own for term, own in terms.items()}
  assert program_of(factory(**given), inputs) == program_of(distillers.create(fields), inputs)


def test_the_weights_of_crosskd_are_each_of_its_own_part():
  numbers = {'reg': 4, 'centerness': 1}
  inputs = dataclasses.replace(
      inputs_of('crosskd'), teacher_head=toys.detector_head(4, numbers),
      teacher=toys.detector_taps(2, 4, np.random.default_rng(1), numbers))
  inputs.targets['centerness_normalizer'] = jnp.float32(3)
  method, found = distillers.crosskd(
      teacher_head='atss', cls_weight=3.0, box_weight=5.0, centerness_weight=7.0), {}

  def loss():
    found.update(method.loss(method.init(inputs.rng, inputs), inputs)[1][1])

  with pytest.MonkeyPatch.context() as patch:
    for name in ('cross_head_classification', 'giou', 'binary_cross_entropy'):
      patch.setattr(losses, name, lambda *_, **__: 1.0)
    jax.eval_shape(loss)
  assert found == {'cls': 3.0, 'boxes': 5.0, 'centerness': 7.0}


WEIGHTS = {  # by the sources that are named beside each in its module
    'pixelwise': 10.0, 'pairwise': 10.0, 'holistic': 0.1, 'adversarial': 0.001, 'kd': 1.0,
    'decoupled': 1.0, 'fitnets': 10.0, 'attention_transfer': 10_000.0,
    'channel_wise_features': 50.0, 'channel_wise_logits': 3.0, 'intra_class_variation': 20.0,
    'double_similarity_pixel': 1000.0, 'double_similarity_category': 10.0, 'cross_image': 1.0,
    'memory': 1.0, 'channels': 1.0, 'context': 1.0, 'review': 1.0, 'feature_adaptation': 50.0,
    'affinity_adaptation': 1.0, 'crosskd': 1.0, 'prediction_mimicking': 1.0,
    'localization_distillation': 0.25, 'pkd': 6.0, 'pyramid_fitnets': 1.0}


def test_a_term_alone_has_the_weight_of_its_source():
  assert {term: distillers.terms_of(term)[term]['weight'] for term in methods.TERMS} == WEIGHTS


def test_what_is_tried_is_small():
  terms = distillers.terms_of('memory+channels+crosskd')
  methods.shrink(terms)
  assert {name: terms['memory'][name] for name in (
      'pixel_slots', 'region_slots', 'pixel_samples', 'region_samples')} == {
          'pixel_slots': 64, 'region_slots': 16, 'pixel_samples': 64, 'region_samples': 16}
  assert (terms['channels']['slots'], terms['channels']['samples']) == (64, 32)
  assert terms['crosskd']['layer'] == 1
