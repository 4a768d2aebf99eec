"""What the command line of a program says: its flags, the recipe, overrides, help.

Flags belong to one start of a program, not to the process: any number of programs can be imported,
and run one after the other.
"""

from __future__ import annotations

import difflib
import inspect
import os
import pathlib
import re
import runpy
import textwrap
from collections.abc import Callable, Iterator

from absl import flags
from ml_collections import ConfigDict, config_flags

from kdseg_jax import config_files, default_config, names, paths, references
from kdseg_jax.errors import NotFoundError, UserError

RECIPES = pathlib.Path(__file__).parent / 'recipes'
_HELP = ('--help', '-help', '-h', '--helpshort')
_FULL_HELP = ('--helpfull', '-helpfull')
# What Python's and absl's errors of conversion mean.
_EXPECTED = {
    r'invalid literal for int\(\).*': 'a whole number',
    r'could not convert string to float.*': 'a number',
    r"\('Non-boolean argument.*": 'true or false'}


class _PathParser(flags.ArgumentParser):
  """A path of this machine; `~` is expanded."""

  def parse(self, argument):
    return argument if argument is None else paths.local(argument)


def define_path(name: str, help: str, options: flags.FlagValues) -> None:
  """Defines a flag that is a path, None if it is not given; `~` is expanded."""
  flags.DEFINE(_PathParser(), name, None, help, flag_values=options,
               serializer=flags.ArgumentSerializer())


def define_best(options: flags.FlagValues) -> None:
  """Defines `--best` of the programs that read a trained work directory."""
  flags.DEFINE_bool(
      'best', False, 'The best checkpoint instead of the newest.', flag_values=options)


def parse(argv: list[str], define: Callable[[flags.FlagValues], None],
          config: str | None) -> tuple[flags.FlagValues, list[str]]:
  """The options of a program and its positional arguments.

  Args:
    argv: the command line, the program's name first.
    define: defines the program's own flags.
    config: None for a program without `--config`; 'recipe'; or 'saved', for one that, without
      `--config`, uses the config that the run of `--workdir` was trained with. Single fields can be
      overridden in either case.

  Returns:
    The options; `options.config` is the config with overrides, or None if there is none.

  Raises:
    UserError: a flag, a value, a recipe or an override cannot be used; says which.
  """
  options = flags.FlagValues()
  define(options)
  _add_flags_of_libraries(options)
  given = _take('config', argv)[0]
  if config is not None:
    argv = _define_config(argv, options, config)
  try:
    arguments = options(argv)[1:]
  except (flags.Error, TypeError, ValueError, SyntaxError) as error:
    raise UserError(_of_flags(error)) from error
  flags.FLAGS.mark_as_parsed()  # libraries read theirs there
  if config is not None and options.config is not None:
    paths.localize(options.config)
    if 'allow_imports' in options:
      options.allow_imports = [*options.allow_imports, *_named_by_user(argv, options.config, given)]
  return options, arguments


def find_recipe(name: str) -> str:
  """The file of a recipe: a path that exists, or else one of `kdseg_jax/recipes` by its name.

  Raises:
    NotFoundError: neither; names the nearest recipe.
  """
  path = paths.local(name)
  if os.path.isfile(path):
    return path
  if os.path.isdir(path):
    raise UserError(f'--config={name}: is a folder; expected a recipe, a Python file.')
  from kdseg_jax import recipes  # it imports all that recipes need

  known = recipes.names()
  if name in known:
    return str(RECIPES / f'{name}.py')
  raise NotFoundError(f'--config={name}: no such file.'
                      + names.hint(pathlib.PurePath(name).stem, known)
                      + (f' Recipes of the package: {", ".join(known)}.' if known else ''))


def load_recipe(text: str) -> ConfigDict:
  """The config of `<recipe>` or `<recipe>:<argument>`.

  Raises:
    UserError: there is no such recipe, it is no Python, or it returns no config. What else the
      recipe raises is left as it is: a bug in it needs its traceback.
  """
  name, colon, argument = text.partition(':')
  if argument.startswith('//'):
    paths.local(text)
  path = find_recipe(name)
  try:
    found = runpy.run_path(path)
  except SyntaxError as error:
    if error.filename != path:
      raise
    raise UserError(f'{path}:{error.lineno}: {error.msg}.') from error
  if not callable(found.get('get_config')):
    raise UserError(f'{path}: is no recipe: it defines no function get_config(arg=None).')
  config = found['get_config'](argument) if colon else found['get_config']()
  if not isinstance(config, ConfigDict):
    raise UserError(f'{path}: get_config returned {type(config).__name__}; expected a ConfigDict.')
  return config


def config_lines(config: ConfigDict) -> list[str]:
  """`config.<field>=<value>` for every field, sorted."""
  return sorted(f'config.{name}={value!r}' for name, value in _fields(config)
                if not isinstance(value, ConfigDict))


def wants_help(argv: list[str]) -> bool:
  """Whether the command line asks for help."""
  return any(item in _HELP + _FULL_HELP for item in _options(argv))


def help_text(argv: list[str], doc: str, define: Callable[[flags.FlagValues], None],
              shared: tuple[str, ...], config: str | None) -> str:
  """The help of a program: its own options, or all of them for `--helpfull`.

  Args:
    argv: the command line.
    doc: docstring of the program.
    define: defines its flags.
    shared: names of flags that every program has: named, not explained.
    config: as in `parse`.
  """
  options = flags.FlagValues()
  define(options)
  own = {name: options[name].help for name in options if name not in shared}
  if config is not None:
    own = {'config': 'Recipe, a file or a name: <recipe>:<key>=<value>,...'
           + ('; default: the config of --workdir.' if config == 'saved' else '')} | own
  doc = '\n\n'.join(inspect.cleandoc(doc).split('\n\n')[:2])
  if any(item in _FULL_HELP for item in argv):
    _add_flags_of_libraries(options)
    own |= {name: options[name].help for name in options}
    body = '\n'.join(f'  --{name}\n{textwrap.indent(textwrap.fill(text, 90), " " * 6)}'
                     for name, text in sorted(own.items()))
  else:
    width = max(map(len, own)) + 2
    body = '\n'.join(_option_text(name, text, width) for name, text in own.items())
  also = ' '.join(f'--{name}' for name in shared)
  fields = '' if config is None else (
      'Every field of the config can be overridden: --config.train.steps=1000. --print_config '
      'shows them all.\n')
  return f'{doc}\n\n{body}\n\n{fields}Also: {also} --helpfull (every option)'


def _option_text(name, text, width):
  """An option and what it does, in lines of 100; absl lists choices as one word, <a|b>."""
  return textwrap.fill(
      text.replace('|', ' | '), 100, initial_indent=f'  --{name:{width}}',
      subsequent_indent=' ' * (width + 4), break_on_hyphens=False, break_long_words=False)


def _add_flags_of_libraries(options):
  """Adds what libraries have defined for every process, as `--verbosity`."""
  for name in flags.FLAGS:
    if name not in options and name != flags.FLAGS[name].short_name:
      options[name] = flags.FLAGS[name]


def _define_config(argv, options, config):
  """Defines `options.config` with its overrides; returns the command line without `--config`."""
  recipe, argv = _take('config', argv)
  overrides = [item for item in _options(argv) if _override(item)]
  if recipe:
    value = load_recipe(recipe)
    _set_names(argv, value)
    default_config.complete(value)
  elif config == 'saved' and _take('workdir', argv)[0]:
    workdir = paths.local(_take('workdir', argv)[0])
    config_files.require_run(workdir, 'workdir')
    value = config_files.read(workdir)
    _refuse_fields_of_the_model(overrides, workdir)
    _set_names(argv, value)
  else:
    if overrides:
      raise UserError(f'{overrides[0]}: there is no config whose field this is. '
                      + ('Give --workdir=<work directory of a run>.' if config == 'saved' else
                         'Give a recipe, e.g. --config=configs/quickstart.py.'))
    flags.DEFINE_string('config', None, 'Recipe.', flag_values=options)
    return argv
  _check_overrides(overrides, value)
  try:
    config_flags.DEFINE_config_dict(
        'config', value, lock_config=True, flag_values=options, sys_argv=argv)
  except (flags.Error, TypeError, ValueError) as error:  # of an override
    raise UserError(_of_flags(error)) from error
  return argv


def _refuse_fields_of_the_model(overrides, workdir):
  """A trained model is built as its checkpoint says: an override would change nothing, silently."""
  for item in overrides:
    if str(_override(item)).startswith('student.'):
      raise UserError(f'--config.{_override(item)}: has no effect, as the model is that of the '
                      f'checkpoints of {workdir}. Leave it out, or train with it.')


def _check_overrides(overrides, config):
  """Raises UserError, with the nearest field, for an override that names none."""
  fields = [name for name, _ in _fields(config)]
  for item in overrides:
    field = _override(item)
    section, _, rest = field.partition('.')
    if section == 'method':
      raise UserError(f'--config.{field}: the method is an argument of the recipe, '
                      '--config=<recipe>:method=<methods>; config.distill holds its terms.')
    term = rest.partition('.')[0]
    if section == 'distill' and 'distill' in config and term not in config.distill:
      raise UserError(
          f'--config.{field}: config.distill has no term {term!r}, but '
          f'{", ".join(config.distill) or "none"}.{names.hint(term, config.distill)} Terms are '
          'added by the recipe, --config=<recipe>:method=<methods>.')
    if field.partition('[')[0] not in fields:
      nearest = difflib.get_close_matches(field, fields, n=1, cutoff=0.0)
      raise UserError(f'--config.{field}: the config has no such field. The nearest is '
                      f'--config.{nearest[0]}.')


def _set_names(argv, config):
  """Sets what an override names by `module:attribute`, with its options: these may follow."""
  for field in default_config.NAMES:
    name = _take(f'config.{field}', argv)[0]
    if name and references.is_reference(name):
      default_config.set_name(config, field, name)


def _named_by_user(argv, config, recipe):
  """What the recipe names, or else what the overrides of a saved config do."""
  if recipe:
    return references.named_in(config)
  overridden = [_take(f'config.{field}', argv)[0] for field in default_config.NAMES]
  return [name for name in overridden if name and references.is_reference(name)]


def _override(item):
  """The field that `--config.<field>` or `--noconfig.<field>` names, or None."""
  name = item.lstrip('-').partition('=')[0].removeprefix('no')
  return name.removeprefix('config.') if name.startswith('config.') else None


def _options(argv):
  """What of a command line can be options: those before `--` that begin with a dash."""
  end = argv.index('--') if '--' in argv else len(argv)
  return [item for item in argv[1:end] if item.startswith('-')]


def _take(name, argv):
  """The last value of `--name` on the command line, None if there is none, and what is left."""
  value, rest, items = None, [], iter(argv)
  for item in items:
    flag, equals, text = item.lstrip('-').partition('=')
    if item == '--':
      rest += [item, *items]
    elif item.startswith('-') and flag == name:
      value = text if equals else next(items, None)
    else:
      rest.append(item)
  return value, rest


def _fields(config: ConfigDict, prefix: str = '') -> Iterator[tuple[str, object]]:
  """Path and value of every field and section."""
  for name, value in config.items():
    yield prefix + name, value
    if isinstance(value, ConfigDict):
      yield from _fields(value, f'{prefix}{name}.')


def _of_flags(error):
  """What the flag library's error says, in the words of people who type options."""
  text = re.sub(r'^flag --', '--', str(error))
  for pattern, expected in _EXPECTED.items():
    text = re.sub(pattern, f'expected {expected}.', text)
  return text
