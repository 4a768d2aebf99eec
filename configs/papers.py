"""What the recipes of the papers share: pairs of models, and the settings of SKD and CIRKD."""

from __future__ import annotations

from ml_collections import ConfigDict

from configs import common
from kdseg_jax import names

# CIRKD (CVPR 2022), train_cirkd.py; SKD (journal 2020), run_train_val.sh. One learning rate for all
# parameters, no warm-up, poly power 0.9, SGD with momentum 0.9: the defaults of `common`.
SETTINGS = {
    'cirkd': {'batch_size': 16, 'learning_rate': 0.02, 'weight_decay': 1e-4, 'scale': (0.5, 2.0),
              'teacher': 'deeplabv3_resnet101', 'student': 'deeplabv3_resnet18'},
    'skd': {'batch_size': 8, 'learning_rate': 0.01, 'weight_decay': 5e-4, 'scale': (0.7, 2.1),
            'teacher': 'pspnet_resnet101', 'student': 'pspnet_resnet18'},
}


def recipe(arg: str | None, *, data: str, crops: dict[str, tuple[int, int]],
           steps: int = 40_000) -> ConfigDict:
  """The config of a pair of models on a data set, at the settings of one of the papers.

  Args:
    arg: of the recipe: role=teacher|student, method=<methods>, settings=cirkd|skd,
      model=<name of the model that is trained; default: the paper's>, runlocal.
    data: name of the data set.
    crops: settings -> crop; a paper without results on the data set takes the other's.
    steps: of training.

  Raises:
    ValueError: as `common.parse_arg`, or unknown settings or role.
  """
  arg = common.parse_arg(
      arg, role='student', method='none', settings='cirkd', model='', runlocal=False)
  names.require(arg.role, ('teacher', 'student'), 'role')
  names.require(arg.settings, SETTINGS, 'settings')
  settings = SETTINGS[arg.settings]
  config = common.segmentation(arg.method, arg.role)
  config.data.name = data
  config.augmentation.update(crop=crops.get(arg.settings, crops['cirkd']), scale=settings['scale'])
  config.train.update(steps=steps, batch_size=settings['batch_size'])
  config.optimizer.update(
      learning_rate=settings['learning_rate'], weight_decay=settings['weight_decay'])
  config.student.name = arg.model or settings[arg.role]
  # Both papers train the deep stem, and an auxiliary head on ResNets alone.
  is_resnet = 'resnet' in config.student.name
  config.student.aux = is_resnet
  if is_resnet:
    config.student.deep_stem = True
  if 'double_similarity_pixel' in config.distill and not is_resnet:
    config.distill.double_similarity_pixel.taps = ('embedding', 'logits')
  if config.student.name.startswith('espnet'):
    _adapt_to_espnet(config.distill)
  return common.runlocal(config) if arg.runlocal else config


def _adapt_to_espnet(distill):
  """ESPNet's logits are at full size, and what is distilled is its map of 256 channels at 1/8."""
  for options in distill.values():
    if 'resize' in options:
      options.resize = True
    if 'student_tap' in options:
      options.student_tap = 'stage3'
