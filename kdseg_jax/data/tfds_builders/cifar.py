"""CIFAR-10 and CIFAR-100 from their official archives for Python."""

from __future__ import annotations

import functools

import cv2

from kdseg_jax.data import cifar, palettes
from kdseg_jax.data.tfds_builders import classified, trees
from kdseg_jax.errors import UserError

_HOMEPAGE = 'https://www.cs.toronto.edu/~kriz/cifar.html'


class Cifar10(classified.ClassBuilder):
  """CIFAR-10: the examples of `data.Cifar`, in its order, as PNG."""

  name = 'kdseg_cifar10'
  DATA = 'cifar10'  # of `data.Cifar`
  MANUAL_DOWNLOAD_INSTRUCTIONS = (
      f'Download cifar-10-python.tar.gz from {_HOMEPAGE} into the manual directory, or extract it '
      'there.')
  TITLE = 'CIFAR-10 (Krizhevsky, 2009), 10 classes, 32x32.'
  HOMEPAGE = _HOMEPAGE
  CLASSES = (
      'airplane', 'automobile', 'bird', 'cat', 'deer', 'dog', 'frog', 'horse', 'ship', 'truck')
  PALETTE = palettes.default_palette(10)
  COUNTS = {'train': 50_000, 'test': 10_000}

  def find(self, manual_dir):
    found = {}
    for split in self.COUNTS:
      source = cifar.Cifar(self.DATA, split, root=manual_dir)
      if source.classes != self.CLASSES:
        raise UserError(f'{manual_dir}: the classes of its {self.DATA} are '
                        f'{", ".join(source.classes[:3])}, ...; expected those of the official '
                        f'archive, {", ".join(self.CLASSES[:3])}, ...')
      examples = ((f'{split}_{index:05d}', index) for index in range(len(source)))
      found[split] = {image_id: classified.ClassExample(
          trees.Member(f'{manual_dir}/{image_id}', functools.partial(_png, source, index)),
          source.label_of(index)) for image_id, index in examples}
    return found


class Cifar100(Cifar10):
  """CIFAR-100 with its 100 fine classes, likewise."""

  name = 'kdseg_cifar100'
  DATA = 'cifar100'
  MANUAL_DOWNLOAD_INSTRUCTIONS = (
      f'Download cifar-100-python.tar.gz from {_HOMEPAGE} into the manual directory, or extract it '
      'there.')
  TITLE = 'CIFAR-100 (Krizhevsky, 2009), 100 fine classes, 32x32.'
  CLASSES = (
      'apple', 'aquarium_fish', 'baby', 'bear', 'beaver', 'bed', 'bee', 'beetle', 'bicycle',
      'bottle', 'bowl', 'boy', 'bridge', 'bus', 'butterfly', 'camel', 'can', 'castle',
      'caterpillar', 'cattle', 'chair', 'chimpanzee', 'clock', 'cloud', 'cockroach', 'couch',
      'crab', 'crocodile', 'cup', 'dinosaur', 'dolphin', 'elephant', 'flatfish', 'forest', 'fox',
      'girl', 'hamster', 'house', 'kangaroo', 'keyboard', 'lamp', 'lawn_mower', 'leopard', 'lion',
      'lizard', 'lobster', 'man', 'maple_tree', 'motorcycle', 'mountain', 'mouse', 'mushroom',
      'oak_tree', 'orange', 'orchid', 'otter', 'palm_tree', 'pear', 'pickup_truck', 'pine_tree',
      'plain', 'plate', 'poppy', 'porcupine', 'possum', 'rabbit', 'raccoon', 'ray', 'road',
      'rocket', 'rose', 'sea', 'seal', 'shark', 'shrew', 'skunk', 'skyscraper', 'snail', 'snake',
      'spider', 'squirrel', 'streetcar', 'sunflower', 'sweet_pepper', 'table', 'tank', 'telephone',
      'television', 'tiger', 'tractor', 'train', 'trout', 'tulip', 'turtle', 'wardrobe', 'whale',
      'willow_tree', 'wolf', 'woman', 'worm')
  PALETTE = palettes.default_palette(100)


def _png(source, index):
  return cv2.imencode('.png', source[index]['image'][..., ::-1])[1].tobytes()
