"""Shallow models stand for deep ones: the same taps, of fewer layers."""

import jax
import numpy as np
import pytest

from kdseg_jax import models
from tests import shallow


@pytest.mark.parametrize('name', ['resnet18', 'mobilenetv1', 'mobilenetv2', 'cifar_resnet20'])
def test_taps_are_those_of_the_deep_model(name):
  image = np.zeros((1, 32, 32, 3), np.uint8)
  made = [jax.eval_shape(create(name, 3).init_with_output, jax.random.key(0), image)
          for create in (models.create, shallow.create)]
  (_, taps), (_, fewer) = [outputs for outputs, _ in made]
  assert taps == fewer
  layers = [len(jax.tree.leaves(variables['params'])) for _, variables in made]
  assert layers[1] < 0.7 * layers[0], layers
