"""The program `profile`: of all tasks, and what it refuses."""

import json

import pytest

from kdseg_jax import profile
from tests import runs
from tests.data import classified_sets

RECIPES = {
    'segmentation': ('quickstart.py', 'pixelwise+pairwise'),
    'classification': ('cifar.py', 'kd+review'),
    'detection': ('scenes_detection.py', 'crosskd'),
}


@pytest.mark.slow
@pytest.mark.parametrize('task', RECIPES)
def test_every_term_of_every_task_is_timed(task, capsys, monkeypatch, tmp_path):
  monkeypatch.chdir(runs.ROOT)
  recipe, method = RECIPES[task]
  data = []
  if task == 'classification':
    file = classified_sets.npz(tmp_path / 'a.npz', counts=(16, 9), classes=6, size=16)
    data, recipe = [f'--config.data.root={file}'], f'{recipe}:data=npz,'
  recipe = recipe if ':' in recipe else f'{recipe}:'
  own = tmp_path / 'teacher.py'
  own.write_text(f"""
from kdseg_jax import command_line
def get_config(arg=None):
  config = command_line.load_recipe('configs/{recipe}role=teacher,runlocal')
  config.data.root = {str(tmp_path / 'a.npz') if data else ''!r}
  return config
""")
  status, text = runs.run_here(
      capsys, profile.PROGRAM, f'--config=configs/{recipe}method={method},runlocal',
      f'--teacher={own}', f'--output={tmp_path / "out"}', '--repeats=1', *data)
  assert not status, text
  found = json.loads((tmp_path / 'out' / 'profile.json').read_text())
  terms = {'segmentation': {'pixelwise', 'pairwise'},
           'classification': {'kd', 'review'}, 'detection': {'crosskd'}}[task]
  assert terms | {'teacher', 'student forward', 'optimiser'} <= set(found['parts'])
  assert 'rest' in text and (tmp_path / 'out' / 'profile.md').read_text().strip() in text
  assert list((tmp_path / 'out' / 'trace').rglob('*.xplane.pb'))


@pytest.mark.parametrize('arguments,message', [
    ([], '--config is missing'),
    (['--config=configs/quickstart.py'], '--output is missing'),
    (['--config=configs/quickstart.py:method=kd', '--output=OUT'],
     'config.teacher.checkpoint is empty'),
    (['--config=configs/quickstart.py:method=kd', '--output=OUT', '--teacher=quickstart',
      '--config.teacher.checkpoint=there'], 'Leave one of them out'),
    (['--config=configs/quickstart.py', '--output=OUT', '--repeats=0'], 'repeats'),
    (['--config=configs/quickstart.py', '--output=OUT', 'stray'], "Unexpected argument 'stray'"),
])
def test_wrong_input_is_one_clear_error_and_leaves_nothing(
    arguments, message, capsys, monkeypatch, tmp_path):
  monkeypatch.chdir(runs.ROOT)
  out = tmp_path / 'out'
  status, output = runs.run_here(
      capsys, profile.PROGRAM, *(argument.replace('OUT', str(out)) for argument in arguments))
  assert status == 2 and message in output.partition('ERROR: ')[2]
  assert not out.exists()
