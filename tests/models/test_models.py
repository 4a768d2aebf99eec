"""The registry."""

import jax
import numpy as np
import pytest

from kdseg_jax import models


def test_defaults():
  model = models.create('deeplabv3_resnet18', 11)
  assert model.head.channels == 128 and model.head.rates == (12, 24, 36)
  assert model.backbone.output_stride == 8 and model.auxiliary_head is None
  assert model.mean == pytest.approx(255 * np.array([0.485, 0.456, 0.406]))
  assert model.std == pytest.approx(255 * np.array([0.229, 0.224, 0.225]))


@pytest.mark.parametrize('name, head, auxiliary', [
    ('deeplabv3_resnet18', 64, 32), ('deeplabv3_resnet50', 128, 128),
    ('deeplabv3_mobilenetv2', 64, 16)])
def test_width_reaches_the_heads(name, head, auxiliary):
  model = models.create(name, 11, width=0.5, aux=True)
  assert (model.head.channels, model.auxiliary_head.channels) == (head, auxiliary)
  assert models.create(name, 11, width=0.5, head_channels=40).head.channels == 40


def test_dropout_rates():
  model = models.create('deeplabv3_resnet18', 11, aux=True, dropout=0.2, project_dropout=0.0)
  assert (model.head.project_dropout, model.head.dropout, model.auxiliary_head.dropout) == (
      0.0, 0.2, 0.2)


def test_models_are_hashable_and_equal():
  create = lambda: models.create('deeplabv3_mobilenetv2', 11, mean=[1, 2, 3], std=[1, 1, 1])
  assert create() == create() and hash(create()) == hash(create())


@pytest.mark.parametrize('options', [{'deep_stem': True}, {'output_stride': 16}, {'aux': True}])
def test_options_change_the_model(options):
  create = lambda **kw: models.create('deeplabv3_resnet18', 11, width=0.125, **kw)
  shapes = lambda model: jax.tree.map(lambda x: x.shape, jax.eval_shape(
      model.init_with_output, {'params': jax.random.key(0)}, np.zeros((1, 64, 64, 3), np.uint8)))
  assert shapes(create(**options)) != shapes(create())


@pytest.mark.parametrize('name, nearest', [
    ('deeplabv3_resnet', 'deeplabv3_resnet18'), ('deeplab_mobilenet', 'deeplabv3_mobilenetv2')])
def test_unknown_name(name, nearest):
  with pytest.raises(ValueError, match=f"Unknown model: '{name}'. Did you mean.*'{nearest}'"):
    models.create(name, 11)


def test_bad_values():
  with pytest.raises(ValueError, match='width=0 .* must be positive'):
    models.create('deeplabv3_resnet18', 11, width=0)
  with pytest.raises(ValueError, match='output_stride=4'):
    models.create('deeplabv3_resnet18', 11, output_stride=4)
