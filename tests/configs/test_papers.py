"""The recipes of the papers: settings, and that every pair can be distilled by every method."""

import jax
import jax.numpy as jnp
import pytest

from configs import ade20k, camvid_papers, cityscapes, pascal_context, voc
from kdseg_jax import distillers, models
from kdseg_jax.distillers.methods import METHODS


def test_settings_are_those_of_the_papers():
  cirkd = cityscapes.get_config()
  assert cirkd.student.name == 'deeplabv3_resnet18' and cirkd.student.deep_stem
  assert cirkd.augmentation.crop == (512, 1024) and cirkd.augmentation.scale == (0.5, 2.0)
  assert (cirkd.train.batch_size, cirkd.train.steps) == (16, 40_000)
  assert (cirkd.optimizer.learning_rate, cirkd.optimizer.weight_decay) == (0.02, 1e-4)
  skd = cityscapes.get_config('settings=skd,role=teacher')
  assert skd.student.name == 'pspnet_resnet101' and skd.student.aux
  assert skd.augmentation.crop == (512, 512) and skd.augmentation.scale == (0.7, 2.1)
  assert (skd.train.batch_size, skd.optimizer.learning_rate) == (8, 0.01)
  assert not cityscapes.get_config('model=deeplabv3_mobilenetv2').student.aux


@pytest.mark.parametrize('recipe, data', [
    (ade20k, 'ade20k'), (camvid_papers, 'camvid'), (cityscapes, 'cityscapes'),
    (pascal_context, 'pascal_context'), (voc, 'voc')])
def test_each_recipe_has_its_data_and_refuses_other_settings(recipe, data):
  assert recipe.get_config('settings=skd').data.name == data
  with pytest.raises(ValueError, match="Unknown settings: 'cirk'. Did you mean 'cirkd'"):
    recipe.get_config('settings=cirk')


def taps_of(config):
  fields = {k: v for k, v in config.student.items() if k != 'init'}
  model = models.create(num_classes=5, **fields)
  image = jnp.zeros((2, 64, 96, 3), jnp.uint8)
  variables = jax.eval_shape(lambda: model.init({'params': jax.random.key(0)}, image[:1]))
  return jax.eval_shape(lambda v: model.apply(v, image)[1], variables)


@pytest.mark.parametrize('student', [
    'pspnet_resnet18', 'pspnet_mobilenetv2', 'deeplabv3_mobilenetv2', 'espnet', 'espnet_c'])
def test_the_methods_can_distil_every_student(student):
  teacher = taps_of(voc.get_config('settings=skd,role=teacher,runlocal'))
  names = [name for name in METHODS if name != 'none']
  if student == 'espnet':  # its logits are at full size: what can resize them, and features
    names = ['pixelwise', 'pairwise', 'holistic', 'skd', 'kd', 'fitnets', 'attention_transfer',
             'adversarial']
  taps = taps_of(voc.get_config(f'model={student},runlocal'))
  for name in names:
    config = voc.get_config(f'settings=skd,method={name},model={student},runlocal')
    method = distillers.create(config.distill.to_dict())
    batch = {'image': jax.ShapeDtypeStruct((2, 64, 96, 3), jnp.uint8),
             'label': jax.ShapeDtypeStruct((2, 64, 96), jnp.uint8),
             'mask': jax.ShapeDtypeStruct((2, 64, 96), bool),
             'index': jax.ShapeDtypeStruct((2,), jnp.int32)}
    inputs = distillers.DistillInputs(
        student=taps, teacher=teacher, batch=batch, rng=jax.random.key(0), step=0)
    distillers.check_requires(method.requires, inputs)
    state = jax.eval_shape(lambda m=method, i=inputs: m.init(jax.random.key(0), i))
    loss, _ = jax.eval_shape(method.loss, state, inputs)
    assert loss.shape == () and loss.dtype == jnp.float32, name
