"""Fonts that can draw a text, and what is drawn where none can: never boxes."""

from __future__ import annotations

import functools
import importlib.util
import os
import pathlib
import unicodedata
from collections.abc import Sequence
from typing import NamedTuple

import PIL.ImageFont
from anyascii import anyascii

# Parts of the file names of fonts with Chinese, Japanese and Korean characters, best first: Noto
# and Source Han of Linux and Android, those of macOS, of Windows, older ones of Linux.
_CJK_FONTS = ('notosanscjk', 'notosanssc', 'notosansjp', 'notosanskr', 'sourcehansans', 'pingfang',
              'hiragino', 'applesdgothic', 'msyh', 'yugoth', 'malgun', 'simhei', 'simsun',
              'arialunicode', 'wqy', 'droidsansfallback', 'unifont', 'ipag',
              'takao', 'uming')
_LATIN = ''.join(map(chr, range(32, 127)))
_NO_CHARACTER = '\U0010ffff'  # no font has a glyph for it
# Drawn right to left, or shaped by their neighbours: Pillow and matplotlib do so only with
# libraries that not everyone has.
_SHAPED = ('R', 'AL')


class Lettering(NamedTuple):
  """Texts as they are to be drawn, and the font that has every glyph of them.

  Attributes:
    texts: what is drawn; a text that the font cannot draw in Latin letters.
    path: file of the font; None is Pillow's own.
  """

  texts: list[str]
  path: str | None

  def font(self, size: float) -> PIL.ImageFont.FreeTypeFont:
    """The font at a size in pixels."""
    return _font(self.path, size)

  def fitted(self, text: str, size: float, width: float) -> PIL.ImageFont.FreeTypeFont:
    """The font at a size in pixels, or at the smaller one at which a text fits into a width."""
    font = self.font(size)
    while (length := font.getlength(text)) > width and size > 1:
      # Letters are whole pixels wide, so that a text shrinks by less than its size.
      size = max(1, size * min(width / length, 0.97))
      font = self.font(size)
    return font


def letter(texts: Sequence[str], *, instead: str = 'class {}') -> Lettering:
  """Chooses one font for texts that stand together.

  The first of these that draws the most of them: DejaVu Sans (Latin, Greek, Cyrillic; matplotlib
  brings it), a font of the system for Chinese, Japanese and Korean, Pillow's own (English alone).
  The other texts are transliterated to Latin letters, e.g. '道路' to 'DaoLu'. Line breaks become
  spaces; what has no width (joiners, variation selectors) is left out.

  Args:
    texts: any strings.
    instead: with the position of a text in it, for one of which nothing can be drawn.
  """
  texts = [_visible(text) for text in texts]
  best, most = None, -1
  for path in _candidates(all(text.isascii() for text in texts)):
    drawable = sum(can_draw(text, path) for text in texts)
    if drawable > most:
      best, most = path, drawable
    if most == len(texts):
      break
  return Lettering([_drawable(text, best) or (instead.format(i) if text else '')
                    for i, text in enumerate(texts)], best)


def can_draw(text: str, path: str | None) -> bool:
  """Whether a font (None is Pillow's own) has a glyph for every character of a text."""
  return all(_has_glyph(character, path) for character in set(text))


def _visible(text):
  """One line, composed, without characters that have no width of their own."""
  text = unicodedata.normalize('NFC', ' '.join(text.split()))
  hidden = lambda c: unicodedata.category(c) in ('Cf', 'Cc', 'Cs') or 0xFE00 <= ord(c) <= 0xFE0F
  return ''.join(character for character in text if not hidden(character))


def _drawable(text, path):
  if can_draw(text, path):
    return text
  latin = _visible(anyascii(text))
  return latin if any(character.isalnum() for character in latin) else ''


def _candidates(ascii_only):
  """Fonts in the order of preference; those of the system are looked for only where needed."""
  bundled = _bundled_font()
  if bundled:
    yield bundled
  if not ascii_only:
    yield from _system_fonts()
  yield None


@functools.cache
def _bundled_font():
  """DejaVu Sans of matplotlib, found without importing it; None where it is not installed."""
  found = importlib.util.find_spec('matplotlib')
  for folder in found.submodule_search_locations if found else ():
    path = pathlib.Path(folder) / 'mpl-data' / 'fonts' / 'ttf' / 'DejaVuSans.ttf'
    if path.exists():
      return str(path)
  return None


@functools.cache
def _system_fonts():
  """Files of the system's fonts for Chinese, Japanese and Korean, the best first."""
  if not importlib.util.find_spec('matplotlib'):
    return ()
  from matplotlib import font_manager  # slow to import; knows where every system keeps its fonts

  ranked = []
  for path in font_manager.findSystemFonts():
    name = ''.join(c for c in os.path.basename(path).lower() if c.isalnum())
    rank = next((i for i, part in enumerate(_CJK_FONTS) if part in name), None)
    if rank is not None and _writes_latin(path):
      # The upright one of normal weight before bold and light ones.
      ranked.append((rank, 'regular' not in name, len(name), path))
  return tuple(path for *_, path in sorted(ranked))


def _writes_latin(path):
  """Whether a font opens and has what transliterated texts are made of."""
  try:
    return can_draw(_LATIN, path)
  except OSError:  # a bitmap font, or a damaged file
    return False


@functools.lru_cache(maxsize=64)
def _font(path, size):
  if path is None:
    return PIL.ImageFont.load_default(size)
  # Not raqm, which not everyone has, and which fails on some characters.
  return PIL.ImageFont.truetype(path, size, layout_engine=PIL.ImageFont.Layout.BASIC)


@functools.lru_cache(maxsize=4096)
def _has_glyph(character, path):
  if character == ' ':
    return True
  if unicodedata.bidirectional(character) in _SHAPED or unicodedata.combining(character):
    return False
  mask, missing = (_font(path, 16).getmask(c) for c in (character, _NO_CHARACTER))
  return bytes(mask) != bytes(missing) or mask.size != missing.size
