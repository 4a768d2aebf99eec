"""Where random numbers come from: of a seed, one the same in every process, one for every purpose.

`test_randomness` sees what is drawn of them.
"""

import ast
import functools
import pathlib
import types

import jax
import pytest

import experiments
import kdseg_jax
from configs import quickstart
from kdseg_jax.distillers.core import fold_in_name
from kdseg_jax.training import experiment, run

FOLDERS = [pathlib.Path(next(iter(package.__path__))) for package in (kdseg_jax, experiments)]
# What needs a key for shapes alone, or whose draws are to be the same for every run.
OF_NO_SEED = {
    'distillers/core.py:abstract_prepared', 'inference/model.py:_abstract_variables',
    'interop/importing.py:_completed', 'interop/pretrained.py:load',
    'models/complexity.py:complexity', 'training/experiment.py:_abstract_taps',
    'training/experiment.py:abstract_inputs', 'training/experiment.py:check_memory',
    'training/normalization_check.py:check_normalization',
    'training/profiling.py:untrained_teacher', 'training/shapes.py:_trace'}
ROLES = ('student', 'teacher')
LEGACY = {'seed', 'rand', 'randn', 'randint', 'random', 'normal', 'uniform', 'permutation',
          'shuffle', 'choice', 'sample', 'RandomState', 'uuid4', 'urandom', 'token_bytes'}


@functools.cache
def calls():
  """(where, function, its last name, arguments) of calls in the package and the experiments."""
  found = []
  for path in (path for folder in FOLDERS for path in sorted(folder.rglob('*.py'))):
    text = path.read_text()
    if not any(word in text for word in ('random', 'hash(', 'PRNGKey', 'uuid', 'secrets')):
      continue
    for top in ast.parse(text).body:
      where = '/'.join(path.parts[-2:]) + ':' + getattr(top, 'name', '')
      found += [(where, node.func, getattr(node.func, 'attr', getattr(node.func, 'id', '')),
                 node.args) for node in ast.walk(top) if isinstance(node, ast.Call)]
  return found


def test_no_generator_is_without_a_seed_and_no_seed_differs_between_processes():
  modules = ('np.random', 'numpy.random', 'random', 'os', 'uuid', 'secrets')
  found = [(where, name) for where, function, name, arguments in calls()
           if name == 'hash' and where != 'models/folding.py:Folded'
           or name == 'default_rng' and not arguments
           or name in LEGACY and isinstance(function, ast.Attribute)
           and ast.unparse(function.value) in modules]
  assert not found


def test_keys_are_made_of_the_seed_of_a_config():
  made = {where for where, _, name, arguments in calls()
          if name in ('key', 'PRNGKey') and arguments and isinstance(arguments[0], ast.Constant)}
  assert {where for where in made if not where.startswith('benchmarks/')} == OF_NO_SEED


def config_of(role='student', seed=0, data_seed=None):
  config = quickstart.get_config(f'role={role},runlocal')
  config.seed, config.data.seed = seed, data_seed
  return config


def test_seeds_that_follow_from_a_name_are_the_same_in_every_process():
  assert [run.data_seed(config_of('teacher', seed)) for seed in (0, 1)] == [47321052, 1976909642]
  for name, number in (('teacher', 2968954581), ('prepare', 1690817674)):
    assert fold_in_name(jax.random.key(3), name) == jax.random.fold_in(jax.random.key(3), number)


def test_every_role_and_seed_has_a_key_of_its_own_whatever_the_seed_of_the_data():
  keys = {(role, seed): [
      tuple(jax.random.key_data(experiment.run_key(config_of(role, seed, data_seed))).tolist())
      for data_seed in (None, 5)] for role in ROLES for seed in (0, 1, 5)}
  assert all(len(set(of_one)) == 1 for of_one in keys.values())
  assert len({of_one[0] for of_one in keys.values()}) == len(keys)


@pytest.mark.parametrize('phase, seeds', [
    ('train', {(0, None): 0, (3, None): 3, (3, 5): 5, (3, 0): 0}),
    ('prepare', {(0, None): 4191318731, (0, 5): 2310571588, (3, 5): 2310571588})])
def test_every_phase_reads_a_stream_of_its_own_of_the_seed_of_the_data(phase, seeds, monkeypatch):
  given = []
  monkeypatch.setattr(run.pipeline, 'train_batches', lambda source, *, seed, **_: (
      given.append(seed), iter(()))[1])
  task = types.SimpleNamespace(fields={})
  for seed, data_seed in seeds:
    run.training_batches(types.SimpleNamespace(
        config=config_of('student', seed, data_seed), train_source=None, task=task), phase, start=0)
  assert given == list(seeds.values())
