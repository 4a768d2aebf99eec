"""Writes api.md, the index of public names: .venv/bin/python docs/make_api.py"""

import importlib
import inspect
import pathlib
import re
import sys
import types

ROOT = pathlib.Path(__file__).resolve().parents[1]
PAGE = ROOT / 'docs' / 'api.md'
MODULES = ('kdseg_jax.losses', 'kdseg_jax.losses.queues', 'kdseg_jax.distillers',
           'kdseg_jax.inference', 'kdseg_jax.models', 'kdseg_jax.metrics', 'kdseg_jax.tasks',
           'kdseg_jax.data', 'kdseg_jax.recipes', 'kdseg_jax.interop.importing',
           'kdseg_jax.interop.pretrained', 'kdseg_jax.interop.state_dicts',
           'kdseg_jax.interop.download', 'kdseg_jax.host_memory', 'kdseg_jax.errors')
_HEAD = '''# Public names

One line each; the docstrings have equations, shapes, defaults, errors and sources. Every name can
be reached from `import kdseg_jax`, whose parts are imported when they are first asked for. Written
by `.venv/bin/python docs/make_api.py`.
'''


def public_names(module: types.ModuleType) -> list[str]:
  """The names of `__all__`, else the functions and classes that the module itself defines."""
  own = [name for name, value in vars(module).items()
         if not name.startswith('_') and getattr(value, '__module__', None) == module.__name__]
  return sorted(getattr(module, '__all__', own), key=str.lower)


def description(module: types.ModuleType, name: str) -> str | None:
  """The first line of a name's docstring, of a constant's comment; None if it has none."""
  value = getattr(module, name)
  if isinstance(value, types.ModuleType) or inspect.isclass(value) or inspect.isroutine(value):
    text = value.__doc__ or ''
    generated = inspect.isclass(value) and text.startswith(f'{value.__name__}(')  # of its fields
    return None if generated else text.strip().partition('\n')[0] or None
  for source in _sources(module, name):
    found = re.search(rf'(?:^# (.+)\n)?^{name}(?::[^=\n]+)? = .*?(?:  # (.+))?$', source, re.M)
    if found:
      return found[2] or found[1]
  return None


def _sources(module, name):
  """Sources of the module and of those below it that have the name too."""
  for path, other in sorted(sys.modules.items()):
    if (path + '.').startswith(module.__name__ + '.') and hasattr(other, name):
      yield inspect.getsource(other)


def page() -> str:
  """The text of api.md."""
  parts = [_HEAD]
  for path in MODULES:
    module = importlib.import_module(path)
    title = (module.__doc__ or '').strip().partition('\n')[0]
    parts.append(f'\n## `{path}`\n\n{title}\n\n')
    parts += [f'- `{name}`: {description(module, name) or "?"}\n' for name in public_names(module)]
  return ''.join(parts)


if __name__ == '__main__':
  sys.path.insert(0, str(ROOT))
  PAGE.write_text(page())
