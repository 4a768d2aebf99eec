"""Data against a plain slow reference: what is resized, cropped, flipped, limited and coloured."""

import itertools

import hypothesis
import jax
import numpy as np
import pytest
from hypothesis import strategies as st

from kdseg_jax import parallel, tasks
from kdseg_jax.data import augmentation, camvid, files, palettes, pipeline, subset
from kdseg_jax.data.tfds_builders import BUILDERS
from kdseg_jax.inference import evaluation

FIELDS = tasks.SegmentationTask.fields

SETTINGS = hypothesis.settings(max_examples=30, deadline=None, derandomize=True)
SIDE = st.integers(1, 24)


def nearest(total, size):
  """For each new pixel, the old one that holds its centre; of a centre on an edge, either."""
  return [[((2 * i + 1) * total - edge) // (2 * size) for i in range(size)] for edge in (0, 1)]


def slow_label(label, size):
  """`(H, W, 4)`: the labels that each pixel may have, for centres on edges."""
  rows, columns = (nearest(*axis) for axis in zip(label.shape, size))
  return np.array([[[label[r[y], c[x]] for r in rows for c in columns] for x in range(size[1])]
                   for y in range(size[0])], np.uint8)


def slow_bilinear(image, size):
  """Between the centres of pixels, the outermost of which reach to the border."""
  result = np.zeros((*size, 3))
  for y, x in itertools.product(*map(range, size)):
    place = [np.clip((i + 0.5) * total / new - 0.5, 0, total - 1)
             for i, total, new in zip((y, x), image.shape, size)]
    low = [int(p) for p in place]
    for dy, dx in itertools.product((0, 1), repeat=2):
      weight = np.prod([1 - abs(p - (floor + d)) for p, floor, d in zip(place, low, (dy, dx))])
      if weight > 0:
        result[y, x] += weight * image[low[0] + dy, low[1] + dx]
  return result


def slow_area(image, size):
  """The mean over the area that a new pixel covers, for whole factors."""
  factors = [total // new for total, new in zip(image.shape, size)]
  return np.array([[image[y * factors[0]:(y + 1) * factors[0],
                          x * factors[1]:(x + 1) * factors[1]].mean(axis=(0, 1))
                    for x in range(size[1])] for y in range(size[0])])


def example(height, width, seed=0):
  rng = np.random.default_rng(seed)
  label = rng.choice([*range(11), 255], (height, width)).astype(np.uint8)
  return rng.integers(0, 256, (height, width, 3), np.uint8), label


@SETTINGS
@hypothesis.given(SIDE, SIDE, SIDE, SIDE)
def test_labels_are_resized_to_the_nearest_pixel(height, width, new_height, new_width):
  _, label = example(height, width)
  got = files.resize_label(label, (new_height, new_width))
  allowed = slow_label(label, (new_height, new_width))
  assert got.shape == (new_height, new_width) and (got[..., None] == allowed).any(axis=-1).all()


@SETTINGS
@hypothesis.given(st.integers(2, 12), st.integers(2, 12), st.integers(13, 30), st.integers(13, 30))
def test_images_are_enlarged_bilinearly(height, width, new_height, new_width):
  image, _ = example(height, width)
  size = (new_height, new_width)
  np.testing.assert_allclose(files.resize_image(image, size), slow_bilinear(image, size), atol=1.01)


@SETTINGS
@hypothesis.given(SIDE, SIDE, st.integers(1, 4), st.integers(1, 4))
def test_images_are_shrunk_by_area(height, width, vertical, horizontal):
  image, _ = example(height * vertical, width * horizontal)
  np.testing.assert_allclose(files.resize_image(image, (height, width)),
                             slow_area(image, (height, width)), atol=0.51)


def slow_augmentation(image, label, rng, *, crop, scale, flip):
  """Scales, crops, pads and mirrors, a pixel at a time, with the same draws in the same order."""
  size = label.shape
  if scale:
    factor = rng.uniform(*scale)
    size = tuple(max(1, round(side * factor)) for side in label.shape)
    image = slow_bilinear(image, size)
  label = slow_label(label, size)
  top, left = (int(rng.integers(max(total - side, 0) + 1))
               for total, side in zip(label.shape, crop))
  mirrored = rng.random() < flip
  result = {'image': np.zeros((*crop, 3)), 'label': np.full((*crop, 4), 255),
            'mask': np.zeros(crop, bool)}
  for y, x in itertools.product(*map(range, crop)):
    if top + y < label.shape[0] and left + x < label.shape[1]:
      place = (y, crop[1] - 1 - x if mirrored else x)
      result['image'][place] = image[top + y, left + x]
      result['label'][place] = label[top + y, left + x]
      result['mask'][place] = True
  return result


@SETTINGS
@hypothesis.given(SIDE, SIDE, st.tuples(st.integers(1, 24), st.integers(1, 24)),
                  st.sampled_from([None, (0.5, 2.0), (0.75, 0.75), (1.25, 1.5)]),
                  st.sampled_from([0.0, 0.5, 1.0]), st.integers(0, 999))
def test_augmentation_is_what_the_slow_reference_does(height, width, crop, scale, flip, seed):
  image, label = example(height, width, seed)
  augment = augmentation.Augmentation(crop=crop, scale=scale, flip=flip, fields=FIELDS)
  got = augment({'image': image, 'label': label}, np.random.default_rng(seed))
  want = slow_augmentation(image, label, np.random.default_rng(seed), crop=crop, scale=scale,
                           flip=flip)
  assert (got['label'][..., None] == want['label']).any(axis=-1).all()
  np.testing.assert_array_equal(got['mask'], want['mask'])
  np.testing.assert_allclose(got['image'], want['image'], atol=1.01)


def test_every_crop_is_reached_the_last_row_and_column_too():
  image = np.zeros((9, 11, 3), np.uint8)
  image[..., 0], image[..., 1] = np.indices((9, 11))
  augment = augmentation.Augmentation(crop=(4, 5), scale=None, flip=0.0, fields=FIELDS)
  rng = np.random.default_rng(0)
  counts = np.zeros((6, 7))
  for _ in range(2_000):
    crop = augment({'image': image, 'label': image[..., 0]}, rng)
    counts[tuple(crop['image'][0, 0, :2])] += 1
    assert crop['mask'].all()
  assert counts.min() > 15  # of 48 expected: all are alike


def test_scales_reach_both_ends_and_are_drawn_evenly():
  image, label = example(100, 100)
  augment = augmentation.Augmentation(crop=(200, 200), scale=(0.5, 2.0), flip=0.0, fields=FIELDS)
  rng = np.random.default_rng(0)
  factors = [augment({'image': image, 'label': label}, rng)['mask'][0].sum() / 100
             for _ in range(400)]
  assert 0.5 <= min(factors) < 0.52 and 1.98 < max(factors) <= 2.0
  np.testing.assert_allclose(np.quantile(factors, [0.25, 0.5, 0.75]), [0.875, 1.25, 1.625],
                             atol=0.12)


@SETTINGS
@hypothesis.given(st.integers(1, 200), st.integers(0, 220))
@hypothesis.example(9, 8)
@hypothesis.example(9, 9)
def test_subsets_are_the_first_and_evenly_spread(length, limit):
  source = list(range(length))
  count = limit if 0 < limit < length else length
  assert list(subset.first(source, limit)) == source[:count]
  spread = list(subset.spread(source, limit))
  assert len(spread) == count and spread[0] == 0
  gaps = np.diff([*spread, length])  # to the end too: not all of it from the beginning
  assert gaps.min() >= 1 and gaps.max() - gaps.min() <= 1


class Coded:
  """Images that tell their position, and which of them were read."""

  classes = ('a', 'b')

  def __init__(self, length):
    self.length, self.reads = length, set()

  def __len__(self):
    return self.length

  def __getitem__(self, index):
    self.reads.add(index)
    return {'image': np.full((2, 2, 3), index, np.uint8), 'label': np.full((2, 2), index, np.uint8)}


@pytest.mark.parametrize('limit', [0, 1, 5, 9])
def test_evaluation_with_a_limit_is_of_the_first_images(limit):
  source = Coded(9)
  counts = dict.fromkeys(('index', 'image', 'label'), 0)
  evaluator = evaluation.Evaluator(
      tasks.SegmentationTask(20), None, parallel.create_mesh(), batch_size=2, limit=limit)
  evaluator._step = lambda variables, memory, batch: (counts.update({
      name: total + np.bincount(batch[name][batch['index'] >= 0].ravel(), minlength=20)
      for name, total in counts.items()}), tasks.Outputs(
          {'confusion_matrix': np.eye(20, dtype=int), 'images': 1}))[1]
  evaluator.accumulate({}, source)
  expected = (np.arange(20) < (limit or 9)).astype(int)
  np.testing.assert_array_equal(counts['index'], expected)
  np.testing.assert_array_equal(counts['image'], 12 * expected)
  np.testing.assert_array_equal(counts['label'], 4 * expected)
  assert source.reads == set(range(limit or 9))


def test_two_processes_share_the_first_images(monkeypatch):
  source, mesh, found = Coded(9), parallel.create_mesh(), []
  source.size = (2, 2)
  monkeypatch.setattr(jax, 'process_count', lambda: 2)
  for process in (0, 1):
    monkeypatch.setattr(jax, 'process_index', lambda process=process: process)
    evaluator = evaluation.Evaluator(
        tasks.SegmentationTask(20), None, mesh, batch_size=8, limit=5)
    found += [image[0, 0, 0] for batch in evaluator._batches(source)
              for image, index in zip(batch['image'], batch['index']) if index >= 0]
  assert sorted(found) == [0, 1, 2, 3, 4]


def test_every_example_of_training_keeps_its_label_and_its_own_draw():
  seen = []

  def mark(item, rng):
    label = item['label'].copy()
    image = item['image'].copy()
    image[..., 1] = rng.integers(256)
    return {'image': image, 'label': label, 'mask': label >= 0}

  batches = pipeline.train_batches(Coded(7), batch_size=3, seed=1, augmentation=mark, num_threads=2)
  for batch in itertools.islice(batches, 14):
    np.testing.assert_array_equal(batch['image'][..., 0], batch['label'])
    seen += list(zip(batch['label'][:, 0, 0].tolist(), batch['image'][:, 0, 0, 1].tolist()))
  assert {label for label, _ in seen} == set(range(7))
  for label in range(7):  # six epochs: a new draw in each
    assert len({draw for other, draw in seen if other == label}) >= 4


# Names and colours as the data sets' authors give them.
KNOWN_COLORS = {
    'camvid': {'sky': (128, 128, 128), 'building': (128, 0, 0), 'pole': (192, 192, 128),
               'road': (128, 64, 128), 'pavement': (60, 40, 222), 'tree': (128, 128, 0),
               'sign-symbol': (192, 128, 128), 'fence': (64, 64, 128), 'car': (64, 0, 128),
               'pedestrian': (64, 64, 0), 'bicyclist': (0, 128, 192)},
    'cityscapes': {'road': (128, 64, 128), 'sidewalk': (244, 35, 232), 'building': (70, 70, 70),
                   'wall': (102, 102, 156), 'fence': (190, 153, 153), 'pole': (153, 153, 153),
                   'traffic light': (250, 170, 30), 'traffic sign': (220, 220, 0),
                   'vegetation': (107, 142, 35), 'terrain': (152, 251, 152),
                   'sky': (70, 130, 180), 'person': (220, 20, 60), 'rider': (255, 0, 0),
                   'car': (0, 0, 142), 'truck': (0, 0, 70), 'bus': (0, 60, 100),
                   'train': (0, 80, 100), 'motorcycle': (0, 0, 230), 'bicycle': (119, 11, 32)},
    'voc': {'background': (0, 0, 0), 'aeroplane': (128, 0, 0), 'bicycle': (0, 128, 0),
            'bird': (128, 128, 0), 'boat': (0, 0, 128), 'car': (128, 128, 128), 'cat': (64, 0, 0),
            'person': (192, 128, 128), 'train': (128, 192, 0), 'tvmonitor': (0, 64, 128)},
}


@pytest.mark.parametrize('name', KNOWN_COLORS)
def test_classes_have_the_colours_of_their_authors(name):
  builder = BUILDERS[name]
  colors = {known: tuple(map(int, color)) for known, color in zip(
      builder.CLASSES, builder.PALETTE, strict=True)}
  assert {known: colors[known] for known in KNOWN_COLORS[name]} == KNOWN_COLORS[name]
  assert len(set(colors.values())) == len(colors)
  if name == 'camvid':
    assert camvid.CLASSES == builder.CLASSES
    np.testing.assert_array_equal(camvid.CamVid.palette, builder.PALETTE)


# First letters of the classes in the order of their labels, as the authors list them.
INITIALS = {
    'ade20k': 'wbsftcrbwgcspedtmpcccwpsshsmrfasfdrwlbrcbbcsccsssfrgpsrcppssrbbbctfbhbcspkcs'
              'bbahbtlttcasbtadaplbeobbpsvsfccwpssbbwtbmcobfsttmpabldsbshsvttafpcpmbsrgcf',
    'coco': 'pbcmabttbtfspbbcdhscebzgbuhtsfssskbbsstbwcfksbbasobchpdcccpbdttlmrkcmotsrbcvstht'}


def test_classes_have_the_order_of_their_authors():
  assert {name: ''.join(known[0] for known in BUILDERS[name].CLASSES)
          for name in INITIALS} == INITIALS
  assert list(BUILDERS['pascal_context'].CLASSES) == sorted(BUILDERS['pascal_context'].CLASSES)


def test_pictures_of_labels_have_the_colours_of_their_classes(tmp_path):
  _, label = example(12, 13)
  colors = palettes.colorize(label, palettes.CAMVID)
  files.write_palette_png(tmp_path / 'a.png', label, palettes.CAMVID)
  for image in (colors, files.read_image(tmp_path / 'a.png')):
    for y, x in itertools.product(range(12), range(13)):
      expected = (0, 0, 0) if label[y, x] == 255 else palettes.CAMVID[label[y, x]]
      np.testing.assert_array_equal(image[y, x], expected)
