"""TFDS builders that need no TensorFlow, by the names of `kdseg_jax.data.create`.

Importing registers them with TFDS too, as `kdseg_<name>`, beside the data sets that it ships.
"""

from __future__ import annotations

from kdseg_jax.data.tfds_builders.ade20k import Ade20k
from kdseg_jax.data.tfds_builders.base import Builder
from kdseg_jax.data.tfds_builders.camvid import CamVid
from kdseg_jax.data.tfds_builders.cifar import Cifar10, Cifar100
from kdseg_jax.data.tfds_builders.cityscapes import Cityscapes, CityscapesCoarse
from kdseg_jax.data.tfds_builders.coco import Coco
from kdseg_jax.data.tfds_builders.coco_voc import CocoVoc
from kdseg_jax.data.tfds_builders.imagenet import ImageNet
from kdseg_jax.data.tfds_builders.pascal_context import PascalContext
from kdseg_jax.data.tfds_builders.voc import Voc

BUILDERS: dict[str, type[Builder]] = {
    'camvid': CamVid, 'cityscapes': Cityscapes, 'cityscapes_coarse': CityscapesCoarse, 'voc': Voc,
    'pascal_context': PascalContext, 'ade20k': Ade20k, 'coco_voc': CocoVoc, 'coco': Coco,
    'cifar10': Cifar10, 'cifar100': Cifar100, 'imagenet': ImageNet}

__all__ = ['BUILDERS', 'Builder']
