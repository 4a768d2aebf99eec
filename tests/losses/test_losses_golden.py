"""Losses against outputs of the official implementations; see tests/golden/README.md."""

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
  return np.moveaxis(x, 1, -1).astype(dtype) if x.ndim == 4 else x


@pytest.mark.parametrize('case, loss, student, other', VARIANTS, ids=[v[0] for v in VARIANTS])
@pytest.mark.parametrize('bits', [32, 64])
def test_equals_the_official_code(golden, case, loss, student, other, bits):
  inputs = [channels_last(golden[f'in/{name}'], f'float{bits}') for name in student + other]
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
