"""Which font draws which texts, and what is drawn where none has the glyphs."""

import string

import pytest
from fontTools.fontBuilder import FontBuilder
from fontTools.pens.ttGlyphPen import TTGlyphPen

from kdseg_jax import lettering


@pytest.fixture(autouse=True)
def no_fonts_of_this_system(monkeypatch):
  monkeypatch.setattr(lettering, '_system_fonts', lambda: ())


def save_font(path, characters):
  """A font that has these characters, each a bar of its own height, and a box for all others."""
  names = ['.notdef', *(f'u{ord(character)}' for character in characters)]
  glyphs = {}
  for i, name in enumerate(names):
    pen = TTGlyphPen(None)
    top = 8 * i or 900
    pen.moveTo((100, 0))
    for point in ((100, top), (900, top), (900, 0)):
      pen.lineTo(point)
    pen.closePath()
    glyphs[name] = pen.glyph()
  builder = FontBuilder(1000, isTTF=True)
  builder.setupGlyphOrder(names)
  builder.setupCharacterMap({ord(c): f'u{ord(c)}' for c in characters})
  builder.setupGlyf(glyphs)
  builder.setupHorizontalMetrics({name: (1000, 100) for name in names})
  builder.setupHorizontalHeader(ascent=1000, descent=0)
  builder.setupNameTable({'familyName': 'Bars', 'styleName': 'Regular'})
  builder.setupOS2()
  builder.setupPost()
  builder.save(path)
  return str(path)


@pytest.fixture
def chinese(tmp_path):
  """A font of the letters of English, '道' and '路'."""
  return save_font(tmp_path / 'NotoSansCJK-Regular.ttf', string.printable[:95] + '道路')


@pytest.mark.parametrize('text, width', [
    ('W' * 30, 60), ('W' * 30, 128), ('W' * 30, 288),
    ('a long name of a class: 75.0 % ' * 2, 128), ('a long name of a class: 75.0 % ' * 2, 288)])
def test_a_text_is_made_smaller_until_it_fits(text, width):
  lettered = lettering.letter([text])
  font = lettered.fitted(text, 15, width)
  assert 0.75 * width < font.getlength(text) <= width
  assert lettered.fitted('ab', 15, width).size == 15  # never larger
  assert lettered.fitted('', 15, width).size == 15 and lettered.fitted(text, 15, 0).size == 1


def test_coverage_is_that_of_the_fonts_character_map(chinese):
  from matplotlib import ft2font
  dejavu = lettering._bundled_font()
  for path in (dejavu, chinese):
    known = ft2font.FT2Font(path).get_charmap()
    for character in 'aZ|ßéЖΩ☃道路ไ√\ue000':
      assert lettering.can_draw(character, path) == (ord(character) in known), (path, character)
  assert lettering.can_draw('a b', dejavu) and not lettering.can_draw('a道', dejavu)
  assert lettering.can_draw('road', None) and not lettering.can_draw('Straße', None)


@pytest.mark.parametrize('text,drawn', [
    ('Straße Δρόμος дорога', 'Straße Δρόμος дорога'),  # DejaVu Sans has them
    ('e\u0301', 'é'),                  # composed
    ('道路', 'DaoLu'), ('도로', 'DoLo'), ('みち', 'michi'),
    ('طريق', 'tryq'),                  # right to left: not every machine can
    ('👨\u200d👩', ':man::woman:'), ('❤\ufe0f', '❤'),  # what has no width goes
    ('a\nb\tc', 'a b c'), ('', ''), ('$x$', '$x$'),
    ('\ue000', 'class 0'), ('\u0323', 'class 0')])    # nothing to transliterate
def test_what_is_drawn_of_a_text(text, drawn):
  lettered = lettering.letter([text])
  assert lettered.texts == [drawn]
  assert lettering.can_draw(drawn, lettered.path)


def test_texts_that_stand_together_share_the_font_that_draws_most_of_them(chinese, monkeypatch):
  monkeypatch.setattr(lettering, '_system_fonts', lambda: (chinese,))
  assert lettering.letter(['道路', 'road']) == (['道路', 'road'], chinese)
  assert lettering.letter(['道路', 'Straße', 'sky']).path == lettering._bundled_font()  # as many
  assert lettering.letter(['道路', '路', 'Straße']) == (['道路', '路', 'Strasse'], chinese)
  assert lettering.letter(['road']).path == lettering._bundled_font()


def test_fonts_of_the_system_are_found_by_name_and_damaged_ones_left_out(
    chinese, tmp_path, monkeypatch):
  monkeypatch.undo()
  black = save_font(tmp_path / 'NotoSansCJK-Black.ttf', string.printable[:95] + '道')
  no_latin = save_font(tmp_path / 'NotoSansSC.ttf', '道')
  other = save_font(tmp_path / 'Other.ttf', string.printable[:95])
  damaged = tmp_path / 'NotoSansCJK-Light.ttf'
  damaged.write_bytes(b'no font')
  from matplotlib import font_manager
  monkeypatch.setattr(font_manager, 'findSystemFonts',
                      lambda: [other, no_latin, black, str(damaged), chinese])
  assert lettering._system_fonts.__wrapped__() == (chinese, black)


def test_without_matplotlib_pillows_own_font_draws_english_and_the_rest_is_transliterated(
    monkeypatch):
  monkeypatch.setattr(lettering, '_bundled_font', lambda: None)
  assert lettering.letter(['road', 'Straße']) == (['road', 'Strasse'], None)
