"""Archives and the folders that they extract to are read in one way."""

import io
import tarfile

import pytest

from kdseg_jax.data.tfds_builders import trees
from kdseg_jax.errors import NotFoundError, UserError
from tests.data import archives, classified_sets

FILES = {'top/images/a.PNG': b'1', 'top/images/more/b.png': b'2', 'top/images/._c.png': b'3',
         'top/images2/d.png': b'4', 'top/images/e.txt': b'one\n\ntwo\n', 'topper/f.png': b'5',
         './top/g.png': b'6'}
KINDS = ('data.zip', 'data.tar', 'data.tar.gz', 'data.tgz', 'folder')


def make(root, kind, contents=None):
  """The files in an archive of this kind, or extracted; the name of the archive."""
  contents = FILES if contents is None else contents
  if kind == 'folder':
    archives.write(root, contents)
    return 'data.zip'
  (archives.write_zip if kind.endswith('.zip') else archives.write_tar)(root / kind, contents)
  return kind


@pytest.mark.parametrize('kind', KINDS)
def test_files_are_found_below_a_folder_whatever_they_are_read_from(kind, tmp_path):
  tree = trees.open_tree(tmp_path, make(tmp_path, kind), 'top')
  found = tree.find('images', '.png')
  assert {name: member.read() for name, member in found.items()} == {'a': b'1', 'b': b'2'}
  assert {name: member.read() for name, member in tree.find('images2', '.png', '.txt').items()} == {
      'd': b'4'}
  assert tree['g.png'].read() == b'6' and 'g.png' in tree and 'f.png' not in tree
  assert tree.lines('images/e.txt') == ['one', '', 'two', '']
  assert str(tree['images/more/b.png']).endswith('top/images/more/b.png')
  with pytest.raises(NotFoundError, match='lacks images/z.png. Download it again'):
    tree['images/z.png']


@pytest.mark.parametrize('kind', KINDS)
def test_two_files_of_one_name_are_refused(kind, tmp_path):
  archive = make(tmp_path, kind, {'top/x/a.png': b'1', 'top/y/a.png': b'2', 'top/x/b.jpg': b'3',
                                  'top/x/b.png': b'4'})
  tree = trees.open_tree(tmp_path, archive, 'top')
  with pytest.raises(UserError, match='b.png and .*b.jpg: same name twice; keep one of them'):
    tree.find('x', '.png', '.jpg')
  assert sorted(tree.find('x', '.png')) == ['a', 'b'] and sorted(tree.find('y', '.png')) == ['a']


def test_an_archive_goes_before_its_folder_and_one_of_them_is_needed(tmp_path):
  assert not trees.has(tmp_path, 'data.zip', 'top')
  with pytest.raises(NotFoundError, match='holds neither data.zip nor its extracted folder top/'):
    trees.open_tree(tmp_path, 'data.zip', 'top')
  make(tmp_path, 'folder', {'top/a.png': b'folder'})
  assert trees.has(tmp_path, 'data.zip', 'top')
  assert trees.open_tree(tmp_path, 'data.zip', 'top')['a.png'].read() == b'folder'
  make(tmp_path, 'data.zip', {'top/a.png': b'archive'})
  assert trees.has(tmp_path, 'data.zip', 'none')
  assert trees.open_tree(tmp_path, 'data.zip', 'top')['a.png'].read() == b'archive'


@pytest.mark.parametrize('kind', ['data.tar', 'data.tar.gz'])
def test_what_is_not_needed_of_a_tar_is_left_out(kind, tmp_path):
  make(tmp_path, kind, {'top/img/a.png': b'1', './top/inst/a.png': b'2', 'top/image/a.png': b'3'})
  tree = trees.open_tree(tmp_path, kind, 'top', unneeded=('img', 'inst'))
  assert 'image/a.png' in tree and 'img/a.png' not in tree and 'inst/a.png' not in tree


def test_files_are_found_in_a_tar_of_tars_without_hidden_ones_and_folders(tmp_path):
  inner = classified_sets.tar({'./b.JPEG': b'22', 'a.JPEG': b'1', '._a.JPEG': b'x'})
  stream = io.BytesIO(classified_sets.tar({'./n1.tar': inner, 'd/.hidden': b'x', 'd/last': b'333'}))
  with tarfile.open(fileobj=stream, mode='a') as archive:
    folder = tarfile.TarInfo('folder')
    folder.type = tarfile.DIRTYPE
    archive.addfile(folder)
  path = tmp_path / 'all.tar'
  path.write_bytes(stream.getvalue())
  outer = list(trees.stored_in(path))
  assert [(one.name, one.size) for one in outer] == [('n1.tar', len(inner)), ('d/last', 3)]
  assert outer[1].read() == b'333' and str(outer[1]) == f'{path}/d/last'
  found = list(trees.stored_in(path, within=outer[0]))
  assert [(one.name, one.read()) for one in found] == [('n1.tar/b.JPEG', b'22'),
                                                       ('n1.tar/a.JPEG', b'1')]
  path.write_bytes(stream.getvalue()[:outer[1].offset + 2])
  with pytest.raises(UserError, match='all.tar/d/last: is cut short: the archive ends before'):
    outer[1].read()
