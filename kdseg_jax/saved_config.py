"""The config of a finished or running work directory, in the form of a recipe.

`evaluate` and `predict` use `saved_config.py:<workdir>` where no `--config` is given, so that
single fields of the saved config can be overridden on the command line.
"""

from kdseg_jax import config_files


def get_config(workdir):
  """The config that `workdir` was trained with; newer fields have their defaults."""
  return config_files.read(workdir)
