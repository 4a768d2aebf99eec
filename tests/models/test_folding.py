"""BatchNorms folded into convolutions: the same taps, for every kind of model."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kdseg_jax import models, parallel
from kdseg_jax.models import conv, layers
from kdseg_jax.models.backbones import BACKBONES
from kdseg_jax.models.folding import Folded, fold
from tests.precision import float64

slow = lambda *names: [pytest.param(name, marks=pytest.mark.slow) for name in names]
FAST = ('resnet18', 'mobilenetv2')


def variables_of(model, image):
  """Random ones, the statistics as well, of about the size that keeps activations of order 1."""
  shapes = jax.eval_shape(model.init, {'params': jax.random.key(0)}, image)
  rng = np.random.default_rng(0)

  def draw(path, leaf):
    name = jax.tree_util.keystr(path, simple=True, separator='/').rpartition('/')[2]
    noise = rng.standard_normal(leaf.shape).astype(np.float32)
    if name == 'kernel':
      return noise * np.float32(np.sqrt(2 / np.prod(leaf.shape[:-1])))
    return 1 + 0.1 * np.abs(noise) if name in ('var', 'scale') else 0.1 * noise

  return jax.tree_util.tree_map_with_path(draw, dict(shapes))


def compiled(model):
  return jax.jit(lambda variables, image: model.apply(variables, image),
                 compiler_options=parallel.compiler_options(0))


def compare(model, size=40, tolerance=1e-10):
  """In float64: rounding of float32 adds up to 2e-5 over a hundred layers."""
  image = np.random.default_rng(1).integers(0, 256, (2, size, size, 3)).astype(np.uint8)
  with float64():
    variables = jax.tree.map(np.float64, variables_of(model, image))
    folded = fold(model, variables)
    plain, ours = (jax.device_get(compiled(of)(given, image))
                   for of, given in ((model, variables), (Folded(model), folded)))
  assert jax.tree.structure(plain) == jax.tree.structure(ours)
  assert {leaf.dtype for leaf in jax.tree.leaves(ours)} == {np.dtype(np.float64)}
  for (path, expected), actual in zip(
      jax.tree_util.tree_leaves_with_path(plain), jax.tree.leaves(ours), strict=True):
    scale = np.max(np.abs(expected))
    np.testing.assert_allclose(
        actual, expected, rtol=0, atol=tolerance * scale, err_msg=str(path))
  return variables, folded


def count(variables, group):
  return sum(np.size(leaf) for leaf in jax.tree.leaves(variables.get(group, {})))


@pytest.mark.parametrize('name', [
    name for name in BACKBONES if name in FAST] + slow(
        *(name for name in BACKBONES if name not in FAST)))
def test_taps_are_what_they_were(name):
  variables, folded = compare(models.create(
      f'deeplabv3_{name}', 3, aux=True,
      width=0.25 if 'width' in BACKBONES[name].options else 1.0))
  assert count(folded, 'batch_stats') == 0  # every norm of these is behind a convolution
  assert 'folded' in folded and count(folded, 'params') < count(variables, 'params') / 2


@pytest.mark.parametrize('name', ['cifar_resnet8', *slow(
    'pspnet_resnet18', 'deeplabv3plus_mobilenetv2', 'espnet', 'gfl_resnet18', 'cifar_wrn_16_1')])
def test_other_models_are_folded_where_they_can_be(name):
  compare(models.create(name, 6), size=64)


class Biased(nn.Module):
  """What ConvNorms may have: a bias, groups, another epsilon, padding, no activation."""

  dtype: jnp.dtype = jnp.float32

  @nn.compact
  def __call__(self, image, mask=None, index=None, train=False):
    x = layers.ConvNorm(8, 3, 2, use_bias=True, epsilon=1e-3, padding='same', name='first',
                        dtype=self.dtype)(image / 255, train)
    x = layers.ConvNorm(8, 3, groups=8, activation=None, name='second', dtype=self.dtype)(x, train)
    shared = layers.ConvNorm(8, 1, name='shared', dtype=self.dtype)
    x = shared(shared(x, train), train)
    x = conv.Conv(8, name='alone', use_bias=True)(x)
    x = nn.BatchNorm(use_running_average=not train, name='behind')(x)
    return x, {'x': x}


def test_options_of_layers_and_what_is_not_folded():
  variables, folded = compare(Biased())
  assert set(folded['params']) == {'alone', 'behind'} and set(folded['batch_stats']) == {'behind'}
  assert folded['params']['alone']['kernel'] is variables['params']['alone']['kernel']
  assert set(folded['folded']) == {'first', 'second', 'shared'}


def test_plain_variables_and_models_in_half_precision_run_as_they_are():
  image = np.zeros((1, 64, 64, 3), np.uint8)
  for model in (Biased(), Biased(jnp.bfloat16)):
    variables = variables_of(model, image)
    expected = model.apply(variables, image)[0]
    np.testing.assert_array_equal(Folded(model).apply(variables, image)[0], expected)
  folded = fold(model, variables)
  assert jax.tree.structure(folded) == jax.tree.structure(variables)
  assert all(map(np.array_equal, jax.tree.leaves(folded), jax.tree.leaves(variables)))


def test_kernels_are_given_up_where_asked():
  image = np.zeros((1, 64, 64, 3), np.uint8)
  variables = jax.tree.map(jnp.asarray, variables_of(Biased(), image))
  shared = np.asarray(variables['params']['second']['conv']['kernel'])  # the same memory
  before = shared.copy()
  kept = fold(Biased(), variables)
  assert not any(leaf.is_deleted() for leaf in jax.tree.leaves(variables))
  donated = fold(Biased(), variables, donate=True)
  jax.tree.map(np.testing.assert_array_equal, donated, kept)
  np.testing.assert_array_equal(shared, before)
  gone = {jax.tree_util.keystr(path, simple=True, separator='/')
          for path, leaf in jax.tree_util.tree_leaves_with_path(variables) if leaf.is_deleted()}
  assert gone == {f'params/{name}/conv/kernel' for name in ('first', 'shared')}


def test_a_folded_model_is_equal_to_another_of_the_same_module():
  assert Folded(Biased()) == Folded(Biased()) and hash(Folded(Biased())) == hash(Folded(Biased()))
  assert Folded(Biased()) != Folded(Biased(jnp.bfloat16))


class Wide(nn.Module):
  """Layers that go by Winograd on 16x16 and more pixels, or for a reason of their own do not."""

  @nn.compact
  def __call__(self, image, mask=None, index=None, train=False):
    wide = functools.partial(layers.ConvNorm, 64)
    x = wide(name='first')(image / 255, train)
    x = wide(dilation=2, activation=None, name='dilated')(x, train)
    small = x[:, :4, :4]
    shared = wide(name='shared')
    small, x = shared(small, train), wide(padding='same', name='same')(shared(x, train), train)
    x = wide(groups=2, name='grouped')(wide(kernel_size=1, name='pointwise')(x, train), train)
    return x, {'x': x, 'small': small, 'strided': wide(strides=2, name='strided')(x, train)}


@pytest.mark.parametrize('images, transformed', [
    (None, set()), ((4, 16, 16, 3), {'dilated'}), ((2, 8, 8, 3), set())])
def test_kernels_are_transformed_where_every_image_goes_by_winograd(images, transformed):
  image = np.random.default_rng(1).integers(0, 256, (2, 20, 17, 3)).astype(np.uint8)
  with float64():
    variables = jax.tree.map(np.float64, variables_of(Wide(), image))
    folded = fold(Wide(), variables, images)
    expected = compiled(Wide())(variables, image)
    actual = compiled(Folded(Wide()))(folded, image)  # of another size
    jax.tree.map(functools.partial(np.testing.assert_allclose, atol=1e-12), actual, expected)
  assert {name for name, kept in folded['folded'].items() if 'transformed' in kept} == transformed
  for name, kept in folded['folded'].items():
    assert set(kept) == {'bias', 'transformed' if name in transformed else 'kernel'}


def test_a_teacher_is_transformed_and_has_the_same_gradients():
  model = models.create('deeplabv3_resnet18', 3, width=0.25)
  image = np.random.default_rng(1).uniform(0, 255, (1, 128, 128, 3))
  gradient = lambda of: jax.jit(jax.grad(
      lambda image, variables: jnp.sum(jnp.sin(of.apply(variables, image)[1]['logits']))))
  with float64():
    variables = jax.tree.map(np.float64, variables_of(model, np.zeros((1, 64, 64, 3), np.uint8)))
    folded = fold(model, variables, image.shape)
    expected, actual = (jax.device_get(gradient(of)(image, given)) for of, given in (
        (model, variables), (Folded(model), folded)))
  assert sum('transformed' in jax.tree_util.keystr(path)
             for path, _ in jax.tree_util.tree_leaves_with_path(folded)) > 3
  np.testing.assert_allclose(actual, expected, rtol=0, atol=1e-9 * np.max(np.abs(expected)))
