"""Colours of labels: the known VOC colours, ignore, and pictures of the right size."""

import numpy as np
import pytest

from kdseg_jax import data, lettering
from kdseg_jax.data import palettes
from tests.data import archives


@pytest.fixture(autouse=True)
def no_fonts_of_this_system(monkeypatch):
  monkeypatch.setattr(lettering, '_system_fonts', lambda: ())


def test_voc_palette_has_the_known_colours():
  palette = palettes.voc_palette(255)
  assert palette.dtype == np.uint8
  known = {0: (0, 0, 0), 1: (128, 0, 0), 2: (0, 128, 0), 3: (128, 128, 0), 4: (0, 0, 128),
           8: (64, 0, 0), 15: (192, 128, 128), 20: (0, 64, 128)}
  for index, color in known.items():
    assert tuple(palette[index]) == color
  assert len(np.unique(palette, axis=0)) == 255


def cielab(colors):
  """CIELAB (D65) of sRGB colours, from the definitions."""
  rgb = np.asarray(colors) / 255
  linear = np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055)**2.4)
  to_xyz = np.array([[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]])
  x, y, z = ((linear @ to_xyz.T) / [0.9505, 1, 1.089]).T
  f = lambda t: np.where(t > (6 / 29)**3, np.cbrt(t), t / (3 * (6 / 29)**2) + 4 / 29)
  return np.stack([116 * f(y) - 16, 500 * (f(x) - f(y)), 200 * (f(y) - f(z))], axis=-1)


def test_colours_of_own_data_differ_and_those_of_neighbours_differ_clearly():
  palette = palettes.default_palette(255)
  assert palette.shape == (255, 3) and palette.dtype == np.uint8
  points = cielab(palette)
  distances = np.linalg.norm(points[:, None] - points, axis=-1)
  assert distances[np.arange(254), np.arange(1, 255)].min() > 65  # 2.3 is just noticeable
  assert distances[np.arange(253), np.arange(2, 255)].min() > 65
  others = distances + 1e3 * np.eye(255)
  assert others.min() > 10 and others[:20, :20].min() > 35
  assert np.linalg.norm(points, axis=1).min() > 35  # from black, which is what ignored pixels are
  from_white = np.linalg.norm(points - [100, 0, 0], axis=1)  # on which they are seen
  assert from_white[:20].min() > 40 and from_white[:40].min() > 25 and from_white.min() > 15


def test_a_class_keeps_its_colour_when_others_follow():
  few, many = palettes.default_palette(3), palettes.default_palette(40)
  np.testing.assert_array_equal(few, many[:3])
  few[:] = 0  # a caller's own copy
  np.testing.assert_array_equal(palettes.default_palette(40), many)


@pytest.mark.parametrize('palette', [palettes.default_palette, palettes.voc_palette])
@pytest.mark.parametrize('num_classes', [0, 256])
def test_palettes_leave_255_for_ignore(palette, num_classes):
  with pytest.raises(ValueError, match='1 to 255'):
    palette(num_classes)


def test_ignored_pixels_look_like_no_class_of_own_data():
  drawn = palettes.colorize(np.array([[0, 255]], np.uint8), palettes.default_palette(2))
  assert drawn[0, 0].min() > 100 and (drawn[0, 1] == 0).all()


@pytest.mark.parametrize('palette', [palettes.CAMVID, palettes.SCENES])
def test_colours_of_a_data_set_differ(palette):
  assert palette.shape == (11, 3) and palette.dtype == np.uint8
  assert len(np.unique(palette, axis=0)) == 11


def test_colorize_round_trip():
  palette = palettes.SCENES
  label = np.random.default_rng(0).integers(0, 11, (5, 7))
  colors = palettes.colorize(label, palette)
  found = np.argmax((colors[:, :, None] == palette).all(axis=-1), axis=-1)
  np.testing.assert_array_equal(found, label)


def test_colorize_draws_ignore_black_and_refuses_unknown_labels():
  label = np.array([[1, 255]], np.uint8)
  np.testing.assert_array_equal(palettes.colorize(label, palettes.CAMVID), [[[128, 0, 0], [0] * 3]])
  with pytest.raises(ValueError, match='from 0 to 11, but the palette has colours for 0 to 10'):
    palettes.colorize(np.array([[0, 11]]), palettes.CAMVID)
  with pytest.raises(ValueError, match='from -1 to 0'):
    palettes.colorize(np.array([[0, -1]]), palettes.CAMVID)


def test_overlay_mixes_colours_and_spares_ignored_pixels():
  image = np.full((1, 2, 3), 100, np.uint8)
  mixed = palettes.overlay(image, np.array([[1, 255]], np.uint8), np.uint8([[0] * 3, [200] * 3]),
                           alpha=0.6)
  np.testing.assert_array_equal(mixed[0, :, 0], [160, 100])
  assert mixed.dtype == np.uint8
  with pytest.raises(ValueError, match=r'image is \(1, 2\), its label \(2, 1\)'):
    palettes.overlay(image, np.zeros((2, 1), np.uint8), palettes.SCENES)


def test_colours_are_laid_over_with_60_percent_and_rounded_to_the_nearest():
  image = np.full((1, 2, 3), 100, np.uint8)
  mixed = palettes.overlay(image, np.array([[0, 1]]), np.uint8([[199] * 3, [201] * 3]))
  np.testing.assert_array_equal(mixed[0, :, 0], [159, 161])  # 159.4 and 160.6


def test_strip_puts_titled_panels_side_by_side():
  square = np.full((4, 4, 3), (10, 20, 30), np.uint8)
  wide = np.full((4, 8, 3), (200, 100, 50), np.uint8)
  titles = ['square', 'a title that is far too long for its narrow panel']
  picture = palettes.strip([square, wide], titles, height=40)
  assert picture.dtype == np.uint8 and picture.shape == (40 + 28 + 8, 40 + 80 + 16, 3)
  assert (picture == (10, 20, 30)).all(axis=-1).sum() == 40 * 40
  assert (picture == (200, 100, 50)).all(axis=-1).sum() == 40 * 80
  bar = picture[:28].min(axis=(0, 2))
  assert bar[:48].min() < 128 and bar[48:].min() < 200  # both titles are drawn
  assert (bar[[0, -1]] == 255).all()


def test_small_pictures_are_enlarged_to_sharp_pixels_and_large_ones_shrunk_to_means():
  picture = np.random.default_rng(0).integers(0, 256, (4, 6, 3), np.uint8)
  enlarged = palettes.strip([picture], ['a'], height=8)[28:36, 4:16]
  np.testing.assert_array_equal(enlarged, picture.repeat(2, axis=0).repeat(2, axis=1))
  shrunk = palettes.strip([picture], ['a'], height=2)[28:30, 4:7]
  np.testing.assert_allclose(shrunk, picture.reshape(2, 2, 3, 2, 3).mean(axis=(1, 3)), atol=0.51)
  assert palettes.strip([picture], ['a']).shape == (256 + 28 + 8, 384 + 8, 3)


def test_a_comparison_shows_image_label_and_predictions_in_their_order_with_all_their_classes():
  palette, names = palettes.default_palette(26), [f'name {i}' for i in range(26)]
  image, label = np.full((8, 8, 3), 50, np.uint8), np.full((8, 8), 3, np.uint8)
  label[0] = 255
  predictions = {'student': np.full((8, 8), 7), 'a teacher': np.full((8, 8), 5)}
  picture = palettes.comparison(image, label, predictions, names, palette)
  middles = picture[28 + 128, 4 + 128:4 * 264:264]
  expected = [[50] * 3, *(0.4 * 50 + 0.6 * palette[[3, 7, 5]])]
  np.testing.assert_allclose(middles, expected, atol=0.51)
  np.testing.assert_array_equal(picture[28 + 16, 264 + 128], [50] * 3)  # ignored: the image itself
  legend = picture[28 + 256 + 8:]
  assert [i for i in range(26) if (legend == palette[i]).all(axis=-1).sum() > 100] == [3, 5, 7]


def test_strip_wants_a_title_for_each_picture():
  with pytest.raises(ValueError, match='1 pictures and 0 titles'):
    palettes.strip([np.zeros((2, 2, 3), np.uint8)], [])


def test_legend_lies_below_the_picture_and_shows_every_colour():
  picture = np.full((40, 300, 3), (10, 20, 30), np.uint8)
  classes = [f'digit {i}' for i in range(11)]
  result = palettes.with_legend(picture, [np.zeros((2, 2))], classes, palettes.SCENES)
  assert result.dtype == np.uint8 and result.shape[0] > 40 and result.shape[1] == 300
  np.testing.assert_array_equal(result[:40], picture)
  for color in palettes.SCENES:
    assert (result[40:] == color).all(axis=-1).sum() > 100
  narrow = palettes.with_legend(picture[:, :5], [], classes, palettes.SCENES)
  assert narrow.shape[1] == 256 and (narrow[:40, 5:] == 255).all()
  long = palettes.with_legend(picture, [], ['a name ' * 20], palettes.SCENES)
  assert long.shape[1] > 300  # not cut off


def test_a_legend_is_read_line_by_line_and_names_25_classes_whether_they_occur_or_not():
  palette = palettes.default_palette(25)
  legend = palettes.with_legend(np.zeros((8, 300, 3), np.uint8), [np.zeros((2, 2))],
                                [f'{i:02d}' for i in range(25)], palette)[8:]
  corners = []
  for color in palette:
    rows, columns = np.nonzero((legend == color).all(axis=-1))
    assert len(rows) > 100
    corners.append((rows.min(), columns.min()))
  assert corners == sorted(corners)
  assert len({row for row, _ in corners}) > 2 and len({column for _, column in corners}) > 2


def test_legend_of_many_classes_names_only_those_that_occur():
  palette = palettes.default_palette(26)
  picture = np.zeros((8, 8, 3), np.uint8)
  labels = [np.array([[3, 255]], np.uint8), np.array([[7, 30]], np.uint8)]  # 30 is no class
  legend = palettes.with_legend(picture, labels, [str(i) for i in range(26)], palette)[8:]
  drawn = [i for i in range(1, 26) if (legend == palette[i]).all(axis=-1).sum() > 100]
  assert drawn == [3, 7]


def test_of_many_classes_the_legend_is_that_of_those_that_occur_alone():
  palette, occurring = palettes.default_palette(40), [3, 7, 11, 12, 20, 21, 22, 38]
  names = [f'class {i:02d}' for i in range(40)]
  picture, labels = np.zeros((8, 300, 3), np.uint8), [np.array([occurring], np.uint8)]
  np.testing.assert_array_equal(
      palettes.with_legend(picture, labels, names, palette),
      palettes.with_legend(picture, [], [names[i] for i in occurring], palette[occurring]))


def test_scores_stand_in_titles_in_percent():
  assert palettes.with_score('teacher', 0.6512) == 'teacher 65.1'
  assert palettes.with_score('label', None) == 'label'


def test_names_that_no_font_draws_are_transliterated_in_legends_and_titles():
  picture = np.full((20, 260, 3), (10, 20, 30), np.uint8)
  draw = lambda names: palettes.with_legend(picture, [], names, palettes.SCENES)
  np.testing.assert_array_equal(draw(['道路', '\ue000']), draw(['DaoLu', 'class 1']))
  assert not np.array_equal(draw(['道路']), draw(['田田']))  # boxes would be alike
  title = lambda text: palettes.strip([picture], [text])
  np.testing.assert_array_equal(title('学生'), title('XueSheng'))
  np.testing.assert_array_equal(title('\ue000'), title('picture 0'))


def test_data_sets_have_their_own_colours_and_own_data_the_default_ones(tmp_path):
  archives.folder(tmp_path)
  np.testing.assert_array_equal(data.create('folder', 'train', root=tmp_path).palette,
                                palettes.default_palette(3))
  from kdseg_jax.data.tfds_builders import ade20k, pascal_context, voc  # slow to import
  # Black is left for what is ignored where the data set has no class of this colour.
  for builder, first in ((voc.Voc, [(0, 0, 0), (128, 0, 0)]),
                         (ade20k.Ade20k, [(128, 0, 0), (0, 128, 0)]),
                         (pascal_context.PascalContext, [(128, 0, 0), (0, 128, 0)])):
    assert [tuple(color) for color in builder.PALETTE[:2].tolist()] == first
