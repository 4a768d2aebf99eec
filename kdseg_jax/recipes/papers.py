"""What the recipes of the papers share: pairs of models, and the settings of their scripts.

Where they do not follow the papers: those start from ImageNet weights of their own, with a deep
stem (init=imagenet are torchvision's, whose ResNets have one convolution there), subtract the mean
of the images without dividing by their deviation, and draw the scale in steps of 0.1. SKD's PSPNet
has pooled branches four times and an auxiliary head twice as wide, leaky ReLUs in both, Dropout of
whole channels, and dilates the first block of a stage like the others; its teacher was given as
weights, and is trained like the student here. CIRKD reports the best of an evaluation every 800
steps.
Of knowledge adaptation no code was released. Chosen here where its paper is silent: crops, the
range of scales, Dropout of 0.1 after the pyramid and no decay of BatchNorm and biases, all as in
DeepLab's official code, and the teacher's output stride of 16.
"""

from __future__ import annotations

from collections.abc import Mapping

from ml_collections import ConfigDict

from kdseg_jax import models, names
from kdseg_jax.errors import UserError
from kdseg_jax.interop import pretrained
from kdseg_jax.recipes import common

# One learning rate for all parameters, no warm-up, poly power 0.9, SGD with momentum 0.9, Dropout
# of 0.1 before the classifiers, 0.4 on the auxiliary head: the defaults of `common`.
_CIRKD = {
    'steps': 40_000, 'batch_size': 16, 'crop': (512, 512), 'scale': (0.5, 2.0),
    'learning_rate': 0.02, 'weight_decay': 1e-4,
    'teacher': 'deeplabv3_resnet101', 'student': 'deeplabv3_resnet18',
    'decay': 'all', 'aux': True, 'backbone': {'deep_stem': True}, 'head_channels': {},
    'model': {}, 'distill': {}, 'resize': False,
}
SETTINGS = {
    # CVPR 2022, train_cirkd.py.
    'cirkd': _CIRKD,
    # Its second version (2025), train_cirkdv2.py: ResNets have wider heads of DeepLabV3, and
    # narrower ones of PSPNet, than in the first.
    'cirkd_v2': _CIRKD | {
        'steps': 80_000,
        'head_channels': {
            **{f'deeplabv3_resnet{depth}': 512 for depth in (18, 34, 50, 101)},
            **{f'pspnet_resnet{depth}': 256 for depth in (50, 101)}}},
    # The journal's script, run_train_val.sh, which has weight decay 5e-4 for its critic too.
    'skd': _CIRKD | {
        'batch_size': 8, 'scale': (0.7, 2.1), 'learning_rate': 0.01, 'weight_decay': 5e-4,
        'teacher': 'pspnet_resnet101', 'student': 'pspnet_resnet18',
        'backbone': {'deep_stem': True, 'ceil_mode': True}},
    # Knowledge adaptation (CVPR 2019), implementation details. Its weight decay is printed
    # 4 x 10e-5; meant is DeepLab's 4e-5. The maps of its students are smaller than its teacher's.
    'adaptation': _CIRKD | {
        'steps': 30_000, 'crop': (513, 513), 'learning_rate': 0.007, 'weight_decay': 4e-5,
        'decay': 'kernels', 'teacher': 'deeplabv3plus_resnet50', 'student': 'plain_mobilenetv2',
        'aux': False, 'backbone': {}, 'model': {'output_stride': 16, 'project_dropout': 0.1},
        'distill': {'fitnets': {'projection': False}}, 'resize': True},
}


# Methods with settings of their own; all others have been compared at CIRKD's first.
SETTINGS_OF_METHODS = {
    'cirkd_v2': 'cirkd_v2', 'skd_journal': 'skd', 'adaptation': 'adaptation',
    'feature_adaptation': 'adaptation', 'affinity_adaptation': 'adaptation'}


def recipe(
    arg: str | None, *, data: str, own: Mapping[str, Mapping] | None = None,
    train_on: Mapping[str, Mapping] | None = None) -> ConfigDict:
  """The config of a pair of models on a data set, at the settings of one of the papers.

  Args:
    arg: of the recipe: role=teacher|student, method=<methods>, settings=<one of `SETTINGS`;
      default: those of the method's script>, model=<name of the model that is trained; default: the
      paper's>, init=<weights that it starts from, see `student.init`>, train_on=<one of these, if
      there are any>, runlocal.
    data: name of the data set.
    own: settings -> the fields of `SETTINGS` that differ on this data set; `distill` among them is
      term -> options, of every method that has the term.
    train_on: name -> `data`, `split` and `steps` where they differ from the recipe's own.

  Raises:
    ValueError: as `common.parse_arg`, or unknown settings, role or images to train on.
  """
  options = {'train_on': ''} if train_on else {}
  arg = common.parse_recipe_arg(arg, settings='', model='', init='', **options)
  arg.settings = arg.settings or _settings_of(arg.method)
  names.require(arg.settings, SETTINGS, 'settings')
  settings = SETTINGS[arg.settings] | (own or {}).get(arg.settings, {})
  config = common.segmentation(arg.method, arg.role)
  _set_data(config, data, settings['steps'], train_on, arg.get('train_on'))
  config.augmentation.update(crop=settings['crop'], scale=settings['scale'])
  config.train.batch_size = settings['batch_size']
  config.optimizer.learning_rate = settings['learning_rate']
  for optimizer in (config.optimizer, config.critic.optimizer):
    optimizer.update(weight_decay=settings['weight_decay'], decay=settings['decay'])
  _set_model(config.student, arg.model or settings[arg.role], settings, small=arg.runlocal)
  _set_init(config.student, arg.init)
  for term, options in settings['distill'].items():
    if term in config.distill:
      config.distill[term].update(options)
  if settings['resize']:
    _resize(config.distill)
  if 'double_similarity_pixel' in config.distill and not config.student.aux:
    config.distill.double_similarity_pixel.taps = ('embedding', 'logits')
  if config.student.name.startswith('espnet'):
    _adapt_to_espnet(config.distill)
  return common.runlocal(config) if arg.runlocal else config


def _set_data(config, data, steps, train_on, name):
  """What is trained on, and how long."""
  own = {}
  if name:
    names.require(name, train_on, 'train_on')
    own = train_on[name]
  config.data.update(name=own.get('data', data), train_split=own.get('split', 'train'))
  config.train.steps = own.get('steps', steps)


def _resize(distill):
  """Where a term compares maps of one size, the smaller is resized."""
  for options in distill.values():
    if 'resize' in options:
      options.resize = True


def _settings_of(method):
  found = {SETTINGS_OF_METHODS[name] for name in method.split('+') if name in SETTINGS_OF_METHODS}
  if len(found) > 1:
    raise UserError(f'method={method}: its methods have scripts of different settings, '
                    f'{" and ".join(sorted(found))}. Say which: settings=<one of them>.')
  return found.pop() if found else 'cirkd'


def _set_model(student, name, settings, small):
  """The papers have a deep stem and an auxiliary head in ResNets alone."""
  student.name = name
  student.mean, student.std, student.channel_order = models.preprocessing_of(name)
  student.update(settings['model'])
  student.aux = settings['aux'] and 'resnet' in name
  if 'resnet' in name:
    options = models.options_of(name)  # ResNet-D has its deep stem anyway
    student.update({option: value for option, value in settings['backbone'].items()
                    if option in options})
  if name in settings['head_channels'] and not small:  # no width shrinks what is given
    student.head_channels = settings['head_channels'][name]


def _set_init(student, init):
  """Published ResNets have one convolution in their stem."""
  student.init = init
  if pretrained.is_name(init) and 'deep_stem' in student:
    student.deep_stem = False


def _adapt_to_espnet(distill):
  """ESPNet's logits are at full size, and what is distilled is its map of 256 channels at 1/8."""
  _resize(distill)
  for options in distill.values():
    if 'student_taps' in options:  # its stages and those of its teachers at 1/4 and 1/8
      options.student_taps = ('stage2', 'stage3')
      options.teacher_taps = ('stage1_preactivation', 'stage4_preactivation')
    if 'student_tap' in options:
      options.student_tap = 'stage3'
