"""A BatchNorm that would see one value a channel is refused before anything is compiled."""

import functools

import jax
import jax.numpy as jnp
import pytest

from configs import quickstart
from kdseg_jax import distillers, models, parallel
from kdseg_jax.errors import UserError
from kdseg_jax.training import experiment
from kdseg_jax.training.normalization_check import check_normalization

pytestmark = pytest.mark.usefixtures('one_device')


def config_of(model, batch_size=1, accumulate=1):
  config = quickstart.get_config('role=teacher,runlocal')
  config.student.update(name=model)
  config.train.update(batch_size=batch_size, accumulate=accumulate)
  return config


POOLING = [name for name in models.NAMES
           if name.endswith('_resnet18') and name not in models.DETECTORS]


@pytest.mark.parametrize('name, images', [*((name, 1) for name in POOLING), (POOLING[0], 3)])
def test_one_image_and_global_pooling(name, images):
  """Whether the batch is one image or the micro-batch is."""
  layer = 'head/(aspp_pooling|pool1)/norm/norm'
  with pytest.raises(UserError, match=f'batch_size={images} and .*accumulate={images} .*{layer}'):
    experiment.create_experiment(config_of(name, images, images))


@pytest.mark.parametrize('images, accumulate', [(2, 1), (4, 2)])
def test_two_images_will_do(images, accumulate):
  experiment.create_experiment(config_of(POOLING[0], images, accumulate))


@pytest.mark.parametrize('name', ['espnet', 'espnet_c'])
def test_so_does_one_image_without_global_pooling(name):
  config = config_of(name)
  config.student.aux = False
  experiment.create_experiment(config)


def test_what_is_frozen_keeps_its_statistics():
  config = config_of('deeplabv3_resnet18')
  config.train.freeze = ('*',)
  experiment.create_experiment(config)
  config.train.freeze = ('backbone/*',)
  with pytest.raises(UserError, match='aspp_pooling'):
    experiment.create_experiment(config)


@pytest.mark.parametrize('images, side', [(1, 1), (2, 1), (1, 2)])
def test_the_heads_of_methods_are_looked_at_too(images, side):
  config = config_of('espnet_c', images)
  config.distill = distillers.terms_of('memory')
  tap = jax.ShapeDtypeStruct((images, side, side, 4), jnp.float32)
  size = (images, 32, 32)
  inputs = distillers.DistillInputs(
      student={'embedding': tap, 'logits': tap}, teacher={'embedding': tap},
      batch={'image': jax.ShapeDtypeStruct((*size, 3), jnp.uint8),
             'label': jax.ShapeDtypeStruct(size, jnp.uint8),
             'mask': jax.ShapeDtypeStruct(size, jnp.bool_),
             'index': jax.ShapeDtypeStruct(size[:1], jnp.int32)},
      rng=jax.random.key(0), step=jax.ShapeDtypeStruct((), jnp.int32))
  method = distillers.memory(pixel_slots=4, region_slots=4, axis_name=parallel.AXIS)
  student = models.create('espnet_c', 4, width=0.125, axis_name=parallel.AXIS)
  check = functools.partial(
      check_normalization, config, parallel.create_mesh(), student, method, inputs)
  if images * side > 1:
    return check()
  with pytest.raises(UserError, match=r'hidden/norm/norm of config.distill \(memory@1\) sees'):
    check()
