"""Small packages that pip takes, made by the tests."""

import io
import tarfile
import zipfile

NAME, VERSION = 'some-weights', '1.0'
PACKAGE = f'{NAME}=={VERSION}'


def write_wheel(folder, files):
  """Writes a wheel with these files, name -> content, whose own requirements cannot be met."""
  folder.mkdir(parents=True, exist_ok=True)
  info = f'some_weights-{VERSION}.dist-info'
  files = files | {
      f'{info}/METADATA': f'Metadata-Version: 2.1\nName: {NAME}\nVersion: {VERSION}\n'
                          'Requires-Dist: there-is-no-such-package==7\nRequires-Python: <3\n',
      f'{info}/WHEEL': 'Wheel-Version: 1.0\nGenerator: tests\nRoot-Is-Purelib: true\n'
                       'Tag: py3-none-any\n',
      f'{info}/RECORD': ''}
  path = folder / f'some_weights-{VERSION}-py3-none-any.whl'
  with zipfile.ZipFile(path, 'w', zipfile.ZIP_DEFLATED) as wheel:
    for name, content in files.items():
      wheel.writestr(name, content)
  return path


def write_source_archive(folder, setup):
  """Writes a source archive whose setup.py is this text."""
  folder.mkdir(parents=True, exist_ok=True)
  files = {'setup.py': setup, 'PKG-INFO': f'Metadata-Version: 2.1\nName: {NAME}\n'
                                          f'Version: {VERSION}\n'}
  with tarfile.open(folder / f'some_weights-{VERSION}.tar.gz', 'w:gz') as archive:
    for name, text in files.items():
      member = tarfile.TarInfo(f'some_weights-{VERSION}/{name}')
      member.size = len(text)
      archive.addfile(member, io.BytesIO(text.encode()))


def serve_from(folder, monkeypatch):
  """Lets pip know no other packages than those of the folder."""
  for name, value in {'PIP_NO_INDEX': '1', 'PIP_FIND_LINKS': str(folder),
                      'PIP_CONFIG_FILE': '/dev/null', 'PIP_CONSTRAINT': ''}.items():
    monkeypatch.setenv(name, value)
