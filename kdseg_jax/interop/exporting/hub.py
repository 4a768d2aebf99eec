"""Exports to Hugging Face."""

from __future__ import annotations

import re

from kdseg_jax import extras
from kdseg_jax.errors import UserError

_REPOSITORY = re.compile(r'[\w.-]+/[\w.-]+')


def check(repository: str) -> None:
  """Raises UserError unless there may be such a repository, and the client is installed."""
  if not _REPOSITORY.fullmatch(repository):
    raise UserError(f'--push_to={repository}: expected <user or organisation>/<name>.')
  extras.require('hub', 'huggingface_hub', '--push_to')


def push(folder: str, repository: str) -> str:
  """Sends a folder to a model repository, which is made if there is none; returns its address.

  Token, address and proxy are those of huggingface_hub (`hf auth login`, `HF_TOKEN`, ...).

  Raises:
    UserError: no token, no permission, or no connection; the folder stays as it is.
  """
  check(repository)
  import huggingface_hub

  client = huggingface_hub.HfApi()
  try:
    client.create_repo(repository, repo_type='model', exist_ok=True)
    client.upload_folder(repo_id=repository, repo_type='model', folder_path=folder,
                         commit_message='Model exported by kdseg_jax')
  except Exception as error:  # of the client, of HTTP, of the network
    reason = next(iter(str(error).splitlines()), '')
    raise UserError(
        f'{folder} was not sent to {repository} ({type(error).__name__}: {reason:.300}). Log in '
        'with `hf auth login` or set HF_TOKEN, with permission to write there, and repeat; the '
        'export itself is complete.') from error
  return f'{client.endpoint}/{repository}'
