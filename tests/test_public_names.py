"""Public names have a docstring and stand in docs/api.md; parts are imported when asked for."""

import importlib
import inspect
import json
import subprocess
import sys

import pytest

import kdseg_jax
from docs import make_api

NAMES = [(path, name) for path in make_api.MODULES
         for name in make_api.public_names(importlib.import_module(path))]
OF_INFERENCE = {'Model', 'load'}  # functions and classes, not parts


@pytest.mark.parametrize('path,name', NAMES)
def test_a_public_name_exists_and_says_what_it_is(path, name):
  module = importlib.import_module(path)
  assert hasattr(module, name)
  assert make_api.description(module, name), f'{path}.{name} has no docstring'


@pytest.mark.parametrize('path', make_api.MODULES)
def test_methods_of_public_classes_say_what_they_do(path):
  module = importlib.import_module(path)
  for name in make_api.public_names(module):
    if inspect.isclass(getattr(module, name)):
      for method, value in vars(getattr(module, name)).items():
        generated = method in ('count', 'index')  # of tuples
        if inspect.isfunction(value) and not method.startswith('_') and not generated:
          assert value.__doc__, f'{path}.{name}.{method} has no docstring'


def test_the_page_of_public_names_is_up_to_date():
  assert make_api.PAGE.read_text() == make_api.page(), 'run: python docs/make_api.py'


def test_every_part_of_the_package_is_on_the_page():
  parts = set(kdseg_jax.__all__) - OF_INFERENCE
  assert {f'kdseg_jax.{part}' for part in parts} <= set(make_api.MODULES)


def test_missing_docstrings_are_seen():
  module = type(sys)('module')
  exec('from typing import NamedTuple\n'
       '__all__ = ["bare", "Bare", "BARE", "SAID"]\n'
       'def bare(): pass\n'
       'class Bare(NamedTuple):\n  field: int\n', vars(module))
  assert make_api.public_names(module) == ['bare', 'Bare', 'BARE', 'SAID']
  assert make_api.description(module, 'bare') is make_api.description(module, 'Bare') is None


def loaded_after(code):
  run = subprocess.run(
      [sys.executable, '-c', f'{code}\nimport json, sys\nprint(json.dumps(sorted(sys.modules)))'],
      check=True, capture_output=True, text=True)
  return set(json.loads(run.stdout))


def test_importing_the_package_costs_nothing_and_parts_are_found_by_attribute():
  assert not {'jax', 'numpy', 'kdseg_jax.losses'} & loaded_after('import kdseg_jax')
  loaded = loaded_after('import kdseg_jax\nkdseg_jax.losses.pixelwise_kl\n'
                        'kdseg_jax.losses.queues.push\nassert "models" in dir(kdseg_jax)')
  assert 'jax' in loaded and not {'flax', 'kdseg_jax.distillers'} & loaded
  for part in set(kdseg_jax.__all__) - OF_INFERENCE:
    assert getattr(kdseg_jax, part) is importlib.import_module(f'kdseg_jax.{part}')
  for name in OF_INFERENCE:
    assert getattr(kdseg_jax, name) is getattr(kdseg_jax.inference, name)


def test_what_the_package_does_not_have_is_an_attribute_error():
  with pytest.raises(AttributeError, match="module 'kdseg_jax' has no attribute 'lossses'"):
    _ = kdseg_jax.lossses
