"""`classes.txt`: the names of classes, and what else stands there: colours and a label map."""

from __future__ import annotations

import itertools
import pathlib
import re
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from kdseg_jax import names
from kdseg_jax.data import files, pairs, palettes
from kdseg_jax.errors import UserError

Color = tuple[int, int, int]

_MAP = 'labels:'
_FORM = ('Expected one name a line, in label order, optionally with a colour behind it ("road  '
         '#804080"), and before the names optionally "labels: 255=1" (stored value = class)')
_COLOR = re.compile(r'(?P<name>.*[^\s,:;])(\s|[,:;])\s*#(?P<color>[0-9a-fA-F]{6})')
_WRONG_COLOR = re.compile(r'.*\S\s+(?P<color>#[0-9a-fA-F]{3,8})')
_NUMBERS = r'(?P<color>\d{1,3}\s*[,;\s]\s*\d{1,3}\s*[,;\s]\s*\d{1,3})'
# Lines that other tools write: each would be taken for a name and shift those after it.
_FOREIGN = (
    (re.compile(r'__ignore__'), 'is no class but what LabelMe calls "ignore", which is 255 here. '
     'Delete the line; the labels must count from 0 at the line after it'),
    (re.compile(r'(#|//|;|%|--|<).*'),
     'is a comment or header of another tool, not a class. Delete the line'),
    (re.compile(rf'(?P<name>[^:]*\S)\s*:\s*{_NUMBERS}\s*(:.*)?'),
     'has its colour in the form of CVAT. Write "{name}  {color}"'),
    (re.compile(rf'(?P<name>.*[^,;\s])\s*[,;\s]\s*{_NUMBERS}'),
     'has its colour as numbers. Write "{name}  {color}"'),
    (re.compile(rf'{_NUMBERS}\s*[,;\s]\s*(?P<name>.*\S)'),
     'has its colour as numbers, before the name. Write "{name}  {color}"'),
    (re.compile(r'(names?|labels?|class(es)?|class[ _]?names?|ids?|idx|index|pixel value|value)'
                r'\s*([,;\t:=].*|\s+r\s+g\s+b.*)|r[,;\s]+g[,;\s]+b\b.*', re.IGNORECASE),
     'is a header of another tool, not a class. Delete the line'),
    (re.compile(r'[\[{].*|[\]}],?|- .*|".*",?|\'.*\',?|nc\s*:\s*\d+'),
     'is of a JSON or YAML file. Write the names alone'),
    (re.compile(rf'(?P<name>.*[^,:;\s])\s*\({_NUMBERS}\)'),
     'has its colour as numbers. Write "{name}  {color}"'),
    (re.compile(r'.*[^:\s]\s*(:[:\d,\s]*)?[:,;]'),
     'ends in the separators of another tool. Write the names alone'),
    (re.compile(r'[,:|].*'), 'begins with the separator of another tool. Write the names alone'),
    (re.compile(r'.*\S\s*=\s*\d+'), 'has a number behind "=". Write the names alone; where labels '
     'are stored as other numbers, "labels: <stored value>=<class>" before the names'),
)
# The first line of tables: of words such as these alone. One of them may be a class (a train, an
# object), but for those that a column of names has.
_HEADER_WORD = re.compile(
    r'(class|train|label|category|object)?(ids?|idx|index|indices|indexes|nos?|names?)|train'
    r'|class(es)?|labels?|categor(y|ies)|objects?|colou?rs?|rgb', re.IGNORECASE)
_NAME_COLUMN = re.compile(
    r'(class|label|category|object)?names?|class(es)?|labels?|categor(y|ies)', re.IGNORECASE)
_NEGATED = re.compile(r'no[ _]\w+', re.IGNORECASE)  # as a background is called: no object
_NUMBERED = (re.compile(r'(?P<number>\d{1,9})\s*(?P<mark>[:;,.=)\t]|\s)\s*(?P<name>\S.*)'),
             re.compile(r'(?P<name>.*[^:;,=\s])\s*(?P<mark>[:;,=\t]|\s)\s*(?P<number>\d{1,9})'))


class ClassList(NamedTuple):
  """The classes of a data set.

  Attributes:
    names: in label order.
    colors: of each class, or None for the default.
    label_map: meaning of the stored labels.
  """

  names: tuple[str, ...]
  colors: tuple[Color | None, ...]
  label_map: pairs.LabelMap

  @classmethod
  def plain(cls, names: Sequence[str]) -> ClassList:
    """Default colours, and stored labels that are class indices and 255 = ignore."""
    return cls(tuple(names), (None,) * len(names), pairs.LabelMap.identity(len(names)))

  @property
  def palette(self) -> np.ndarray:
    """`(C, 3)` uint8: own colours where given, else default ones that none of them equals."""
    default = [tuple(map(int, color)) for color in palettes.default_palette(len(self.names))]
    # There are enough: a default colour that is taken has left its class or that of its owner.
    free = [color for color, own in zip(default, self.colors, strict=True)
            if own is not None and color not in self.colors]
    return np.array([
        own or (color if color not in self.colors else free.pop(0))
        for color, own in zip(default, self.colors, strict=True)], np.uint8)


def read(path: pathlib.Path, *, least: int = 2) -> ClassList:
  """Reads a class list: one class a line, in label order.

  A line is a name, and optionally white space and a colour, `road  #804080`. Lines before the
  first name may be `labels: 255=1, 11=255`: the stored value 255 means class 1 and 11 is ignored;
  class indices and 255 that are not listed there mean themselves.

  Raises:
    UserError: names the line that is blank, repeats another, is that of another tool (their
      headers, comments and numbers would shift or spoil the names), or cannot be read; also where
      there are fewer than `least` or more than 255 classes.
  """
  lines = read_lines(path)
  entries: dict[int, int] = {}
  before = list(itertools.takewhile(lambda line: line.startswith(_MAP), lines))
  for line in before:
    _add_entries(entries, line, path)
  lines = lines[len(before):]
  _refuse_header(lines, f'{path}: line {len(before) + 1}')
  classes = [_parse(line, f'{path}: line {number}, {line!r},')
             for number, line in enumerate(lines, len(before) + 1)]
  _refuse_numbers([name for name, _ in classes], path)
  for what, values in (('name', [name for name, _ in classes]),
                       ('colour', [hexadecimal(color) for _, color in classes if color])):
    twice = next((value for i, value in enumerate(values) if value in values[:i]), None)
    if twice:
      raise UserError(f'{path}: two classes have the {what} {twice}; expected each once.')
  if not least <= len(classes) <= files.IGNORE_LABEL:
    raise UserError(f'{path}: names {len(classes)} classes; expected {least} to 255, one a '
                    'line.')
  return ClassList(tuple(name for name, _ in classes), tuple(color for _, color in classes),
                   _label_map(entries, len(classes), path))


def read_lines(path: pathlib.Path) -> list[str]:
  """The lines of a text file, without blank ones at its end; Unicode in its composed form.

  Raises:
    UserError: the file cannot be read, is empty, is not text, or a line is blank or a repetition.
  """
  try:
    lines = [line.strip() for line in
             names.composed(files.read_bytes(path).decode('utf-8-sig')).rstrip().splitlines()]
  except UnicodeDecodeError as error:
    raise UserError(f'{path}: is not UTF-8 text ({error}).') from error
  seen = {}
  for number, line in enumerate(lines, 1):
    if not line:
      raise UserError(f'{path}: line {number} is blank; expected a name on each line.')
    if line in seen:
      raise UserError(f'{path}: line {number} repeats line {seen[line]}, {line!r}; expected each '
                      'name once.')
    seen[line] = number
  if not lines:
    raise UserError(f'{path}: is empty; expected one name a line.')
  return lines


def hexadecimal(color: Sequence[int]) -> str:
  """A colour as `#rrggbb`."""
  return '#{:02x}{:02x}{:02x}'.format(*map(int, color))


def _parse(line, where):
  """Name and colour of a class; errors call it `where`."""
  if line.startswith(_MAP):
    raise UserError(f'{where} stands after a name; expected it before them.')
  for pattern, problem in _FOREIGN:
    found = pattern.fullmatch(line)
    if found:
      parts = found.groupdict()
      if 'color' in parts:
        numbers = [int(number) for number in re.findall(r'\d+', parts['color'])]
        if max(numbers) > 255:
          continue
        parts['color'] = hexadecimal(numbers)
      raise UserError(f'{where} {problem.format(**parts)}. {_FORM}.')
  found = _COLOR.fullmatch(line)
  if found:
    return found['name'], tuple(bytes.fromhex(found['color']))
  found = _WRONG_COLOR.fullmatch(line)
  if found:
    raise UserError(f'{where} has the colour {found["color"]}; expected #rrggbb, six digits.')
  return line, None


def _refuse_header(lines, where):
  """Refuses a list whose first line has the words of a table's header alone."""
  words = re.split(r'[\s_,;|]+', lines[0]) if lines else []
  if words and all(map(_HEADER_WORD.fullmatch, words)) and (
      _NAME_COLUMN.fullmatch(words[0]) if len(words) == 1 else not _NEGATED.fullmatch(lines[0])):
    raise UserError(f'{where}, {lines[0]!r}, is a header of another tool, not a class. Delete the '
                    f'line. {_FORM}.')


def _refuse_numbers(lines, path):
  """Refuses a list whose every line, or every one below a header, begins or ends with a number."""
  for pattern in _NUMBERED:
    found = [pattern.fullmatch(line) for line in lines]
    start = int(bool(found) and not found[0])
    found = found[start:]
    if len(found) > 1 and all(found) and _is_numbering(found, is_whole=not start):
      which = f'lines below {lines[0]!r}' if start else 'lines'
      raise UserError(
          f'{path}: its {which} are numbered, from {found[0]["number"]}; expected names alone, '
          f'such as {found[0]["name"]!r} for {lines[start]!r}: the first line is label 0, the next '
          '1, and so on. Other numbers go into a line before the names: labels: <stored value>='
          '<class>, ...')


def _is_numbering(found, *, is_whole):
  """Whether numbers are no part of names; "lane 1" and "lane 2" would be one without theirs."""
  numbers = [int(match['number']) for match in found]
  counts = numbers in ([*range(len(found))], [*range(1, len(found) + 1)])
  marked = all(match['mark'] in ':;,=)\t' for match in found)
  before = found[0].start('number') == 0
  if is_whole and (marked or counts and before):
    return True
  differ = len({match['name'] for match in found}) == len(found)
  return differ and (counts or marked or is_whole and before and numbers == sorted(numbers))


def _add_entries(entries, line, path):
  for item in line.removeprefix(_MAP).split(','):
    stored, equals, target = (part.strip() for part in item.partition('='))
    if not (equals and stored.isdecimal() and target.isdecimal()
            and max(len(stored), len(target)) <= 3 and max(int(stored), int(target)) <= 255):
      raise UserError(f'{path}: {line!r} holds {item.strip()!r}; expected <stored value>=<class>, '
                      'both 0 to 255, separated by commas, as in "labels: 255=1, 11=255".')
    if int(stored) in entries:
      raise UserError(f'{path}: {line!r}: the stored value {stored} has a meaning already.')
    entries[int(stored)] = int(target)


def _label_map(entries: Mapping[int, int], count, path):
  if not entries:
    return pairs.LabelMap.identity(count)
  wrong = sorted({target for target in entries.values()
                  if target >= count and target != files.IGNORE_LABEL})
  if wrong:
    raise UserError(f'{path}: {_MAP} maps to {", ".join(map(str, wrong))}, but the classes are 0 '
                    f'to {count - 1}, and 255 = ignore.')
  own = {index: index for index in (*range(count), files.IGNORE_LABEL)}
  listed = ', '.join(f'{stored}={target}' for stored, target in entries.items())
  return pairs.LabelMap(
      own | dict(entries),
      f'class indices 0 to {count - 1}, 255 = ignore, or {_MAP} {listed} of {path.name}')
