"""Augmentation: image, label and mask stay aligned whatever is drawn."""

import numpy as np
import pytest

from kdseg_jax import tasks
from kdseg_jax.data import augmentation

FIELDS = tasks.SegmentationTask.fields


def coded_example(height, width):
  """An image that tells its own label: label = red, and the column in blue."""
  label = np.random.default_rng(0).integers(1, 11, (height, width)).astype(np.uint8)
  image = np.zeros((height, width, 3), np.uint8)
  image[..., 0] = label
  image[..., 2] = 1 + np.arange(width)
  return {'image': image, 'label': label, 'image_id': 'a', 'boxes': np.zeros((1, 4))}


@pytest.mark.parametrize('size', [(20, 30), (10, 40), (30, 9), (5, 6)])
@pytest.mark.parametrize('flip', [0.0, 1.0])
def test_crop_padding_and_flip_stay_aligned(size, flip):
  augment = augmentation.Augmentation(crop=(12, 16), scale=None, flip=flip, fields=FIELDS)
  for seed in range(10):
    result = augment(coded_example(*size), np.random.default_rng(seed))
    assert result.keys() == {'image', 'label', 'mask'}
    image, label, mask = result['image'], result['label'], result['mask']
    assert image.shape == (12, 16, 3) and label.shape == mask.shape == (12, 16)
    assert image.dtype == label.dtype == np.uint8 and mask.dtype == bool
    np.testing.assert_array_equal(image[mask][:, 0], label[mask])
    assert (image[~mask] == 0).all() and (label[~mask] == 255).all()
    height, width = min(12, size[0]), min(16, size[1])
    expected = np.zeros((12, 16), bool)
    expected[:height, :width] = True  # padding is at the bottom and right, before the flip
    np.testing.assert_array_equal(mask, expected[:, ::-1] if flip else expected)
    columns = image[0, mask[0], 2].astype(int)
    np.testing.assert_array_equal(np.diff(columns), -1 if flip else 1)


def test_crops_reach_every_place():
  augment = augmentation.Augmentation(crop=(4, 4), scale=None, flip=0.0, fields=FIELDS)
  rng = np.random.default_rng(0)
  starts = {int(augment(coded_example(4, 8), rng)['image'][0, 0, 2]) for _ in range(100)}
  assert starts == {1, 2, 3, 4, 5}
  example = coded_example(8, 4)
  example['image'][..., 1] = np.arange(8)[:, None]
  starts = {int(augment(example, rng)['image'][0, 0, 1]) for _ in range(100)}
  assert starts == {0, 1, 2, 3, 4}


def test_what_is_drawn_of_one_image_tells_nothing_of_what_else_is():
  augment = augmentation.Augmentation(crop=(4, 4), scale=None, flip=0.5, fields=FIELDS)
  example = coded_example(7, 7)
  example['label'] = np.arange(49, dtype=np.uint8).reshape(7, 7)
  rng = np.random.default_rng(0)
  found = {augment(example, rng)['label'].tobytes() for _ in range(400)}
  assert len(found) == 2 * 4 * 4  # every row, column and side


def test_flip_has_its_probability():
  augment = augmentation.Augmentation(crop=(4, 4), scale=None, flip=0.25, fields=FIELDS)
  rng = np.random.default_rng(0)
  flipped = [augment(coded_example(4, 4), rng)['image'][0, 0, 2] == 4 for _ in range(400)]
  assert 0.18 < np.mean(flipped) < 0.32


def test_scale_covers_its_range_and_keeps_label_on_image():
  augment = augmentation.Augmentation(crop=(80, 80), scale=(0.5, 2.0), flip=0.0, fields=FIELDS)
  label = np.zeros((40, 40), np.uint8)
  label[:, 20:] = 1
  example = {'image': np.repeat(label[..., None] * np.uint8(200), 3, axis=2), 'label': label}
  widths = []
  for seed in range(60):
    result = augment(example, np.random.default_rng(seed))
    widths.append(int(result['mask'][0].sum()))
    bright = result['image'][..., 0] > 100
    labelled = result['label'] == 1
    assert (bright != labelled).mean(axis=0).sum() <= 1  # the edge is off by one pixel at most
  assert 20 <= min(widths) <= 24 and 72 <= max(widths) <= 80
  fixed = augmentation.Augmentation(crop=(80, 80), scale=(2.0, 2.0), flip=0.0, fields=FIELDS)
  result = fixed(example, np.random.default_rng(0))
  assert result['mask'].all()
  np.testing.assert_array_equal(result['label'], np.repeat(np.repeat(label, 2, 0), 2, 1))


def test_same_generator_gives_the_same_result_and_the_example_is_left_alone():
  augment = augmentation.Augmentation(crop=(12, 16), fields=FIELDS)
  example = coded_example(20, 30)
  before = {name: np.copy(value) for name, value in example.items()}
  first, second = (augment(example, np.random.default_rng(5)) for _ in range(2))
  for name in first:
    np.testing.assert_array_equal(first[name], second[name])
  first['image'][:] = 0
  for name, value in before.items():
    np.testing.assert_array_equal(example[name], value)


def test_a_border_counts_as_the_image_and_crops_reach_all_of_it():
  augment = augmentation.Augmentation(crop=(4, 4), scale=None, flip=0.0, pad=2, fields=FIELDS)
  rng = np.random.default_rng(0)
  starts = set()
  for _ in range(400):
    result = augment(coded_example(4, 4), rng)
    assert result['mask'].all()
    np.testing.assert_array_equal(result['label'] == 255, result['image'][..., 2] == 0)
    inside = np.argwhere(result['image'][..., 2] > 0)
    first = inside[0]
    starts.add((4 - np.ptp(inside[:, 0]), *first, result['image'][tuple(first)][2]))
  assert len(starts) == 25


def test_resized_crops_are_windows_of_the_area_and_shape_at_the_size_of_the_crop():
  augment = augmentation.Augmentation(
      crop=(64, 64), scale=None, flip=0.0, resized_crop=(0.25, 0.5), fields=FIELDS)
  size, rng, shares, shapes = (60, 80), np.random.default_rng(0), [], []
  rows, columns = np.mgrid[:size[0], :size[1]]
  image = np.stack([rows, columns, 0 * rows], axis=-1).astype(np.uint8)
  for _ in range(100):
    result = augment({'image': image, 'label': rows.astype(np.uint8)}, rng)
    assert result['image'].shape == (64, 64, 3) and result['mask'].all()
    assert np.abs(result['image'][..., 0].astype(int) - result['label']).max() <= 1
    height, width = (1 + np.ptp(result['image'][..., i].astype(int)) for i in range(2))
    shares.append(height * width / image[..., 0].size)
    shapes.append(width / height)
  assert 0.22 < min(shares) < 0.3 and 0.45 < max(shares) < 0.53
  assert 0.7 < min(shapes) < 0.85 and 1.2 < max(shapes) < 1.42
  whole = augmentation.Augmentation(  # no window of this area has one of the shapes
      crop=(4, 4), scale=None, flip=0.0, resized_crop=(1.0, 1.0), fields=FIELDS)
  narrow = np.arange(40, dtype=np.uint8)[None].repeat(4, 0)
  result = whole({'image': np.stack([narrow] * 3, axis=-1), 'label': narrow}, rng)
  row = result['image'][0, :, 0]  # the centre 4x5, columns 17 to 21
  assert row[0] in (17, 18) and row[-1] in (20, 21)
  column = np.arange(40, dtype=np.uint8)[:, None].repeat(4, 1)
  result = whole({'image': np.stack([column] * 3, axis=-1), 'label': column}, rng)
  assert result['image'][0, 0, 0] in (17, 18) and result['image'][-1, 0, 0] in (20, 21)


def test_windows_are_drawn_as_those_of_torchvision():
  """Its `RandomResizedCrop.get_params`, number by number, where one of ten windows fits."""
  (height, width), reached = (20, 30), set()
  for seed in range(60):
    top, left = augmentation._window((height, width), np.random.default_rng(seed), (0.3, 1.0))
    rng = np.random.default_rng(seed)
    for _ in range(10):
      area = rng.uniform(0.3, 1.0) * height * width
      ratio = np.exp(rng.uniform(np.log(3 / 4), np.log(4 / 3)))
      columns, rows = (int(round(np.sqrt(x))) for x in (area * ratio, area / ratio))
      if columns <= width and rows <= height:
        first = rng.integers(0, height - rows + 1), rng.integers(0, width - columns + 1)
        assert (top.start, left.start, top.stop, left.stop) == (
            *first, first[0] + rows, first[1] + columns)
        reached |= {end for end, at in (('bottom', top.stop == height),
                                        ('right', left.stop == width)) if at}
        break
  assert reached == {'bottom', 'right'}


@pytest.mark.parametrize(('size', 'rows', 'columns'), [
    ((4, 40), (0, 4), (17, 22)), ((40, 4), (17, 22), (0, 4)), ((9, 30), (0, 9), (9, 21)),
    ((30, 9), (9, 21), (0, 9))])
def test_where_no_window_fits_it_is_the_centre_of_the_nearest_shape(size, rows, columns):
  """4/3 of images that are wider, 3/4 of images that are higher."""
  window = augmentation._window(size, np.random.default_rng(0), (1.0, 1.0))
  assert window == (slice(*rows), slice(*columns))


def test_what_does_not_move_with_the_image_is_kept():
  fields = tasks.ClassificationTask.fields
  augment = augmentation.Augmentation(crop=(4, 4), flip=1.0, pad=1, fields=fields)
  result = augment(coded_example(6, 6) | {'label': np.int32(7)}, np.random.default_rng(0))
  assert result['label'] == 7 and result.keys() == {'image', 'label', 'mask'}


def test_maps_have_their_own_value_in_the_border_and_in_the_padding():
  own = tasks.Field(lambda size: size, np.int32, 7, 'map')
  augment = augmentation.Augmentation(crop=(8, 9), scale=None, flip=0.0, pad=1, fields={'own': own})
  example = {'image': np.zeros((3, 4, 3), np.uint8), 'own': np.zeros((3, 4), np.int32)}
  expected = np.full((8, 9), 7)
  expected[1:4, 1:5] = 0
  np.testing.assert_array_equal(augment(example, np.random.default_rng(0))['own'], expected)


@pytest.mark.parametrize(('options', 'side', 'border'), [
    ({'resize': ((8, 8),), 'scale': (2.0, 2.0)}, 16, 0),
    ({'resize': ((8, 8),), 'scale': None, 'pad': 1}, 10, 1),
    ({'scale': (2.0, 2.0), 'pad': 1}, 10, 1)])
def test_images_are_resized_then_scaled_then_bordered(options, side, border):
  augment = augmentation.Augmentation(crop=(20, 20), flip=0.0, fields=FIELDS, **options)
  example = {'image': np.full((4, 4, 3), 9, np.uint8), 'label': np.zeros((4, 4), np.uint8)}
  result = augment(example, np.random.default_rng(0))
  expected = np.zeros((20, 20), int)
  expected[border:side - border, border:side - border] = 9
  np.testing.assert_array_equal(result['image'][..., 0], expected)
  assert result['mask'][:side, :side].all() and result['mask'].sum() == side**2


def test_the_border_of_a_resized_crop_has_its_width_in_pixels_of_the_crop():
  augment = augmentation.Augmentation(
      crop=(8, 8), scale=None, flip=0.0, pad=2, resized_crop=(1.0, 1.0), fields=FIELDS)
  example = {'image': np.full((4, 4, 3), 9, np.uint8), 'label': np.zeros((4, 4), np.uint8)}
  rng = np.random.default_rng(0)
  borders = {int((~augment(example, rng)['image'].any(axis=(1, 2))).sum()) for _ in range(60)}
  assert borders == {0, 1, 2}  # of 12 rows with 2 of border at either end, 8 are taken


@pytest.mark.parametrize('dtype', [bool, np.uint8, np.uint16, np.float32, np.int64])
@pytest.mark.parametrize('channels', [(), (1,), (3,), (2, 2), (64,), (130,)])
def test_maps_of_any_kind_are_mirrored(dtype, channels):
  own = tasks.Field(lambda size: (*size, *channels), dtype, 0, 'map')
  values = np.random.default_rng(0).integers(0, 200, (7, 9, *channels)).astype(dtype)
  example = {'image': np.zeros((7, 9, 3), np.uint8), 'own': values}
  augment = augmentation.Augmentation(crop=(7, 9), scale=None, flip=1.0, fields={'own': own})
  mirrored = augment(example, np.random.default_rng(0))['own']
  assert mirrored.dtype == dtype
  np.testing.assert_array_equal(mirrored, values[:, ::-1])


@pytest.mark.parametrize(('arguments', 'message'), [
    ({'crop': (4, 4), 'scale': None, 'resized_crop': (0.5, 2.0)}, 'share of the area'),
    ({'crop': (4, 4), 'scale': None, 'resized_crop': (0.0, 1.0)}, 'share of the area'),
    ({'crop': (4, 4), 'scale': None, 'resized_crop': (0.8, 0.3)}, 'share of the area'),
    ({'crop': (4, 4), 'resized_crop': (0.5, 1.0)}, 'both choose a size'),
    ({'crop': (4, 4), 'pad': -1}, 'pad=-1: expected a number of pixels'),
    ({'crop': (0, 4)}, 'crop='),
    ({'crop': (4,)}, 'crop='),
    ({'crop': (4, 4), 'scale': (2.0, 0.5)}, 'scale='),
    ({'crop': (4, 4), 'scale': (0.0, 1.0)}, 'scale='),
    ({'crop': (4, 4), 'flip': 1.5}, 'flip='),
    ({'crop': (4, 4), 'flip': -0.5}, 'flip='),
    ({'crop': (4, 4), 'resize': ((40, 60), (60, 40))}, r'\(60, 40\): expected \(shorter side'),
    ({'crop': (4, 4), 'resize': ((40, 60), (0, 60))}, r'\(0, 60\): expected \(shorter side'),
])
def test_wrong_settings_are_refused(arguments, message):
  with pytest.raises(ValueError, match=message):
    augmentation.Augmentation(**arguments, fields=FIELDS)
