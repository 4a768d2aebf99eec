"""A BatchNorm that would see one value a channel is refused before anything is compiled."""

import jax
import pytest

from configs import quickstart
from kdseg_jax import models
from kdseg_jax.errors import UserError
from kdseg_jax.training import experiment, parallel

ONE_DEVICE = pytest.fixture(autouse=True)(lambda monkeypatch: monkeypatch.setattr(
    parallel, 'create_mesh', lambda make=parallel.create_mesh: make(jax.devices()[:1])))


def config_of(model, batch_size=1, accumulate=1):
  config = quickstart.get_config('role=teacher,runlocal')
  config.student.update(name=model)
  config.train.update(batch_size=batch_size, accumulate=accumulate)
  return config


POOLING = [name for name in models.NAMES if name.endswith('_resnet18')]


@pytest.mark.parametrize('name', POOLING)
@pytest.mark.parametrize('images', [1, 3])
def test_one_image_and_global_pooling(name, images):
  """Whether the batch is one image or the micro-batch is."""
  layer = 'head/(aspp_pooling|pool1)/norm/norm'
  with pytest.raises(UserError, match=f'batch_size={images} and .*accumulate={images} .*{layer}'):
    experiment.create_experiment(config_of(name, images, images))


@pytest.mark.parametrize('name', POOLING)
@pytest.mark.parametrize('images, accumulate', [(2, 1), (4, 2)])
def test_two_images_will_do(name, images, accumulate):
  experiment.create_experiment(config_of(name, images, accumulate))


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
