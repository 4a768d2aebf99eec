"""The command `kdseg`: every program of the package by its name.

kdseg <program> [options], as python -m kdseg_jax.<program> [options]; `import`, which is no name in
Python, as python -m kdseg_jax.interop.import_torch.
"""

from __future__ import annotations

import importlib
import os
import sys

import kdseg_jax

PROGRAMS = {
    'quickstart': 'teacher, student and distilled student on the built-in data, in minutes',
    'train': 'trains a model, alone or with a teacher; resumes its work directory',
    'evaluate': 'metrics of a trained work directory on a whole split',
    'predict': 'label PNGs, overlays and comparisons of images or a split',
    'study': 'students x seeds against one teacher pass, as paired differences',
    'profile': 'where time and memory of a train step go: parts, operations, a trace',
    'export': 'a trained model as StableHLO, ONNX or safetensors',
    'import': 'published PyTorch weights as a work directory',
    'data.check': 'every problem of images and labels of your own',
    'data.prepare': 'a public data set from its downloaded archives',
}
_MODULES = {'import': 'interop.import_torch'}  # where a program has another name


def main() -> None:
  """Runs the program that the first argument names with the arguments after it."""
  name, *arguments = sys.argv[1:] or ['--help']
  if name in ('--help', '-h', 'help'):
    print(_usage())
  elif name == '--version':
    print(f'kdseg_jax {kdseg_jax.__version__}')
  elif name in PROGRAMS:
    sys.argv = [f'kdseg {name}', *arguments]
    sys.path.append(os.getcwd())  # of methods and recipes of one's own, as `python -m` has it
    importlib.import_module(module_of(name)).PROGRAM.run()
  else:
    from kdseg_jax import names
    hint = names.hint(name, PROGRAMS)
    print(f'ERROR: {name!r} is no program.{hint}\n\n{_usage()}', file=sys.stderr)
    sys.exit(2)


def module_of(name: str) -> str:
  """The module of a program."""
  return f'kdseg_jax.{_MODULES.get(name, name)}'


def _usage():
  width = max(map(len, PROGRAMS))
  return '\n'.join([
      'usage: kdseg <program> [options]        (kdseg <program> --help: its options)', '',
      *(f'  {name:{width}}  {text}' for name, text in PROGRAMS.items())])


if __name__ == '__main__':
  main()
