"""Losses against outputs of the official implementations; see tests/golden/README.md."""

import functools
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kdseg_jax import losses

GOLDEN = pathlib.Path(__file__).parents[1] / 'golden'


def skd_with_auxiliary(logits, auxiliary, labels):
  return losses.cross_entropy(logits, labels) + 0.4 * losses.cross_entropy(auxiliary, labels)


def skd_pixelwise(student, teacher):
  return losses.pixelwise_kl(student, teacher, form='cross_entropy', reduction='sum_over_batch')


def cirkd_pairwise(student, teacher):
  return losses.pairwise_affinity(student, teacher, node_size=2, norm='clamp', eps=1e-12)


def skd_pairwise(student, teacher):
  node_size = losses.scaled_node_size(student.shape[1:3], 0.5)
  return losses.pairwise_affinity(student, teacher, node_size=node_size, norm_gradient=False)


def project(features, kernel):
  """1x1 convolution by an official kernel (O, C, 1, 1), here (O, 1, 1, C)."""
  return jnp.einsum('nhwc,oijc->nhwo', features, kernel, precision='highest')


def cirkd_channel_wise(student, kernel, teacher):
  return losses.channel_wise(
      project(student, kernel), teacher, official_channel_count=student.shape[-1])


def cirkd_fitnet(student, kernel, teacher):
  return losses.fitnets(project(student, kernel), teacher)


def cirkd_intra_class(student, teacher, labels):
  return losses.intra_class_variation(student, teacher, labels, num_classes=19)


def cirkd_residuals(auxiliary, features, logits, *teacher):
  return losses.double_similarity_pixel([auxiliary, features, logits], teacher)


def ohem(**options):
  return functools.partial(losses.ohem_cross_entropy, **options)


def skd_ohem_with_auxiliary(logits, auxiliary, labels):
  return ohem(threshold=0.3, min_kept=3000, threshold_stride=8)(logits, labels) + (
      0.4 * losses.cross_entropy(auxiliary, labels))


# Which keywords reach which official variant: case, loss, differentiated inputs, other inputs.
VARIANTS = [
    ('cirkd_task_ce', losses.cross_entropy, ['logits_s'], ['labels_255']),
    ('skd_dsn_ce', skd_with_auxiliary, ['logits_s', 'aux_s'], ['labels_255']),
    ('cirkd_kd_T1', losses.pixelwise_kl, ['logits_s'], ['logits_t']),
    ('skd_pixelwise', skd_pixelwise, ['logits_s'], ['logits_t']),
    ('cirkd_skd_pairwise', cirkd_pairwise, ['feat_s'], ['feat_t']),
    ('skd_pairwise_odd05', skd_pairwise, ['feat_s'], ['feat_t']),
    ('cirkd_at', losses.attention_transfer, ['feat_s'], ['feat_t']),
    ('cirkd_fitnet', cirkd_fitnet, ['feat_s', 'kernel_fitnet'], ['feat_t']),
    ('cirkd_cwd_feat', cirkd_channel_wise, ['feat_s', 'kernel_cwd'], ['feat_t']),
    ('cirkd_ifvd_255', cirkd_intra_class, ['feat_s'], ['feat_t', 'labels_255']),
    ('cirkd_dsd_psd', cirkd_residuals, ['aux_s', 'feat_s', 'logits_s'],
     ['aux_t', 'feat_t', 'logits_t']),
    ('cirkd_dsd_csd', losses.double_similarity_category, ['logits_s'], ['logits_t']),
    ('cirkd_minibatch', losses.cross_image_pixel, ['feat_s'], ['feat_t']),
    ('dkd_default', losses.decoupled_kd, ['student'], ['teacher', 'labels']),
    ('dkd_other', functools.partial(losses.decoupled_kd, alpha=0.5, beta=2.0, temperature=2.0),
     ['student'], ['teacher', 'labels']),
    ('dkd_sure_teacher', functools.partial(losses.decoupled_kd, beta=4.0), ['student'],
     ['teacher', 'labels']),
    ('ohem_f8_kth', ohem(threshold=0.3, min_kept=2048, threshold_stride=8), ['logits'],
     ['labels']),
    ('ohem_f8_thresh', ohem(threshold=0.7, min_kept=512, threshold_stride=8), ['logits'],
     ['labels']),
    ('ohem_f8_all', ohem(threshold=0.4, min_kept=100_000, threshold_stride=8), ['logits'],
     ['labels']),
    ('ohem_f1_kth', ohem(threshold=0.2, min_kept=500), ['logits'], ['labels']),
    ('ohem_f1_thresh', ohem(threshold=0.65, min_kept=40), ['logits'], ['labels']),
    ('ohem_f1_none_kept', ohem(threshold=0.4, min_kept=0), ['logits'], ['labels']),
    ('ohem_dsn', skd_ohem_with_auxiliary, ['logits', 'aux'], ['labels']),
]


@pytest.fixture(scope='module')
def golden():
  """All arrays of the folder; no two files share a key."""
  found = {}
  for path in sorted(GOLDEN.glob('*.npz')):
    with np.load(path) as arrays:
      found |= arrays
  return found


def channels_last(x, dtype):
  x = x.astype(dtype) if np.issubdtype(x.dtype, np.floating) else x
  return np.moveaxis(x, 1, -1) if x.ndim == 4 else x


@pytest.mark.parametrize('case, loss, student, other', VARIANTS, ids=[v[0] for v in VARIANTS])
@pytest.mark.parametrize('bits', [32, 64])
def test_equals_the_official_code(golden, case, loss, student, other, bits):
  own = f'{case}/' if f'{case}/in/{student[0]}' in golden else ''  # else they are shared
  inputs = [channels_last(golden[f'{own}in/{name}'], f'float{bits}') for name in student + other]
  with jax.enable_x64(bits == 64):
    value, gradients = jax.jit(
        jax.value_and_grad(loss, argnums=tuple(range(len(student)))))(*inputs)
  assert value.dtype == f'float{bits}'
  rtol, gradient_tolerance = {32: (1e-5, 1e-4), 64: (1e-10, 1e-7)}[bits]
  np.testing.assert_allclose(value, golden[f'{case}/loss_f{bits}'], rtol=rtol)
  for name, gradient in zip(student, gradients):
    expected = channels_last(golden[f'{case}/g_{name}'], f'float{bits}')
    # The official gradients of kernels were computed in float32.
    relative = 1e-5 if name.startswith('kernel') and bits == 64 else gradient_tolerance
    atol = relative * np.abs(expected).max()
    np.testing.assert_allclose(gradient, expected, rtol=0, atol=atol)


@pytest.mark.parametrize('temperature', [1, 4])
def test_temperature_equals_the_official_code_of_knowledge_review(golden, temperature):
  student, teacher = golden['in/ys'], golden['in/yt']
  value, gradient = jax.jit(jax.value_and_grad(
      lambda x: losses.pixelwise_kl(x, teacher, temperature=temperature)))(student)
  expected = golden[f'review_distillkl/grad_T{temperature}']
  np.testing.assert_allclose(value, golden[f'review_distillkl/loss_T{temperature}'], rtol=1e-5)
  np.testing.assert_allclose(gradient, expected, atol=1e-4 * np.abs(expected).max())


@pytest.mark.parametrize('case, temperature', [
    ('dkd_default', 4), ('dkd_other', 2), ('dkd_sure_teacher', 4)])
def test_parts_of_decoupled_kd_equal_the_official_code(golden, case, temperature):
  inputs = [golden[f'{case}/in/{name}'] for name in ('student', 'teacher', 'labels')]
  for part, weights in (('tckd', {'alpha': 1, 'beta': 0}), ('nckd', {'alpha': 0, 'beta': 1})):
    value = losses.decoupled_kd(*inputs, temperature=temperature, **weights)
    np.testing.assert_allclose(value, golden[f'{case}/{part}_f64'], rtol=1e-5)


@pytest.mark.parametrize('case', [v[0] for v in VARIANTS if v[0].startswith('ohem_f')])
def test_the_official_pixels_are_hard(golden, case):
  """The official mask, and its mean of the cross-entropies."""
  logits, labels = (golden[f'{case}/in/{name}'] for name in ('logits', 'labels'))
  kept = np.unpackbits(golden[f'{case}/kept'])[:labels.size].reshape(labels.shape).astype(bool)
  loss = dict((v[0], v[1]) for v in VARIANTS)[case]
  logits = channels_last(logits, 'float32')
  gradient = jax.jit(jax.grad(loss))(logits, labels)
  np.testing.assert_array_equal(np.any(gradient != 0, axis=-1), kept)
  np.testing.assert_allclose(
      losses.cross_entropy(logits, np.where(kept, labels, 255)), golden[f'{case}/loss_f64'],
      rtol=1e-5)
