"""Knowledge review against outputs of the official code; see tests/golden/README.md."""

import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kdseg_jax import distillers
from kdseg_jax.models.fusion import AttentionFusion

GOLDEN = pathlib.Path(__file__).parents[1] / 'golden' / 'review.npz'
LAYERS = {'reduce': 'conv1', 'expand': 'conv2', 'attention': 'att_conv'}


@pytest.fixture(scope='module')
def golden():
  with np.load(GOLDEN) as arrays:
    return dict(arrays)


def channels_last(x):
  return np.moveaxis(x, 1, -1) if x.ndim == 4 else x


def official(golden, prefix):
  """`(params, batch_stats)` of an `AttentionFusion` from an official `ABF`."""
  of = lambda layer, name: golden[f'{prefix}{LAYERS[layer]}.{name}']
  kernel = lambda layer: np.transpose(of(layer, '0.weight'), (2, 3, 1, 0))
  params, batch_stats = {}, {}
  for layer in ('reduce', 'expand'):
    norm = {'scale': of(layer, '1.weight'), 'bias': of(layer, '1.bias')}
    params[layer] = {'conv': {'kernel': kernel(layer)}, 'norm': {'norm': norm}}
    if f'{prefix}{LAYERS[layer]}.1.running_mean' in golden:  # gradients have none
      batch_stats[layer] = {'norm': {'norm': {
          'mean': of(layer, '1.running_mean'), 'var': of(layer, '1.running_var')}}}
  if f'{prefix}att_conv.0.weight' in golden:
    params['attention'] = {'kernel': kernel('attention'), 'bias': of('attention', '0.bias')}
  return params, batch_stats


def assert_close(got, want, scale=None):
  """To a share of the largest element, or of `scale`."""
  np.testing.assert_allclose(got, want, rtol=0, atol=2e-5 * (scale or np.abs(want).max()))


@pytest.mark.parametrize('case, train', [
    ('review_abf_nofuse_eval', False), ('review_abf_fuse_train', True)])
def test_fusion(golden, case, train):
  of = lambda name: channels_last(golden[f'{case}/{name}'])
  params, batch_stats = official(golden, f'{case}/w.')
  maps = [of(name) for name in ('x', 'y') if f'{case}/{name}' in golden]

  def scalar(params, maps):
    (compared, fused), updated = AttentionFusion(channels=8, features=5).apply(
        {'params': params, 'batch_stats': batch_stats}, maps[0], maps[1:], train=train,
        mutable=['batch_stats'])
    total = jnp.sum(compared * of('probe_out')) + jnp.sum(fused * of('probe_res'))
    return total, (compared, fused, updated['batch_stats'])
  (value, (compared, fused, updated)), (weights, inputs) = jax.jit(
      jax.value_and_grad(scalar, (0, 1), has_aux=True))(params, maps)
  np.testing.assert_allclose(value, of('scalar'), rtol=1e-5)
  assert_close(compared, of('out'))
  assert_close(fused, of('res'))
  jax.tree.map(assert_close, weights, official(golden, f'{case}/grad_w.')[0])
  for name, got in zip(('x', 'y'), inputs):
    assert_close(got, of(f'grad_{name}'))
  if not train:
    jax.tree.map(np.testing.assert_array_equal, updated, batch_stats)
    return
  for layer, name in list(LAYERS.items())[:2]:
    before, after = (stats[layer]['norm']['norm'] for stats in (batch_stats, updated))
    assert_close(after['mean'], of(f'after.{name}.1.running_mean'))
    pixels = maps[0][..., 0].size  # PyTorch keeps the unbiased variance
    unbiased = before['var'] + (after['var'] - 0.9 * before['var']) * pixels / (pixels - 1) - (
        0.1 * before['var'])
    assert_close(unbiased, of(f'after.{name}.1.running_var'))


@pytest.mark.usefixtures('optimizations')  # in full, the compiled program rounds less
def test_the_method_from_taps_to_gradients(golden):
  """Three maps and the pooled vector, as on CIFAR."""
  case = 'review_path_resnet_train'
  taps = ('stage1', 'stage2', 'stage3', 'pooled')
  of = lambda name: channels_last(golden[f'{case}/{name}'])
  as_taps = lambda maps: {
      tap: x[:, 0, 0] if tap == 'pooled' else x for tap, x in zip(taps, maps, strict=True)}
  student = as_taps(of(f'feat{i}') for i in range(1, 5))
  teacher = as_taps(of(f'ft{i}') for i in range(4))
  fusions = [official(golden, f'{case}/w.abfs.{3 - i}.') for i in range(4)]
  params, batch_stats = (
      {f'stage{i}': fusion[k] for i, fusion in enumerate(fusions)} for k in range(2))
  method = distillers.review(student_taps=taps, teacher_taps=taps)
  own = jax.eval_shape(method.init, jax.random.key(0), distillers.DistillInputs(student, teacher))
  assert jax.tree.map(jnp.shape, (own.params, own.memory['batch_stats'])) == (
      jax.tree.map(jnp.shape, (params, batch_stats)))

  def loss(params, student):
    state = distillers.DistillerState(params, memory={'batch_stats': batch_stats})
    return method.loss(state, distillers.DistillInputs(student, teacher))[0]
  value, (weights, gradients) = jax.jit(jax.value_and_grad(loss, (0, 1)))(params, student)
  np.testing.assert_allclose(value, of('loss'), rtol=1e-6)
  for i in range(4):
    for layer, wanted in official(golden, f'{case}/grad_w.abfs.{3 - i}.')[0].items():
      # The pooled stage's BatchNorm of two values leaves what is before it almost no gradient.
      jax.tree.map(lambda got, want: assert_close(got, want, max(np.abs(want).max(), 0.01)),
                   weights[f'stage{i}'][layer], wanted)
  for i, tap in enumerate(taps, start=1):
    got, want = np.asarray(gradients[tap]), of(f'grad_feat{i}')
    if want.ndim == 1:  # every seventh, channels first
      got = np.moveaxis(got, -1, 1).ravel()[::7]
    assert_close(got.ravel(), want.ravel(), max(np.abs(want).max(), 0.01))
