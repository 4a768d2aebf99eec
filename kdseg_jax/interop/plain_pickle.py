"""Pickles read as data: plain containers, and calls of the few functions that the reader names.

Not `pickle.Unpickler`, which imports, calls and sets what a file says: the opcodes are decoded by
`pickletools`, which runs nothing, and those of plain containers are carried out here. What a pickle
names is looked up in a table and never imported.
"""

from __future__ import annotations

import abc
import collections
import pickletools
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple, Protocol

from kdseg_jax.interop.file_errors import AGAIN, Refusal

_NEWEST_PROTOCOL = 5
_MOST_OPERATIONS = 20_000_000  # some hundred times those of a large model; about a minute
_VALUES = frozenset((
    'BININT', 'BININT1', 'BININT2', 'INT', 'LONG', 'LONG1', 'LONG4', 'BINFLOAT', 'BINUNICODE',
    'SHORT_BINUNICODE', 'BINUNICODE8', 'BINSTRING', 'SHORT_BINSTRING', 'BINBYTES',
    'SHORT_BINBYTES', 'BINBYTES8'))
_CONSTANTS = {'NONE': None, 'NEWTRUE': True, 'NEWFALSE': False, 'EMPTY_TUPLE': ()}
_EMPTY = {'EMPTY_LIST': list, 'EMPTY_DICT': dict}
_TUPLES = {'TUPLE1': 1, 'TUPLE2': 2, 'TUPLE3': 3}
_KEYS = (str, bytes, int, float, type(None))


class Function(NamedTuple):
  """What a pickle may call: `call` takes the arguments that the pickle gives."""

  name: str
  call: Callable[..., Any]


class Built(abc.ABC):
  """What a `Function` may return that the pickle then gives a state."""

  @abc.abstractmethod
  def build(self, state: Any) -> None:
    """Takes the state, which may be anything.

    Raises:
      Refusal: it is none of this kind.
    """


class Unread(Built):
  """Stands for an object beside the tensors, whose content does not matter; made by calls too."""

  def __init__(self, *parts: Any):
    del parts

  def build(self, state: Any) -> None:
    del state


class Stream(Protocol):
  """Where a pickle is read from; a read beyond the end returns what there is."""

  def read(self, count: int, /) -> bytes: ...

  def readline(self) -> bytes: ...

  def tell(self) -> int: ...


def load(
    stream: Stream, names: Mapping[str, Any] | None = None,
    persistent: Callable[[Any], Any] | None = None) -> Any:
  """Reads one pickle; the stream is left behind its end.

  Dicts, ordered dicts (without the attributes that a file gives them), lists, tuples, numbers,
  strings and bytes. Keys of dicts are strings, bytes or numbers.

  Args:
    stream: where it begins.
    names: what stands for each global, by 'module name'; only a `Function` can be called.
    persistent: makes an object of a persistent id, whose parts may be anything.

  Raises:
    Refusal: it is damaged, needs more than is said here, names another global, or has more than
      20 million operations.
  """
  machine = _Machine({'collections OrderedDict': ORDERED_DICT} | dict(names or {}), persistent)
  for number, (name, argument) in enumerate(_operations(stream)):
    if number == _MOST_OPERATIONS:
      raise Refusal(f'its pickle has over {_MOST_OPERATIONS} operations; expected a state dict.')
    if name == 'STOP':
      break
    machine.run(name, argument)
  return machine.pop()


def _ordered_dict(pairs=()):
  """Python 2 gave the pairs as an argument; later ones set them."""
  made = collections.OrderedDict()
  if not isinstance(pairs, list | tuple):
    raise _damaged('an ordered dict is made of no list')
  for pair in pairs:
    if not isinstance(pair, list | tuple) or len(pair) != 2:
      raise _damaged('an ordered dict is made of no pairs')
    made[_key(pair[0])] = pair[1]
  return made


ORDERED_DICT = Function('collections.OrderedDict', _ordered_dict)


class _Machine:
  """The stack and memo of one pickle."""

  def __init__(self, names, persistent):
    self._names, self._persistent = names, persistent
    self._stack, self._marks, self._memo = [], [], {}

  def run(self, name, argument):
    """Carries out one operation."""
    if name in _VALUES:
      self._stack.append(argument)
    elif name in _CONSTANTS:
      self._stack.append(_CONSTANTS[name])
    elif name in _EMPTY:
      self._stack.append(_EMPTY[name]())
    elif name in _TUPLES:
      self._stack.append(tuple(reversed([self.pop() for _ in range(_TUPLES[name])])))
    elif name in _OPERATIONS:
      _OPERATIONS[name](self, argument)
    else:
      raise Refusal(f'its pickle has the operation {name}, which no state dict needs. {_TRUSTED}')

  def pop(self):
    """Takes what is on top of the stack."""
    self._top()
    return self._stack.pop()

  def _top(self):
    if len(self._stack) <= (self._marks[-1] if self._marks else 0):
      raise _damaged('it takes more from its stack than there is')
    return self._stack[-1]

  def _since_mark(self):
    if not self._marks:
      raise _damaged('it has no mark')
    start = self._marks.pop()
    items = self._stack[start:]
    del self._stack[start:]
    return items

  def _protocol(self, number):
    if number > _NEWEST_PROTOCOL:
      raise Refusal(f'its pickle has protocol {number}; up to {_NEWEST_PROTOCOL} can be read.')

  def _pass(self, _):
    pass

  def _mark(self, _):
    self._marks.append(len(self._stack))

  def _pop_mark(self, _):
    self._since_mark()

  def _pop(self, _):
    self.pop()

  def _tuple(self, _):
    self._stack.append(tuple(self._since_mark()))

  def _append(self, _):
    item = self.pop()
    self._extend([item])

  def _appends(self, _):
    self._extend(self._since_mark())

  def _extend(self, items):
    if not isinstance(self._top(), list):
      raise _damaged('it appends to no list')
    self._top().extend(items)

  def _set_item(self, _):
    value, key = self.pop(), self.pop()
    self._update([key, value])

  def _set_items(self, _):
    self._update(self._since_mark())

  def _update(self, items):
    if not isinstance(self._top(), dict) or len(items) % 2:
      raise _damaged('it sets items of no dict')
    for key, value in zip(items[::2], items[1::2]):
      self._top()[_key(key)] = value

  def _put(self, place):
    self._memo[place] = self._top()

  def _memoize(self, _):
    self._memo[len(self._memo)] = self._top()

  def _get(self, place):
    if place not in self._memo:
      raise _damaged(f'it takes what it did not put at {place}')
    self._stack.append(self._memo[place])

  def _global(self, name):
    if name not in self._names:
      raise Refusal(f'names {ascii(".".join(name.split(" ")))[1:-1]:.200}, which no state dict '
                    f'needs, and nothing that a file names is run. {_TRUSTED}')
    self._stack.append(self._names[name])

  def _stack_global(self, _):
    name, module = self.pop(), self.pop()
    if not isinstance(name, str) or not isinstance(module, str):
      raise _damaged('a name is no string')
    self._global(f'{module} {name}')

  def _reduce(self, _):
    arguments, function = self.pop(), self.pop()
    if not isinstance(function, Function) or not isinstance(arguments, tuple):
      raise Refusal(f'its pickle calls what is no function of a state dict. {_TRUSTED}')
    try:
      self._stack.append(function.call(*arguments))
    except TypeError as error:
      raise _damaged(f'{function.name} has other arguments than it takes') from error

  def _new_object(self, _):
    self._reduce(None)
    if not isinstance(self._top(), Unread):
      raise Refusal(f'its pickle has the operation NEWOBJ, which no state dict needs. {_TRUSTED}')

  def _build(self, _):
    """State dicts have the attribute `_metadata`, which says nothing of their tensors."""
    state = self.pop()
    if isinstance(self._top(), Built):
      self._top().build(state)
      return
    if not isinstance(self._top(), collections.OrderedDict) or not isinstance(state, dict):
      raise Refusal(f'its pickle sets attributes of what is no state dict. {_TRUSTED}')

  def _persistent_id(self, _):
    if self._persistent is None:
      raise _damaged('it has a persistent id where none is expected')
    self._stack.append(self._persistent(self.pop()))


_OPERATIONS = {
    'PROTO': _Machine._protocol, 'FRAME': _Machine._pass, 'MARK': _Machine._mark,
    'POP': _Machine._pop, 'POP_MARK': _Machine._pop_mark, 'TUPLE': _Machine._tuple,
    'APPEND': _Machine._append, 'APPENDS': _Machine._appends, 'SETITEM': _Machine._set_item,
    'SETITEMS': _Machine._set_items, 'BINPUT': _Machine._put, 'LONG_BINPUT': _Machine._put,
    'MEMOIZE': _Machine._memoize, 'BINGET': _Machine._get, 'LONG_BINGET': _Machine._get,
    'GLOBAL': _Machine._global, 'STACK_GLOBAL': _Machine._stack_global,
    'REDUCE': _Machine._reduce, 'NEWOBJ': _Machine._new_object, 'BUILD': _Machine._build,
    'BINPERSID': _Machine._persistent_id}
_TRUSTED = (
    'If you trust the file, open it with PyTorch and save the tensors alone: '
    'torch.save(model.state_dict(), ...).')


def _operations(stream: Stream) -> Iterator[tuple[str, Any]]:
  try:
    for opcode, argument, _ in pickletools.genops(stream):
      yield opcode.name, argument
  except ValueError as error:
    raise _damaged(f'{error!s:.200}') from error


def _key(key):
  if not isinstance(key, _KEYS):  # tuples could be nested deeper than hashing them can follow
    raise Refusal(f'a dict has a key of type {type(key).__name__}; expected names or numbers.')
  return key


def _damaged(what):
  return Refusal(f'its pickle cannot be read: {what}. {AGAIN}')
