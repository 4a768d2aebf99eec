"""What the recipes share: the argument after the colon, and every field with its default."""

from __future__ import annotations

import re
from collections.abc import Iterable

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
      `config.distill.<term>`, to be overridden there. `term:weight` among them gives a term its
      weight, which one must have that two methods weigh differently.
  """
  return ConfigDict({
      'seed': 0,                       # of initialisation, data order and every draw
      'parallel': 'shard_map',         # 'shard_map' or 'pmap'
      'method': method,
      'distill': _with_placeholders(distillers.terms_of(method)),
      'align_corners': True,           # how logits are upsampled to label size
      'auxiliary_weight': 0.4,         # of the auxiliary head's cross-entropy
      'supervised': {
          'loss': 'cross_entropy',     # or 'ohem_cross_entropy', of the main head
          'ohem_threshold': 0.7,       # pixels predicted with less than that count,
          'ohem_min_kept': 100_000,    # and never fewer of a batch; a tenth of it is usual
      },
      'data': {
          'name': 'scenes',            # see kdseg_jax.data.create
          'root': '',                  # folder of the data set; empty is $KDSEG_DATA
          'size': (),                  # (height, width) of resized whole images; () is their own
          'train_split': 'train',
          'train_limit': 0,            # examples of it, spread evenly; 0 is all
          'seed': placeholder(int),    # of order and augmentation; None is config.seed
          'unlabelled': '',            # folder of images that join the training split, all ignored
          'tfds': {                    # of name='tfds:<name>'
              'image_key': 'image',    # features
              'label_key': 'label',
              'num_classes': 0,        # 0 asks the label feature
          },
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
          'dtype': 'float32',          # of the computation, or 'bfloat16'
          'remat': 'none',             # 'everything' is recomputed, or a jax.checkpoint_policies
          'init': '',                  # work directory whose weights it starts from
      },
      'teacher': {
          'checkpoint': '',            # work directory of the trained teacher
          'min_metric': 0.0,           # refuse a teacher that scores below
      },
      'train': {
          'steps': 40_000,
          'batch_size': 16,            # global: of all devices and processes
          'split_teacher': False,      # the teacher's pass is a program of its own, as in a study
          'accumulate': 1,             # micro-batches of a step; equal to 1 but for BatchNorm
          'ema_decay': 0.0,            # of averaged weights, then evaluated and saved; 0 is off
          'freeze': (),                # paths of parameters that stay, as 'backbone/stage1*'
          'init_from': '',             # as student.init, of other data: without its heads
      },
      'optimizer': optimizer(),
      'memory_limit_gb': 8.0,          # refuse a method whose memory (queues) is larger
      # SKD's. CIRKD's adversary: name='adamw', weight_decay=0 (Adam), schedule='constant', b2=0.99.
      'critic': {'steps': 1, 'optimizer': optimizer(learning_rate=4e-4)},  # steps a train step
      'prepare': {'steps': 0, 'optimizer': optimizer()},
      'eval': {
          'split': 'val',
          'every_steps': 2_000,        # and after the last step
          'batch_size': 8,
          'limit': 0,                  # images; 0 is all
          'window': (),                # (height, width) of sliding windows; () is whole images
          'overlap': 1 / 3,            # of windows, as a share
          'scales': (1.0,),            # of the images, whose probabilities are averaged
          'flip': False,               # mirror images too
          'absent_as_zero': False,     # classes that occur nowhere count as 0 in the mean
      },
      'checkpoint': {'every_steps': 1_000, 'keep': 2},  # and the best
      'log': {'every_steps': 50},
  })


def study(config: ConfigDict, *, title: str, description: str, students: dict[str, dict],
          baseline: str = 'alone', seeds: Iterable[int] = range(5),
          teacher: ConfigDict | None = None) -> ConfigDict:
  """Adds the section `study` to a config: students that are trained side by side; in place.

  Args:
    config: what all students share.
    title: of the report.
    description: what is compared, for the report.
    students: name -> `method` (default 'none') and, for any of the sections `student`,
      `optimizer`, `critic`, `prepare` and `distill`, the fields in which the student differs
      (`distill` may hold options of terms that its method does not have).
    baseline: the student that the others are compared with.
    seeds: of initialisation and draws; the data's order is the same for all of them.
    teacher: config of the teacher, trained first in `<workdir>/teacher` where
      `config.teacher.checkpoint` is empty.
  """
  entries = {}
  for name, own in students.items():
    own = dict(own)
    method = own.pop('method', 'none')
    distill = _with_placeholders(distillers.terms_of(method))
    for term, options in own.pop('distill', {}).items():
      if term in distill:
        distill[term].update(options)
    entries[name] = {'method': method, 'distill': distill, **own}
  config.study = ConfigDict({
      'title': title, 'description': description, 'baseline': baseline,
      'seeds': tuple(seeds),
      'vmap_seeds': False,             # all seeds of a student in one program, by jax.vmap
      'students': entries, 'teacher': teacher or {}})
  return config


def _with_placeholders(tree):
  """None in a ConfigDict cannot be overridden on the command line; a placeholder can."""
  if isinstance(tree, dict):
    return {name: _with_placeholders(value) for name, value in tree.items()}
  return placeholder(object) if tree is None else tree


def runlocal(config: ConfigDict) -> ConfigDict:
  """Shrinks everything, to try a recipe on a laptop within a minute; in place."""
  config.student.width = min(config.student.width, 0.125)
  config.student.name = re.sub(r'resnet\d+', 'resnet18', config.student.name)
  config.augmentation.crop = (32, 32)
  config.train.update(steps=2, batch_size=8)
  config.eval.update(every_steps=2, batch_size=8, limit=8)
  config.checkpoint.every_steps = 1
  config.log.every_steps = 1
  config.optimizer.warmup_steps = 0
  _shrink_queues(config.distill)
  if 'study' in config:
    config.study.seeds = config.study.seeds[:2]
    for student in config.study.students.values():
      _shrink_queues(student.distill)
    if config.study.teacher:
      runlocal(config.study.teacher)
  return config


def _shrink_queues(distill):
  if 'memory' in distill:
    distill.memory.update(
        pixel_slots=64, region_slots=16, pixel_samples=64, region_samples=16)
  if 'channels' in distill:
    distill.channels.update(slots=64, samples=32)
