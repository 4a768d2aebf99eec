"""Damaged and odd pictures: metadata do not matter, everything else is one error with the name."""

import io
import struct
import zlib

import cv2
import numpy as np
import PIL.Image
import PIL.ImageOps
import PIL.PngImagePlugin
import pytest

from kdseg_jax import data, tasks
from kdseg_jax.data import augmentation, check, files, pairs, pipeline
from kdseg_jax.errors import UserError
from tests.data import archives

RNG = np.random.default_rng(0)
IMAGE = RNG.integers(0, 256, (12, 20, 3), np.uint8)
LABEL = RNG.integers(0, 5, (12, 20)).astype(np.uint8)
FORMATS = {'.png': {'format': 'PNG'}, '.jpg': {'format': 'JPEG', 'quality': 95},
           '.jpeg': {'format': 'JPEG', 'progressive': True}, '.bmp': {'format': 'BMP'},
           '.webp': {'format': 'WEBP'}, 'lossless.webp': {'format': 'WEBP', 'lossless': True}}


def encode(array, **options):
  stream = io.BytesIO()
  PIL.Image.fromarray(array).save(stream, **options)
  return stream.getvalue()


def chunk(kind, content, checksum=None):
  """A chunk of a PNG."""
  checksum = zlib.crc32(kind + content) if checksum is None else checksum
  return struct.pack('>I', len(content)) + kind + content + struct.pack('>I', checksum)


def with_chunks(png, *chunks, place=33):
  """A PNG with more chunks, after its header."""
  return png[:place] + b''.join(chunks) + png[place:]


def segment(marker, content):
  """A segment of a JPEG."""
  return bytes((0xff, marker)) + struct.pack('>H', len(content) + 2) + content


TEXT = chunk(b'tEXt', b'a\0' + bytes(500))
METADATA = {
    'text of megabytes': chunk(b'tEXt', b'a\0' + bytes(3_000_000)),
    'text that unpacks to megabytes': chunk(
        b'zTXt', b'a\0\0' + zlib.compress(bytes(80_000_000))),
    'profile of megabytes': chunk(b'iCCP', b'a\0\0' + zlib.compress(bytes(80_000_000))),
    'profile that does not unpack': chunk(b'iCCP', b'a\0\0' + b'rubbish'),
    'text with a wrong checksum': chunk(b'tEXt', b'a\0b', checksum=1),
    'broken EXIF': chunk(b'eXIf', b'MM\0*\xff\xff\xff\xff'),
    'EXIF that is none': chunk(b'eXIf', b'rubbish'),
    'EXIF cut short': chunk(b'eXIf', b'II*\0\x08\0\0\0\x05\0\x12'),
    'unknown': chunk(b'abCd', b'x'),
    'frames of an animation': chunk(b'acTL', bytes(8)) + chunk(b'fcTL', bytes(26)),
    'a time that is none': chunk(b'tIME', b'x'),
}


@pytest.mark.parametrize('extra', METADATA.values(), ids=METADATA)
def test_metadata_of_a_png_do_not_matter(extra):
  image = with_chunks(encode(IMAGE, format='PNG'), extra)
  np.testing.assert_array_equal(files.decode_image(image, 'a'), IMAGE)
  np.testing.assert_array_equal(
      files.decode_label(with_chunks(encode(LABEL, format='PNG'), extra), 'a'), LABEL)
  files.check_pair(IMAGE, LABEL, image_name='a', label_name='b', image_content=image)


@pytest.mark.parametrize('extra', [
    segment(0xe1, b'Exif\0\0rubbish'), segment(0xe1, b'Exif\0\0II*\0\xff\xff\xff\xff'),
    segment(0xe2, b'ICC_PROFILE\0\x01\x01' + bytes(60_000)) * 60, segment(0xfe, bytes(60_000)),
    segment(0xe2, b'MPF\0rubbish'), segment(0xed, b'Photoshop 3.0\x008BIM\x04'),
    segment(0xe1, b'http://ns.adobe.com/xap/1.0/\0<rubbish')])
def test_metadata_of_a_jpeg_do_not_matter(extra):
  content = encode(IMAGE, format='JPEG')
  expected = files.decode_image(content, 'a')
  np.testing.assert_array_equal(
      files.decode_image(content[:2] + extra + content[2:], 'a'), expected)


def test_what_says_how_a_jpeg_holds_colours_is_kept():
  """JFIF's segment: luma and chroma, whatever their names; Adobe's: here red, green and blue."""
  content = bytearray(encode(IMAGE, format='JPEG'))
  expected = files.decode_image(bytes(content), 'a')
  frame, scan = content.index(b'\xff\xc0') + 10, content.index(b'\xff\xda') + 5
  assert [content[frame + 3 * i] for i in range(3)] == [1, 2, 3]
  assert [content[scan + 2 * i] for i in range(3)] == [1, 2, 3]
  for i, name in enumerate(b'RGB'):
    content[frame + 3 * i] = content[scan + 2 * i] = name
  np.testing.assert_array_equal(files.decode_image(bytes(content), 'a'), expected)
  rgb = encode(IMAGE, format='JPEG', keep_rgb=True, quality=100, subsampling=0)
  assert b'Adobe' in rgb
  np.testing.assert_allclose(files.decode_image(rgb, 'a').astype(int), IMAGE, atol=4)


def test_metadata_of_a_webp_do_not_matter():
  content = encode(IMAGE, format='WEBP', exif=b'Exif\0\0rubbish', icc_profile=bytes(2_000_000),
                   xmp=b'<rubbish')
  np.testing.assert_array_equal(
      files.decode_image(content, 'a'), files.decode_image(encode(IMAGE, format='WEBP'), 'a'))


@pytest.mark.parametrize('orientation', range(1, 9))
@pytest.mark.parametrize('suffix', ['.png', '.jpg', 'lossless.webp'])
def test_pictures_are_turned_upright_as_viewers_do(suffix, orientation):
  exif = PIL.Image.Exif()
  exif[0x0112] = orientation
  content = encode(IMAGE, **FORMATS[suffix], exif=exif)
  expected = PIL.ImageOps.exif_transpose(PIL.Image.open(io.BytesIO(content)))
  np.testing.assert_allclose(files.decode_image(content, 'a').astype(int),
                             np.asarray(expected, int), atol=3 * (suffix == '.jpg'))
  if orientation > 1:
    with pytest.raises(UserError, match=rf'a: its EXIF data turn .*orientation {orientation}\)'):
      files.check_pair(IMAGE, LABEL, image_name='a', label_name='b', image_content=content)


def header(width, height, color_type):
  """A PNG of any size, of hardly any content."""
  return (b'\x89PNG\r\n\x1a\n' + chunk(b'IHDR', struct.pack('>IIBBBBB', width, height, 8,
                                                            color_type, 0, 0, 0))
          + chunk(b'IDAT', zlib.compress(bytes(100))) + chunk(b'IEND', b''))


def huge(suffix, width=40_000, height=30_000):
  """A small file whose header promises a huge picture."""
  if suffix == '.png':
    return header(width, height, 2)
  content = bytearray(encode(IMAGE, **FORMATS[suffix]))
  if suffix == '.bmp':
    content[18:26] = struct.pack('<ii', width, height)
  else:
    place = content.index(b'\xff\xc0')
    content[place + 5:place + 9] = struct.pack('>HH', height, width)
  return bytes(content)


@pytest.mark.parametrize('suffix', ['.png', '.jpg', '.bmp'])
def test_huge_headers_are_refused_before_decoding(suffix, monkeypatch):
  monkeypatch.setattr(cv2, 'imdecode', None)  # would ask for gigabytes
  with pytest.raises(UserError, match=r'a: is too large .*Cut it into tiles'):
    files.decode_image(huge(suffix), 'a')


def test_huge_labels_are_refused():
  with pytest.raises(UserError, match=r'a: is too large'):
    files.decode_label(header(40_000, 30_000, 0), 'a')
  with pytest.raises(UserError, match=r'a: cannot be decoded'):
    files.decode_label(header(900, 900, 0), 'a')  # promises more than it holds


def test_damage_that_hides_pixels_is_refused():
  content = encode(IMAGE, format='PNG')
  place = content.index(b'IDAT')
  for damaged in (
      content.replace(b'IDAT', b'iDAT'), content.replace(b'IDAT', b'IdAT'),
      content[:place + 5] + bytes((content[place + 5] ^ 1,)) + content[place + 6:],
      content[:-12], b'', b'x', content[:8], content[:20]):
    with pytest.raises(UserError, match='^a: cannot be decoded'):
      files.decode_image(damaged, 'a')


def damaged(content, rng):
  """The content with bytes changed, cut off, taken out, or the header rewritten."""
  content = bytearray(content)
  kind = rng.integers(4)
  if kind == 0:
    for _ in range(rng.integers(1, 6)):
      content[rng.integers(len(content))] = rng.integers(256)
  elif kind == 1:
    content = content[:rng.integers(len(content))]
  elif kind == 2:
    place = rng.integers(len(content))
    del content[place:place + rng.integers(1, 20)]
  else:
    place = rng.integers(min(len(content), 64))
    content[place:place + 4] = rng.bytes(4)
  return bytes(content)


@pytest.mark.parametrize('suffix', FORMATS)
def test_random_damage_gives_a_picture_or_one_error_with_the_name(suffix):
  rng, outcomes = np.random.default_rng(1), {True: 0, False: 0}
  for _ in range(400):
    size = rng.integers(8, 33, 2)
    content = encode(rng.integers(0, 256, (*size, 3), np.uint8), **FORMATS[suffix])
    if suffix == '.png':  # else hardly any damage would spare the pixels
      content = with_chunks(content, TEXT)
    content = damaged(content, rng)
    try:
      image = files.decode_image(content, 'street.x')
      assert image.dtype == np.uint8 and image.ndim == 3 and image.shape[2] == 3
      outcomes[True] += 1
    except UserError as error:
      assert str(error).startswith('street.x: ') and '\n' not in str(error)
      outcomes[False] += 1
  assert min(outcomes.values()) > 5


def test_random_damage_to_labels_gives_the_label_or_one_error():
  rng, whole = np.random.default_rng(2), 0
  palette = rng.integers(0, 256, 768, np.uint8).tobytes()
  for i in range(800):
    label = rng.integers(0, 5, rng.integers(8, 33, 2)).astype(np.uint8)
    picture = PIL.Image.fromarray(label)
    if i % 2:
      picture.putpalette(palette)
    stream = io.BytesIO()
    picture.save(stream, format='PNG')
    content = with_chunks(stream.getvalue(), TEXT)
    try:
      result = files.decode_label(damaged(content, rng), 'label.png')
      np.testing.assert_array_equal(result, label)  # checksums tell everything else
      whole += 1
    except UserError as error:
      assert str(error).startswith('label.png: ')
  assert whole > 5


@pytest.fixture
def root(tmp_path):
  """A folder in which one image of train and one of val are damaged."""
  archives.folder(tmp_path)
  for path in (tmp_path / 'images/train/2.png', tmp_path / 'images/val/2.png'):
    path.write_bytes(huge('.png'))
  return tmp_path


def test_every_way_of_reading_gives_the_error_with_the_name(root):
  problems = check.check(root).problems
  assert len(problems) == 2 and all('2.png: is too large' in problem for problem in problems)
  train, val = (data.create('folder', split, root=root) for split in ('train', 'val'))
  for threads in (0, 2):
    with pytest.raises(UserError, match=r'train.2\.png: is too large'):
      batches = pipeline.train_batches(
          train, batch_size=8, seed=0, num_threads=threads,
          augmentation=augmentation.Augmentation(
              crop=(8, 8), fields=tasks.SegmentationTask.fields))
      next(batches)
    with pytest.raises(UserError, match=r'val.2\.png: is too large'):
      list(pipeline.evaluation_batches(
          val, fields=tasks.SegmentationTask.fields, batch_size=2, num_threads=threads))
    with pytest.raises(UserError, match=r'val.2\.png: is too large'):
      list(pipeline.read(val, lambda example: example['label'], num_threads=threads))


def test_what_cannot_be_opened_is_named(tmp_path):
  (tmp_path / 'a.png').mkdir()
  with pytest.raises(UserError, match=r'a\.png: cannot be read'):
    files.read_image(tmp_path / 'a.png')
  source = pairs.PairSource([pairs.Pair(tmp_path / 'b.png', tmp_path / 'c.png')],
                            label_map=pairs.LabelMap.identity(2))
  with pytest.raises(UserError, match=r'b\.png: no such file'):
    source[0]
