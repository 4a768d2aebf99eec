"""What every program shares: its start, versions and devices, errors for people."""

from __future__ import annotations

import importlib.metadata
import io
import os
import platform
import re
import sys
from collections.abc import Callable, Sequence
from typing import NamedTuple, NoReturn

import jax
from absl import flags, logging

from kdseg_jax import command_line, compiling, config_files, host_memory, paths, references
from kdseg_jax.errors import UserError

SHARED = ('print_config', 'require_accelerator', 'distributed', 'debug')
_INTERRUPTED = 130  # exit status of a program that Ctrl-C has ended, as shells have it


class Program(NamedTuple):
  """A program of the command line.

  Attributes:
    main: `(options, positional arguments)`; what it returns is the exit status, None is 0. Its
      module's docstring is the program's help.
    define_flags: defines the program's own flags in the `absl.flags.FlagValues` it is given, which
      are `options` of this start alone; `options.config` is the config.
    config: None for a program that takes none; 'recipe'; or 'saved', for one that, without
      `--config`, uses the config that the run of `--workdir` was trained with.
    devices: False for a program that computes nothing on devices: they are left alone.
  """

  main: Callable[[flags.FlagValues, list[str]], int | None]
  define_flags: Callable[[flags.FlagValues], None]
  config: str | None = 'recipe'
  devices: bool = True

  def run(self, argv: Sequence[str] | None = None) -> NoReturn:
    """Parses the flags, prints versions and devices, runs `main`, and ends the process.

    An error of the user's input ends it with one clear message and exit status 2.

    Args:
      argv: the command line, the program's name first; None is that of the process.
    """
    argv = list(sys.argv if argv is None else argv)
    for stream in (sys.stdout, sys.stderr):
      if isinstance(stream, io.TextIOWrapper):  # names of files need not be text
        stream.reconfigure(errors='backslashreplace')
    if command_line.wants_help(argv):
      print(command_line.help_text(argv, self.main.__globals__['__doc__'], self._define_flags,
                                   self._shared, self.config))
      sys.exit(0)
    try:
      sys.exit(self._run(argv))
    except BrokenPipeError:  # of `--print_config | head`
      os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
      sys.exit(1)
    except (UserError, OSError) as error:
      message = error if isinstance(error, UserError) else paths.describe(error)
      if message is None or _debugs(argv):
        raise
      print(f'ERROR: {message}', file=sys.stderr)
      sys.exit(2)
    except KeyboardInterrupt:
      if _debugs(argv):
        raise
      print('Interrupted.', file=sys.stderr)
      sys.exit(_INTERRUPTED)

  def _run(self, argv):
    if os.environ.get('KDSEG_DATA'):
      os.environ['KDSEG_DATA'] = paths.local(os.environ['KDSEG_DATA'])
    options, arguments = command_line.parse(argv, self._define_flags, self.config)
    if self.config is not None and options.print_config:
      if options.config is None:
        raise UserError('--print_config: there is no config; give --config=<recipe>.')
      print('\n'.join(command_line.config_lines(options.config)))
      return 0
    logging.use_absl_handler()
    logging.set_verbosity(logging.INFO)
    logging.get_absl_handler().addFilter(_is_ours)
    if self.devices:
      if options.distributed:
        jax.distributed.initialize()
      host_memory.keep_freed()
      announce(require_accelerator=options.require_accelerator)
      compiling.keep_programs()
    return self.main(options, arguments)

  @property
  def _shared(self):
    left_out = ((() if self.config else ('print_config',))
                + (() if self.devices else ('require_accelerator', 'distributed')))
    return tuple(name for name in SHARED if name not in left_out)

  def _define_flags(self, options):
    self.define_flags(options)
    texts = {
        'print_config': 'Print every field of the config, with overrides, and do nothing.',
        'require_accelerator': 'Refuse to run when jax finds only the CPU.',
        'distributed': 'Several hosts: call jax.distributed.initialize() first.',
        'debug': 'Show the traceback of wrong input too.'}
    for name in self._shared:
      flags.DEFINE_bool(name, False, texts[name], flag_values=options)


def define_workdir(options: flags.FlagValues) -> None:
  """Defines `--workdir` and what programs that train or run models may be allowed."""
  command_line.define_path('workdir', 'Work directory: checkpoints, logs, results.', options)
  flags.DEFINE_bool(
      'allow_class_names', False, 'Go on although the class names of a teacher, checkpoint or data '
      'set differ from those they meet; their numbers must be equal all the same.',
      flag_values=options)
  define_allow_imports(options)


def define_allow_imports(options: flags.FlagValues) -> None:
  """Defines `--allow_imports` of the programs that read saved configs."""
  flags.DEFINE_list(
      'allow_imports', [], 'Modules, <module>,..., that saved configs (of --workdir, of a teacher, '
      'of the weights to start from) may import, those below them too: code of people you trust. '
      'What a recipe or this command line names is imported anyway.', flag_values=options)


def require_imports(options: flags.FlagValues, *fields: str) -> None:
  """Refuses what the config of `--workdir` names in these fields and the user does not permit.

  What a recipe or an override on the command line names is in `options.allow_imports` already.

  Raises:
    UserError: as `references.require_permission`.
  """
  for field in fields:
    section, _, name = field.partition('.')
    references.require_permission(
        options.config[section][name], options.allow_imports, field=field, where=options.workdir)


def _debugs(argv):
  return any(re.fullmatch(r'--?debug(=(true|t|yes|y|1))?', item, re.IGNORECASE) for item in argv)


def _is_ours(record):
  """Lets through what this project logs, and errors of the libraries below it."""
  # Not by name: a checkout called kdseg_jax holds the libraries' .venv too.
  ours = record.pathname.startswith(os.path.join(os.path.dirname(__file__), ''))
  return ours or record.levelno >= logging.converter.STANDARD_ERROR


def no_arguments(arguments: Sequence[str]) -> None:
  """Raises UserError if there are positional arguments, for programs that take none."""
  if arguments:
    raise UserError(f'Unexpected argument {arguments[0]!r}; options are written --name=value.')


def announce(*, require_accelerator: bool = False) -> None:
  """Prints versions and devices.

  Raises:
    UserError: `require_accelerator` is set and jax found only the CPU.
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


def require_workdir(options: flags.FlagValues, *, trained: bool = False) -> str:
  """`--workdir`.

  Raises:
    UserError: it was not given, or cannot be written.
    NotFoundError: `trained` is set and no run was started there.
  """
  if not options.workdir:
    raise UserError('--workdir is missing: give the directory of the run.')
  if trained:
    config_files.require_run(options.workdir, 'workdir')
  else:
    paths.check_folder(options.workdir, 'workdir')
  return options.workdir


def named_workdirs(workdir: str, compared: list[str]) -> dict[str, str]:
  """Work directories by name, in the order of the strips.

  Args:
    workdir: the main one; first and named by its folder, unless it is among the compared.
    compared: `<name>=<directory>`, or `<directory>`, named by its folder.

  Raises:
    UserError: two have the same name.
    NotFoundError: one is not the work directory of a run.
  """
  pairs = []
  for item in compared:
    name, equals, path = item.partition('=')
    is_named = equals and os.sep not in name  # a folder may be called lr=0.1
    path = paths.local(path if is_named else item)
    pairs.append((name if is_named else _folder_name(path), path))
  if not any(same_folder(path, workdir) for _, path in pairs):
    pairs.insert(0, (_folder_name(workdir), workdir))
  named = {}
  for name, path in pairs:
    if name in named:
      raise UserError(f'--compare: both {named[name]} and {path} are called {name!r}; name them '
                      'by <name>=<directory>.')
    config_files.require_run(path, 'compare')
    named[name] = path
  return named


def same_folder(path: str, other: str) -> bool:
  """Whether two paths lead to the same folder."""
  return os.path.realpath(path) == os.path.realpath(other)


def _folder_name(path):
  return os.path.basename(os.path.abspath(path))
