"""What is taken off a picture's file, byte by byte, and the orientation that it says."""

import io
import struct
import zlib

import numpy as np
import PIL.Image
import pytest

from kdseg_jax.data import metadata

PIXELS = np.random.default_rng(0).integers(0, 256, (4, 6, 3), np.uint8)


def encode(kind):
  stream = io.BytesIO()
  PIL.Image.fromarray(PIXELS).save(stream, kind)
  return stream.getvalue()


JPEG, PNG = encode('JPEG'), encode('PNG')


def exif(*entries, order='<', start=8):
  """EXIF data of `(tag, kind, value)`, whose entries begin at a place of their own."""
  head = {'<': b'II*\0', '>': b'MM\0*'}[order] + struct.pack(f'{order}I', start)
  return head.ljust(start, b'\0') + struct.pack(f'{order}H', len(entries)) + b''.join(
      struct.pack(f'{order}HHIHH', tag, kind, 1, value, 0) for tag, kind, value in entries)


def turned(orientation, **options):
  return exif((0x0112, 3, orientation), **options)


def segment(marker, content):
  return bytes((0xff, marker)) + struct.pack('>H', len(content) + 2) + content


def in_jpeg(*parts):
  return JPEG[:2] + b''.join(parts) + JPEG[2:]


def exif_segment(content):
  return segment(0xe1, b'Exif\0\0' + content)


def chunk(kind, content, *, is_whole=True):
  checksum = zlib.crc32(kind + content) ^ (not is_whole)
  return struct.pack('>I', len(content)) + kind + content + struct.pack('>I', checksum)


@pytest.mark.parametrize('content, expected', [
    *((turned(value), value) for value in range(1, 9)),
    (turned(6, order='>'), 6), (turned(6, start=14), 6), (turned(6, order='>', start=20), 6),
    (exif((0x0100, 4, 3), (0x010f, 2, 5), (0x0112, 3, 8)), 8),  # behind other entries
    (exif((0x0112, 3, 6), (0x0112, 3, 3)), 6), (exif((0x0113, 3, 6)), 1), (exif(), 1),
    (turned(0), 1), (turned(9), 1), (exif((0x0112, 4, 6)), 1),  # no orientation, and no SHORT
    (b'JJ*\0' + turned(6)[4:], 1), (turned(6)[:-6], 1), (turned(6, start=14)[:12], 1), (b'', 1)])
def test_the_orientation_is_read_wherever_it_stands_and_is_1_where_none_is_said(content, expected):
  assert metadata.strip(in_jpeg(exif_segment(content))) == (JPEG, expected)
  riff = b'WEBP' + struct.pack('<4sI', b'EXIF', len(content)) + content
  webp = b'RIFF' + struct.pack('<I', len(riff)) + riff
  assert metadata.strip(webp) == (webp, expected)
  assert metadata.strip(PNG[:33] + chunk(b'eXIf', content) + PNG[33:]) == (PNG, expected)


@pytest.mark.parametrize('fill', [b'\xff', b'\xff\xff', b'\xff\xff\xff'])
def test_fill_bytes_before_a_segment_of_a_jpeg_hide_nothing(fill):
  content = in_jpeg(fill, segment(0xfe, b'a comment'), fill, exif_segment(turned(6)), fill,
                    segment(0xe2, b'a profile'))
  assert metadata.strip(content) == (JPEG, 6)


def test_the_first_orientation_of_a_jpeg_counts_and_other_data_of_its_marker_hold_none():
  several = in_jpeg(exif_segment(turned(6)), exif_segment(turned(3)))
  assert metadata.strip(several) == (JPEG, 6)
  behind_xmp = in_jpeg(segment(0xe1, b'http:/' + turned(3)), exif_segment(turned(8)))
  assert metadata.strip(behind_xmp) == (JPEG, 8)


@pytest.mark.parametrize('marker', [0xe1, 0xe2, 0xed, 0xef, 0xfe])
def test_segments_of_applications_and_comments_are_taken_off_a_jpeg(marker):
  assert metadata.strip(in_jpeg(segment(marker, b'anything'))) == (JPEG, 1)


@pytest.mark.parametrize('marker', [0xdb, 0xdd, 0xe0, 0xee])
def test_tables_and_what_says_how_colours_are_stored_stay_in_a_jpeg(marker):
  content = in_jpeg(segment(marker, b'anything'))
  assert metadata.strip(content) == (content, 1)


def test_behind_the_scan_of_a_jpeg_nothing_is_taken_for_metadata():
  content = JPEG + segment(0xe1, b'Exif\0\0' + turned(6))
  assert metadata.strip(content) == (content, 1)


def test_a_chunk_of_odd_length_is_followed_by_a_byte_in_a_webp():
  chunks = b''.join(struct.pack('<4sI', kind, len(content)) + content + b'\0' * (len(content) % 2)
                    for kind, content in ((b'ICCP', b'odd'), (b'VP8 ', b'even'),
                                          (b'EXIF', b'Exif\0\0' + turned(5))))
  assert metadata.strip(b'RIFF\0\0\0\0WEBP' + chunks).orientation == 5


@pytest.mark.parametrize('kind', [
    'tEXt', 'zTXt', 'iTXt', 'iCCP', 'eXIf', 'gAMA', 'cHRM', 'sRGB', 'sBIT', 'bKGD', 'hIST', 'pHYs',
    'sPLT', 'tIME', 'cICP', 'mDCV', 'cLLI', 'oFFs', 'pCAL', 'sCAL', 'acTL', 'fcTL', 'fdAT'])
def test_metadata_of_a_png_are_taken_off_even_where_their_checksum_is_wrong(kind):
  for is_whole in (True, False):
    extra = chunk(kind.encode(), b'anything', is_whole=is_whole)
    assert metadata.strip(PNG[:33] + extra + PNG[33:]) == (PNG, 1)


def test_of_a_png_a_wrong_checksum_of_pixels_or_colours_is_damage_and_of_its_end_is_none():
  end = PNG[-12:]
  assert metadata.strip(PNG[:-1] + bytes((PNG[-1] ^ 1,))) == (PNG, 1)
  assert metadata.strip(PNG + b'what follows') == (PNG, 1)
  for kind in ('PLTE', 'tRNS', 'IDAT'):
    kept = PNG[:33] + chunk(kind.encode(), b'anything') + PNG[33:]
    assert metadata.strip(kept) == (kept, 1)
    with pytest.raises(metadata.Damaged, match=f'^wrong checksum of {kind}$'):
      metadata.strip(PNG[:33] + chunk(kind.encode(), b'anything', is_whole=False) + end)
  with pytest.raises(metadata.Damaged, match='^wrong checksum of an unknown chunk$'):
    metadata.strip(PNG[:33] + chunk(b'abCd', b'anything', is_whole=False) + PNG[33:])
  with pytest.raises(metadata.Damaged, match='^its end is missing$'):
    metadata.strip(PNG[:-12])
