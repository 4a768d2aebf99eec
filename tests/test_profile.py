"""The program `profile`: of all tasks, and what it refuses."""

import json

import jax
import pytest

from kdseg_jax import profile
from kdseg_jax.parallel import Costs
from kdseg_jax.training import profiling, shapes, trace
from tests import runs, toys
from tests.data import classified_sets

pytestmark = pytest.mark.usefixtures('one_device', 'shallow_models')

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


# Numbers that are easily told apart: of a step of 0.2 s, whose parts take 0.05 and 0.1 s.
MEASURED = profiling.Profile(
    input=profiling.Timing(0.003, (0.002, 0.004)),
    parts={'teacher': profiling.Timing(0.05, (0.04, 0.06), Costs(3e9, 5e9, 7 * 10**9)),
           'kd': profiling.Timing(0.1, (0.09, 0.11), Costs(1e7, 2e7, 3 * 10**7))},
    step=profiling.Timing(0.2, (0.19, 0.21), Costs(4e9, 6e9, 8 * 10**9)),
    operations=[trace.Operation('product', 0.3, 12.0), trace.Operation('copy', 0.1, 3.5)])
ROWS = [
    ['part', 'ms', 'quartiles', 'of the step', 'GFLOP', 'GB moved', 'peak GB'],
    ['input', '3.0', '2.0-4.0', '2%', '', '', ''],
    ['teacher', '50.0', '40.0-60.0', '25%', '3.00', '5.00', '7.00'],
    ['kd', '100.0', '90.0-110.0', '50%', '0.01', '0.02', '0.03'],
    ['rest', '50.0', '', '25%', '', '', ''],
    ['whole step', '200.0', '190.0-210.0', '100%', '4.00', '6.00', '8.00'],
    ['operations of the step', 'ms, all threads', 'share', 'count'],
    ['product', '300.0', '75%', '12'], ['copy', '100.0', '25%', '4']]


@pytest.fixture
def measured(monkeypatch):
  """What is checked, and then asked to be measured; nothing is."""
  asked = []
  monkeypatch.chdir(runs.ROOT)
  toys.replace_models(monkeypatch)
  monkeypatch.setattr(shapes, 'check_step', asked.append)
  monkeypatch.setattr(profiling, 'measure', lambda *given, **options: (
      asked.append((*given, options)), MEASURED)[1])
  return asked


def test_what_was_measured_is_shown_and_written(measured, tmp_path, capsys):
  status, text = runs.run_here(
      capsys, profile.PROGRAM, '--config=configs/quickstart.py:runlocal', f'--output={tmp_path}',
      '--repeats=3', '--allow_imports=mine,yours.x')
  assert not status, text
  checked, (built, options) = measured
  assert checked is built and {'mine', 'yours.x'} <= {*built.allow_imports}
  assert options == {'repeats': 3, 'trace_folder': f'{tmp_path}/trace'} and built.teacher is None
  rows = [[cell.strip() for cell in line.split('|')[1:-1]] for line in text.splitlines()
          if line.startswith('| ')]
  assert rows == ROWS
  assert '\n40.0 images/s.\n' in text  # eight in a step
  written = (tmp_path / 'profile.md').read_text()
  assert written in text and 'timed in turns' in written
  timing = lambda seconds, quartiles, *costs: {
      'seconds': seconds, 'quartiles': list(quartiles),
      **dict(zip(('flops', 'bytes', 'peak_bytes'), costs))}
  assert json.loads((tmp_path / 'profile.json').read_text()) == {
      'input': timing(0.003, (0.002, 0.004)), 'rest': pytest.approx(0.05),
      'whole step': timing(0.2, (0.19, 0.21), 4e9, 6e9, 8e9), 'parts': {
          'teacher': timing(0.05, (0.04, 0.06), 3e9, 5e9, 7e9),
          'kd': timing(0.1, (0.09, 0.11), 1e7, 2e7, 3e7)},
      'operations': [{'kind': 'product', 'seconds': 0.3, 'count': 12.0},
                     {'kind': 'copy', 'seconds': 0.1, 'count': 3.5}]}


@pytest.mark.parametrize('named', [True, False])
def test_a_teacher_that_is_not_there_has_random_weights(named, measured, tmp_path, capsys):
  """Of the recipe that is named, else of the one that the config would train first."""
  teacher = tmp_path / 'teacher.py'
  teacher.write_text(
      'from kdseg_jax.recipes import quickstart\ndef get_config(arg=None):\n'
      '  config = quickstart.get_config("role=teacher,runlocal")\n  config.seed = 7\n'
      '  return config\n')
  student = tmp_path / 'student.py'
  student.write_text(teacher.read_text().replace('role=teacher', 'method=kd').replace(
      '  return', f'  config.teacher.config = {{}}\n  if {not named}:\n'
      '    from kdseg_jax.recipes import common\n'
      '    teacher = quickstart.get_config("role=teacher,runlocal")\n    teacher.seed = 9\n'
      '    common.own_teacher(config, teacher)\n  return'))
  status, text = runs.run_here(
      capsys, profile.PROGRAM, f'--config={student}', f'--output={tmp_path / "out"}',
      *[f'--teacher={teacher}'] * named)
  assert not status, text
  _, (built, _) = measured
  assert built.teacher.config.seed == (7 if named else 9)
  assert jax.tree.leaves(built.teacher.variables) and [*built.config.distill] == ['kd']
