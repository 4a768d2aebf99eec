"""Images of any size on one canvas, and boxes back on them."""

import numpy as np
import pytest

from kdseg_jax import data
from kdseg_jax.data import fitted, pipeline
from kdseg_jax.errors import UserError
from kdseg_jax.inference import evaluation
from kdseg_jax.tasks.box_fields import box_fields
from tests.data import test_boxed

SIZES = [(40, 60), (60, 40), (64, 64), (41, 97), (40, 60), (200, 30)]
FIELDS = box_fields(5)


class Mixed:
  """Images of several sizes."""

  classes, palette = tuple('abcd'), np.zeros((4, 3), np.uint8)

  def __len__(self):
    return len(SIZES)

  def __getitem__(self, index):
    return test_boxed.colored_example(*SIZES[index], seed=index)


@pytest.mark.parametrize('size,canvas,sides,expected', [
    ((480, 640), (1344, 1344), (800, 1333), (800, 1067)),  # as usual on COCO
    ((427, 640), (1344, 1344), (800, 1333), (800, 1199)),
    ((375, 1242), (1344, 1344), (800, 1333), (402, 1333)),
    ((640, 480), (800, 1344), (800, 1333), (800, 600)),
    ((640, 480), (1344, 1344), (800, 1333), (1067, 800)),
    ((640, 480), None, (800, 1333), (1067, 800)),
    ((480, 640), (240, 320), None, (240, 320)), ((480, 640), (320, 320), None, (240, 320)),
    ((5, 10), (10, 5), None, (3, 5)),  # 2.5 becomes 3
    ((3, 1000), (10, 10), None, (1, 10))])
def test_sizes_keep_the_shape_and_lie_in_the_canvas(size, canvas, sides, expected):
  assert fitted.fitted_size(size, canvas, sides) == expected


@pytest.mark.parametrize('sides', [None, (48, 80)])
def test_images_of_any_size_have_one_and_boxes_lead_back(sides):
  source = data.Fitted(Mixed(), (64, 96), sides)
  assert source.size == (64, 96) and source.classes == Mixed.classes and len(source) == len(SIZES)
  for index, example in enumerate(source):
    assert example['image'].shape == (64, 96, 3) and example['mask'].shape == (64, 96)
    rows, columns = (int(example['mask'].any(axis=axis).sum()) for axis in (1, 0))
    assert (rows, columns) == fitted.fitted_size(SIZES[index], (64, 96), sides)
    assert example['mask'][:rows, :columns].all() and not example['image'][~example['mask']].any()
    back = example['boxes'] / np.tile(example['scale'], 2)
    np.testing.assert_allclose(back, Mixed()[index]['boxes'], rtol=1e-5)
    np.testing.assert_allclose(example['scale'], [columns / SIZES[index][1],
                                                  rows / SIZES[index][0]], rtol=1e-6)


def test_without_a_canvas_images_have_the_size_of_their_sides():
  source = data.Fitted(Mixed(), None, (48, 80))
  assert source.size is None
  for index, example in enumerate(source):
    shape = example['image'].shape[:2]
    assert shape == fitted.fitted_size(SIZES[index], None, (48, 80)) and example['mask'].all()
    assert example['mask'].shape == shape and (min(shape) == 48 or max(shape) == 80)
    back = example['boxes'] / np.tile(example['scale'], 2)
    np.testing.assert_allclose(back, Mixed()[index]['boxes'], rtol=1e-5)
  batches = pipeline.evaluation_batches(source, fields=FIELDS, batch_size=2, multiple=32)
  assert {batch['image'].shape[1:3] for batch in batches} == {
      (64, 96), (96, 64), (64, 64), (96, 32)}


def test_batches_of_mixed_sizes_are_of_one_and_in_the_order_of_the_source():
  source = data.Fitted(Mixed(), (64, 96))
  batches = list(pipeline.evaluation_batches(source, fields=FIELDS, batch_size=4))
  assert {batch['image'].shape for batch in batches} == {(4, 64, 96, 3)}
  np.testing.assert_array_equal(np.concatenate([batch['index'] for batch in batches]),
                                [0, 1, 2, 3, 4, 5, -1, -1])
  np.testing.assert_array_equal(batches[0]['boxes'][1, :4], source[1]['boxes'])
  assert not batches[1]['mask'][2:].any() and (batches[1]['classes'][2:] == -1).all()
  np.testing.assert_array_equal(batches[1]['scale'][2:], 1)


def test_two_processes_read_their_parts_of_it():
  source = data.Fitted(Mixed(), (64, 96))
  whole = list(pipeline.evaluation_batches(source, fields=FIELDS, batch_size=4))
  parts = [list(pipeline.evaluation_batches(
      source, fields=FIELDS, batch_size=4, process_index=index, process_count=2,
      sizes=[source.size] * len(source))) for index in range(2)]
  for batch, *halves in zip(whole, *parts, strict=True):
    for name, value in batch.items():
      np.testing.assert_array_equal(value, np.concatenate([half[name] for half in halves]))


class Told(Mixed):
  """Images whose sizes are told."""

  def size_of(self, index):
    return SIZES[index]


@pytest.mark.parametrize('sides', [None, (48, 80)])
def test_a_canvas_is_turned_for_upright_images(sides):
  source = data.Fitted(Mixed(), (64, 96), sides, by_orientation=True)
  turned, plain = data.Fitted(Mixed(), (96, 64), sides), data.Fitted(Mixed(), (64, 96), sides)
  upright = [False, True, False, False, False, True]
  assert source.size is None and [fitted.is_upright(size) for size in SIZES] == upright
  for index, example in enumerate(source):
    for name, value in (turned if upright[index] else plain)[index].items():
      np.testing.assert_array_equal(example[name], value)
  batches = list(pipeline.evaluation_batches(source, fields=FIELDS, batch_size=2))
  assert sorted(batch['image'].shape for batch in batches) == [
      (2, 64, 96, 3), (2, 64, 96, 3), (2, 96, 64, 3)]


@pytest.mark.parametrize('canvas,sides,by_orientation', [
    ((64, 96), None, False), ((64, 96), (48, 80), True), (None, (48, 80), False)])
def test_sizes_are_told_before_images_are_read(canvas, sides, by_orientation):
  source = data.Fitted(Told(), canvas, sides, by_orientation=by_orientation)
  assert evaluation.sizes_of_all(source) == [
      example['image'].shape[:2] for example in source]
  assert data.Fitted(Mixed(), canvas, sides).size_of is None
  if not source.size:  # of none an image is read
    unread = Told()
    unread.__class__ = type('Unread', (Told,), {'__getitem__': None})
    assert len(evaluation.sizes_of_all(data.Fitted(
        unread, canvas, sides, by_orientation=by_orientation))) == len(SIZES)


def test_some_size_must_be_said():
  fitted.check_sizes(None, (48, 48))
  with pytest.raises(UserError, match='Neither a canvas nor sides'):
    data.Fitted(Mixed(), None)
  with pytest.raises(UserError, match='turns a canvas, and there is none'):
    data.Fitted(Mixed(), None, (48, 80), by_orientation=True)


@pytest.mark.parametrize('canvas,sides', [((0, 5), None), ((5,), None), ((5, 5), (9, 5)),
                                          ((5, 5), (0, 5)), ((5, 5), (5,))])
def test_sizes_that_are_none_are_refused(canvas, sides):
  with pytest.raises(UserError, match='positive'):
    data.Fitted(Mixed(), canvas, sides)


def test_an_image_without_boxes_is_refused_and_what_is_generated_stays_so():
  scenes = data.Fitted(data.create('scene_classes', 'val'), (64, 96), (48, 80))
  assert scenes.is_generated and not data.Fitted(Mixed(), (64, 96)).is_generated
  with pytest.raises(UserError, match=r'config.eval.canvas=\(64, 96\) and sides=\(48, 80\) are '
                                      'for images with boxes, and example 0 has none'):
    scenes[0]
  for index in (-1, len(SIZES)):
    with pytest.raises(IndexError, match=f'Image {index} does not exist: there are 6'):
      data.Fitted(Mixed(), (64, 96))[index]
