"""What the recipes share: the argument after the colon, and every field with its default."""

from __future__ import annotations

from ml_collections import ConfigDict
from ml_collections.config_dict import placeholder

from kdseg_jax import distillers, names


def parse_arg(arg: str | None, **defaults) -> ConfigDict:
  """Parses `key=value,flag,...` of `--config=<file>.py:<arg>`.

  Args:
    arg: the text after the colon. A bare name is True. A value takes the type of its default.
    **defaults: the keys that the recipe knows, with their defaults.

  Raises:
    ValueError: an unknown key (names the nearest), or a value of the wrong type.
  """
  values = ConfigDict(defaults)
  for item in filter(None, (arg or '').split(',')):
    key, _, text = item.partition('=')
    names.require(key, defaults, 'argument of the recipe')
    values[key] = _convert(key, text, defaults[key])
  return values


def parse_recipe_arg(arg: str | None) -> ConfigDict:
  """The arguments that all recipes take: `role`, `method` and `runlocal`.

  Raises:
    ValueError: as `parse_arg`, or the role is neither 'teacher' nor 'student'.
  """
  values = parse_arg(arg, role='student', method='none', runlocal=False)
  names.require(values.role, ('teacher', 'student'), 'role')
  return values


def _convert(key, text, default):
  if isinstance(default, bool):
    if text.lower() not in ('', 'true', 'false'):
      raise ValueError(f'The argument {key}={text!r} must be true or false.')
    return text.lower() != 'false'
  try:
    return type(default)(text)
  except ValueError:
    raise ValueError(
        f'The argument {key}={text!r} must be of type {type(default).__name__}.') from None


def optimizer(**overrides) -> ConfigDict:
  """SGD with momentum under a poly schedule, the usual recipe of semantic segmentation."""
  return ConfigDict({
      'name': 'sgd',            # 'sgd' or 'adamw'
      'learning_rate': 0.01,
      'schedule': 'poly',       # 'poly' or 'constant'
      'power': 0.9,
      'warmup_steps': 0,
      'momentum': 0.9,
      'nesterov': False,
      'b1': 0.9,                # of adamw
      'b2': 0.999,
      'weight_decay': 1e-4,
      'decay': 'kernels',       # 'kernels' or 'all'
      'clip_norm': 0.0,         # global norm; 0 is off
  } | overrides)


def segmentation(method: str = 'none') -> ConfigDict:
  """Every field of a segmentation run.

  Args:
    method: names of methods joined by '+'; their terms and the papers' weights are put into
      `config.distill.<term>`, to be overridden there.
  """
  return ConfigDict({
      'seed': 0,                       # of initialisation, data order and every draw
      'parallel': 'shard_map',         # 'shard_map' or 'pmap'
      'method': method,
      'distill': _with_placeholders(distillers.terms_of(method)),
      'align_corners': True,           # how logits are upsampled to label size
      'auxiliary_weight': 0.4,         # of the auxiliary head's cross-entropy
      'data': {
          'name': 'scenes',
          'root': '',                  # folder of the data set; empty is $KDSEG_DATA
          'size': (),                  # (height, width) of resized whole images; () is their own
          'train_split': 'train',
      },
      'augmentation': {
          'crop': (64, 64),
          'scale': (0.5, 2.0),         # range of the random scale; () is none
          'flip': 0.5,                 # probability of a horizontal flip
      },
      'student': {                     # the model that is trained
          'name': 'deeplabv3_resnet18',
          'width': 1.0,
          'output_stride': 8,
          'aux': True,
          'project_dropout': 0.5,      # in the head
          'dropout': 0.1,              # before the classifiers
      },
      'teacher': {
          'checkpoint': '',            # work directory of the trained teacher
          'min_metric': 0.0,           # refuse a teacher that scores below
      },
      'train': {'steps': 40_000, 'batch_size': 16},
      'optimizer': optimizer(),
      'memory_limit_gb': 8.0,          # refuse a method whose memory (queues) is larger
      'critic': {'steps': 1, 'optimizer': optimizer(learning_rate=4e-4)},  # steps a train step
      'prepare': {'steps': 0, 'optimizer': optimizer()},
      'eval': {
          'split': 'val',
          'every_steps': 2_000,        # and after the last step
          'batch_size': 8,
          'limit': 0,                  # images; 0 is all
          'absent_as_zero': False,     # classes that occur nowhere count as 0 in the mean
      },
      'checkpoint': {'every_steps': 1_000, 'keep': 2},  # and the best
      'log': {'every_steps': 50},
  })


def _with_placeholders(tree):
  """None in a ConfigDict cannot be overridden on the command line; a placeholder can."""
  if isinstance(tree, dict):
    return {name: _with_placeholders(value) for name, value in tree.items()}
  return placeholder(object) if tree is None else tree


def runlocal(config: ConfigDict) -> ConfigDict:
  """Shrinks everything, to try a recipe on a laptop within a minute; in place."""
  config.student.width = min(config.student.width, 0.125)
  config.augmentation.crop = (32, 32)
  config.train.update(steps=2, batch_size=8)
  config.eval.update(every_steps=2, batch_size=8, limit=8)
  config.checkpoint.every_steps = 1
  config.log.every_steps = 1
  config.optimizer.warmup_steps = 0
  if 'memory' in config.distill:
    config.distill.memory.update(
        pixel_slots=64, region_slots=16, pixel_samples=64, region_samples=16)
  if 'channels' in config.distill:
    config.distill.channels.update(slots=64, samples=32)
  return config
