"""Every test sees 8 virtual CPU devices; fast tests come first."""

import os

# Must be set before jax is imported anywhere.
os.environ['JAX_PLATFORMS'] = 'cpu'
os.environ['XLA_FLAGS'] = (
    os.environ.get('XLA_FLAGS', '') + ' --xla_force_host_platform_device_count=8')

import hypothesis  # noqa: E402
import jax  # noqa: E402
import pytest  # noqa: E402

from tests import toys  # noqa: E402

# The same examples at every run, however busy the machine is.
hypothesis.settings.register_profile(
    'same', derandomize=True, deadline=None, database=None,
    suppress_health_check=[hypothesis.HealthCheck.too_slow])
hypothesis.settings.load_profile('same')


def pytest_collection_modifyitems(items):
  """Slow tests run last."""
  items.sort(key=lambda item: item.get_closest_marker('slow') is not None)


@pytest.fixture(scope='module')
def toy_models():
  """For what is not about models."""
  with pytest.MonkeyPatch.context() as patch:
    toys.replace_models(patch)
    yield


@pytest.fixture(scope='session')
def cache(tmp_path_factory):
  """Folder of compiled programs that all training processes of a test run share."""
  base = tmp_path_factory.getbasetemp()
  base = base.parent if 'PYTEST_XDIST_WORKER' in os.environ else base
  folder = base / 'compiled'
  folder.mkdir(exist_ok=True)
  return folder


@pytest.fixture
def quick_compilation():
  """Compiles in half the time to slower code: for large programs that run a few times."""
  jax.config.update('jax_disable_most_optimizations', True)
  yield
  jax.config.update('jax_disable_most_optimizations', False)
