"""Method strings, their terms and the papers' weights; the distillers of structured KD."""

import dataclasses
import functools
import inspect
import pathlib
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec as P

from kdseg_jax import distillers, losses, parallel, references
from kdseg_jax.distillers import core, methods
from kdseg_jax.errors import UserError
from tests import toys


def taps(seed, width):
  logits, embedding = (jax.random.normal(jax.random.key(seed + i), (2, 6, 6, c))
                       for i, c in enumerate((5, width)))
  return {'logits': logits, 'embedding': embedding}


def inputs_of():
  return distillers.DistillInputs(student=taps(0, 4), teacher=taps(10, 8), step=0)


def test_terms_hold_the_weight_of_the_paper_and_every_option_of_the_factory():
  terms = distillers.terms_of('pixelwise+pairwise')
  assert terms['pixelwise'] == {
      'factory': 'kdseg_jax.distillers:pixelwise', 'weight': 10.0, 'warmup_steps': 0,
      'temperature': 1.0, 'form': 'kl', 'reduction': 'mean', 'resize': False,
      'align_corners': True, 'tap': 'logits'}
  assert terms['pairwise'] == {
      'factory': 'kdseg_jax.distillers:pairwise', 'weight': 10.0, 'warmup_steps': 0,
      'node_scale': None, 'node_size': None, 'pool': 'max', 'norm_gradient': True,
      'norm': 'add_eps', 'eps': 1e-8, 'neighbourhood': None, 'student_tap': 'embedding',
      'teacher_tap': 'embedding'}
  assert distillers.terms_of('none') == {}


def test_created_distiller_is_the_weighted_sum_of_its_losses():
  terms = distillers.terms_of('pixelwise+pairwise@3')
  terms['pixelwise']['temperature'] = 2.0
  method = distillers.create(terms)
  inputs = inputs_of()
  loss, (_, metrics) = jax.jit(method.loss)(method.init(jax.random.key(0), inputs), inputs)
  pixelwise, pairwise = jax.jit(lambda: (
      losses.pixelwise_kl(inputs.student['logits'], inputs.teacher['logits'], temperature=2.0),
      losses.pairwise_affinity(inputs.student['embedding'], inputs.teacher['embedding'])))()
  np.testing.assert_allclose(loss, 10 * pixelwise + 3 * pairwise, rtol=1e-6)
  np.testing.assert_allclose(metrics['pairwise/raw'], pairwise, rtol=1e-6)


@pytest.mark.parametrize('options, node_size', [
    ({}, 1), ({'node_scale': 0.5}, 3), ({'node_size': 2}, 2),
    ({'node_scale': 0.5, 'node_size': 2}, 2)])
def test_nodes_are_pixels_or_of_a_size_or_a_share_of_the_map(options, node_size):
  inputs = inputs_of()
  loss, _ = jax.jit(distillers.pairwise(**options).loss)(distillers.DistillerState(), inputs)
  expected = jax.jit(functools.partial(losses.pairwise_affinity, node_size=node_size))(
      inputs.student['embedding'], inputs.teacher['embedding'])
  np.testing.assert_allclose(loss, expected, rtol=1e-6)


WITH_TAPS = [name for name, term in methods.TERMS.items()
             if 'student_tap' in inspect.signature(term.factory).parameters]


@pytest.mark.parametrize('term', WITH_TAPS)
def test_the_tap_of_each_model_is_read_of_that_model(term):
  """None of these is in the other: what reads them crosswise fails."""
  tap = lambda width: jnp.ones((2, 4, 4, width))
  inputs = distillers.DistillInputs(
      student={'ours': tap(4), 'logits': tap(3)}, teacher={'theirs': tap(4), 'logits': tap(3)},
      batch={'label': jnp.zeros((2, 8, 8), jnp.uint8), 'index': jnp.arange(2)},
      rng=jax.random.key(0))
  method = methods.TERMS[term].factory(student_tap='ours', teacher_tap='theirs')
  distillers.check_requires(method.requires, inputs)
  state = jax.eval_shape(lambda: core.create_state(
      method, jax.random.key(0), inputs, toys.unprepared(method, inputs)))
  assert jax.eval_shape(method.loss, state, inputs)[0].shape == ()


def test_a_term_with_the_name_of_one_of_ours_is_made_by_the_factory_that_its_config_gives():
  fields = {'factory': 'tests.mylab.losses:my_term', 'weight': 1.0, 'power': 3, 'tap': 'theirs'}
  assert distillers.create({'kd': fields}).requires.student == ('theirs',)


def test_no_method_is_a_zero_loss_that_requires_nothing():
  method = distillers.create({})
  loss, (memory, metrics) = method.loss(method.init(jax.random.key(0), inputs_of()), inputs_of())
  assert loss == 0 and loss.dtype == jnp.float32 and memory == {} and metrics == {}
  assert method.requires == distillers.Requires()


def test_a_term_of_weight_zero_is_left_out():
  method = distillers.create(distillers.terms_of('pixelwise+pairwise@0'))
  assert method.requires == distillers.Requires(student=('logits',), teacher=('logits',))


def test_a_weight_is_warmed_up_as_in_the_official_code_of_knowledge_review():
  with np.load(pathlib.Path(__file__).parents[1] / 'golden' / 'review.npz') as golden:
    epochs, factors = golden['review_warmup/epoch'], golden['review_warmup/factor']
  terms = distillers.terms_of('kd@3+pixelwise')
  terms['kd']['warmup_steps'] = 20 * 7  # 20 epochs of 7 steps
  method, inputs = distillers.create(terms), inputs_of()
  state = method.init(jax.random.key(0), inputs)
  run = jax.jit(lambda step: method.loss(state, dataclasses.replace(inputs, step=step))[1][1])
  for epoch, factor in zip(epochs, factors, strict=True):
    metrics = run(jnp.int32(7 * epoch))
    np.testing.assert_allclose(metrics['kd/weighted'], 3 * factor * metrics['kd/raw'], rtol=1e-6)
    np.testing.assert_allclose(
        metrics['pixelwise/weighted'], 10 * metrics['pixelwise/raw'], rtol=1e-6)
  assert 0 < run(jnp.int32(1))['kd/weighted'] < run(jnp.int32(6))['kd/weighted']
  with pytest.raises(ValueError, match='config.distill.kd.warmup_steps=-1: expected a whole numb'):
    distillers.create({'kd': terms['kd'] | {'warmup_steps': -1}})


def test_unknown_method_names_the_nearest():
  with pytest.raises(ValueError, match="Unknown method: 'pixelwize'. Did you mean 'pixelwise'"):
    distillers.terms_of('pixelwize+pairwise')


def test_a_term_shared_by_two_methods_needs_an_explicit_weight(monkeypatch):
  monkeypatch.setitem(methods.METHODS, 'both', {'pixelwise': 1.0, 'pairwise': 2.0})
  with pytest.raises(ValueError, match="'pixelwise' occurs twice.*pixelwise@<weight>"):
    distillers.terms_of('pixelwise+both')
  terms = distillers.terms_of('pixelwise@4+pixelwise+both')
  assert terms['pixelwise']['weight'] == 4.0 and terms['pairwise']['weight'] == 2.0
  with pytest.raises(ValueError, match="'kd' occurs twice, with weights 2.0 and 3.0"):
    distillers.terms_of('kd@2+kd@3')


def test_a_weight_is_that_of_one_term_and_scales_those_of_several():
  weights = lambda method: {
      term: options['weight'] for term, options in distillers.terms_of(method).items()}
  assert weights('pairwise@3') == {'pairwise': 3.0}
  assert weights('channel_wise@3') == {
      'kd': 3.0, 'channel_wise_features': 150.0, 'channel_wise_logits': 9.0}
  assert weights('channel_wise@3+kd@0.5')['kd'] == 0.5


def test_a_method_declares_options_of_its_terms():
  for name, terms in methods.METHODS.items():
    found = distillers.terms_of(name)
    assert set(found) == set(terms)
    for term, declared in terms.items():
      declared = dict(declared) if isinstance(declared, dict) else {'weight': declared}
      factory = inspect.signature(methods.TERMS[term].factory).parameters
      wraps = methods.is_wrapper(methods.TERMS[term].factory)
      own = {'factory', 'weight'} | (set() if wraps else {'warmup_steps'})
      assert set(found[term]) - own == set(factory) - {'axis_name', 'distiller'}
      declared |= {option: value for option, value in methods.TERMS[term].options.items()
                   if option not in declared}
      assert declared.items() <= found[term].items()
      for option in set(found[term]) - set(declared) - own:
        assert found[term][option] == factory[option].default


@pytest.mark.parametrize('term', methods.TERMS)
def test_the_name_of_a_factory_leads_to_it(term):
  reference = distillers.terms_of(term)[term]['factory']
  assert references.find(reference, '') is methods.TERMS[term].factory


@pytest.mark.parametrize('name', [
    name for name in methods.METHODS if hasattr(distillers, name)])
def test_a_method_is_what_the_factory_of_its_name_makes(name):
  """Of one term, whose factory it is; of several, with the same terms and weights."""
  terms = distillers.terms_of(name)
  if name in methods.TERMS:
    assert list(terms) == [name]
    assert references.find(terms[name]['factory'], '') is getattr(distillers, name)
    return
  made = getattr(distillers, name)(axis_name=parallel.AXIS)
  of_terms = distillers.create(terms, axis_name=parallel.AXIS)
  assert made.requires == of_terms.requires
  wide, images = {'logits': 5, 'aux_logits': 5, 'embedding': 8}, 8
  shape = lambda *sizes, dtype=jnp.float32: jax.ShapeDtypeStruct((images, *sizes), dtype)
  inputs = distillers.DistillInputs(
      *({tap: shape(6, 6, width) for tap, width in wide.items()} for _ in range(2)), batch={
          'image': shape(24, 24, 3, dtype=jnp.uint8), 'label': shape(24, 24, dtype=jnp.uint8),
          'index': shape(dtype=jnp.int32)}, rng=jax.random.key(0))
  state = jax.eval_shape(lambda: core.create_state(
      of_terms, inputs.rng, inputs, toys.unprepared(of_terms, inputs)))
  by_example = dataclasses.replace(
      jax.tree.map(lambda _: P(parallel.AXIS), inputs), rng=P(), step=P())

  def text(method):
    mapped = jax.shard_map(lambda *given: method.loss(*given)[0], mesh=parallel.create_mesh(),
                           in_specs=(P(), by_example), out_specs=P())
    return re.sub('0x[0-9a-f]+', '', str(jax.make_jaxpr(mapped)(state, inputs)))
  assert text(made) == text(of_terms)  # weights and options too


def test_methods_that_give_a_term_other_options_cannot_be_joined():
  message = ("'pixelwise' occurs in two of the methods, which differ in its options: form 'kl' and "
             "'cross_entropy', reduction 'mean' and 'sum_over_batch'.*config.distill.pixelwise")
  with pytest.raises(ValueError, match=message):
    distillers.terms_of('pixelwise+skd_journal')
  with pytest.raises(ValueError, match="'pairwise'.*weight 10.0 and 0.5, node_scale None and 0.5"):
    distillers.terms_of('pairwise+skd_journal')
  # A term that is only weighed takes the options of the method that has it.
  terms = distillers.terms_of('skd_journal+pairwise@2')
  assert terms['pairwise']['weight'] == 2.0 and not terms['pairwise']['norm_gradient']
  assert distillers.terms_of('skd+pairwise') == distillers.terms_of('skd')
  assert distillers.terms_of('skd_cirkd+intra_class_variation')['adversarial']['weight'] == 0.001


def journal_inputs():
  rng = np.random.default_rng(0)
  taps = lambda width: {'logits': rng.normal(size=(2, 5, 7, 3)).astype(np.float32),
                        'embedding': rng.normal(size=(2, 5, 7, width)).astype(np.float32)}
  return distillers.DistillInputs(student=taps(4), teacher=taps(6), step=0)


def test_the_journals_terms_are_those_of_its_criterion():
  """By plain numpy: the sum over the batch, and nodes of 2x3 of a map of 5x7, ceil mode."""
  inputs = journal_inputs()
  terms = distillers.terms_of('skd_journal')
  method = distillers.create({name: terms[name] for name in ('pixelwise', 'pairwise')})
  def log_softmax(x):
    return x - np.log(np.sum(np.exp(x), -1, keepdims=True))
  student, teacher = (log_softmax(x['logits']) for x in (inputs.student, inputs.teacher))
  pixelwise = -np.sum(np.exp(teacher) * student) / (5 * 7)

  def affinity(x):
    nodes = [x[:, i:i + 2, j:j + 3].max((1, 2)) for i in (0, 2, 4) for j in (0, 3, 6)]
    nodes = np.stack(nodes, 1)
    nodes /= np.linalg.norm(nodes, axis=-1, keepdims=True) + 1e-8
    return nodes @ nodes.swapaxes(1, 2)
  difference = affinity(inputs.teacher['embedding']) - affinity(inputs.student['embedding'])
  pairwise = np.sum(difference**2) / 9**2 / 2
  loss, (_, metrics) = jax.jit(method.loss)(method.init(jax.random.key(0), inputs), inputs)
  np.testing.assert_allclose(metrics['pixelwise/raw'], pixelwise, rtol=1e-5)
  np.testing.assert_allclose(metrics['pairwise/raw'], pairwise, rtol=1e-5)
  np.testing.assert_allclose(loss, 10 * pixelwise + 0.5 * pairwise, rtol=1e-5)


def test_a_term_shared_with_the_same_weight_occurs_once():
  terms = distillers.terms_of('cirkd+channel_wise+kd')
  assert {term: options['weight'] for term, options in terms.items()} == {
      'kd': 1.0, 'cross_image': 1.0, 'memory': 1.0, 'channel_wise_features': 50.0,
      'channel_wise_logits': 3.0}


def test_the_method_string_gives_and_adds_weights():
  terms = distillers.terms_of('channel_wise+kd@0.5+pairwise@3')
  assert {term: options['weight'] for term, options in terms.items()} == {
      'kd': 0.5, 'channel_wise_features': 50.0, 'channel_wise_logits': 3.0, 'pairwise': 3.0}
  assert distillers.terms_of('kd+context')['context']['weight'] == 1.0
  assert distillers.label(terms) == (
      'kd@0.5+channel_wise_features@50+channel_wise_logits@3+pairwise@3')
  assert distillers.label({}) == 'none'


@pytest.mark.parametrize('method, message', [
    ('fitnets+kd@much', "weight of 'kd' is 'much'; expected a number"),
    ('kd@nan', "weight of 'kd' is 'nan'"), ('kd@', "weight of 'kd' is ''"),
    ('', "Unknown method: ''"), ('kd+', "Unknown method: ''"), ('kd++fitnets', "method: ''"),
    ('kd@1@2', "weight of 'kd' is '1@2'"), ('@2', "Unknown method: ''"),
    ('fitnet@1', "Unknown method: 'fitnet'. Did you mean 'fitnets'"),
    ('fitnets+kd:2', 'a weight is written with @, kd@2'),
    ('kd:much', 'a weight is written with @, kd@much'),
    ('mylab.losses:2', 'a weight is written with @, mylab.losses@2'),
    ('my-lab:term', "'my-lab:term' is no module:attribute")])
def test_what_is_no_method_is_refused(method, message):
  with pytest.raises(UserError, match=message):
    distillers.terms_of(method)
