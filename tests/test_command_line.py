"""The command line: recipes, overrides, paths, help; programs beside each other in one process."""

import errno
import importlib
import os
import re
import signal
import subprocess
import sys

import pytest
from absl import flags

import kdseg_jax
from kdseg_jax import cli, command_line, paths, program
from kdseg_jax.errors import UserError
from kdseg_jax.training.preemption import StopSignal
from tests import runs, workdirs

QUICKSTART = '--config=configs/quickstart.py:runlocal'


def module_of(name):
  return importlib.import_module(cli.module_of(name))


def parsed(*arguments, name='train'):
  start = module_of(name).PROGRAM
  return command_line.parse(['program', *arguments], start._define_flags, start.config)


@pytest.fixture(autouse=True)
def in_the_checkout(monkeypatch):
  monkeypatch.chdir(runs.ROOT)


def test_all_programs_live_in_one_process_and_run_one_after_the_other(capsys, tmp_path):
  for name in cli.PROGRAMS:
    start = module_of(name).PROGRAM
    start._define_flags(flags.FlagValues())  # none is defined twice
    assert not {'workdir', 'split', 'best', 'json', 'layout'} & set(flags.FLAGS)
  check = module_of('data.check').PROGRAM
  assert runs.run_here(capsys, check, tmp_path, '--layout=camvid')[0] == 2
  train = module_of('train').PROGRAM
  for steps in (3, 4):
    status, output = runs.run_here(
        capsys, train, QUICKSTART, f'--config.train.steps={steps}', '--print_config')
    assert status == 0 and f'config.train.steps={steps}\n' in output
  assert 'config.train.steps=2\n' in runs.run_here(capsys, train, QUICKSTART, '--print_config')[1]


def test_print_config_shows_every_field_sorted_with_overrides_and_does_nothing(capsys, tmp_path):
  status, output = runs.run_here(
      capsys, module_of('train').PROGRAM, '--config.optimizer.learning_rate=0.5', QUICKSTART,
      '--config.augmentation.crop=(48,32)', '--noconfig.student.aux', '--print_config',
      f'--workdir={tmp_path / "work"}')
  lines = output.splitlines()
  assert status == 0 and lines == sorted(lines)
  assert all(line.startswith('config.') and '=' in line for line in lines)
  assert {'config.optimizer.learning_rate=0.5', 'config.augmentation.crop=(48, 32)',
          'config.student.aux=False', "config.data.name='scenes'"} <= set(lines)
  assert not (tmp_path / 'work').exists()


@pytest.mark.parametrize('name', cli.PROGRAMS)
def test_help_is_short_and_explains_every_option_of_the_program(name, capsys):
  start = module_of(name).PROGRAM
  status, output = runs.run_here(capsys, start, '--help')
  own = flags.FlagValues()
  start.define_flags(own)
  assert status == 0 and len(output.splitlines()) <= 40
  assert max(map(len, output.splitlines())) <= 104
  words = ' '.join(output.split())
  assert re.findall(r'^  --(\w+) ', output, re.M) == [
      *['config'] * (start.config is not None), *own]  # what all have is named below alone
  for flag in own:
    assert f'\n  --{flag} ' in output, flag
    assert ' '.join(own[flag].help.replace('|', ' | ').split()) in words, flag
  assert output.startswith(module_of(name).__doc__.splitlines()[0])
  assert ('default: the config of --workdir' in words) == (start.config == 'saved')
  assert '--helpfull' in output and ('--print_config' in output) == (start.config is not None)
  assert '--verbosity' not in output
  assert '--verbosity' in runs.run_here(capsys, start, '--helpfull')[1]


@pytest.mark.parametrize('name', ['evaluate', 'predict'])
def test_fields_of_a_trained_model_are_refused(name, tmp_path):
  """They would change nothing: a comparison of strides would find none to matter."""
  workdirs.save(tmp_path, workdirs.config_of())
  for override in ('--config.student.output_stride=16', '--noconfig.student.aux'):
    with pytest.raises(UserError, match=r'config.student.\w+: has no effect.* that of the check'):
      parsed(f'--workdir={tmp_path}', override, name=name)
  options, _ = parsed(f'--workdir={tmp_path}', '--config.eval.limit=3', name=name)
  assert options.config.eval.limit == 3


# Other values than None: what is permitted only where it is asked for, and what is left out.
_OF_A_RUN = {'workdir': None, 'allow_class_names': False, 'allow_imports': []}
DEFAULTS = {
    'quickstart': _OF_A_RUN | {'runlocal': False},
    'train': _OF_A_RUN,
    'study': _OF_A_RUN,
    'evaluate': _OF_A_RUN | {'best': False} | dict.fromkeys(
        ('split', 'data_root', 'json', 'confusion', 'precision', 'conflict')),
    'predict': _OF_A_RUN | {'compare': [], 'affinity_at': [], 'legend': True, 'best': False}
    | dict.fromkeys(('output', 'split', 'exported')),
    'profile': {'output': None, 'teacher': None, 'repeats': 10, 'allow_imports': []},
    'export': {'best': False, 'platforms': ['cpu', 'cuda', 'tpu'], 'allow_imports': []}
    | dict.fromkeys(('workdir', 'output', 'format', 'size', 'scheme', 'push_to')),
    'import': {'allow_head_mismatch': False} | dict.fromkeys(
        ('workdir', 'source', 'model', 'data', 'num_classes', 'scheme', 'mean', 'std',
         'channel_order')),
    'data.check': {'layout': 'folder'},
    'data.prepare': {'manual_dir': None, 'data_dir': None, 'allow_partial': False}}


@pytest.mark.parametrize('name', cli.PROGRAMS)
def test_the_defaults_of_options_are_these(name):
  start, options = module_of(name).PROGRAM, flags.FlagValues()
  start._define_flags(options)
  assert {option: options[option].default for option in options} == DEFAULTS[name] | {
      option: False for option in program.SHARED if option in options}


def test_kdseg_lists_its_programs_without_importing_them():
  code = ('import sys; from kdseg_jax import cli; sys.argv = ["kdseg", "--help"]; cli.main(); '
          'assert "jax" not in sys.modules and "absl" not in sys.modules')
  output = subprocess.run([sys.executable, '-c', code], cwd=runs.ROOT, check=True, text=True,
                          capture_output=True).stdout
  assert all(f'\n  {name} ' in output for name in cli.PROGRAMS)
  assert len(output.splitlines()) <= 12


def test_kdseg_runs_the_named_program_and_refuses_others(capsys, monkeypatch):
  monkeypatch.setattr(sys, 'argv', ['kdseg', 'train', QUICKSTART, '--print_config'])
  monkeypatch.setattr(sys, 'path', list(sys.path))
  with pytest.raises(SystemExit) as error:
    cli.main()
  assert error.value.code == 0 and 'config.train.steps=2' in capsys.readouterr().out
  assert sys.argv == ['kdseg train', QUICKSTART, '--print_config']  # as its report shows it
  monkeypatch.setattr(sys, 'argv', ['kdseg', 'trian'])
  with pytest.raises(SystemExit) as error:
    cli.main()
  assert error.value.code == 2 and "Did you mean 'train'?" in capsys.readouterr().err


@pytest.mark.parametrize('arguments', [[], ['--help'], ['-h'], ['help'], ['--version']])
def test_kdseg_says_what_it_is(arguments, capsys, monkeypatch):
  monkeypatch.setattr(sys, 'argv', ['kdseg', *arguments])
  assert cli.main() is None
  output = capsys.readouterr().out
  if arguments == ['--version']:
    assert output == f'kdseg_jax {kdseg_jax.__version__}\n'
  else:
    assert output.startswith('usage: kdseg <program> [options]')


def test_kdseg_imports_from_the_current_folder_after_all_others(monkeypatch, tmp_path):
  """What `python -m` does, but for files there that are called as modules of Python."""
  monkeypatch.setattr(sys, 'argv', ['kdseg', 'import', '--help'])
  monkeypatch.setattr(sys, 'path', list(sys.path))
  monkeypatch.chdir(tmp_path)
  with pytest.raises(SystemExit) as error:
    cli.main()
  assert error.value.code == 0 and sys.path[-1] == str(tmp_path)


@pytest.mark.parametrize('arguments, asked', [
    (['--help'], True), (['-help'], True), (['-h'], True), (['--helpshort'], True),
    (['x.png', '--helpfull'], True), (['help'], False), (['--', '--help'], False),
    (['--helpless'], False)])
def test_who_asks_for_help(arguments, asked):
  assert command_line.wants_help(['program', *arguments]) == asked


def test_the_last_recipe_counts_however_it_is_written():
  for arguments in ([QUICKSTART], ['--config', QUICKSTART.removeprefix('--config=')],
                    ['--config=nowhere.py', QUICKSTART], ['-config', 'x', QUICKSTART]):
    assert parsed(*arguments)[0].config.train.steps == 2
  assert parsed(QUICKSTART, '--', '--config=nowhere.py')[1] == ['--config=nowhere.py']
  assert parsed(QUICKSTART, 'a', '--config.train.steps=3', 'b')[1] == ['a', 'b']


def test_the_text_after_the_colon_is_the_argument_of_the_recipe(tmp_path):
  own = recipe(tmp_path, (
      'from ml_collections import ConfigDict\n'
      'def get_config(arg="nothing"):\n  return ConfigDict({"said": arg})'))
  path = own.removeprefix('--config=')
  for text, said in (('', 'nothing'), (':', ''), (':a=b:c,d', 'a=b:c,d')):
    assert command_line.load_recipe(path + text).said == said


def test_the_home_folder_is_expanded_in_every_path(monkeypatch, tmp_path):
  monkeypatch.setenv('HOME', str(tmp_path))
  options, _ = parsed(
      QUICKSTART, '--workdir=~/work', *(f'--config.{field}=~/{field}'
                                        for field in paths.CONFIG_FIELDS))
  assert options.workdir == f'{tmp_path}/work'
  assert options.config.data.root == f'{tmp_path}/data.root'
  assert options.config.teacher.checkpoint == f'{tmp_path}/teacher.checkpoint'
  assert options.config.student.init == f'{tmp_path}/student.init'
  for name, names in (('evaluate', ('data_root', 'json', 'confusion')), ('predict', ('output',)),
                      ('data.prepare', ('manual_dir', 'data_dir'))):
    options, _ = parsed(*(f'--{option}=~/x' for option in names), name=name)
    for option in names:
      assert options[option].value == f'{tmp_path}/x', option
  (tmp_path / 'run').mkdir()
  (tmp_path / 'run' / 'config.json').write_text('{}')
  assert program.named_workdirs(f'{tmp_path}/run', ['mine=~/run']) == {'mine': f'{tmp_path}/run'}


@pytest.mark.parametrize('argument', [
    '--workdir=gs://bucket/run', '--workdir=s3://bucket/run', '--config.data.root=gs://bucket/x',
    '--config.teacher.checkpoint=s3://bucket/x', '--config.student.init=https://host/x',
    '--workdir=gs:/bucket/run', '--workdir=~nobody_of_this_name/x',
    '--config=gs://bucket/recipe.py'])
def test_addresses_are_refused_before_anything_is_made(argument, monkeypatch, tmp_path):
  monkeypatch.chdir(tmp_path)
  with pytest.raises(UserError, match='is an address|no such user'):
    parsed(f'--config={runs.ROOT}/configs/quickstart.py', argument)
  assert not list(tmp_path.iterdir())


def recipe(tmp_path, text):
  (tmp_path / 'own.py').write_text(text)
  return f'--config={tmp_path / "own.py"}'


def test_a_bug_of_a_recipe_keeps_its_traceback_and_a_wrong_argument_is_a_message(
    tmp_path, capsys):
  start = module_of('train').PROGRAM
  for error in (ValueError, KeyError, AttributeError, TypeError):
    with pytest.raises(error, match='bug'):
      start.run(['train', recipe(
          tmp_path, f'def get_config(arg=None):\n  raise {error.__name__}("bug")')])
  status, output = runs.run_here(capsys, start, recipe(
      tmp_path, 'from kdseg_jax.errors import UserError\ndef get_config(arg=None):\n'
      '  raise UserError("the argument")'))
  assert status == 2 and output == 'ERROR: the argument\n'


@pytest.mark.parametrize('text, message', [
    ('x = 1', 'own.py: is no recipe: it defines no function get_config'),
    ('from ml_collections import ConfigDict\nget_config = ConfigDict()', 'own.py: is no recipe'),
    ('def get_config(arg=None): return 3', 'get_config returned int; expected a ConfigDict'),
    ('def get_config(:', 'own.py:1: ')])
def test_a_file_that_is_no_recipe_is_a_message(text, message, tmp_path):
  with pytest.raises(UserError, match=message):
    parsed(recipe(tmp_path, text))


def test_a_syntax_error_of_what_a_recipe_imports_keeps_its_traceback(tmp_path, monkeypatch):
  (tmp_path / 'unfinished.py').write_text('x = (')
  monkeypatch.syspath_prepend(str(tmp_path))
  with pytest.raises(SyntaxError) as error:
    parsed(recipe(tmp_path, 'import unfinished\ndef get_config(arg=None): pass'))
  assert error.value.filename == str(tmp_path / 'unfinished.py')


def test_recipes_of_the_package_go_by_their_names(monkeypatch, tmp_path):
  monkeypatch.setattr(command_line, 'RECIPES', tmp_path)
  (tmp_path / 'camvid.py').write_text('')
  assert command_line.find_recipe('camvid') == str(tmp_path / 'camvid.py')
  monkeypatch.chdir(tmp_path)
  (tmp_path / 'file.py').write_text('')
  assert command_line.find_recipe('file.py') == 'file.py'  # a path that exists comes first
  for name in ('camvit', 'configs/camvit.py'):
    with pytest.raises(FileNotFoundError, match="no such file. Did you mean 'camvid'"):
      command_line.find_recipe(name)
  with pytest.raises(UserError, match='is a folder'):
    command_line.find_recipe(str(tmp_path))


@pytest.mark.parametrize('argument, message', [
    ('--config.train.steps=abc', '^--config.train.steps=abc: expected a whole number.$'),
    ('--config.train.steps=1.5', '--config.train.steps=1.5: expected a whole number.'),
    ('--config.optimizer.learning_rate=high', 'learning_rate=high: expected a number.'),
    ('--config.eval.flip=maybe', '--config.eval.flip=maybe: expected true or false.'),
    ('--config.student=3', '--config.student=3: '),
    ('--config.train.stepz=3', 'no such field. The nearest is --config.train.steps.'),
    ('--noconfig.eval.flop', 'no such field. The nearest is --config.eval.flip'),
    ('--wrkdir=x', "Unknown command line flag 'wrkdir'. Did you mean: workdir"),
])
def test_a_value_of_the_wrong_type_or_name_is_one_message(argument, message):
  with pytest.raises(UserError, match=message):
    parsed(QUICKSTART, argument)


def test_what_the_machine_refuses_is_a_message_and_a_missing_file_of_the_program_is_a_bug(
    capsys, tmp_path):
  def fail(error):
    def main(options, arguments):
      raise error
    return program.Program(main, lambda options: None, config=None, devices=False)
  for number in (errno.EACCES, errno.ENOSPC, errno.EISDIR, errno.ENOTDIR):
    status, output = runs.run_here(
        capsys, fail(OSError(number, os.strerror(number), '/data/x.png')))
    assert status == 2 and output == f'ERROR: /data/x.png: {os.strerror(number)}.\n'
  with pytest.raises(FileNotFoundError):
    fail(FileNotFoundError(errno.ENOENT, 'No such file', 'x')).run(['x'])
  with pytest.raises(ValueError, match='a bug'):
    fail(ValueError('a bug')).run(['x'])
  with pytest.raises(UserError, match='wrong'):
    fail(UserError('wrong')).run(['x', '--debug'])
  assert runs.run_here(capsys, fail(KeyboardInterrupt()))[0] == 130


def test_places_of_results_are_checked_before_the_work(tmp_path):
  paths.make_for(f'{tmp_path}/new/folder/result.json', 'json')
  assert (tmp_path / 'new' / 'folder').is_dir()
  (tmp_path / 'file').write_text('')
  with pytest.raises(UserError, match='--json=.*/file is no folder'):
    paths.make_for(f'{tmp_path}/file/result.json', 'json')
  with pytest.raises(UserError, match='--json=.*: is a folder; expected the name of a file'):
    paths.make_for(f'{tmp_path}/new', 'json')
  with pytest.raises(UserError, match='--output=.*/file is no folder'):
    paths.check_folder(f'{tmp_path}/file', 'output')
  paths.check_folder(f'{tmp_path}/to/be/made', 'output')
  assert not (tmp_path / 'to').exists()


@pytest.fixture
def own_ctrl_c():
  """Tests that run in the background would ignore it."""
  before = signal.signal(signal.SIGINT, signal.default_int_handler)
  yield
  signal.signal(signal.SIGINT, before)


def test_the_first_ctrl_c_is_noted_and_a_second_is_the_systems(capfd, own_ctrl_c):
  before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
  with StopSignal() as stop:
    assert not stop()
    os.kill(os.getpid(), signal.SIGINT)
    assert stop() and signal.getsignal(signal.SIGINT) is signal.SIG_DFL
    os.kill(os.getpid(), signal.SIGTERM)  # a scheduler may send several
    os.kill(os.getpid(), signal.SIGTERM)
  assert {number: signal.getsignal(number) for number in before} == before
  assert capfd.readouterr().err.count('Ctrl-C again ends at once') == 1


def test_several_processes_stop_at_the_step_on_which_they_agree(monkeypatch):
  before = signal.getsignal(signal.SIGTERM)
  monkeypatch.setattr('jax.process_count', lambda: 2)
  with StopSignal() as stop:
    assert signal.getsignal(signal.SIGTERM) is before  # Orbax hears it
    assert [stop.agree(lambda step: step == 4, step) for step in (3, 4)] == [False, True] and stop()
