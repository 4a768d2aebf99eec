"""The notebooks: what is committed is clean, and every cell of theirs runs."""

import base64
import importlib.util
import re
import types

import cv2
import nbclient
import nbformat
import numpy as np
import pytest
from IPython.core.inputtransformer2 import TransformerManager

from kdseg_jax import data
from tests import runs, shallow

FOLDER = runs.ROOT / 'experiments' / 'colab'
NOTEBOOKS = sorted(path.name for path in FOLDER.glob('*.ipynb'))


def read(name):
  return nbformat.read(FOLDER / name, as_version=4)


def execute(notebook, folder, **environment):
  """The notebook after all its cells were run in `folder`, as on a machine with one CPU device."""
  client = nbclient.NotebookClient(
      notebook, timeout=600, kernel_name='python3', coalesce_streams=True,
      resources={'metadata': {'path': str(folder)}})
  client.execute(env=runs.ENVIRONMENT | {'IPYTHONDIR': str(folder)} | environment)
  return notebook


def outputs(notebook):
  """Of every code cell, by its id: the kinds of its outputs, such as 'stdout' or 'image/png'."""
  kind = lambda output: output.get('name') or (
      'image/png' if 'image/png' in output.get('data', {}) else output.output_type)
  return {cell.id: [kind(output) for output in cell.outputs]
          for cell in notebook.cells if cell.cell_type == 'code'}


def printed(notebook, cell_id):
  (cell,) = [cell for cell in notebook.cells if cell.id == cell_id]
  return ''.join(output.text for output in cell.outputs if output.output_type == 'stream')


def picture(notebook, cell_id):
  """The picture that a cell shows, `(H, W, 3)` uint8."""
  (cell,) = [cell for cell in notebook.cells if cell.id == cell_id]
  (png,) = [output.data['image/png'] for output in cell.outputs if 'data' in output]
  return cv2.imdecode(np.frombuffer(base64.b64decode(png), np.uint8), cv2.IMREAD_COLOR)


@pytest.mark.parametrize('name', NOTEBOOKS)
def test_committed_notebooks_are_whole_small_and_free_of_traces_of_a_machine(name):
  notebook = read(name)
  nbformat.validate(notebook)
  text = (FOLDER / name).read_text()
  assert len(text) < 300_000
  assert str(runs.ROOT) not in text and 'site-packages' not in text
  kinds = sum(outputs(notebook).values(), [])
  assert 'image/png' in kinds and 'stdout' in kinds
  assert not {'stderr', 'error'} & set(kinds)
  code = [cell for cell in notebook.cells if cell.cell_type == 'code']
  assert [cell.execution_count for cell in code] == list(range(1, len(code) + 1))
  for cell in notebook.cells:
    assert not cell.metadata and not any('image/jpeg' in output.get('data', {})
                                         for output in cell.get('outputs', []))
  # It comes first, keeps to what a Colab has, and needs an address that only the user knows.
  assert "find_spec('kdseg_jax')" in code[0].source and '--no-deps' in code[0].source
  assert "ADDRESS = ''" in code[0].source


def install(name, address, monkeypatch):
  """Runs the first cell as where kdseg_jax is not installed; the arguments of its `%pip`s."""
  code = next(cell.source for cell in read(name).cells if cell.cell_type == 'code')
  calls = []
  shell = types.SimpleNamespace(run_line_magic=lambda magic, line, *_: calls.append((magic, line)))
  monkeypatch.setattr(importlib.util, 'find_spec', lambda package: None)
  code = TransformerManager().transform_cell(code.replace("ADDRESS = ''", f'ADDRESS = {address!r}'))
  exec(code, {'get_ipython': lambda: shell})
  return calls


@pytest.mark.parametrize('name', NOTEBOOKS)
def test_a_fresh_machine_asks_for_one_address_and_installs_from_it(name, monkeypatch):
  with pytest.raises(ValueError, match='kdseg_jax is not installed. Fill in ADDRESS'):
    install(name, '', monkeypatch)
  (magic, line), *more = install(name, 'https://host/kdseg_jax.whl', monkeypatch)
  assert magic == 'pip' and line.startswith('install --quiet --no-deps {ADDRESS}')
  installed = ' '.join([line, *(line for _, line in more)]).split()
  assert 'anyascii' in installed and not {'jax', 'flax', 'numpy'} & set(installed)


@pytest.mark.parametrize('name', NOTEBOOKS)
def test_an_installed_package_is_left_alone(name):
  code = next(cell.source for cell in read(name).cells if cell.cell_type == 'code')
  exec(TransformerManager().transform_cell(code), {})  # knows no %pip


@pytest.mark.slow
def test_distil_your_own_folder_runs_on_the_folder_that_it_makes(tmp_path, monkeypatch):
  monkeypatch.setenv('JUPYTER_DATA_DIR', str(tmp_path))
  name = 'distil_your_own_folder.ipynb'
  notebook = read(name)
  (imports,) = [cell for cell in notebook.cells if cell.id == 'imports']
  imports.source += f'\n{shallow.PRELUDE}'
  notebook = execute(notebook, tmp_path, KDSEG_SHORT='1')
  assert outputs(notebook) == outputs(read(name))

  assert '| train |     16 |' in printed(notebook, 'check')
  assert '0 problems.' in printed(notebook, 'check')
  methods = [re.search('2 steps, method (.*)', printed(notebook, cell)).group(1)
             for cell in ('teacher', 'student', 'distilled')]
  assert methods == ['none', 'none', 'pairwise+pixelwise']
  rows = [[cell.strip() for cell in line.strip('|').split('|')]
          for line in printed(notebook, 'evaluate').splitlines()]
  assert rows[0] == ['IoU on val, %', 'teacher', 'student', 'distilled']
  assert [row[0] for row in rows[2:]] == ['mean', *data.Scenes.classes]
  evaluations = {run: runs.rows(tmp_path / 'runs' / run)[-1] for run in rows[0][1:]}
  assert rows[2][1:] == [f'{100 * row["mean_iou"]:.1f}' for row in evaluations.values()]
  assert 'teacher_mean_iou' in evaluations['distilled']
  assert 'teacher_mean_iou' not in evaluations['student']
  for cell in ('look', 'picture'):
    assert picture(notebook, cell).std() > 20


SHORT = {'steps=1200)': 'steps=100)', 'steps=400)': 'steps=100)', 'size=8)': 'size=4)',
         "'train', 3000)": "'train', 600)"}


def in_short(notebook):
  """Of fewer steps: students learn of their teacher, and none of them tells digits yet."""
  text = nbformat.writes(notebook)
  for whole, short in SHORT.items():
    assert whole in text
    text = text.replace(whole, short)
  return nbformat.reads(text, as_version=4)


def results(notebook):
  """Of teacher, student and distilled student: mIoU in percent, and the two losses."""
  rows = [[cell.strip() for cell in line.strip('|').split('|')]
          for line in printed(notebook, 'results').splitlines()]
  assert [row[0] for row in rows[2:]] == ['teacher', 'student alone', 'distilled student']
  return [[float(row[column].rstrip(' %')) for row in rows[2:]] for column in (2, 3, 4)]


def combined(notebook):
  """Of every term of the combination: its value at the first and the last step."""
  return {name: (float(first), float(last)) for name, first, last in re.findall(
      r'\| (\S+) +\| +(\S+) \| +(\S+) \|', printed(notebook, 'combine'))}


@pytest.mark.slow
def test_losses_in_ten_minutes_runs_and_shows_what_it_says(tmp_path, monkeypatch):
  monkeypatch.setenv('JUPYTER_DATA_DIR', str(tmp_path))  # no kernels of the user's own
  name = 'losses_in_ten_minutes.ipynb'
  miou = results(read(name))[0]
  assert miou[0] > 25  # the teacher can tell digits apart: blind guesses reach 9
  assert miou[2] > miou[1]
  first, last = combined(read(name))['loss']
  assert last < first
  notebook = execute(in_short(read(name)), tmp_path)
  assert outputs(notebook) == outputs(read(name))  # in particular no warnings

  _, pixelwise, pairwise = results(notebook)
  assert pixelwise[0] == pairwise[0] == 0
  assert pixelwise[2] < pixelwise[1] and pairwise[2] < pairwise[1]

  by_hand, by_loss = re.fullmatch(
      r'by hand (.*), pairwise_affinity (.*)\n', printed(notebook, 'affinity-picture')).groups()
  assert float(by_hand) == pytest.approx(float(by_loss), rel=1e-3)
  heat_maps = picture(notebook, 'affinity-picture')
  assert heat_maps.shape[1] > 3 * heat_maps.shape[0] and heat_maps.std() > 20
  assert picture(notebook, 'predictions').std() > 20

  terms = combined(notebook)
  assert terms['pairwise/weighted'][0] == 0 < terms['pairwise/weighted'][1]  # its schedule
  assert terms['pixelwise/weighted'][0] == pytest.approx(10 * terms['pixelwise/raw'][0], abs=1e-3)
