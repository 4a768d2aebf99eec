"""What is installed: the lists of requirements agree, and name what is imported, where it is."""

import ast
import importlib
import importlib.metadata
import re
import sys
import tomllib

import pytest
from packaging import markers, requirements

from kdseg_jax import recipes
from tests import runs

PROJECT = tomllib.loads((runs.ROOT / 'pyproject.toml').read_text())['project']
EXTRAS = PROJECT['optional-dependencies']
# By tensorflow-datasets, by jax.export and by jax's compilation cache, which do not require them.
NOT_IMPORTED = {'importlib-resources', 'flatbuffers', 'filelock'}


def entries(file):
  lines = (line.partition('#')[0].strip() for line in (runs.ROOT / file).read_text().splitlines())
  return [line for line in lines if line]


def key(name):
  return re.sub('[-_.]+', '-', name).lower()


def imported(folder):
  """Distributions that the files of a folder import, beside the standard library and ours."""
  found = set()
  for path in (runs.ROOT / folder).rglob('*.py'):
    for node in ast.walk(ast.parse(path.read_text())):
      names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else (
          [node.module] if isinstance(node, ast.ImportFrom) and node.module else [])
      found |= {name.partition('.')[0] for name in names}
  of_module = importlib.metadata.packages_distributions()
  ours = {'kdseg_jax', 'configs', 'experiments', 'tests', 'docs'}
  missing = {name for name in found - ours - set(sys.stdlib_module_names) if name not in of_module}
  assert not missing
  required = named(entries('requirements.txt'), entries('tests/requirements.txt'))
  distributions = [{*map(key, of_module[name])}  # several may share a module, as orbax
                   for name in found - ours - set(sys.stdlib_module_names)]
  return set().union(*((some & required or some) for some in distributions))


def named(*lists):
  return {key(requirements.Requirement(entry).name) for entries in lists for entry in entries}


def test_the_project_requires_what_the_requirement_files_say():
  extras = [entry for extra in ('data', 'report', 'hub') for entry in EXTRAS[extra]]
  assert PROJECT['dependencies'] + extras == entries('requirements.txt')
  assert EXTRAS['test'] == entries('tests/requirements.txt')


def test_the_package_imports_what_it_requires_and_nothing_else():
  assert imported('kdseg_jax') | NOT_IMPORTED == named(entries('requirements.txt'))
  assert imported('tests') <= named(
      entries('requirements.txt'), entries('tests/requirements.txt'))


@pytest.mark.parametrize('name', recipes.names())
def test_a_file_of_configs_is_the_recipe_of_the_package(name):
  file = importlib.import_module(f'configs.{name}')
  recipe = importlib.import_module(f'kdseg_jax.recipes.{name}')
  assert file.get_config is recipe.get_config is recipes.load(name)
  assert file.__doc__.splitlines()[0] == recipe.__doc__.splitlines()[0]
  commands = [line for line in file.__doc__.splitlines() if line.startswith('  ')]
  assert commands and set(commands) <= set(recipe.__doc__.splitlines())


def test_every_file_of_configs_is_part_of_the_package():
  shared = {'common', 'papers'}
  assert {path.stem for path in (runs.ROOT / 'configs').glob('*.py')} == (
      set(recipes.names()) | shared)
  for name in shared:
    file = importlib.import_module(f'configs.{name}')
    recipe = importlib.import_module(f'kdseg_jax.recipes.{name}')
    for public in (public for public in vars(recipe) if not public.startswith('_')):
      if getattr(getattr(recipe, public), '__module__', '') == recipe.__name__:
        assert getattr(file, public) is getattr(recipe, public)


@pytest.mark.parametrize('version', ['3.11', '3.12', '3.13'])
def test_the_lock_has_one_version_of_every_requirement_not_below_its_floor(version):
  pinned = {}
  for line in entries('requirements.lock'):
    pin = requirements.Requirement(line)
    marker = pin.marker or markers.Marker('python_version >= "3"')
    if marker.evaluate({'python_version': version}):
      assert key(pin.name) not in pinned, line
      pinned[key(pin.name)] = str(pin.specifier).removeprefix('==')
  for entry in entries('requirements.txt') + entries('tests/requirements.txt'):
    requirement = requirements.Requirement(entry)
    assert requirement.specifier.contains(pinned[key(requirement.name)]), entry
