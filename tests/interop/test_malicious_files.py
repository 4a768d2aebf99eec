"""Files of torch.save that would run something: refused by its name, and not run."""

import collections
import functools
import os
import pathlib
import pickle

import numpy as np
import pytest

from kdseg_jax.interop import torch_files
from tests.interop import torch_writer as writer

SMALL = {'state_dict': writer.state_dict(w=np.zeros((2, 3), np.float32)), 'epoch': 3}
effects = []


def act(what):
  """What a malicious file calls."""
  effects.append(what)


@pytest.fixture
def reader():
  return torch_files.read


class Malice:
  """Pickles as the call of a function."""

  def __init__(self, function, *arguments):
    self.function, self.arguments = function, arguments

  def __reduce__(self):
    return self.function, self.arguments


def attacks(marker):
  """Payloads, each of which does something when pickle loads it."""
  write = f'open({str(marker)!r}, "w").close()'
  return {
      'posix.system': Malice(os.system, f'touch {marker}'),
      'builtin.*eval': Malice(eval, write), 'builtin.*exec': Malice(exec, write),
      'io.open': Malice(open, str(marker), 'w'),
      'functools.partial': Malice(functools.partial(act), 'partial'),
      'test_malicious_files.act': Malice(act, 'called'),
      'pathlib.Path.touch': Malice(pathlib.Path.touch, pathlib.PurePosixPath(marker))}


@pytest.mark.parametrize('place', ['root', 'tensor', 'attribute', 'argument'])
@pytest.mark.parametrize('name', list(attacks('')))
@pytest.mark.parametrize('form', writer.FORMS)
def test_calls_are_refused_by_name_and_not_run(form, name, place, refused, tmp_path):
  marker = tmp_path / 'marker'
  payload = attacks(marker)[name]
  tree = {
      'root': payload, 'tensor': collections.OrderedDict(w=payload),
      'argument': writer.Call(writer.Global('torch', 'Size'), payload)}.get(place)
  if place == 'attribute':
    tree = writer.state_dict()
    tree._metadata = payload
  for protocol in (2, 4):
    if name == 'pathlib.Path.touch' and protocol == 2:
      continue  # is written there as a call of getattr
    shown = name.replace('pathlib.', 'pathlib.*')  # of pathlib._local since Python 3.13
    refused(writer.FORMS[form](tree, protocol), f'names .*{shown}.*nothing that a file names')
  assert not marker.exists() and not effects


def test_the_attacks_above_would_work(tmp_path):
  for number, name in enumerate(('posix.system', 'builtin.*eval', 'builtin.*exec', 'io.open')):
    marker = tmp_path / str(number)
    pickle.loads(pickle.dumps(attacks(marker)[name]))
    assert marker.exists()
  pickle.loads(pickle.dumps(attacks('')['test_malicious_files.act']))
  assert effects.pop() == 'called' and not effects


@pytest.mark.parametrize('part', ['system', 'keys'])
def test_the_other_pickles_of_an_old_file_are_not_run_either(part, refused, tmp_path):
  marker = tmp_path / 'marker'
  content = writer.legacy(SMALL, **{part: Malice(os.system, f'touch {marker}')})
  refused(content, 'names posix.system')
  assert not marker.exists()


@pytest.mark.parametrize(('module', 'name'), [
    ('torch._utils', '_rebuild_tensor_v2.__globals__'), ('collections', 'OrderedDict.fromkeys'),
    ('torch', 'FloatStorage.__reduce__'), ('torch', 'load'), ('torch.nn', 'Linear'),
    ('', ''), ('torch Size', ''), ('a' * 10_000, 'b')])
@pytest.mark.parametrize('protocol', [2, 4])
def test_other_names_are_refused(protocol, module, name, refused):
  refused(writer.zipped([writer.Global(module, name)], protocol), 'nothing that a file names')
