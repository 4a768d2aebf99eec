"""What the tests of readers share; `reader` is the function that a file of tests is about."""

import pytest

from kdseg_jax.interop.file_errors import StateDictError

NAME = 'weights.any'  # a name that says nothing


@pytest.fixture
def read(tmp_path, reader):
  """What the reader makes of a content."""
  def read_content(content):
    path = tmp_path / NAME
    path.write_bytes(content)
    return reader(path)
  return read_content


@pytest.fixture
def refused(read, tmp_path):
  """Checks that a content is refused, with the name of the file and these words."""
  def check(content, words):
    with pytest.raises(StateDictError, match=words) as error:
      read(content)
    assert str(error.value).startswith(f'{tmp_path}/{NAME}: ')
    assert str(error.value).endswith(('.', ')'))
  return check
