"""Losses against outputs of the official implementations; see tests/golden/README.md."""

import pathlib

import jax
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


# Which keywords reach which official variant: case, loss, differentiated inputs, other inputs.
VARIANTS = [
    ('cirkd_task_ce', losses.cross_entropy, ['logits_s'], ['labels_255']),
    ('skd_dsn_ce', skd_with_auxiliary, ['logits_s', 'aux_s'], ['labels_255']),
    ('cirkd_kd_T1', losses.pixelwise_kl, ['logits_s'], ['logits_t']),
    ('skd_pixelwise', skd_pixelwise, ['logits_s'], ['logits_t']),
    ('cirkd_skd_pairwise', cirkd_pairwise, ['feat_s'], ['feat_t']),
    ('skd_pairwise_odd05', skd_pairwise, ['feat_s'], ['feat_t']),
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
    atol = gradient_tolerance * np.abs(expected).max()
    np.testing.assert_allclose(gradient, expected, rtol=0, atol=atol)
