"""docs/your_own_method.md: its files are written, its commands run in small, its code executed."""

import importlib
import json
import os
import re
import shlex
import sys

import pytest

from kdseg_jax import cli, models, references
from tests import runs, toys

PAGE = (runs.ROOT / 'docs' / 'your_own_method.md').read_text()


def blocks(language):
  return re.findall(rf'^```{language}\n(.*?)^```', PAGE, re.M | re.S)


@pytest.fixture
def folder(tmp_path, monkeypatch):
  """The reader's folder with the files of the page; models of ours are toys."""
  monkeypatch.chdir(tmp_path)
  monkeypatch.syspath_prepend(str(tmp_path))
  (tmp_path / 'mylab').mkdir()
  (tmp_path / 'mylab' / '__init__.py').touch()
  for block in blocks('python'):
    if block.startswith('# '):
      (tmp_path / block.splitlines()[0].removeprefix('# ')).write_text(block)
  create = models.create
  monkeypatch.setattr(models, 'create', lambda name, num_classes, axis_name, **fields: (
      create(name, num_classes, axis_name=axis_name, **fields) if references.is_reference(name)
      else toys.Model(num_classes, axis_name)))
  yield tmp_path
  for name in [name for name in sys.modules if name.partition('.')[0] == 'mylab']:
    del sys.modules[name]


def in_small(argument):
  """A recipe with `runlocal`."""
  if not argument.startswith('--config=') or 'runlocal' in argument:
    return argument
  return f'{argument}{"," if ":" in argument else ":"}runlocal'


@pytest.mark.slow
def test_every_file_command_and_block_of_the_page_works(folder, capsys):
  commands = [shlex.split(line, comments=True) for block in blocks('bash')
              for line in block.replace('\\\n', ' ').splitlines()]
  assert len(commands) == 6
  for _, program, *arguments in commands:
    module = importlib.import_module(cli.module_of(program))
    status, text = runs.run_here(capsys, module.PROGRAM, *map(in_small, arguments))
    assert not status, (program, arguments, text)
  distill = json.loads((folder / 'runs/mine/config.json').read_text())['distill']
  assert distill['my_term'] == {
      'factory': 'mylab.losses:my_term', 'weight': 0.5, 'warmup_steps': 0, 'power': 2.0}
  row = runs.rows('runs/mine')[0]
  assert row['distill/my_term/weighted'] == pytest.approx(0.5 * row['distill/my_term/raw'])
  report = (folder / 'runs/my_study/report.md').read_text()
  assert '| mine' in report and 'difference' in report and 'seeds' in report
  assert os.path.isdir('runs/my_study/students/mine/seed1')
  names = {}
  for block in blocks('python'):
    if not block.startswith('# '):
      exec(compile(block, 'your_own_method.md', 'exec'), names)
  assert names['model'].module.features == 16 and names['model'].classes == ('left', 'right')


def test_it_takes_about_thirty_lines():
  loss, study = blocks('python')[:2]
  lines = [line for line in (loss + study).splitlines() if line and not line.startswith('#')]
  assert len(lines) <= 32, len(lines)
