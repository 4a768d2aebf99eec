"""What picture files hold beside pixels, taken off before decoders read it.

Texts, colour profiles and EXIF data of no importance here make decoders fail or warn where they are
large or broken; the one entry that matters, the EXIF orientation, is read here.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator
from typing import NamedTuple

PNG_SIGNATURE = b'\x89PNG\r\n\x1a\n'
_JPEG_START, _JPEG_SCAN, _JPEG_END = 0xd8, 0xda, 0xd9
_JPEG_EXIF, _JPEG_ADOBE, _JPEG_COMMENT = 0xe1, 0xee, 0xfe
_EXIF_SIGNATURE = b'Exif\0\0'
_ORIENTATION = 0x0112
# Of PNG: what decides on pixels. All other chunks are metadata or further frames of an animation.
_PIXEL_CHUNKS = (b'IHDR', b'PLTE', b'tRNS', b'IDAT', b'IEND')
_METADATA_CHUNKS = (
    b'tEXt', b'zTXt', b'iTXt', b'iCCP', b'eXIf', b'gAMA', b'cHRM', b'sRGB', b'sBIT', b'bKGD',
    b'hIST', b'pHYs', b'sPLT', b'tIME', b'cICP', b'mDCV', b'cLLI', b'oFFs', b'pCAL', b'sCAL',
    b'acTL', b'fcTL', b'fdAT')


class Damaged(ValueError):
  """The file is cut short, or bytes that decide on pixels have changed."""


class Stripped(NamedTuple):
  """A picture file without its metadata, and what they say on how to turn it.

  Attributes:
    content: of a file that decoders read.
    orientation: EXIF orientation 1 to 8; 1 is upright, also where none can be read.
  """

  content: bytes
  orientation: int


def strip(content: bytes) -> Stripped:
  """Takes the metadata off a PNG or JPEG; other formats stay whole.

  Raises:
    Damaged: of a PNG, a checksum of pixels or palette is wrong, or its end is missing.
  """
  if content.startswith(PNG_SIGNATURE):
    return _strip_png(content)
  if content.startswith(bytes((0xff, _JPEG_START))):
    return _strip_jpeg(content)
  return Stripped(content, _webp_orientation(content))


def _strip_png(content):
  kept, orientation = [PNG_SIGNATURE], 1
  for kind, data, chunk, is_whole in _png_chunks(content):
    if kind in _PIXEL_CHUNKS:
      if not is_whole and kind != b'IEND':
        raise Damaged(f'wrong checksum of {kind.decode()}')
      if kind == b'IEND':
        kept.append(struct.pack('>I4sI', 0, kind, zlib.crc32(kind)))
        return Stripped(b''.join(kept), orientation)
      kept.append(chunk)
    elif kind == b'eXIf':
      orientation = _orientation(data)
    elif not is_whole and kind not in _METADATA_CHUNKS:
      raise Damaged('wrong checksum of an unknown chunk')  # it may have held pixels
  raise Damaged('its end is missing')


def _png_chunks(content) -> Iterator[tuple[bytes, bytes, bytes, bool]]:
  """Kind, data, the chunk as it stands, and whether its checksum is right, of whole chunks."""
  position = len(PNG_SIGNATURE)
  while position + 12 <= len(content):
    length, = struct.unpack_from('>I', content, position)
    chunk = content[position:position + 12 + length]
    if len(chunk) < 12 + length:
      return
    checksum, = struct.unpack('>I', chunk[-4:])
    yield chunk[4:8], chunk[8:-4], chunk, zlib.crc32(chunk[4:-4]) == checksum
    position += len(chunk)


def _strip_jpeg(content):
  """Takes off comments and the segments of applications, but JFIF's and Adobe's colour space."""
  kept, orientation, position = [content[:2]], 1, 2
  while position + 4 <= len(content) and content[position] == 0xff:
    marker = content[position + 1]
    if marker == 0xff:  # fill byte
      position += 1
      continue
    if marker in (_JPEG_SCAN, _JPEG_END):
      break
    length, = struct.unpack_from('>H', content, position + 2)
    segment = content[position:position + 2 + length]
    if marker == _JPEG_EXIF and segment[4:10] == _EXIF_SIGNATURE and orientation == 1:
      orientation = _orientation(segment[10:])
    is_metadata = 0xe0 < marker <= 0xef and marker != _JPEG_ADOBE or marker == _JPEG_COMMENT
    if not is_metadata:
      kept.append(segment)
    position += 2 + length
  return Stripped(b''.join([*kept, content[position:]]), orientation)


def _webp_orientation(content):
  """Of the EXIF chunk of a WebP; 1 for other formats."""
  if content[:4] != b'RIFF' or content[8:12] != b'WEBP':
    return 1
  position = 12
  while position + 8 <= len(content):
    kind, length = struct.unpack_from('<4sI', content, position)
    if kind == b'EXIF':
      data = content[position + 8:position + 8 + length]
      return _orientation(data.removeprefix(_EXIF_SIGNATURE))
    position += 8 + length + length % 2
  return 1


def _orientation(exif):
  """The orientation in EXIF data, a TIFF file; 1 where there is none or they are broken."""
  order = {b'II*\0': '<', b'MM\0*': '>'}.get(exif[:4])
  if order is None:
    return 1
  try:
    start, = struct.unpack_from(order + 'I', exif, 4)
    entries, = struct.unpack_from(order + 'H', exif, start)
    for place in range(start + 2, start + 2 + 12 * entries, 12):
      tag, kind, _, value = struct.unpack_from(order + 'HHIH', exif, place)
      if tag == _ORIENTATION:
        return value if kind == 3 and value in range(1, 9) else 1
  except struct.error:  # it points beyond its end
    pass
  return 1
