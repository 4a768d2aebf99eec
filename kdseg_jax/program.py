"""What every program shares: flags, the config, versions and devices, errors for people."""

from __future__ import annotations

import difflib
import functools
import importlib.metadata
import os
import platform
import runpy
import sys
from collections.abc import Callable, Sequence

import jax
from absl import app, flags, logging
from ml_collections import ConfigDict, config_flags

from kdseg_jax import config_files
from kdseg_jax.errors import NotFoundError, UserError

WORKDIR = flags.DEFINE_string('workdir', None, 'Work directory: checkpoints, logs, results.')
_ACCELERATOR = flags.DEFINE_bool(
    'require_accelerator', False, 'Refuse to run when jax finds only the CPU.')
_DISTRIBUTED = flags.DEFINE_bool(
    'distributed', False, 'Several hosts: call jax.distributed.initialize() first.')

ALLOW_CLASS_NAMES = flags.DEFINE_bool(
    'allow_class_names', False, 'Go on although the class names of a teacher, checkpoint or data '
    'set differ from those they meet; their numbers must be equal all the same.')
_DEBUG = flags.DEFINE_bool('debug', False, 'Show the traceback of wrong input too.')


def define_config() -> flags.FlagHolder:
  """Defines `--config=<file>.py:<arg>` with `--config.<field>=<value>` overrides."""
  return config_flags.DEFINE_config_file(
      'config', None, 'Recipe, e.g. configs/camvid.py:method=pixelwise.', lock_config=True)


def run(main: Callable[[list[str]], int | None], *, saved_config: bool = False,
        devices: bool = True) -> None:
  """Parses the flags, prints versions and devices, runs `main(positional arguments)`.

  An error of the user's input ends the program with one clear message and exit status 2.

  Args:
    main: the program; what it returns is the exit status, None is 0.
    saved_config: without `--config`, the config that the run of `--workdir` was trained with is
      used; single fields of it can be overridden all the same.
    devices: False for a program that computes nothing on devices: they are left alone.
  """
  app.run(lambda argv: _main(main, argv[1:], devices),
          flags_parser=functools.partial(_parse, saved_config=saved_config))


def _main(main, arguments, devices):
  logging.set_verbosity(logging.INFO)
  logging.get_absl_handler().addFilter(_is_ours)
  try:
    if devices and _DISTRIBUTED.value:
      jax.distributed.initialize()
    if devices:
      announce(require_accelerator=_ACCELERATOR.value)
    return main(arguments)
  except UserError as error:
    if _DEBUG.value:
      raise
    _exit(error)


def _is_ours(record):
  """Lets through what this project logs, and errors of the libraries below it."""
  # Not by name: a checkout called kdseg_jax holds the libraries' .venv too.
  ours = record.pathname.startswith(os.path.join(os.path.dirname(__file__), ''))
  return ours or record.levelno >= logging.converter.STANDARD_ERROR


def no_arguments(arguments: Sequence[str]) -> None:
  """Raises ValueError if there are positional arguments, for programs that take none."""
  if arguments:
    raise UserError(f'Unexpected argument {arguments[0]!r}; options are written --name=value.')


def announce(*, require_accelerator: bool = False) -> None:
  """Prints versions and devices.

  Raises:
    ValueError: `require_accelerator` is set and jax found only the CPU.
  """
  version = importlib.metadata.version
  devices = jax.devices()
  print(f'Python {platform.python_version()}, ' + ', '.join(
      f'{name} {version(name)}' for name in ('jax', 'jaxlib', 'flax', 'optax', 'orbax-checkpoint')))
  print(f'{len(devices)} device(s): {devices[0].platform} {devices[0].device_kind}; '
        f'process {jax.process_index()} of {jax.process_count()}', flush=True)
  if require_accelerator and devices[0].platform == 'cpu':
    raise UserError(
        '--require_accelerator is set and jax found only the CPU. Install the jax of your '
        'accelerator (JAX_EXTRA=tpu or JAX_EXTRA=cuda13 ./launch.sh ...) and check its driver.')


def require_workdir(*, trained: bool = False) -> str:
  """`--workdir`.

  Raises:
    ValueError: it was not given.
    FileNotFoundError: `trained` is set and no run was started there.
  """
  if not WORKDIR.value:
    raise UserError('--workdir is missing: give the directory of the run.')
  if trained:
    check_trained(WORKDIR.value, 'workdir')
  return WORKDIR.value


def check_trained(workdir: str, option: str) -> None:
  """Raises FileNotFoundError if no run was started in a directory that an option names."""
  path = os.path.join(workdir, config_files.FILE)
  if not os.path.exists(path):
    raise NotFoundError(
        f'{path} is missing: --{option} must be the work directory of a run of `train`.')


def named_workdirs(workdir: str, compared: list[str]) -> dict[str, str]:
  """Work directories by name, in the order of the strips.

  Args:
    workdir: the main one; first and named by its folder, unless it is among the compared.
    compared: `<name>=<directory>`, or `<directory>`, named by its folder.

  Raises:
    ValueError: two have the same name.
    FileNotFoundError: one is not the work directory of a run.
  """
  pairs = []
  for item in compared:
    name, equals, path = item.partition('=')
    is_named = equals and os.sep not in name  # a folder may be called lr=0.1
    pairs.append((name, path) if is_named else (_folder_name(item), item))
  if not any(same_folder(path, workdir) for _, path in pairs):
    pairs.insert(0, (_folder_name(workdir), workdir))
  named = {}
  for name, path in pairs:
    if name in named:
      raise UserError(f'--compare: both {named[name]} and {path} are called {name!r}; name them '
                       'by <name>=<directory>.')
    check_trained(path, 'compare')
    named[name] = path
  return named


def same_folder(path: str, other: str) -> bool:
  """Whether two paths lead to the same folder."""
  return os.path.realpath(path) == os.path.realpath(other)


def _folder_name(path):
  return os.path.basename(os.path.abspath(path))


def _parse(argv, *, saved_config):
  workdir = _argument('workdir', argv)
  if saved_config and workdir and not _argument('config', argv):
    try:
      check_trained(workdir, 'workdir')
    except FileNotFoundError as error:  # else its fields would be unknown flags
      _exit(error)
    recipe = os.path.join(os.path.dirname(os.path.abspath(__file__)), 'saved_config.py')
    argv = [argv[0], f'--config={recipe}:{workdir}', *argv[1:]]
  recipe, _, _ = (_argument('config', argv) or '').partition(':')
  if recipe and not os.path.exists(recipe):
    _exit(f'--config={recipe}: no such file.')
  try:
    return flags.FLAGS(argv)
  except SyntaxError as error:
    if error.filename != recipe:
      raise
    _exit(f'{recipe}:{error.lineno}: {error.msg}.')
  except flags.Error as error:
    _exit(_recipe_error(argv) or error)
  except (UserError, KeyError, AttributeError) as error:
    unknown = _unknown_field(argv)
    if unknown is None and not isinstance(error, UserError):
      raise
    _exit(unknown or error)


def _run_recipe(argv):
  """What `get_config` of the recipe on the command line returns."""
  file, _, arg = (_argument('config', argv) or '').partition(':')
  return runpy.run_path(file)['get_config'](arg)


def _recipe_error(argv):
  """What the recipe itself refused, without the flag library's text around it."""
  if not _argument('config', argv):
    return None
  try:
    _run_recipe(argv)
  except UserError as error:
    return error
  return None


def _unknown_field(argv):
  """A message that names the nearest field, if an override names none."""
  if not _argument('config', argv):
    return None
  fields = list(_fields(_run_recipe(argv)))
  for item in argv:
    name = item.lstrip('-').partition('=')[0]
    if name.startswith('config.') and name.removeprefix('config.') not in fields:
      nearest = difflib.get_close_matches(name.removeprefix('config.'), fields, n=1, cutoff=0.0)
      return f'--{name}: the config has no such field. The nearest is --config.{nearest[0]}.'
  return None


def _fields(config, prefix=''):
  for name, value in config.items():
    yield prefix + name
    if isinstance(value, ConfigDict):
      yield from _fields(value, f'{prefix}{name}.')


def _argument(name, argv):
  """The value of `--name` on the command line, before the flags are parsed."""
  for i, item in enumerate(argv):
    flag, equals, value = item.lstrip('-').partition('=')
    if item.startswith('-') and flag == name:
      return value if equals else (argv[i + 1] if i + 1 < len(argv) else None)
  return None


def _exit(message):
  print(f'ERROR: {message}', file=sys.stderr)
  sys.exit(2)
