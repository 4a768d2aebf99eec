"""What the models of a study give, by its shapes alone."""

import jax
import jax.numpy as jnp

from kdseg_jax.inference.model import create_module


def taps(model, classes, size=(64, 96)):
  """Taps of the model of a config for two images, as ShapeDtypeStructs."""
  built = create_module(model, classes)
  image = jnp.zeros((2, *size, 3), jnp.uint8)
  variables = jax.eval_shape(lambda: built.init({'params': jax.random.key(0)}, image[:1]))
  return jax.eval_shape(lambda v: built.apply(v, image)[1], variables)
