"""Every field of a run's config, with its default."""

from __future__ import annotations

from ml_collections import ConfigDict
from ml_collections.config_dict import placeholder

from kdseg_jax import config_fields, distillers, outside, references, tasks
from kdseg_jax.distillers import methods
from kdseg_jax.models import normalization

# The fields that may hold a `module:attribute`, and how its factory is called; a task is a class.
NAMES = {'student.name': outside.MODEL, 'data.name': outside.SOURCE, 'task.name': None} | {
    f'{section}.name': outside.OPTIMIZER
    for section in ('optimizer', 'critic.optimizer', 'prepare.optimizer')}


def optimizer(**overrides) -> ConfigDict:
  """SGD with momentum under a poly schedule, the usual recipe of semantic segmentation."""
  return ConfigDict({
      'name': 'sgd',            # 'sgd', 'adamw' or module:attribute, see docs/your_own_method.md
      'options': {},            # of module:attribute
      'learning_rate': 0.01,
      'schedule': 'poly',       # 'poly', 'steps' or 'constant'
      'power': 0.9,             # of poly
      'milestones': (0.5, 0.75),  # of steps, as shares of all; the rate is multiplied at each
      'factor': 0.1,            # by it
      'warmup_steps': 0,
      'warmup': 'linear',       # growth from warmup_factor of the rate; 'constant' stays there
      'warmup_factor': 0.0,
      'momentum': 0.9,
      'nesterov': False,
      'b1': 0.9,                # of adamw
      'b2': 0.999,
      'weight_decay': 1e-4,
      'decay': 'kernels',       # 'kernels', 'all_but_biases' (of convolutions) or 'all'
      'bias_factor': 1.0,       # of the rate, for biases of convolutions
      'clip_norm': 0.0,         # global norm; 0 is off
  } | overrides)


def run(task: str = 'segmentation', method: str = 'none', role: str = 'student') -> ConfigDict:
  """Every field of a run.

  Args:
    task: in `kdseg_jax.tasks`, or a `module:attribute`; its options are the other fields of
      `config.task`.
    method: names of methods joined by '+'; their terms and the papers' weights are put into
      `config.distill.<term>`, to be overridden there; see `distillers.terms_of`.
    role: 'student' or 'teacher'.
  """
  return ConfigDict({
      'seed': 0,                       # of initialisation, data order and every draw
      'role': role,                    # 'student', or 'teacher', with a stream of its own
      'parallel': 'shard_map',         # 'shard_map', or 'pmap' (one process only)
      'distill': with_placeholders(distillers.terms_of(method)),
      'task': {'name': task} | tasks.options_of(task),  # see its class in kdseg_jax.tasks
      'data': {
          'name': 'scenes',            # see kdseg_jax.data.create; or module:attribute
          'options': {},               # of module:attribute
          'root': '',                  # folder of the data set; empty is $KDSEG_DATA
          'size': (),                  # (height, width) of resized whole images; () is their own
          # Crop and canvas are turned for images higher than wide, and a training batch holds
          # images of one orientation: two programs, and less padding. Of boxes.
          'by_orientation': False,
          'train_split': 'train',
          'train_limit': 0,            # examples of it, spread evenly; 0 is all
          'seed': placeholder(int),    # of order and augmentation; None is config.seed
          'unlabelled': '',            # folder of images that join the split, without labels;
                                       # 'rest' is what train_limit leaves out, without its labels
          'unlabelled_share': placeholder(float),  # of them in every batch; None: as many as come
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
          'pad': 0,                    # pixels of a black border, before the crop
          'resized_crop': (),          # range of the area of a window that is resized to the crop
          # (shorter, longer side) at most, to which an image is resized so that it lies in the
          # crop, its shape kept; of several, as ((640,1333),(800,1333)), one is drawn; () is none.
          'resize': (),
      },
      'student': {                     # the model that is trained
          'name': 'deeplabv3_resnet18',  # see kdseg_jax.models.create; or module:attribute
          'options': {},               # of module:attribute
          'width': 1.0,
          'output_stride': 8,
          'aux': True,
          'project_dropout': 0.5,      # in the head
          'dropout': 0.1,              # before the classifiers
          'dtype': 'float32',          # of the computation, or 'bfloat16'
          'remat': 'none',             # 'everything' is recomputed, or a jax.checkpoint_policies
          'mean': normalization.IMAGENET_MEAN,  # of the images, RGB in 0-255
          'std': normalization.IMAGENET_STD,
          'channel_order': 'rgb',      # or 'bgr', of weights that expect it
          # Weights that it starts from, as far as they fit: a work directory, 'imagenet',
          # 'imagenet:<variant>' or 'hf:<repository>'; see docs/weights.md.
          'init': '',
      },
      'teacher': {
          'checkpoint': '',            # work directory of the trained teacher
          'config': {},                # without it: of the teacher that is trained first, if any
          # Refuse a teacher that scores worse; 0 is no limit where less is better.
          'min_metric': 0.0,
      },
      'train': {
          'steps': 40_000,
          'batch_size': 16,            # global: of all devices and processes
          'split_teacher': False,      # the teacher's pass is a program of its own, as in a study
          'compile_level': 3,          # XLA's effort; 0 compiles sooner to slower steps
          'accumulate': 1,             # micro-batches of a step; equal to 1 but for BatchNorm
          'ema_decay': 0.0,            # of averaged weights, then evaluated and saved; 0 is off
          'freeze': (),                # paths of parameters that stay, as 'backbone/stage1*'
      },
      'optimizer': optimizer(),
      'memory_limit_gb': 8.0,          # refuse a method whose memory (queues) is larger
      # SKD's, for the critics whose term brings none: see critic_learning_rate, critic_steps.
      'critic': {'steps': 1, 'optimizer': optimizer(learning_rate=4e-4)},  # steps a train step
      # Of what a method fits to the teacher before distillation (knowledge adaptation's).
      'prepare': {
          'steps': 0,                  # 0 is one epoch
          'folder': '',                # where they are kept; '' is <workdir>/prepared
          'optimizer': optimizer(learning_rate=0.1),
      },
      'eval': {
          'split': 'val',
          'every_steps': 2_000,        # and after the last step
          'batch_size': 8,
          'limit': 0,                  # images; 0 is all
          # Sizes become multiples of it by padding: few programs for data of many sizes, and other
          # results (by points of mIoU, see pipeline.evaluation_batches).
          'pad_multiple': 1,
          'window': (),                # (height, width) of sliding windows; () is whole images
          'overlap': 1 / 3,            # of windows, as a share
          'scales': (1.0,),            # of the images, whose probabilities are averaged
          'flip': False,               # mirror images too
          # Of classifiers: the centre (height, width) of images whose shorter side is resized to
          # short_side, as (224, 224) and 256; () and 0 are whole images.
          'crop': (),
          'short_side': 0,
          # Of detectors: (height, width) on which images of any size are put, their shape kept, as
          # large as they may be, and with shorter and longer side up to `sides`, as (800, 1333):
          # one program for all of them. () is each at its own size, or at that of `sides` alone.
          'canvas': (),
          'sides': (),
          'pictures': 4,               # images whose predictions go to TensorBoard; 0 is none
      },
      'checkpoint': {'every_steps': 1_000, 'keep': 2},  # and the best
      'log': {'every_steps': 50},
  })


def classification(method: str = 'none', role: str = 'student') -> ConfigDict:
  """`run` of a classification."""
  return run('classification', method, role)


def detection(method: str = 'none', role: str = 'student') -> ConfigDict:
  """`run` of a detection: a GFL-ResNet18, on images as they are."""
  config = run('detection', method, role)
  config.data.name = 'scenes_detection'
  config.augmentation.scale = ()
  config.student.update(name='gfl_resnet18', output_stride=32, aux=False, dropout=0.0)
  methods.leave_out_auxiliary_head(config.distill)
  methods.take_pyramid(config.distill)
  return config


def segmentation(method: str = 'none', role: str = 'student') -> ConfigDict:
  """`run` of a segmentation."""
  return run('segmentation', method, role)


def with_placeholders(tree):
  """None in a ConfigDict cannot be overridden on the command line; a placeholder can."""
  if isinstance(tree, dict):
    return {name: with_placeholders(value) for name, value in tree.items()}
  return placeholder(object) if tree is None else tree


def fill(config: ConfigDict) -> ConfigDict:
  """Adds the fields that a config lacks, with their defaults; in place.

  A run that was trained before a field existed has none of it in its saved config. Its terms, and
  the options of a task from elsewhere, are left as they are: nothing is imported.
  """
  task = config.get('task', {}).get('name', 'segmentation')
  if references.is_reference(task):
    defaults = run()
    del defaults.task
  else:
    defaults = run(task)
  _add_missing(config, defaults)
  return config


def complete(config: ConfigDict) -> ConfigDict:
  """Adds the options of all that a config of the user's own names, with their defaults; in place.

  So each can be overridden by its field. What is named by `module:attribute` is imported.
  """
  for field in NAMES:
    name = config_fields.value_of(config, field)
    if name is not None and references.is_reference(name):
      set_name(config, field, name)
  with config.unlocked():
    for owner in (config, *config.get('study', {}).get('students', {}).values()):
      if owner.get('distill'):
        owner.distill = with_placeholders(methods.completed(owner.distill.to_dict()))
  if config.get('study', {}).get('teacher'):
    complete(config.study.teacher)
  return config


def set_name(config: ConfigDict, field: str, reference: str) -> None:
  """Sets a field of `NAMES` to a `module:attribute`, which is imported, with its options; in place.

  Options that stand there of the same name are kept.
  """
  *sections, _ = field.split('.')
  section = config
  for name in sections:
    section = section[name]
  known = section.name == reference
  with config.unlocked():
    if field == 'task.name':
      given = section.to_dict() if known else {}
      config.task = {'name': reference} | tasks.options_of(reference) | given
      return
    options = outside.options_of(NAMES[field], reference)
    given = section.options.to_dict() if known and 'options' in section else {}
    section.name, section.options = reference, with_placeholders(options | given)


def _add_missing(config, defaults):
  for name, value in defaults.items():
    if name not in config:
      config[name] = value
    elif isinstance(value, ConfigDict) and isinstance(config[name], ConfigDict):
      _add_missing(config[name], value)
