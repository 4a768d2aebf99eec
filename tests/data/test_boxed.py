"""Boxes of a batch: as many as its fields hold, and the same place on the image all the way."""

import logging

import absl.logging
import numpy as np
import pytest

from kdseg_jax import data, tasks
from kdseg_jax.data import augmentation, boxed, pipeline
from kdseg_jax.errors import NotFoundError, UserError
from kdseg_jax.tasks.box_fields import box_fields
from tests.data import boxed_sets

FIELDS = box_fields(6)
COLORS = np.uint8([(250, 0, 0), (0, 250, 0), (0, 0, 250), (250, 250, 0)])  # by class


class Listed(list):
  """Examples as a source."""

  classes, palette = tuple('abcd'), None


def colored_example(height=40, width=60, seed=0):
  """An image whose boxes are filled with the colour of their class, on black."""
  rng = np.random.default_rng(seed)
  image, boxes = np.zeros((height, width, 3), np.uint8), []
  low, high = (np.array([width, height]) // part for part in (8, 4))
  for label, color in enumerate(COLORS):  # one in each quarter
    top, left = label // 2 * height // 2, label % 2 * width // 2
    start = np.array([left, top]) + rng.integers(0, high)
    boxes.append((*start, *(start + rng.integers(low, high))))
    x1, y1, x2, y2 = boxes[-1]
    image[y1:y2, x1:x2] = color
  arrays = {'boxes': np.float32(boxes), 'classes': np.arange(4, dtype=np.int32),
            'crowd': np.array([False, True, False, False]), 'area': np.float32([1, 2, 3, 4])}
  return boxed.example(image, arrays, 'a', None)


def assert_boxes_on_image(batch, tolerance=1.01):
  """Every box is where its colour is, and every colour that shows has its box."""
  shown = set()
  seen_of = [(batch['image'] > 125) == (color > 125) for color in COLORS]
  for box, label, crowd, area in zip(*(batch[name] for name in (
      'boxes', 'classes', 'crowd', 'area'))):
    if label < 0:
      assert not box.any() and not crowd and area == 0
      continue
    assert crowd == (label == 1) and area == label + 1
    rows, columns = np.nonzero(seen_of[label].all(axis=-1))
    if len(rows) and (box[2:] - box[:2]).min() > 3:  # else resizing may have blurred it away
      seen = np.array([columns.min(), rows.min(), columns.max() + 1, rows.max() + 1])
      np.testing.assert_allclose(box, seen, atol=tolerance)
    shown.add(int(label))
  for label, seen in enumerate(seen_of):
    assert label in shown or not seen.all(axis=-1).any()


@pytest.mark.parametrize('options', [
    {'crop': (40, 60)}, {'crop': (64, 96)}, {'crop': (20, 30)}, {'crop': (30, 80), 'pad': 5},
    {'crop': (64, 64), 'scale': (1.0, 2.0)}, {'crop': (60, 90), 'resize': ((60, 90),)},
    {'crop': (96, 128), 'resize': ((60, 90), (80, 160))},
    {'crop': (48, 48), 'resized_crop': (0.4, 1.0)},
    {'crop': (60, 60), 'resize': ((60, 90),), 'scale': (1.0, 1.5), 'pad': 2}])
@pytest.mark.parametrize('flip', [0.0, 1.0])
def test_boxes_move_with_the_pixels(options, flip):
  augment = augmentation.Augmentation(**{'scale': None} | options, flip=flip, fields=FIELDS)
  for seed in range(12):
    batch = augment(colored_example(seed=seed), np.random.default_rng(seed))
    assert batch.keys() == {'image', 'mask', *FIELDS}
    assert batch['boxes'].shape == (6, 4) and batch['boxes'].dtype == np.float32
    assert_boxes_on_image(batch, 2.01 if 'resized_crop' in options or 'scale' in options else 1.51)
    assert not batch['image'][~batch['mask']].any()
    rows, columns = (np.count_nonzero(batch['mask'].any(axis=axis)) for axis in (1, 0))
    assert batch['mask'][:rows, :columns].all()  # padding is at the bottom and right, mirrored too
    assert (batch['boxes'] <= [columns, rows, columns, rows]).all() and (batch['boxes'] >= 0).all()


def test_a_crop_leaves_boxes_out_of_which_nothing_is_left():
  example = colored_example()
  augment = augmentation.Augmentation(crop=(20, 30), scale=None, flip=0, fields=FIELDS)
  counts = {int((augment(example, np.random.default_rng(seed))['classes'] >= 0).sum())
            for seed in range(40)}
  assert min(counts) < 4 and max(counts) > 1


def test_scale_leads_back_to_the_image_of_the_file():
  example = colored_example()
  augment = augmentation.Augmentation(
      crop=(100, 100), scale=None, flip=0, resize=((50, 90),), fields=FIELDS)
  batch = augment(example, np.random.default_rng(0))
  assert batch['image'].shape == (100, 100, 3)
  np.testing.assert_allclose(batch['scale'], [75 / 60, 50 / 40])
  np.testing.assert_allclose((batch['boxes'] / np.tile(batch['scale'], 2))[:4], example['boxes'],
                             rtol=1e-5)


def test_scale_leads_back_from_an_image_that_its_source_resized():
  """By one factor of the height and another of the width, and then by one of both."""
  original = colored_example()
  arrays = {name: original[name] for name in ('boxes', 'classes', 'crowd', 'area')}
  example = boxed.example(original['image'], arrays, 'a', (20, 90))
  augment = lambda **options: augmentation.Augmentation(
      crop=(100, 150), flip=0, fields=FIELDS, **options)(example, np.random.default_rng(0))
  for found in (augment(scale=(1.5, 1.5)), augment(scale=None, resize=((30, 120),)),
                data.Fitted(Listed([example]), (80, 100))[0]):
    assert (found['scale'] > 1.05 * example['scale']).all()
    np.testing.assert_allclose((found['boxes'] / np.tile(found['scale'], 2))[:4],
                               original['boxes'], rtol=1e-5)


def test_one_of_several_sizes_is_drawn():
  augment = augmentation.Augmentation(
      crop=(64, 96), scale=None, flip=0, resize=((20, 30), (40, 60), (60, 90)), fields=FIELDS)
  heights = [int(augment(colored_example(), np.random.default_rng(seed))['mask'][:, 0].sum())
             for seed in range(60)]
  assert set(heights) == {20, 40, 60} and min(map(heights.count, set(heights))) > 8
  with pytest.raises(UserError, match=r'\(90, 60\): expected \(shorter side, longer side\)'):
    augmentation.Augmentation(crop=(8, 8), resize=((90, 60),), fields=FIELDS)


@pytest.mark.parametrize('size,crop', [((40, 60), (48, 96)), ((60, 40), (96, 48)),
                                       ((50, 50), (48, 96))])
def test_a_crop_is_turned_for_upright_images_alone(size, crop):
  options = {'scale': None, 'flip': 0.5, 'resize': ((40, 80), (48, 96)), 'fields': FIELDS}
  turned = augmentation.Augmentation(crop=(48, 96), by_orientation=True, **options)
  plain = augmentation.Augmentation(crop=crop, **options)
  for seed in range(5):
    example = colored_example(*size, seed=seed)
    found, expected = (augment(example, np.random.default_rng(seed)) for augment in (turned, plain))
    assert found['image'].shape == (*crop, 3)
    for name, value in expected.items():
      np.testing.assert_array_equal(found[name], value)
    assert_boxes_on_image(found, 1.51)


def test_labels_are_resized_with_the_image():
  label = np.arange(12, dtype=np.uint8).reshape(3, 4)
  augment = augmentation.Augmentation(crop=(8, 8), scale=None, flip=0, resize=((6, 8),),
                                      fields=tasks.SegmentationTask.fields)
  batch = augment({'image': np.zeros((3, 4, 3), np.uint8), 'label': label},
                  np.random.default_rng(0))
  np.testing.assert_array_equal(batch['label'][:6], label.repeat(2, 0).repeat(2, 1))


def test_what_is_too_many_is_left_out_with_a_warning(caplog):
  absl.logging._log_counter_per_token.clear()  # it is said once
  example = colored_example()
  with caplog.at_level(logging.WARNING):
    filled = boxed.fill(example, box_fields(3))
    boxed.fill(example, box_fields(3))
  for name in ('boxes', 'classes', 'crowd', 'area'):  # without the crowd
    np.testing.assert_array_equal(filled[name], example[name][[0, 2, 3]])
  np.testing.assert_array_equal(boxed.fill(example, box_fields(2))['classes'], [0, 2])
  everything = boxed.fill(example | {'crowd': np.array([True, True, False, True])}, box_fields(3))
  np.testing.assert_array_equal(everything['classes'], [0, 1, 2])
  assert caplog.text.count('An image has 4 boxes, and config.task.max_boxes is 3: 1 are left') == 1
  with pytest.raises(UserError, match='max_boxes=0'):
    box_fields(0)


def test_the_first_boxes_to_learn_are_kept_whatever_else_is_there():
  """A box without an area takes the place of none, wherever it stands."""
  for seed in range(20):
    rng = np.random.default_rng(seed)
    corners = rng.integers(0, 9, (9, 2))
    boxes = np.concatenate([corners, corners + rng.integers(0, 3, (9, 2))], axis=1)
    example = boxed.example(np.zeros((20, 20, 3), np.uint8), {
        'boxes': np.float32(boxes), 'classes': np.arange(9), 'area': np.ones(9),
        'crowd': rng.random(9) < 0.5}, 'a', None)
    rows = [i for i in range(9) if (boxes[i, 2:] > boxes[i, :2]).all()]
    most = int(rng.integers(1, 6))
    first = sorted(sorted(rows, key=lambda i: example['crowd'][i])[:most])  # sorts are stable
    filled = boxed.fill(example, box_fields(most))
    np.testing.assert_array_equal(filled['classes'], first + [-1] * (most - len(first)))
    np.testing.assert_array_equal(filled['boxes'][:len(first)], boxes[first])


def test_areas_are_those_of_the_file_else_of_what_lies_in_the_image():
  box = lambda *corners, **fields: boxed.Box('x', 0, corners, **fields)
  arrays, degenerate, problems = boxed.gather(
      [box(-0.5, 0, 10, 20.5), box(1, 1, 5, 5, area=0.0), box(1, 1, 5, 5, area=7.5)], (20, 30))
  np.testing.assert_array_equal(arrays['area'], [200, 0, 7.5])
  assert not degenerate and not problems


@pytest.mark.parametrize('orientation', range(1, 9))
def test_what_exif_data_turn_is_read_only_where_the_size_tells_the_view(orientation):
  def read(stored, shown):
    one = boxed.Annotated('a.jpg', 'a', shown, *[None] * 4, place='a.xml')
    return boxed.read_image(one, boxed_sets.jpeg(0, stored, orientation))
  oblong = (30, 20) if orientation > 4 else (20, 30)  # as it is stored
  if orientation in (2, 3, 4):
    with pytest.raises(UserError, match=f'orientation {orientation}'):
      read(oblong, (20, 30))
  else:
    assert read(oblong, (20, 30)).shape == (20, 30, 3)
  if orientation > 1:
    with pytest.raises(UserError, match=f'orientation {orientation}'):
      read((20, 20), (20, 20))


def test_of_an_evaluation_it_is_said_that_too_many_boxes_cost_precision(caplog):
  absl.logging._log_counter_per_token.clear()
  with caplog.at_level(logging.WARNING):
    for most in (4, 3):
      assert len(caplog.messages) == 0
      batch = next(iter(pipeline.evaluation_batches(
          [colored_example()], batch_size=1, fields=box_fields(most), num_threads=1)))
      assert batch['boxes'].shape == (1, most, 4)
  assert 'has 4 boxes, and config.task.max_boxes is 3: 1 are left out, and where' in caplog.text
  assert 'counts as wrong, as of other such images: AP is too low' in caplog.text


def test_padding_is_filled_again_and_empty_images_are_all_padding():
  once = boxed.fill(colored_example(), FIELDS)
  for name, value in boxed.fill(once, FIELDS).items():
    np.testing.assert_array_equal(value, once[name])
  nothing = colored_example() | {name: np.zeros((0, *FIELDS[name].shape((1, 1))[1:]), 'f')
                                 for name in ('boxes', 'classes', 'crowd', 'area')}
  filled = boxed.fill(nothing, FIELDS)
  np.testing.assert_array_equal(filled['classes'], [-1] * 6)
  assert not filled['boxes'].any() and filled['crowd'].dtype == bool
  example = {'image': filled['image'], 'label': None}
  assert boxed.fill(example, {}) == example


def test_fields_admit_any_number_of_boxes_and_nothing_else():
  assert FIELDS['boxes'].admits((9, 4), (1, 1)) and FIELDS['boxes'].admits((0, 4), (1, 1))
  assert not FIELDS['boxes'].admits((9, 5), (1, 1)) and not FIELDS['classes'].admits((9, 4), (1, 1))
  assert FIELDS['scale'].admits((2,), (1, 1)) and not FIELDS['scale'].admits((3,), (1, 1))


@pytest.mark.parametrize('name', ['voc_boxes', 'coco', 'scenes_detection'])
def test_batches_of_every_source_have_the_fields(tmp_path, name):
  root = None
  if name != 'scenes_detection':
    root = getattr(boxed_sets, name.removesuffix('_boxes'))(tmp_path)
  source = data.create(name, 'train', root=root)
  augment = augmentation.Augmentation(crop=(64, 64), scale=None, fields=FIELDS)
  batch = next(pipeline.train_batches(source, batch_size=4, seed=0, augmentation=augment))
  evaluated = next(pipeline.evaluation_batches(
      data.Fitted(source, (64, 64)), fields=FIELDS, batch_size=4))
  for found in (batch, evaluated):
    assert found['image'].shape == (4, 64, 64, 3)
    for field, expected in FIELDS.items():
      assert found[field].shape == (4, *expected.shape((64, 64)))
      assert found[field].dtype == expected.dtype
  assert len(source.palette) == len(source.classes)


def test_scenes_have_the_boxes_of_their_digits():
  scenes, source = data.create('scenes', 'val'), data.create('scenes_detection', 'val', length=9)
  assert source.classes == scenes.classes[1:] and source.is_generated and len(source) == 9
  for scene, example in zip(scenes, source):
    for name in ('image', 'boxes', 'classes', 'area'):
      np.testing.assert_array_equal(example[name], scene[name])
    assert example['crowd'].shape == example['classes'].shape and not example['crowd'].any()
    for box, label, area in zip(example['boxes'], example['classes'], example['area']):
      x1, y1, x2, y2 = box.astype(int)
      assert area <= np.count_nonzero(scene['label'][y1:y2, x1:x2] == label + 1)


def test_more_classes_than_there_are_colours_share_them():
  palette = boxed.palette(300)
  assert palette.shape == (300, 3) and palette.dtype == np.uint8
  assert len(np.unique(palette[:255], axis=0)) == 255
  np.testing.assert_array_equal(palette[255:], palette[:45])


def test_a_box_may_lie_up_to_a_pixel_outside_and_must_be_of_numbers():
  gather = lambda *corners, **fields: boxed.gather([boxed.Box('x', 0, corners, **fields)], (20, 30))
  arrays, degenerate, problems = gather(-1, -1, 31, 21)
  np.testing.assert_array_equal(arrays['boxes'], [[0, 0, 30, 20]])
  assert not degenerate and not problems
  for found in (gather(1, 1, 31.1, 9), gather(1, -1.1, 9, 9), gather(1, 1, float('nan'), 9),
                gather(1, 1, 9, 9, area=float('nan')), gather(1, float('-inf'), 9, 9)):
    assert found[0]['boxes'].shape == (0, 4) and not found[1] and len(found[2]) == 1


def test_a_split_without_an_image_is_refused():
  with pytest.raises(NotFoundError, match='here: holds no image'):
    boxed.BoxSource(boxed.Found([], [], []), classes='ab', where='here')


def test_the_boxes_of_a_split_are_counted_in_the_log(tmp_path, caplog):
  with caplog.at_level(logging.INFO):
    data.create('voc_boxes', 'train', root=boxed_sets.voc(tmp_path))
  assert '3 images, 3 boxes, 1 of them crowds or difficult.' in caplog.text


def test_examples_that_fill_up_a_batch_have_no_box_and_a_scale_of_1():
  batch, = pipeline.evaluation_batches(Listed([colored_example()]), fields=FIELDS, batch_size=2)
  assert batch['index'].tolist() == [0, -1]
  padding = {'boxes': 0, 'classes': -1, 'crowd': False, 'area': 0, 'scale': 1}
  assert padding.keys() == FIELDS.keys()
  for name, value in padding.items():
    assert (batch[name][1] == value).all(), name
