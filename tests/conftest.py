"""Every test sees 8 virtual CPU devices; fast tests come first."""

import gc
import os

from tests import compilation

# Must be set before jax is imported anywhere.
os.environ['JAX_PLATFORMS'] = 'cpu'
os.environ |= compilation.ENVIRONMENT | {'XLA_FLAGS': ' '.join([
    os.environ.get('XLA_FLAGS', ''), compilation.XLA_FLAGS,
    '--xla_force_host_platform_device_count=8'])}

import hypothesis  # noqa: E402
import jax  # noqa: E402
import pytest  # noqa: E402

from kdseg_jax import models, parallel  # noqa: E402
from tests import shallow, toys  # noqa: E402

# The same examples at every run, however busy the machine is.
hypothesis.settings.register_profile(
    'same', derandomize=True, deadline=None, database=None,
    suppress_health_check=[hypothesis.HealthCheck.too_slow])
hypothesis.settings.load_profile('same')


def pytest_addoption(parser):
  parser.addoption('--first-cases', action='store_true',
                   help='only the first case of every parametrized test')


@pytest.hookimpl(tryfirst=True)  # before `-m` chooses
def pytest_collection_modifyitems(config, items):
  """Slow tests run last; slow too is what is asked again of pmap, which wraps shard_map."""
  for item in items:
    if hasattr(item, 'callspec') and item.callspec.params.get('mode') == 'pmap':
      item.add_marker(pytest.mark.slow)
  # The longest begin first, so that no process ends with one while the others have nothing left.
  items.sort(key=lambda item: (is_slow(item), item.path.name != 'test_notebooks.py'))
  if config.getoption('first_cases'):
    chosen = first_cases(items)
    config.hook.pytest_deselected(items=[item for item in items if item.nodeid not in chosen])
    items[:] = chosen.values()


def pytest_collection_finish():
  """Looking for garbage among all that traced programs hold was 8 to 13% of the tests' time."""
  gc.collect()
  gc.freeze()
  gc.set_threshold(100_000, 20, 50)


def is_slow(item):
  return item.get_closest_marker('slow') is not None


def first_cases(items):
  """Of the cases of a test the first, by their names; fast ones are before slow ones."""
  firsts = {}
  for item in items:
    firsts.setdefault(item.nodeid.partition('[')[0], item)
  return {item.nodeid: item for item in firsts.values()}


@pytest.fixture(scope='module')
def optimizations():
  """LLVM's, for programs that run longer than they compile, or whose rounding is compared."""
  jax.config.update('jax_disable_most_optimizations', False)
  yield
  jax.config.update('jax_disable_most_optimizations', True)


@pytest.fixture(scope='module')
def toy_models():
  """For what is not about models."""
  with pytest.MonkeyPatch.context() as patch:
    toys.replace_models(patch)
    yield


@pytest.fixture(scope='module')
def shallow_models():
  """For runs of recipes, which compile what they name once for the teacher and once or more."""
  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(models, 'create', shallow.create)
    yield


@pytest.fixture(scope='module')
def one_device():
  """For runs that are not about devices: programs for one compile and run faster than for eight."""
  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(parallel, 'create_mesh', lambda devices=None, original=parallel.create_mesh:
                  original(devices or jax.devices()[:1]))
    yield


@pytest.fixture(scope='session', autouse=True)
def cache(tmp_path_factory):
  """Folder of compiled programs that all processes of a test run share."""
  base = tmp_path_factory.getbasetemp()
  base = base.parent if 'PYTEST_XDIST_WORKER' in os.environ else base
  folder = base / 'compiled'
  folder.mkdir(exist_ok=True)
  if jax.config.jax_compilation_cache_dir is None:  # JAX_COMPILATION_CACHE_DIR keeps them
    jax.config.update('jax_compilation_cache_dir', str(folder))
  jax.config.update('jax_persistent_cache_min_compile_time_secs', 0.0)
  jax.config.update('jax_persistent_cache_min_entry_size_bytes', -1)
  return folder
