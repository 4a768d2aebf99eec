"""Trains a model, alone or with a teacher; resumes a work directory that has a checkpoint.

python -m kdseg_jax.train --config=configs/camvid.py:method=pixelwise --workdir=runs/student
"""

from kdseg_jax import program
from kdseg_jax.errors import UserError
from kdseg_jax.training import loop

_CONFIG = program.define_config()


def main(arguments):
  """Runs `--config` in `--workdir`; a run told to stop by SIGTERM saves and ends with 0."""
  program.no_arguments(arguments)
  workdir = program.require_workdir()
  if _CONFIG.value is None:
    raise UserError('--config is missing: give a recipe, e.g. --config=configs/quickstart.py')
  metrics = loop.train(
      _CONFIG.value, workdir, allow_class_names=program.ALLOW_CLASS_NAMES.value)
  if metrics is None:
    print(f'Stopped and saved; the same command goes on from there. Work directory: {workdir}')
  else:
    print(f'mean IoU {metrics["mean_iou"]:.4f}, pixel accuracy {metrics["pixel_accuracy"]:.4f} on '
          f'{metrics["images"]} images. Work directory: {workdir}')


if __name__ == '__main__':
  program.run(main)
