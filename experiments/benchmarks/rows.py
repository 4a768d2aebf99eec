"""What is measured: each row's sides, and the reach and aim of its ratio."""

from __future__ import annotations

import fnmatch
from collections.abc import Mapping, Sequence
from typing import NamedTuple

OURS = 'ours'
TORCH, CHANNELS_LAST = 'torch', 'torch, channels last'
_SHAPES = 'of 2 images at 64x64'


class Row(NamedTuple):
  """A row of the table.

  Attributes:
    name: `<group>/<name>`.
    what: shapes and the like, for people.
    sides: name -> `<module>:<name>`; the first is ours, and the fastest of the others its peer.
    reach: of the ratio of medians, ours / peer; None: it is reported alone.
    aim: likewise.
    memory: reach and aim of the ratio of memory: of what the work adds to its process, or of
      `resident`, the whole process.
    rate: the ratio is of amounts a second, and is to be high.
    clock: 'seconds', or 'cpu_seconds' of all threads.
    resident: see `memory`.
    most: repeats at most; None is no limit.
  """

  name: str
  what: str
  sides: Mapping[str, str]
  reach: float | None = None
  aim: float | None = None
  memory: tuple[float | None, float | None] = (None, None)
  rate: bool = False
  clock: str = 'seconds'
  resident: bool = False
  most: int | None = None

  @property
  def needs_data(self) -> bool:
    """Whether it reads CamVid."""
    return self.name.startswith('input/')


def _against_torch(ours: str, torch: str) -> dict[str, str]:
  return {OURS: ours, TORCH: torch, CHANNELS_LAST: torch}


def _loss(name, what, reach=0.8, aim=0.5, memory=(None, None)):
  sides = _against_torch(f'our_losses:{name}', f'torch_losses:{name}')
  return Row(f'loss/{name}', what, sides, reach, aim, memory)


_WIDTHS = f'embeddings 128 and 256 {_SHAPES}'
_WIDE = f'embeddings 256 and 256 {_SHAPES}'
_LOGITS = f'19 classes {_SHAPES}'
_ANCHORS = '21,824 anchors, 80 classes or 4 x 17 bins'
_LOSSES = [
    _loss('cross_entropy', f'{_LOGITS}, labels at 512x512'),
    _loss('ohem_cross_entropy', f'{_LOGITS}, labels at 512x512'),
    *(_loss(name, _LOGITS) for name in (
        'pixelwise_kl', 'channel_wise_logits', 'double_similarity_category', 'decoupled_kd')),
    _loss('pairwise_affinity', f'{_WIDTHS}, every pixel a node', 0.03, None, (0.1, None)),
    *(_loss(name, _WIDTHS) for name in (
        'pairwise_affinity_nodes', 'attention_transfer', 'double_similarity_pixel',
        'intra_class_variation')),
    *(_loss(name, _WIDE) for name in (
        'channel_wise', 'fitnets', 'hierarchical_context', 'feature_adaptation',
        'autoencoder_reconstruction', 'cross_image_channel', 'channel_mse', 'pearson_features',
        'align_statistics')),
    _loss('cross_image_pixel', _WIDTHS, 0.4, 0.3, (0.1, None)),
    _loss('memory_similarity_pixel', f'{_WIDE}, 4,104 of the pixel queue', 0.4, 0.3, (0.1, None)),
    _loss('memory_similarity_region', f'{_WIDE}, 1,026 of the region queue', 0.4, 0.3,
          (0.1, None)),
    *(_loss(name, _ANCHORS) for name in (
        'quality_focal', 'sigmoid_focal', 'cross_head_classification', 'distribution_focal',
        'localization_distillation', 'cross_head_distribution', 'smooth_l1', 'giou', 'diou',
        'iou_log')),
]


def _distiller(name, what):
  return Row(f'distiller/{name}', what,
             _against_torch(f'our_distillers:{name}', f'torch_distillers:{name}'), 0.8, 0.5)


# The others are their loss alone.
_DISTILLERS = [
    _distiller('fitnets', f'projection and loss, {_WIDTHS}'),
    _distiller('channel_wise_features', f'projection and loss, {_WIDTHS}'),
    _distiller('review', 'four stages of ResNet-18 and ResNet-101, 1 image of 512x512'),
    _distiller('memory', f'head, queues of 20,000 and 2,000 a class, both losses, {_WIDTHS}'),
    _distiller('holistic', f'the student against the critic, {_LOGITS}'),
    _distiller('holistic_critic', f"the critic's loss with gradient penalty, {_LOGITS}"),
]


def _step(name, what, reach, aim, memory=(None, None)):
  return Row(f'{"model" if name.startswith("forward") else "step"}/{name}', what,
             _against_torch(f'our_steps:{name}', f'torch_steps:{name}'), reach, aim, memory,
             resident=True)


_TEACHER = 'DeepLabV3-ResNet-101 forward, 4 images'
_STUDENTS = {'resnet18': 'DeepLabV3-ResNet-18', 'mobilenetv2': 'DeepLabV3-MobileNetV2'}
_STEPS = [
    _step('forward_resnet101_128', f'{_TEACHER} at 128x128', 0.95, 0.75),
    _step('forward_resnet101_256', f'{_TEACHER} at 256x256', 0.95, 0.75),
    *(_step(f'step_{name}_128', f'{model} trained alone, 4 images at 128x128', None, None)
      for name, model in _STUDENTS.items()),
    *(_step(f'kd_{name}_128', f'KD of a ResNet-101 into {model}, 4 images at 128x128', 1.0, 0.8,
            (1.2, 0.8)) for name, model in _STUDENTS.items()),
    _step('skd_resnet18_128', 'whole SKD of a ResNet-101 into a ResNet-18, 4 images at 128x128',
          1.0, 0.8, (1.2, 0.8)),
    _step('cirkd_resnet18_128', 'whole CIRKD of a ResNet-101 into a ResNet-18, queues 20,000 and '
          '2,000, 4 images at 128x128', 1.0, 0.8, (1.2, 0.8)),
    Row('step/flops_resnet18_128', 'operations/s of the ResNet-18 step over those of a matrix '
        'product of 2048x2048', {OURS: 'our_steps:rate_resnet18_128',
                                 'product': 'our_steps:rate_product'}, 0.45, 0.7, rate=True),
]

_LARGE = '512x1024'
_ACCELERATOR = [
    _step(f'{name}_{images}x{_LARGE}{dtype}', f'{what}, {images} images at {_LARGE}'
          f'{", bfloat16" if dtype else ""}', None, None)
    for dtype in ('', '_bfloat16')
    for name, what, images in (
        ('forward_resnet101', 'DeepLabV3-ResNet-101 forward', 8),
        ('step_resnet18', 'DeepLabV3-ResNet-18 trained alone', 8),
        ('kd_resnet18', 'KD of a ResNet-101 into a ResNet-18', 8),
        ('kd_mobilenetv2', 'KD of a ResNet-101 into a MobileNetV2', 8),
        ('skd_resnet18', 'whole SKD of a ResNet-101 into a ResNet-18', 8),
        ('cirkd_resnet18', 'whole CIRKD of a ResNet-101 into a ResNet-18', 2))
]

_HOST = [
    Row('input/camvid', 'images/s a core, 480x360 to crops of 360x360, against an OpenCV loop',
        {OURS: 'host:input_ours', 'OpenCV': 'host:input_opencv'}, 0.9, rate=True,
        clock='cpu_seconds'),
    Row('inference/evaluation', 'images/s over a set of six sizes, against the forward pass alone',
        {OURS: 'host:evaluation_ours', 'forward': 'host:evaluation_forward'}, 0.8, rate=True),
    Row('inference/prediction', 'images/s over a folder, pictures written, against the forward '
        'pass alone', {OURS: 'host:prediction_ours', 'forward': 'host:prediction_forward'}, 0.8,
        rate=True),
    *(Row(f'start/{name}', f'{what}, two steps a run: compilation cache filled against empty',
          {'warm': f'host:start_{name}_warm', 'cold': f'host:start_{name}_cold'}, None, 0.5,
          most=3)
      for name, what in (('quickstart', 'the quickstart, three runs'),
                         ('runlocal', 'one run of train'))),
]

# By the device that they are for.
ROWS = {'cpu': (*_LOSSES, *_DISTILLERS, *_STEPS, *_HOST),
        'gpu': tuple(row._replace(reach=None, aim=None, memory=(None, None))
                     for row in (*_LOSSES, *_DISTILLERS, *_ACCELERATOR))}


def chosen(patterns: Sequence[str], device: str = 'cpu') -> list[Row]:
  """The rows whose names fit one of the patterns, as `loss/*`; all of them for none."""
  return [row for row in ROWS[device]
          if not patterns or any(fnmatch.fnmatch(row.name, pattern) for pattern in patterns)]
