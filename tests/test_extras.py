"""The message where a package of an extra is missing names the command that works there."""

import pytest

from kdseg_jax import extras
from kdseg_jax.errors import UserError


@pytest.mark.parametrize('is_checkout', [True, False])
def test_message_has_the_command_of_a_checkout_or_of_an_installed_package(
    is_checkout, tmp_path, monkeypatch):
  monkeypatch.setattr(extras, '_CHECKOUT', tmp_path)
  if is_checkout:
    (tmp_path / 'pyproject.toml').touch()
  with pytest.raises(UserError) as error:
    extras.require('data', 'no_such_module', 'A public data set')
  source = tmp_path if is_checkout else 'kdseg_jax'
  assert str(error.value) == (
      f"A public data set needs no_such_module, which is not installed: "
      f"pip install '{source}[data]'")


def test_a_module_that_is_there_is_no_error():
  assert extras.require('data', 'numpy', 'A public data set') is None
