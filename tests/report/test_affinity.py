"""The picture of affinities: its colours, where the pixel is marked, its titles and its scale."""

import numpy as np
import PIL.ImageDraw
import pytest

from kdseg_jax.data import files, palettes
from kdseg_jax.errors import UserError
from kdseg_jax.report import affinity
from kdseg_jax.report.base import Example

IMAGE = np.full((20, 40, 3), (10, 200, 30), np.uint8)
PIXEL = (30, 5)
# At the corners the resized maps are as the maps are.
MAPS = {'student': np.array([[0.25, 1], [-0.5, -0.5]]), 'teacher': np.full((4, 8), 1.0)}
LOWEST, HIGHEST = np.array([68, 1, 84]), np.array([253, 231, 37])  # the ends of viridis
GREY = 160 + (124 - 128) / 2  # of the image, made pale


def panels(picture, count=3, size=(100, 200)):
  """The panels of a picture: below the bar of titles, 8 pixels apart."""
  return [picture[28:28 + size[0], 4 + (size[1] + 8) * i:][:, :size[1]] for i in range(count)]


def test_maps_lie_in_colours_of_one_scale_over_the_image():
  picture = affinity.draw(IMAGE, PIXEL, MAPS, height=100)
  assert picture.dtype == np.uint8
  image, student, teacher = panels(picture)
  np.testing.assert_array_equal(image[-1, -1], IMAGE[0, 0])
  over = lambda color: 0.7 * color + 0.3 * GREY
  np.testing.assert_allclose(student[[0, -1, -1], [-1, 0, -1]],
                             [over(HIGHEST), over(LOWEST), over(LOWEST)], atol=1)
  middle = student[0, 0].astype(int)  # 0.25 is half way from -0.5 to 1: the green of viridis
  np.testing.assert_allclose(middle, over(np.array([33, 145, 140])), atol=2)
  np.testing.assert_allclose(student[-1], np.tile(over(LOWEST), (200, 1)), atol=1)
  np.testing.assert_allclose(teacher[::99, ::199], np.tile(over(HIGHEST), (2, 2, 1)), atol=1)


def test_a_map_is_resized_with_its_corners_at_those_of_the_image():
  shares = affinity._shares(np.array([[0.0, 1.0]]), (3, 5), 0.0)
  np.testing.assert_allclose(shares, np.tile([0, 0.25, 0.5, 0.75, 1], (3, 1)), atol=1e-6)
  np.testing.assert_allclose(affinity._shares(np.array([[-1.0, 0.5]]), (1, 2), -1.0), [[0, 0.75]])
  np.testing.assert_array_equal(affinity._shares(np.ones((2, 2)), (2, 2), 1.0), np.zeros((2, 2)))


@pytest.mark.parametrize('pixel, place', [((30, 5), (152, 27)), ((0, 0), (2, 2)),
                                          ((39, 19), (197, 97))])
def test_a_cross_marks_the_pixel_in_every_panel(pixel, place):
  x, y = place
  for panel in panels(affinity.draw(IMAGE, pixel, MAPS, height=100)):
    red = (panel == (255, 0, 0)).all(axis=-1)
    rows, columns = np.nonzero(red)
    assert red[y, x] and abs(rows - y).max() <= 10 and abs(columns - x).max() <= 10
    assert (panel == 255).all(axis=-1).any()  # its rim


def test_every_panel_has_a_title_and_the_scale_its_ends(monkeypatch):
  titles, texts = [], []
  strip, text = palettes.strip, PIL.ImageDraw.ImageDraw.text
  monkeypatch.setattr(palettes, 'strip', lambda pictures, named, **options: (
      titles.append(named), strip(pictures, named, **options))[1])
  monkeypatch.setattr(PIL.ImageDraw.ImageDraw, 'text', lambda self, place, written, **options: (
      texts.append(written), text(self, place, written, **options))[1])
  picture = affinity.draw(IMAGE, PIXEL, MAPS, height=100)
  assert titles == [['image', 'student', 'teacher']]
  assert texts[-2:] == ['-0.50', '1.00  cosine similarity to the pixel at the cross']
  scale = picture[28 + 100 + 8:]
  colored = np.flatnonzero((scale[12] != scale[12, :, :1]).any(axis=-1))
  assert len(colored) == 256 == colored[-1] - colored[0] + 1
  for column, color in ((colored[0], LOWEST), (colored[-1], HIGHEST)):
    np.testing.assert_allclose(scale[12, column], 0.7 * color + 0.3 * 160, atol=1)


def test_below_a_narrow_picture_the_scale_is_as_whole_as_below_a_wide_one():
  wide = affinity.draw(np.zeros((10, 60, 3), np.uint8), (0, 0), MAPS, height=100)[-32:]
  narrow = affinity.draw(np.zeros((60, 10, 3), np.uint8), (0, 0), MAPS, height=100)
  scale = narrow[-32:]
  np.testing.assert_array_equal(scale, wide[:, :scale.shape[1]])
  assert scale.shape[1] < wide.shape[1] and (wide[:, scale.shape[1]:] == 255).all()
  letters = np.flatnonzero((scale < 128).all(axis=-1).any(axis=0))
  assert letters[0] >= 8 and 600 < letters[-1] < scale.shape[1] - 4
  assert (narrow[:-32, 3 * 25:] == 255).all()  # beside the panels


def test_large_images_become_smaller():
  picture = affinity.draw(np.zeros((600, 900, 3), np.uint8), (0, 0), {'a': np.eye(2)})
  assert picture.shape == (28 + 300 + 8 + 32, 2 * (450 + 8), 3)


@pytest.mark.parametrize('maps', [{}, {'flat': np.ones(4)}])
def test_what_is_no_map_is_refused(maps):
  with pytest.raises(UserError, match=r'Expected one or more maps \(h, w\), got shapes \{'):
    affinity.draw(IMAGE, PIXEL, maps)


def test_the_writer_makes_a_file_of_each_image(tmp_path):
  writer = affinity.AffinityWriter(str(tmp_path), PIXEL, {'a': 'a 50.0', 'b': 'b'})
  maps = {'a': MAPS['student'], 'b': MAPS['teacher']}
  for name in ('x.png', 'y.png'):
    writer.add(Example(name, name, IMAGE, {}), maps)
  assert writer.close() == f'2 images. Affinities to the pixel x=30, y=5: {tmp_path}/affinities'
  for name in ('x.png', 'y.png'):
    np.testing.assert_array_equal(
        files.read_image(tmp_path / 'affinities' / name),
        affinity.draw(IMAGE, PIXEL, {'a 50.0': maps['a'], 'b': maps['b']}))
