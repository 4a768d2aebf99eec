"""Reading and writing pictures: exact pixels, and errors that name file, finding and remedy."""

import pathlib

import cv2
import numpy as np
import PIL.Image
import PIL.ImageOps
import pytest

from kdseg_jax.data import files
from kdseg_jax.errors import UserError
from tests.data import boxed_sets

IMAGE = np.random.default_rng(0).integers(0, 256, (6, 8, 3), np.uint8)
LABEL = np.random.default_rng(1).integers(0, 12, (6, 8)).astype(np.uint8)


def test_image_round_trip_is_rgb_and_exact(tmp_path):
  path = tmp_path / 'new' / 'folder' / 'image.png'
  files.write_png(path, IMAGE)
  np.testing.assert_array_equal(files.read_image(path), IMAGE)
  np.testing.assert_array_equal(np.asarray(PIL.Image.open(path)), IMAGE)


def test_grey_image_becomes_three_channels(tmp_path):
  files.write_png(tmp_path / 'grey.png', LABEL)
  np.testing.assert_array_equal(files.read_image(tmp_path / 'grey.png'),
                                np.repeat(LABEL[..., None], 3, axis=2))


def test_palette_image_shows_its_colours(tmp_path):
  palette = np.random.default_rng(2).integers(0, 256, (12, 3)).astype(np.uint8)
  files.write_palette_png(tmp_path / 'a.png', LABEL, palette)
  np.testing.assert_array_equal(files.read_image(tmp_path / 'a.png'), palette[LABEL])


def test_exif_rotation_is_honoured(tmp_path):
  exif = PIL.Image.Exif()
  exif[0x0112] = 6  # turn by 90 degrees clockwise to see it upright
  smooth = cv2.resize(IMAGE, (64, 48), interpolation=cv2.INTER_CUBIC)
  PIL.Image.fromarray(smooth).save(tmp_path / 'turned.jpg', exif=exif, quality=98)
  image = files.read_image(tmp_path / 'turned.jpg')
  assert image.shape == (64, 48, 3)
  assert np.abs(image.astype(int) - np.rot90(smooth, -1)).mean() < 8


def test_every_exif_orientation_is_turned_upright():
  """As PIL does it, which knows the eight of them too."""
  for orientation in range(1, 9):
    picture = PIL.Image.fromarray(IMAGE)
    picture.getexif()[0x0112] = orientation
    np.testing.assert_array_equal(
        files._turned(IMAGE, orientation), PIL.ImageOps.exif_transpose(picture))


@pytest.mark.parametrize('orientation', range(1, 9))
def test_the_size_that_a_head_tells_is_that_of_the_picture(orientation):
  content = boxed_sets.jpeg(0, (20, 30), orientation)
  assert files.image_size(content, 'a') == files.decode_image(content, 'a').shape[:2]
  with pytest.raises(UserError, match='a: cannot be decoded'):
    files.image_size(content[:5], 'a')


def write_png_of_16_bits(path):
  cv2.imwrite(str(path), IMAGE.astype(np.uint16) * 257)


def write_rgba(path):
  PIL.Image.fromarray(np.dstack([IMAGE, IMAGE[..., 0]])).save(path)


def write_grey_alpha(path):
  PIL.Image.fromarray(np.dstack([LABEL, LABEL])).save(path)


def write_gif(path):
  PIL.Image.fromarray(IMAGE).save(path, format='GIF')


def write_tiff(path):
  PIL.Image.fromarray(IMAGE).save(path, format='TIFF')


def write_transparent_palette(path):
  picture = PIL.Image.fromarray(LABEL)
  picture.putpalette([9] * 768)
  picture.save(path, transparency=3)


def write_empty(path):
  path.write_bytes(b'')


def write_text(path):
  path.write_text('no picture')


@pytest.mark.parametrize(('write', 'message'), [
    (write_png_of_16_bits, 'has 16 bits a channel; expected 8'),
    (write_rgba, 'has an alpha channel .RGBA.; expected RGB or grey'),
    (write_grey_alpha, 'has an alpha channel .LA.'),
    (write_transparent_palette, 'has an alpha channel .P.'),
    (write_gif, 'cannot be decoded.*its header is of none of PNG, JPEG, BMP, WEBP'),
    (write_tiff, 'cannot be decoded.*its header is of none of PNG, JPEG, BMP, WEBP'),
    (write_empty, 'cannot be decoded'),
    (write_text, 'cannot be decoded'),
])
def test_unfit_images_are_refused(tmp_path, write, message):
  write(tmp_path / 'image.png')
  with pytest.raises(ValueError, match=rf'image\.png: {message}'):
    files.read_image(tmp_path / 'image.png')


@pytest.mark.parametrize('suffix', files.IMAGE_SUFFIXES)
@pytest.mark.parametrize('part', [0.1, 0.5, 0.95])
def test_truncated_images_are_refused(tmp_path, suffix, part):
  path = tmp_path / f'image{suffix}'
  assert cv2.imwrite(str(path), cv2.resize(IMAGE, (80, 60)))
  assert files.read_image(path).shape == (60, 80, 3)
  content = path.read_bytes()
  path.write_bytes(content[:int(part * len(content))])
  with pytest.raises(ValueError, match=rf'image\{suffix}: cannot be decoded'):
    files.read_image(path)


def test_missing_files_are_named(tmp_path):
  for read in (files.read_image, files.read_label):
    with pytest.raises(FileNotFoundError, match='gone.png: no such file'):
      read(tmp_path / 'gone.png')


def test_labels_are_indices_with_or_without_palette(tmp_path):
  label = np.where(LABEL == 11, np.uint8(255), LABEL)
  files.write_png(tmp_path / 'grey.png', label)
  palette = np.full((11, 3), 77, np.uint8)  # all colours equal: only the indices tell
  files.write_palette_png(tmp_path / 'palette.png', label, palette)
  small = PIL.Image.fromarray(label % 4)
  small.putpalette([9, 9, 9] * 4)
  small.save(tmp_path / 'bits.png', bits=2)
  np.testing.assert_array_equal(files.read_label(tmp_path / 'grey.png'), label)
  np.testing.assert_array_equal(files.read_label(tmp_path / 'palette.png'), label)
  np.testing.assert_array_equal(files.read_label(tmp_path / 'bits.png'), label % 4)


@pytest.mark.parametrize(('write', 'message'), [
    (lambda path: files.write_png(path, IMAGE), 'stores colours; expected one channel'),
    (write_rgba, 'stores colours'),
    (lambda path: cv2.imwrite(str(path), LABEL.astype(np.uint16)), 'stores 16-bit grey levels'),
    (lambda path: PIL.Image.fromarray(LABEL > 5).save(path), 'stores 1-bit grey levels'),
    (lambda path: PIL.Image.fromarray(LABEL).save(path, format='JPEG'), 'is not a PNG file'),
    (write_empty, 'is not a PNG file'),
])
def test_unfit_labels_are_refused(tmp_path, write, message):
  write(tmp_path / 'label.png')
  with pytest.raises(ValueError, match=rf'label\.png: {message}'):
    files.read_label(tmp_path / 'label.png')


@pytest.mark.parametrize('length', [30, 60, -30])
def test_truncated_labels_are_refused(tmp_path, length):
  path = tmp_path / 'label.png'
  files.write_png(path, np.tile(LABEL, (20, 20)))
  path.write_bytes(path.read_bytes()[:length])
  with pytest.raises(ValueError, match=r'label\.png: cannot be decoded'):
    files.read_label(path)


def test_a_flipped_bit_in_a_label_is_refused(tmp_path):
  files.write_png(tmp_path / 'label.png', LABEL)
  content = (tmp_path / 'label.png').read_bytes()
  start = content.index(b'IDAT') + 4
  for position in range(start, content.index(b'IEND') - 4, 3):
    damaged = bytearray(content)
    damaged[position] ^= 4
    with pytest.raises(ValueError, match=r'label\.png: cannot be decoded'):
      files.decode_label(bytes(damaged), 'label.png')


def test_pictures_beyond_the_limit_of_pixels_are_named(tmp_path, monkeypatch):
  files.write_png(tmp_path / 'large.png', LABEL)
  monkeypatch.setattr(PIL.Image, 'MAX_IMAGE_PIXELS', 20)
  for read in (files.read_image, files.read_label):
    with pytest.raises(ValueError, match=r'large\.png: is too large .*Cut it into tiles'):
      read(tmp_path / 'large.png')


def test_write_png_refuses_other_arrays(tmp_path):
  for array in (IMAGE.astype(np.float32), np.zeros((2, 2, 4), np.uint8), np.zeros(3, np.uint8)):
    with pytest.raises(ValueError, match=r'a\.png: expected uint8 of shape'):
      files.write_png(tmp_path / 'a.png', array)


def test_resizing_halves_by_area_and_keeps_image_and_label_aligned():
  image = np.repeat(np.arange(0, 80, 10, dtype=np.uint8)[None, :, None], 3, axis=2)
  image = np.repeat(image, 4, axis=0)
  np.testing.assert_array_equal(files.resize_image(image, (2, 4))[0, :, 0], [5, 25, 45, 65])
  spikes = np.zeros((4, 8, 3), np.uint8)
  spikes[:, ::4] = 80
  np.testing.assert_array_equal(files.resize_image(spikes, (4, 2))[..., 0], np.full((4, 2), 20))
  # One side grows: areas would be blocks of equal pixels.
  wider = files.resize_image(image, (2, 16))[0, :, 0]
  np.testing.assert_array_equal(wider[:4], [0, 3, 8, 13])
  label = np.tile(np.arange(9, dtype=np.uint8), (9, 1))
  np.testing.assert_array_equal(files.resize_label(label, (1, 3)), [[1, 4, 7]])
  np.testing.assert_array_equal(files.resize_label(label, (9, 27))[0], np.repeat(range(9), 3))


def test_list_images_takes_files_and_sorted_folders(tmp_path):
  (tmp_path / 'folder' / 'below').mkdir(parents=True)
  for name in ('b.png', 'a.JPG', 'notes.txt', '.hidden.png', 'below/c.png'):
    (tmp_path / 'folder' / name).write_bytes(b'x')
  (tmp_path / 'z.webp').write_bytes(b'x')
  found = files.list_images([tmp_path / 'z.webp', str(tmp_path / 'folder')])
  assert [path.name for path in found] == ['z.webp', 'a.JPG', 'b.png']
  (tmp_path / 'folder/.thumbnails').mkdir()
  (tmp_path / 'folder/.thumbnails/d.png').write_bytes(b'x')
  found = files.list_images([tmp_path / 'folder'], subfolders=True)
  assert [path.name for path in found] == ['a.JPG', 'b.png', 'c.png']


def test_pictures_come_in_one_order_however_the_system_lists_them(tmp_path, monkeypatch):
  names = ['b/2.png', 'b/10.png', 'a/c/1.png', 'a/3.png', '4.png', '0.png']
  for name in names:
    (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
    files.write_png(tmp_path / name, np.zeros((2, 2, 3), np.uint8))
  listed, found = pathlib.Path.iterdir, []
  for backwards in (False, True):
    monkeypatch.setattr(pathlib.Path, 'iterdir', lambda path, backwards=backwards: iter(
        sorted(listed(path), reverse=backwards)))
    found.append([*files.list_images([tmp_path], subfolders=True), *files.images_in(tmp_path / 'b'),
                  *files.folders_in(tmp_path), *files.subfolders_of(tmp_path)])
  assert found[0] == found[1] and len(found[0]) == 6 + 2 + 4 + 2


def test_subfolders_behind_links_count_once_whatever_loops_there_are(tmp_path):
  (tmp_path / 'folder').mkdir()
  (tmp_path / 'other/below').mkdir(parents=True)
  for path in ('folder/a.png', 'other/b.png', 'other/below/c.png'):
    (tmp_path / path).write_bytes(b'x')
  (tmp_path / 'folder/link').symlink_to(tmp_path / 'other')
  (tmp_path / 'folder/link2').symlink_to(tmp_path / 'other')
  (tmp_path / 'other/below/up').symlink_to(tmp_path / 'other')
  (tmp_path / 'other/below/top').symlink_to(tmp_path / 'folder')
  found = files.list_images([tmp_path / 'folder'], subfolders=True)
  assert [path.name for path in found] == ['a.png', 'b.png', 'c.png']


def test_no_two_pictures_get_one_name():
  assert files.png_names(['x/a.png', 'y/a.jpg', 'x/a_2.png', 'b.v1.png', 'z/a.png']) == [
      'a.png', 'a_2.png', 'a_2_2.png', 'b.v1.png', 'a_3.png']


@pytest.mark.parametrize('suffix', ['.tif', '.TIFF', '.gif', '.jp2', '.jfif', '.heic', '.avif',
                                    '.ppm', '.pgm'])
def test_pictures_that_are_not_read_are_told_and_not_left_out_in_silence(tmp_path, suffix):
  for name in (f'b{suffix}', f'.hidden{suffix}', 'a.png', 'notes.txt'):
    (tmp_path / name).write_bytes(b'x')
  (tmp_path / f'folder{suffix}').mkdir()
  (tmp_path / 'folder.png').mkdir()
  assert files.images_in(tmp_path) == [tmp_path / 'a.png']
  line = f'{tmp_path}/b{suffix}: pictures of this format are not read; convert it to PNG or JPEG.'
  assert files.unreadable_in(tmp_path) == [line]
  left_out = []
  found = files.list_images([tmp_path, tmp_path / 'notes.txt'], left_out=left_out)
  assert found == [tmp_path / 'a.png'] and left_out == [
      line, f'{tmp_path}/notes.txt: is no picture by its name; expected .png .jpg .jpeg .bmp '
      '.webp.']


def test_pictures_are_written_into_the_folder_of_the_program(tmp_path, monkeypatch):
  monkeypatch.chdir(tmp_path)
  files.write_png('a.png', IMAGE)
  np.testing.assert_array_equal(files.read_image(tmp_path / 'a.png'), IMAGE)


def test_what_is_ignored_shows_black(tmp_path):
  label = np.array([[0, 255], [1, 0]], np.uint8)
  files.write_palette_png(tmp_path / 'a.png', label, np.uint8([(9, 8, 7), (6, 5, 4)]))
  np.testing.assert_array_equal(files.read_image(tmp_path / 'a.png'), [
      [(9, 8, 7), (0, 0, 0)], [(6, 5, 4), (9, 8, 7)]])


def test_list_images_explains_what_it_cannot_use(tmp_path):
  (tmp_path / 'notes.txt').write_text('x')
  with pytest.raises(FileNotFoundError, match='holds no picture'):
    files.list_images([tmp_path])
  (tmp_path / 'scan.TIF').write_bytes(b'x')
  with pytest.raises(ValueError, match=r'scan\.TIF: pictures of this format are not read; convert'):
    files.list_images([tmp_path])
  with pytest.raises(FileNotFoundError, match='gone: no such file or folder'):
    files.list_images([tmp_path / 'gone'])
  with pytest.raises(ValueError, match=r'notes\.txt: is no picture by its name'):
    files.list_images([tmp_path / 'notes.txt'])
  (tmp_path / 'above' / 'inner').mkdir(parents=True)
  files.write_png(tmp_path / 'above' / 'inner' / 'a.png', IMAGE)
  with pytest.raises(FileNotFoundError, match='holds no picture .*subfolders are not searched'):
    files.list_images([tmp_path / 'above'])
