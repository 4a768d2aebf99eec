"""Imports point one way: each module imports of the floors below its own, and of its own floor."""

import ast
import pathlib

import pytest

PACKAGE = pathlib.Path(__file__).parent.parent / 'kdseg_jax'
# From the ground up; of the prefixes that fit a module the longest says where it is. What imports
# when it is called only (`load` an export, a program its parts) is not asked.
FLOORS = (
    ('', 'errors', 'names', 'paths', 'extras', 'lettering', 'config_fields', 'references',
     'factory_options', 'outside', 'parallel', 'host_memory',
     'compiling', 'target_platform', 'resizing', 'interop.plain_pickle', 'interop.file_errors',
     'interop'),
    ('losses', 'metrics', 'coco_ap'),
    ('models',),
    ('data',),
    ('inference', 'inference.views', 'inference.windows'),
    ('tasks',),
    ('distillers',),
    ('default_config', 'config_files'),
    ('checkpoint',),
    ('inference.predictions', 'inference.model', 'inference.images', 'inference.evaluation',
     'inference.affinity'),
    ('interop.conversion', 'interop.layers', 'interop.structure', 'interop.schemes',
     'interop.state_dicts', 'interop.torch_files', 'interop.download', 'interop.transfer',
     'interop.part_file', 'interop.packages', 'interop.pretrained', 'interop.exporting',
     'interop.exported', 'interop.importing'),
    ('report',),
    ('training',),
    ('studies',),
    ('recipes',),
    ('command_line', 'program'),
    ('data.check', 'data.check_boxes', 'data.check_classes', 'data.prepare', 'interop.import_torch',
     'train', 'evaluate', 'predict', 'export', 'study', 'profile', 'quickstart', 'cli'),
)
LOSSES_MAY = ('kdseg_jax.losses', 'kdseg_jax.resizing', 'kdseg_jax.target_platform')
STRANGERS = (  # on one floor or above, and yet not to be known
    ('models', 'losses'), ('models', 'distillers'), ('data', 'models'), ('data', 'losses'),
    ('tasks', 'distillers'), ('distillers', 'tasks'), ('distillers', 'data'))


def modules():
  return {'.'.join(('kdseg_jax', *path.relative_to(PACKAGE).with_suffix('').parts)
                   ).removesuffix('.__init__'): path for path in PACKAGE.rglob('*.py')}


def imports_of(path, known):
  """The modules of this package that a module imports when it is imported."""
  for node in ast.parse(path.read_text()).body:
    if isinstance(node, ast.ImportFrom) and (node.module or '').split('.')[0] == 'kdseg_jax':
      for name in node.names:
        full = f'{node.module}.{name.name}'
        yield full if full in known else node.module


def floor_of(module):
  name = module.removeprefix('kdseg_jax').removeprefix('.')
  parts = name.split('.')
  for length in range(len(parts), 0, -1):
    for number, floor in enumerate(FLOORS):
      if '.'.join(parts[:length]) in floor:
        return number
  raise AssertionError(f'{module} is on no floor')


KNOWN = modules()


@pytest.mark.parametrize('module', sorted(KNOWN))
def test_imports_point_down(module):
  for other in imports_of(KNOWN[module], KNOWN):
    assert floor_of(other) <= floor_of(module), f'{module} imports {other}'


def test_no_package_imports_what_it_must_not_know():
  for module, path in KNOWN.items():
    for other in imports_of(path, KNOWN):
      package, imported = (name.split('.')[1:2] for name in (module, other))
      assert (*package, *imported) not in STRANGERS, f'{module} imports {other}'
      if package == ['losses']:
        assert other.startswith(LOSSES_MAY), f'{module} imports {other}'


def test_no_circle():
  graph = {module: set(imports_of(path, KNOWN)) - {module} for module, path in KNOWN.items()}
  left = dict(graph)
  while left:
    free = [module for module, needed in left.items() if not needed & left.keys()]
    assert free, f'a circle among {sorted(left)}'
    for module in free:
      del left[module]
