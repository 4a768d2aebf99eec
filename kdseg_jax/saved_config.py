"""The config of a finished or running work directory, in the form of a recipe.

`evaluate` and `predict` use `saved_config.py:<workdir>` where no `--config` is given, so that
single fields of the saved config can be overridden on the command line.
"""

from configs import common
from kdseg_jax import program


def get_config(workdir):
  """The config that `workdir` was trained with.

  Fields of `eval` that are newer than the run have their defaults.
  """
  config = program.load_saved_config(workdir)
  defaults = common.segmentation().eval
  defaults.update(config.eval)
  config.eval = defaults
  return config
