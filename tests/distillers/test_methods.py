"""Method strings, their terms and the papers' weights; the distillers of structured KD."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kdseg_jax import distillers, losses
from kdseg_jax.distillers import methods


def taps(seed, width):
  logits, embedding = (jax.random.normal(jax.random.key(seed + i), (2, 6, 6, c))
                       for i, c in enumerate((5, width)))
  return {'logits': logits, 'embedding': embedding}


def inputs_of():
  return distillers.DistillInputs(student=taps(0, 4), teacher=taps(10, 8), step=0)


def test_terms_hold_the_weight_of_the_paper_and_every_option_of_the_factory():
  terms = distillers.terms_of('pixelwise+pairwise')
  assert terms['pixelwise'] == {
      'weight': 10.0, 'temperature': 1.0, 'form': 'kl', 'reduction': 'mean', 'resize': False,
      'align_corners': True, 'tap': 'logits'}
  assert terms['pairwise']['weight'] == 10.0 and terms['pairwise']['node_scale'] == 0.5
  assert distillers.terms_of('none') == {}


def test_created_distiller_is_the_weighted_sum_of_its_losses():
  terms = distillers.terms_of('pixelwise+pairwise', {'pairwise': 3.0})
  terms['pixelwise']['temperature'] = 2.0
  method = distillers.create(terms)
  inputs = inputs_of()
  loss, (_, metrics) = method.loss(method.init(jax.random.key(0), inputs), inputs)
  pixelwise = losses.pixelwise_kl(
      inputs.student['logits'], inputs.teacher['logits'], temperature=2.0)
  pairwise = losses.pairwise_affinity(
      inputs.student['embedding'], inputs.teacher['embedding'], node_size=(3, 3))
  np.testing.assert_allclose(loss, 10 * pixelwise + 3 * pairwise, rtol=1e-6)
  np.testing.assert_allclose(metrics['pairwise/raw'], pairwise, rtol=1e-6)


def test_node_size_overrides_the_scale():
  inputs = inputs_of()
  loss, _ = distillers.pairwise(node_size=2).loss(distillers.DistillerState(), inputs)
  np.testing.assert_allclose(loss, losses.pairwise_affinity(
      inputs.student['embedding'], inputs.teacher['embedding'], node_size=2), rtol=1e-6)


def test_no_method_is_a_zero_loss_that_requires_nothing():
  method = distillers.create({})
  loss, (memory, metrics) = method.loss(method.init(jax.random.key(0), inputs_of()), inputs_of())
  assert loss == 0 and loss.dtype == jnp.float32 and memory == {} and metrics == {}
  assert method.requires == distillers.Requires()


def test_a_term_of_weight_zero_is_left_out():
  method = distillers.create(distillers.terms_of('pixelwise+pairwise', {'pairwise': 0.0}))
  assert method.requires == distillers.Requires(student=('logits',), teacher=('logits',))


def test_unknown_method_names_the_nearest():
  with pytest.raises(ValueError, match="Unknown method: 'pixelwize'. Did you mean 'pixelwise'"):
    distillers.terms_of('pixelwize+pairwise')


def test_weight_of_a_term_that_the_method_has_not_is_refused():
  with pytest.raises(ValueError, match="Unknown term of method=pixelwise: 'pairwise'"):
    distillers.terms_of('pixelwise', {'pairwise': 1.0})


def test_a_term_shared_by_two_methods_needs_an_explicit_weight(monkeypatch):
  monkeypatch.setitem(methods.METHODS, 'both', {'pixelwise': 1.0, 'pairwise': 2.0})
  with pytest.raises(ValueError, match="'pixelwise' occurs in two.*pixelwise:<weight>"):
    distillers.terms_of('pixelwise+both')
  for terms in (distillers.terms_of('pixelwise+both', {'pixelwise': 4.0}),
                distillers.terms_of('pixelwise:4+pixelwise+both')):
    assert terms['pixelwise']['weight'] == 4.0 and terms['pairwise']['weight'] == 2.0


def test_a_term_shared_with_the_same_weight_occurs_once():
  terms = distillers.terms_of('fitnets+attention_transfer')
  assert {term: options['weight'] for term, options in terms.items()} == {
      'kd': 1.0, 'fitnets': 10.0, 'attention_transfer': 10_000.0}


def test_the_method_string_gives_and_adds_weights():
  terms = distillers.terms_of('fitnets+kd:0.5+pairwise:3')
  assert {term: options['weight'] for term, options in terms.items()} == {
      'kd': 0.5, 'fitnets': 10.0, 'pairwise': 3.0}
  assert distillers.terms_of('kd+context:1')['context']['weight'] == 1.0
  assert distillers.terms_of('kd:2', {'kd': 3.0})['kd']['weight'] == 3.0
  with pytest.raises(ValueError, match="weight of 'kd' is 'much'; expected a number"):
    distillers.terms_of('fitnets+kd:much')
  with pytest.raises(ValueError, match="Unknown term of method=.*: 'fitnet'. Did you mean"):
    distillers.terms_of('fitnet:1')
