"""Images, labels and palette PNGs: reading, resizing, writing; errors name the file."""

from __future__ import annotations

import io
import itertools
import os
import pathlib
from collections.abc import Iterable
from typing import Any

import cv2
import numpy as np
import PIL.Image

from kdseg_jax.data import metadata
from kdseg_jax.errors import NotFoundError, UserError

IGNORE_LABEL = 255
IMAGE_SUFFIXES = ('.png', '.jpg', '.jpeg', '.bmp', '.webp')
_FORMATS = ('PNG', 'JPEG', 'BMP', 'WEBP')
_LONGEST_REASON = 200
_PNG_GRAYSCALE, _PNG_PALETTE = 0, 3
# What cannot be decoded is raised here with the file's name; OpenCV's own lines say less.
# OpenCV 4 has the function elsewhere; 0 is silence.
(cv2.setLogLevel if hasattr(cv2, 'setLogLevel') else cv2.utils.logging.setLogLevel)(0)
_ALPHA_MODES = ('RGBA', 'LA', 'PA', 'La', 'RGBa')
# Pictures that are not read: left in a folder without a word, they would silently not count.
_OTHER_PICTURES = ('.tif', '.tiff', '.gif', '.jp2', '.jfif', '.heic', '.avif', '.ppm', '.pgm')


def read_image(path: str | os.PathLike) -> np.ndarray:
  """Reads a picture as RGB, turned upright if its EXIF data say that it was taken sideways.

  Args:
    path: PNG, JPEG, BMP or WebP file of 8 bits a channel; grey becomes three
      equal channels.

  Returns:
    `(H, W, 3)` uint8.

  Raises:
    FileNotFoundError: there is no such file.
    ValueError: the file cannot be decoded (damaged, cut short, no picture), has more than 8 bits
      a channel, or has an alpha channel.
  """
  return decode_image(read_bytes(path), path)


def decode_image(content: bytes, name: Any) -> np.ndarray:
  """`read_image` of the content of a file; errors call it `name`."""
  stripped = _strip(content, name)
  with _open(stripped.content, name) as header:
    size, mode, transparent = header.size, header.mode, 'transparency' in header.info
  if mode in _ALPHA_MODES or transparent:
    raise UserError(f'{name}: has an alpha channel ({mode}); expected RGB or grey. '
                    'Flatten it onto a background and save it without alpha.')
  try:
    # ANYDEPTH shows 16-bit files as such, where COLOR alone would silently cut them to 8 bits.
    pixels = cv2.imdecode(
        np.frombuffer(stripped.content, np.uint8),
        cv2.IMREAD_COLOR | cv2.IMREAD_ANYDEPTH | cv2.IMREAD_IGNORE_ORIENTATION)
  except cv2.error:
    pixels = None  # its text names OpenCV's own lines of code
  if pixels is None or pixels.shape != (*size[::-1], 3):
    raise _damaged(name, 'its pixels cannot be read')
  if pixels.dtype != np.uint8:
    raise UserError(f'{name}: has {pixels.dtype.itemsize * 8} bits a channel; expected 8. '
                    'Convert it to an 8-bit picture.')
  return _turned(cv2.cvtColor(pixels, cv2.COLOR_BGR2RGB), stripped.orientation)


def image_size(content: bytes, name: Any) -> tuple[int, int]:
  """(height, width) that `decode_image` gives, of the head of a file; errors call it `name`."""
  stripped = _strip(content, name)
  with _open(stripped.content, name) as header:
    size = header.size
  return size if stripped.orientation > 4 else size[::-1]


def read_label(path: str | os.PathLike) -> np.ndarray:
  """Reads a label PNG: the stored indices, whether it is grey or has a palette.

  Args:
    path: 8-bit grey PNG, or palette PNG of any depth (whose colours are not looked at).

  Returns:
    `(H, W)` uint8 of class indices, as stored.

  Raises:
    FileNotFoundError: there is no such file.
    ValueError: the file is no PNG, stores colours instead of indices or not 8 bits, or is damaged.
  """
  return decode_label(read_bytes(path), path)


def decode_label(content: bytes, name: Any) -> np.ndarray:
  """`read_label` of the content of a file; errors call it `name`."""
  return decode_palette_label(content, name)[0]


def decode_palette_label(content: bytes, name: Any) -> tuple[np.ndarray, np.ndarray]:
  """The label of the content of a PNG and its palette, `(n, 3)` uint8; n is 0 if it is grey."""
  if not content.startswith(metadata.PNG_SIGNATURE) or len(content) < 26:
    raise UserError(f'{name}: is not a PNG file; labels must be PNG, because lossy formats '
                    'change class indices.')
  stripped = _strip(content, name)  # checks all sums: a flipped bit would decode to other labels
  depth, color_type = content[24], content[25]
  if color_type not in (_PNG_GRAYSCALE, _PNG_PALETTE):
    raise UserError(f'{name}: stores colours; expected one channel of class indices (a grey or '
                    'palette PNG). Map each colour to its class index first.')
  # Grey levels of 1, 2 and 4 bits are stretched to 0..255 by decoders: no longer indices.
  if color_type == _PNG_GRAYSCALE and depth != 8:
    raise UserError(f'{name}: stores {depth}-bit grey levels; expected 8 bits. '
                    'Save the label as an 8-bit PNG.')
  with _open(stripped.content, name) as image:
    try:
      label = np.array(image, dtype=np.uint8)
    except Exception as error:  # decoders raise whatever the bytes lead them to
      raise _damaged(name, error) from error
    return label, np.array(image.getpalette() or (), np.uint8).reshape(-1, 3)


def encode_label(label: np.ndarray) -> bytes:
  """`(H, W)` uint8 of class indices as the content of a grey PNG."""
  return cv2.imencode('.png', label)[1].tobytes()


def check_pair(image: np.ndarray, label: np.ndarray, *, image_name: Any, label_name: Any,
               image_content: bytes) -> None:
  """Raises ValueError if a label cannot be that of its image: other size, or EXIF orientation.

  Whether a label was drawn on the stored or on the upright picture cannot be told from its size
  where EXIF data mirror it, turn it by 180 degrees, or it is square.
  """
  check_upright(image_content, image_name, f'label {label_name}')
  if image.shape[:2] != label.shape:
    raise UserError(
        f'{label_name}: is {label.shape} (height, width), but its image {image_name} is '
        f'{image.shape[:2]}; expected the same size.')


def check_upright(content: bytes, image_name: Any, annotation: str) -> None:
  """Raises UserError if the EXIF data of an image's file turn it: its annotation may be of either.

  Args:
    content: of the file.
    image_name: the file, for the error.
    annotation: what was drawn on the image, and where that is.
  """
  orientation = _strip(content, image_name).orientation
  if orientation != 1:
    raise UserError(
        f'{image_name}: its EXIF data turn or mirror it (orientation {orientation}), and its '
        f'{annotation} may have been drawn on either view. Save the image as the annotation shows '
        'it, without EXIF orientation.')


def resize_image(image: np.ndarray, size: tuple[int, int]) -> np.ndarray:
  """Resizes `(H, W, 3)` to `size` = (height, width): by area when shrinking, else bilinear."""
  height, width = size
  shrinks = height <= image.shape[0] and width <= image.shape[1]
  return cv2.resize(image, (width, height),
                    interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR)


def resize_label(label: np.ndarray, size: tuple[int, int]) -> np.ndarray:
  """Resizes `(H, W)` labels to `size` = (height, width): the nearest pixel, centres aligned."""
  # INTER_NEAREST rounds down, which shifts labels by up to half a pixel against the image.
  return cv2.resize(label, size[::-1], interpolation=cv2.INTER_NEAREST_EXACT)


def write_png(path: str | os.PathLike, array: np.ndarray) -> None:
  """Writes `(H, W, 3)` RGB or `(H, W)` grey uint8 as PNG; makes the folder if it is missing."""
  if array.dtype != np.uint8 or not (array.ndim == 2 or array.ndim == 3 and array.shape[2] == 3):
    raise UserError(f'{path}: expected uint8 of shape (H, W, 3) or (H, W), '
                    f'got {array.dtype} of shape {array.shape}.')
  _write(path, PIL.Image.fromarray(array))


def write_palette_png(path: str | os.PathLike, label: np.ndarray, palette: np.ndarray) -> None:
  """Writes labels as a palette PNG: indices in the file, colours in every viewer.

  Args:
    path: file to write; the folder is made if it is missing.
    label: `(H, W)` of class indices; 255 is ignore and shows black.
    palette: `(C, 3)` uint8, the colour of each class.
  """
  image = PIL.Image.fromarray(np.asarray(label, np.uint8))
  colors = np.zeros((256, 3), np.uint8)
  colors[:len(palette)] = palette
  colors[IGNORE_LABEL] = 0
  image.putpalette(colors.tobytes())
  _write(path, image)


def list_images(
    paths: Iterable[str | os.PathLike], *, subfolders: bool = False,
    left_out: list[str] | None = None,
) -> list[pathlib.Path]:
  """The picture files that the arguments name: files as they are, folders by their sorted files.

  Args:
    paths: files and folders.
    subfolders: whether the pictures in subfolders of folders count too, hidden ones left out.
    left_out: gets a line for each picture of a format that is not read, instead of an error.

  Raises:
    FileNotFoundError: a path does not exist, or a folder holds no picture.
    ValueError: a file is named that is no picture by its suffix, or a folder holds a picture of a
      format that is not read.
  """
  found = []
  problems: list[str] = [] if left_out is None else left_out
  for path in map(pathlib.Path, paths):
    if path.is_dir():
      folders = folders_in(path) if subfolders else [path]
      problems += [line for folder in folders for line in unreadable_in(folder)]
      if problems and left_out is None:
        raise UserError(problems[0])
      inside = [image for folder in folders for image in images_in(folder)]
      if not inside:
        hint = '' if subfolders else '; subfolders are not searched, name them one by one'
        raise NotFoundError(f'{path}: holds no picture ({" ".join(IMAGE_SUFFIXES)}){hint}.')
      found.extend(inside)
    elif not path.exists():
      raise NotFoundError(f'{path}: no such file or folder.')
    elif path.suffix.lower() not in IMAGE_SUFFIXES:
      problems.append(
          f'{path}: is no picture by its name; expected {" ".join(IMAGE_SUFFIXES)}.')
    else:
      found.append(path)
  if problems and left_out is None:
    raise UserError(problems[0])
  return found


def png_names(paths: Iterable[str | os.PathLike]) -> list[str]:
  """`<stem>.png` for every path; where that is taken, `<stem>_2.png` and so on."""
  names = {}  # a dict keeps their order
  for stem in (pathlib.Path(path).stem for path in paths):
    candidates = itertools.chain([stem], (f'{stem}_{number}' for number in itertools.count(2)))
    names[next(f'{name}.png' for name in candidates if f'{name}.png' not in names)] = None
  return list(names)


def images_in(folder: pathlib.Path) -> list[pathlib.Path]:
  """The picture files of a folder in sorted order; hidden files are left out."""
  return files_in(folder, IMAGE_SUFFIXES)


def unreadable_in(folder: pathlib.Path) -> list[str]:
  """One line for each picture in a folder of a format that is not read."""
  return [f'{path}: pictures of this format are not read; convert it to PNG or JPEG.'
          for path in files_in(folder, _OTHER_PICTURES)]


def files_in(folder: pathlib.Path, suffixes: Iterable[str]) -> list[pathlib.Path]:
  """The files of a folder with one of the suffixes, in any case, sorted; hidden ones left out."""
  return sorted(path for path in folder.iterdir() if path.suffix.lower() in suffixes
                and not _is_hidden(path) and not path.is_dir())


def read_bytes(path: str | os.PathLike) -> bytes:
  """The content of a file; NotFoundError, or UserError if it cannot be read, names it."""
  try:
    with open(path, 'rb') as file:
      return file.read()
  except FileNotFoundError:
    raise NotFoundError(f'{path}: no such file.') from None
  except OSError as error:
    raise UserError(f'{path}: cannot be read ({error.strerror}).') from error


def folders_in(folder: pathlib.Path) -> list[pathlib.Path]:
  """A folder and all below it, sorted; links are followed, hidden ones left out.

  Each real folder counts once, whatever links lead to it, so that a loop of links ends.
  """
  found: dict[str, pathlib.Path] = {}  # by their real paths
  waiting = [folder]
  for path in waiting:
    if found.setdefault(os.path.realpath(path), path) is path:
      waiting += subfolders_of(path)
  return sorted(found.values())


def subfolders_of(folder: pathlib.Path) -> list[pathlib.Path]:
  """The folders in a folder, and links to folders, sorted; hidden ones are left out."""
  return sorted(path for path in folder.iterdir() if path.is_dir() and not _is_hidden(path))


def _is_hidden(path):
  return path.name.startswith('.')


def _strip(content, name):
  """The content without metadata."""
  try:
    return metadata.strip(content)
  except metadata.Damaged as error:
    raise _damaged(name, error) from error


def _open(content, name):
  """The picture with its header read."""
  try:
    return PIL.Image.open(io.BytesIO(content), formats=_FORMATS)
  except PIL.Image.DecompressionBombError as error:
    raise UserError(f'{name}: is too large ({error}). Cut it into tiles.') from None
  except PIL.UnidentifiedImageError as error:
    raise _damaged(name, f'its header is of none of {", ".join(_FORMATS)}') from error
  except Exception as error:  # decoders raise whatever the bytes lead them to
    raise _damaged(name, error) from error


def _damaged(name, error):
  """The error of a file that is no picture, or not whole."""
  what = ' '.join(str(error).split())[:_LONGEST_REASON] or type(error).__name__
  return UserError(f'{name}: cannot be decoded: it is damaged, cut short or no picture ({what}). '
                   'Copy or download it again.')


def _turned(image, orientation):
  """The picture upright, as a viewer shows it that knows EXIF."""
  if orientation > 4:
    image = image.transpose(1, 0, 2)
  if orientation in (3, 4, 7, 8):
    image = image[::-1]
  if orientation in (2, 3, 6, 7):
    image = image[:, ::-1]
  return np.ascontiguousarray(image)


def _write(path, image):
  os.makedirs(os.path.dirname(path) or '.', exist_ok=True)
  image.save(path, format='PNG')
