"""The message where a package of an extra is missing names the command that works there."""

import pytest

from kdseg_jax import data, extras
from kdseg_jax.data import class_names, prepare
from kdseg_jax.errors import UserError
from kdseg_jax.interop import download
from kdseg_jax.interop.exporting import hub
from kdseg_jax.report import pictures


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


USES = {
    'A public data set needs tensorflow_datasets': lambda: prepare.prepare('voc', 'a', 'b'),
    'The data set voc needs tensorflow_datasets': lambda: data.create('voc', 'train', root='a'),
    'The data set tfds:x needs tensorflow_datasets': lambda: data.create('tfds:x', 'train'),
    '--data=voc needs tensorflow_datasets': lambda: class_names.count_of('voc'),
    '--confusion needs matplotlib': lambda: pictures.check_png('a.png', 'confusion'),
    'hf:a/b needs huggingface_hub': lambda: download.fetch_hf('a/b'),
    '--push_to needs huggingface_hub': lambda: hub.check('a/b')}


@pytest.mark.parametrize('message', USES)
def test_every_use_says_what_it_needs(message, monkeypatch):
  monkeypatch.setattr(extras.importlib.util, 'find_spec', lambda module: None)
  with pytest.raises(UserError, match=f'^{message}, which is not installed: pip install'):
    USES[message]()
