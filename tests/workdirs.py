"""Work directories of models that nobody has trained: made in a moment."""

import jax
import jax.numpy as jnp
import numpy as np

from kdseg_jax import config_files, default_config
from kdseg_jax.checkpoint import Checkpointer
from kdseg_jax.data.json_files import write_json
from kdseg_jax.distillers import DistillerState
from kdseg_jax.inference.model import create_module
from kdseg_jax.training.state import TrainState
from tests import toys

CLASSES = ('sky', 'road', 'tree')
PALETTE = ((0, 0, 255), (128, 128, 128), (0, 128, 0))


def config_of(name='espnet_c', **fields):
  """The default config of a narrow model; `fields` by their paths, as 'data.size'."""
  config = default_config.segmentation()
  config.student.update(name=name, width=0.125, aux=False)
  config.update_from_flattened_dict(fields)
  return config


def save(folder, config, *, scores=(0.5,), classes=CLASSES, palette=PALETTE, factor=1):
  """Saves checkpoint 1, 2, ... with these scores, and `config.json`; the variables of each.

  Parameters are made up, times the step, times the factor.
  """
  module = create_module(config.student, len(classes))
  made = toys.variables(module, jnp.zeros((1, 64, 64, 3), jnp.uint8))
  checkpointer = Checkpointer(str(folder), metric='mean_iou', keep=len(scores))
  saved = []
  for step, score in enumerate(scores, start=1):
    variables = {'params': jax.tree.map(lambda x, step=step: x * step * factor, made['params']),
                 'batch_stats': made.get('batch_stats', {})}
    state = TrainState(
        step=np.int32(step), **variables, opt_state=(),
        distiller=DistillerState(), rng=np.int32(0))
    checkpointer.save(step, state, {
        'config': config_files.to_dict(config), 'classes': list(classes), 'palette': palette,
        'data': {'seed': 0, 'next_batch': step}}, {'mean_iou': score})
    saved.append(variables)
  checkpointer.close()
  write_json(str(folder / config_files.FILE), config_files.to_dict(config))
  return saved
