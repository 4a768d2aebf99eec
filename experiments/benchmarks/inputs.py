"""The numbers that both sides of a row read, at the shapes of the papers; numpy alone."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

IMAGES, SIDE, CLASSES = 2, 64, 19  # crops of 512x512 at stride 8, of Cityscapes
STUDENT, TEACHER = 128, 256  # channels of the embeddings
LABEL_SCALE = 8
PIXEL_SAMPLES, REGION_SAMPLES = 216 * CLASSES, 54 * CLASSES  # of CIRKD's 4,096 and 1,024
SCENES_CLASSES, BATCH = 11, 4  # of the built-in data, which steps are configured for
ANCHORS, BINS, BOX_CLASSES = 21_824, 17, 80  # of an image of 1024x1024, in five levels


class Step(NamedTuple):
  """What a row of models or steps is of; `size` is `(images, height, width)`."""

  kind: str
  model: str
  size: tuple[int, int, int]
  dtype: str

  @classmethod
  def parse(cls, name: str) -> Step:
    """Of `<kind>_<model>_<side of 4 images, or images x height x width>[_bfloat16]`."""
    words = name.removesuffix('_bfloat16')
    kind, model, size = words.rsplit('_', 2)
    sizes = tuple(map(int, size.split('x')))
    return cls(kind, model, (BATCH, *sizes * 2) if len(sizes) == 1 else sizes,
               'float32' if words == name else 'bfloat16')


def features(channels: int, seed: int, *, images: int = IMAGES, side: int = SIDE) -> np.ndarray:
  """`(images, side, side, channels)` float32."""
  return normal((images, side, side, channels), seed)


def normal(shape: tuple[int, ...], seed: int) -> np.ndarray:
  """Float32 normal numbers."""
  return np.random.default_rng(seed).standard_normal(shape, np.float32)


def labels(side: int, *, images: int = IMAGES, classes: int = CLASSES) -> np.ndarray:
  """`(images, side, side)` int32 in blocks of one class, a twentieth of them ignored."""
  return _labels((images, side, side), classes)


def _labels(size, classes):
  images, height, width = size
  rng = np.random.default_rng(7)
  blocks = rng.integers(0, classes, (images, 16, 16), np.int32)
  blocks[rng.uniform(size=blocks.shape) < 0.05] = 255
  return np.kron(blocks, np.ones((height // 16, width // 16), np.int32))


def boxes(count: int) -> np.ndarray:
  """`(count, 4)` float32, x1 y1 x2 y2."""
  rng = np.random.default_rng(5)
  corner = rng.uniform(0, 900, (count, 2))
  return np.concatenate(
      [corner, corner + rng.uniform(8, 120, (count, 2))], axis=1).astype(np.float32)


def queue(size: int, channels: int = TEACHER) -> np.ndarray:
  """`(size, channels)` float32 rows of unit length."""
  found = normal((size, channels), 11)
  return found / np.linalg.norm(found, axis=1, keepdims=True)


def arrays(name: str, *, images: int = IMAGES, side: int = SIDE, samples: int | None = None
           ) -> dict[str, np.ndarray]:
  """The arguments of a loss, `student` first, which the gradient is taken of; maps are NHWC.

  Args:
    name: of `rows.ROWS`, without its group.
    images: of the batch.
    side: of the maps; labels are 8 times as large, and anchors are as many more or fewer.
    samples: remembered embeddings that pixels are compared with; None is the paper's number.
  """
  maps = lambda channels, seed: features(channels, seed, images=images, side=side)
  both = lambda ours, theirs: {'student': maps(ours, 0), 'teacher': maps(theirs, 1)}
  at_label_size = lambda: labels(LABEL_SCALE * side, images=images)
  anchors = ANCHORS * side**2 // SIDE**2
  rows = lambda columns: {'student': normal((anchors, columns), 0),
                          'teacher': normal((anchors, columns), 1)}
  if name in ('pixelwise_kl', 'channel_wise_logits', 'double_similarity_category', 'decoupled_kd'):
    own = {'labels': labels(side, images=images)} if name == 'decoupled_kd' else {}
    return both(CLASSES, CLASSES) | own
  if name in ('attention_transfer', 'pairwise_affinity', 'pairwise_affinity_nodes',
              'cross_image_pixel'):
    return both(STUDENT, TEACHER)
  if name == 'intra_class_variation':
    return both(STUDENT, TEACHER) | {'labels': at_label_size()}
  if name == 'double_similarity_pixel':
    return both(STUDENT, TEACHER) | {
        'student_logits': maps(CLASSES, 2), 'teacher_logits': maps(CLASSES, 3)}
  if name in ('cross_entropy', 'ohem_cross_entropy'):
    return {'student': maps(CLASSES, 0), 'labels': at_label_size()}
  if name in ('quality_focal', 'sigmoid_focal', 'cross_head_classification'):
    return rows(BOX_CLASSES)
  if name in ('localization_distillation', 'cross_head_distribution'):
    return rows(4 * BINS)
  if name == 'smooth_l1':
    return rows(4)
  if name == 'distribution_focal':
    return {'student': normal((4 * anchors, BINS), 0),
            'targets': np.abs(normal((4 * anchors,), 1)) * 4 % (BINS - 1)}
  if name in ('giou', 'diou', 'iou_log'):
    return {'student': boxes(anchors), 'teacher': boxes(anchors) + normal((anchors, 4), 1)}
  own = {}
  if name == 'autoencoder_reconstruction':
    own = {'code': features(TEACHER, 2, images=images, side=side // 2)}
  if name.startswith('memory_similarity'):
    of_paper = PIXEL_SAMPLES if name.endswith('pixel') else REGION_SAMPLES
    own = {'contrast': queue(samples or of_paper)}
  return both(TEACHER, TEACHER) | own


def batch(size: tuple[int, int, int]) -> tuple[np.ndarray, np.ndarray]:
  """Images `(*size, 3)` uint8 and labels `size` uint8."""
  images = np.random.default_rng(3).integers(0, 256, (*size, 3), np.uint8)
  return images, _labels(size, SCENES_CLASSES).astype(np.uint8)


def taps(name: str) -> tuple[dict, dict, dict]:
  """Taps of student and teacher, and the batch, that a distiller reads."""
  if name == 'review':  # the stages of ResNet-18 and ResNet-101
    stages = lambda widths, suffix, seed: {
        f'stage{i}{suffix}': features(width, seed + i, images=1, side=2 * SIDE if i == 1 else SIDE)
        for i, width in enumerate(widths, start=1)}
    return (stages((64, 128, 256, 512), '', 0),
            stages((256, 512, 1024, 2048), '_preactivation', 4), {})
  made = lambda channels, seed: {
      'embedding': features(channels, seed), 'logits': features(CLASSES, seed + 2)}
  side = LABEL_SCALE * SIDE
  image = np.random.default_rng(3).integers(0, 256, (IMAGES, side, side, 3), np.uint8)
  return made(STUDENT, 0), made(TEACHER, 1), {
      'image': image, 'label': labels(side), 'index': np.arange(IMAGES, dtype=np.int32)}
