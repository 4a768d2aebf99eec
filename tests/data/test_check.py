"""The check of a data set before training finds every problem and says what the data are."""

import shutil

import numpy as np
import PIL.Image
import pytest

from kdseg_jax.data import check, files
from tests import runs
from tests.data import archives


@pytest.fixture
def root(tmp_path):
  archives.folder(tmp_path)
  return tmp_path


def test_sizes_histogram_and_ignored_share_are_counted(root):
  files.write_png(root / 'images/val/0.png', np.zeros((4, 6, 3), np.uint8))
  label = np.zeros((4, 6), np.uint8)
  label[:, :3], label[0, 0] = 255, 2
  files.write_png(root / 'labels/val/0.png', label)
  for i in range(1, 5):
    next((root / 'images/val').glob(f'{i}.*')).unlink()
    (root / 'labels/val' / f'{i}.png').unlink()
  report = check.check(root)
  assert report.problems == [] and report.classes == ('name 0', 'name 1', 'name 2')
  val = report.splits['val']
  assert val.images == 1 and val.sizes == {(4, 6): 1}
  assert val.pixels[[0, 1, 2, 255]].tolist() == [12, 0, 1, 11] and val.pixels.sum() == 24
  assert val.occurrences[[0, 1, 2, 255]].tolist() == [1, 0, 1, 1]
  train = report.splits['train']
  assert train.images == 8 and train.sizes == {archives.SIZE: 8}
  text = check.describe(report)
  assert 'Note: val has no pixel of name 1.' in text and text.endswith('\n0 problems.')
  assert '45.83%' in text and '4x6 (1)' in text and '16x24 (8)' in text  # 11 of 24 ignored
  assert '92.31%' in text and '7.69%' in text  # of 13 labelled pixels


def spoil(root):
  """One problem of each kind, in different files."""
  (root / 'labels/train/0.png').unlink()
  (root / 'images/train/1.jpg').unlink()
  files.write_png(root / 'labels/train/2.png', np.full(archives.SIZE, 7, np.uint8))
  files.write_png(root / 'labels/train/3.png', np.zeros((5, 5), np.uint8))
  content = (root / 'images/train/4.png').read_bytes()
  (root / 'images/train/4.png').write_bytes(content[:100])
  PIL.Image.new('RGBA', archives.SIZE[::-1]).save(root / 'images/train/6.png')
  PIL.Image.new('I;16', archives.SIZE[::-1]).save(root / 'labels/train/6.png')
  exif = PIL.Image.Exif()
  exif[0x0112] = 8
  PIL.Image.new('RGB', archives.SIZE[::-1]).save(root / 'images/val/1.jpg', exif=exif)
  shutil.copy(root / 'images/val/0.png', root / 'images/val/0.jpg')
  (root / 'images/train/7.tiff').write_bytes(b'x')


MESSAGES = [
    '0.png: has no label', '1.png: has no image', '2.png: holds label 7; expected class indices',
    '3.png: is (5, 5)', '4.png: cannot be decoded', '6.png: has an alpha channel',
    '6.png: stores 16-bit grey levels', 'its EXIF data turn or mirror it (orientation 8)',
    'same name twice', '7.tiff: pictures of this format are not read']


def test_every_problem_of_every_file_is_reported(root):
  spoil(root)
  report = check.check(root)
  for message in MESSAGES:
    assert sum(message in problem for problem in report.problems) == 1, message
  assert len(report.problems) == len(MESSAGES)
  text = check.describe(report)
  assert text.endswith('\n10 problems.')
  assert all(problem in text for problem in report.problems)


def test_an_image_in_two_lists_and_an_empty_split_are_problems(tmp_path):
  for i in range(3):
    files.write_png(tmp_path / f'images/{i}.png', np.full((4, 4, 3), i, np.uint8))
    files.write_png(tmp_path / f'labels/{i}.png', np.eye(4, dtype=np.uint8))
  (tmp_path / 'train.txt').write_text('0\n1')
  (tmp_path / 'val.txt').write_text('1\n2')
  (tmp_path / 'test.txt').write_text('9')
  report = check.check(tmp_path)
  shared, listed, empty = report.problems
  assert '9: is listed, but' in listed and 'the split test holds no image' in empty
  assert '1 is in train.txt and val.txt' in shared
  assert report.warnings == []  # the image of two lists is told already
  rows = [[cell.strip() for cell in line.split('|')] for line in
          check.describe(report).splitlines()]
  assert ['', 'test', '0', '-', '', ''] in rows


def test_what_hides_the_classes_does_not_hide_other_problems(root):
  (root / 'classes.txt').unlink()
  content = (root / 'labels/val/2.png').read_bytes()
  (root / 'labels/val/2.png').write_bytes(content[:60])
  shutil.rmtree(root / 'labels/test')
  report = check.check(root)
  assert report.classes == () and report.splits['train'].pixels[:3].min() > 0
  missing, damaged = report.problems  # the damaged label is met twice and told once
  assert 'labels/test: no such folder' in missing and '2.png: cannot be decoded' in damaged
  assert '2 problems.' in check.describe(report) and '16x24 (8)' in check.describe(report)
  (root / 'labels/val/2.png').write_bytes(content)
  (root / 'labels/train/0.png').write_bytes(archives.palette_png(np.full((16, 24), 9, np.uint8)))
  assert any('the number of classes is ambiguous' in line for line in check.check(root).problems)


def test_labels_without_any_image_are_problems(root, tmp_path_factory):
  shutil.rmtree(root / 'images/test')
  (root / 'labels/train/9.jpg').write_bytes(b'x')
  first, second = check.check(root).problems
  assert 'images/test: no such folder' in first and '9.jpg: labels must be PNG' in second
  camvid = tmp_path_factory.mktemp('camvid')
  archives.camvid(camvid)
  shutil.rmtree(camvid / 'val')
  problem, = check.check(camvid, layout='camvid').problems
  assert 'val: no such folder' in problem


def test_the_layout_of_camvid_is_checked_with_its_labels(tmp_path):
  archives.camvid(tmp_path)
  files.write_png(tmp_path / 'valannot/1.png', np.full(archives.SIZE, 12, np.uint8))
  report = check.check(tmp_path, layout='camvid')
  assert {name: split.images for name, split in report.splits.items()} == {
      'train': 3, 'val': 2, 'test': 2}
  problem, = report.problems
  assert 'valannot/1.png: holds label 12; expected class indices 0 to 10 and 11 = void' in problem
  with pytest.raises(FileNotFoundError, match='images: no such folder'):
    check.check(tmp_path)


@pytest.mark.slow
def test_exit_status_tells_whether_there_are_problems(root, cache):
  output = runs.run('data.check', root, cache=cache)
  assert 'name 2' in output and '0 problems.' in output and 'device' not in output
  spoil(root)
  output = runs.run('data.check', root, '--layout=folder', cache=cache, status=1)
  assert all(message in output for message in MESSAGES) and '10 problems.' in output
  output = runs.run('data.check', root / 'gone', cache=cache, status=2)
  assert 'ERROR: ' in output and 'gone/images: no such folder' in output


def masks(root, value=255, classes='wall\ncrack', train=20):
  """A folder of black and white masks, which are what most drawing programs save."""
  for i in range(train):
    label = np.zeros((4, 6), np.uint8)
    label[1:3, 2:4 + i % 2] = value
    files.write_png(root / f'images/{i:02d}.png', np.full((4, 6, 3), i, np.uint8))
    files.write_png(root / f'labels/{i:02d}.png', label)
  (root / 'classes.txt').write_text(classes)


def test_masks_saved_as_0_and_255_are_a_problem_with_its_remedy(tmp_path):
  masks(tmp_path)
  problem, = check.check(tmp_path).problems
  assert 'train: no pixel is of crack' in problem and 'write "labels: 255=1"' in problem
  (tmp_path / 'classes.txt').write_text('labels: 255=1\nwall\ncrack')
  report = check.check(tmp_path)
  assert report.problems == [] and report.classes == ('wall', 'crack')
  assert report.splits['val'].pixels[[0, 1, 255]].tolist() == [40, 8, 0]  # two images
  (tmp_path / 'classes.txt').unlink()
  problem, = check.check(tmp_path).problems
  assert 'all labels are 0, 255' in problem and 'write "labels: 255=1"' in problem


def test_a_class_that_train_lacks_is_a_problem_and_one_that_val_lacks_a_note(tmp_path):
  masks(tmp_path, value=1, classes='wall\ncrack\nmoss')
  problem, = check.check(tmp_path).problems
  assert 'train: no pixel is of moss, so that nothing can be learned of it. Take' in problem
  files.write_png(tmp_path / 'labels/00.png', np.full((4, 6), 2, np.uint8))  # of val alone
  report = check.check(tmp_path)
  assert len(report.problems) == 1 and report.splits['val'].pixels[2] == 24
  files.write_png(tmp_path / 'labels/01.png', np.full((4, 6), 2, np.uint8))
  files.write_png(tmp_path / 'labels/00.png', np.zeros((4, 6), np.uint8))
  report = check.check(tmp_path)
  text = check.describe(report)
  assert report.problems == [] and 'Note: val has no pixel of moss.' in text
  (tmp_path / 'classes.txt').write_text('wall\ncrack\nmoss\nrust\nsoot')
  report = check.check(tmp_path)
  assert 'no pixel is of rust, soot, so that nothing can be learned of them.' in report.problems[0]
  assert 'Note: train' not in check.describe(report)


@pytest.mark.parametrize('split', ['train', 'val', 'test'])
def test_a_split_without_a_labelled_pixel_is_a_problem(root, split):
  for path in (root / 'labels' / split).iterdir():
    files.write_png(path, np.full(archives.SIZE, 255, np.uint8))
  problem, = check.check(root).problems
  assert f'{split}: no pixel of its' in problem and 'all are ignored (255)' in problem


def palette_label(path, label, **colors):
  """A palette PNG, grey but for some colours, by 'c<label>'."""
  palette = np.repeat(np.arange(256, dtype=np.uint8)[:, None], 3, axis=1)
  for name, color in colors.items():
    palette[int(name[1:])] = color
  picture = PIL.Image.fromarray(label)
  picture.putpalette(palette.tobytes())
  picture.save(path)


def test_palettes_that_differ_where_labels_occur_are_a_problem(root):
  label = np.zeros(archives.SIZE, np.uint8)
  label[0], label[1], label[2] = 1, 2, 255
  for i in range(4):  # label 1 is red, in whatever form the rest is
    palette_label(root / f'labels/train/{i}.png', label, c1=(200, 0, 0), c7=(i, 0, 0),
                  c255=(i, i, i))
  assert check.check(root).problems == []  # 7 does not occur, and 255 is ignored
  palette_label(root / 'labels/val/0.png', label, c1=(0, 0, 200))
  palette_label(root / 'labels/val/1.png', label, c1=(0, 0, 200))
  problem, = check.check(root).problems
  assert 'train/0.png' in problem and 'val/0.png: label 1 has the colour #c80000' in problem
  assert '#0000c8 in the second (1 more files differ' in problem
  palette_label(root / 'labels/val/1.png', label, c1=(200, 0, 0))
  alone, = check.check(root).problems
  assert alone == problem.replace(' (1 more files differ from the first)', '')
  palette_label(root / 'labels/val/1.png', label, c1=(0, 0, 200))
  label[1] = 0
  for i in range(2):
    palette_label(root / f'labels/val/{i}.png', np.where(label == 1, 0, label).astype(np.uint8),
                  c1=(0, 0, 200))
  assert check.check(root).problems == []


def test_pictures_in_two_splits_or_twice_in_one_are_warnings_whatever_their_names(root):
  shutil.copy(root / 'images/train/0.png', root / 'images/val/2.png')
  shutil.copy(root / 'images/train/2.png', root / 'images/train/4.png')
  report = check.check(root)
  twice, shared = report.warnings
  assert not report.problems and f'Warning: {twice}\nWarning: {shared}' in check.describe(report)
  assert twice.startswith(f'{root}/images/train/4.png and {root}/images/train/2.png: the same pict')
  assert f'train/0.png of train and {root}/images/val/2.png of val are the same picture' in shared


def test_pictures_that_cannot_be_read_are_not_taken_for_one_another(root):
  for path in ('train/0.png', 'train/2.png', 'val/0.png'):
    (root / 'images' / path).write_bytes(b'')
  report = check.check(root)
  assert len(report.problems) == 3 and report.warnings == []


def test_the_program_checks_label_maps_by_their_layout(root, tmp_path_factory, capsys):
  status, text = runs.run_here(capsys, check.PROGRAM, root)
  assert status == 0 and '0 name 0' in text and '0 problems.' in text
  (root / 'images/val/2.png').write_bytes((root / 'images/train/0.png').read_bytes())
  status, text = runs.run_here(capsys, check.PROGRAM, root)
  assert status == 0 and 'are the same picture' in text  # a warning
  (root / 'labels/val/0.png').unlink()
  status, text = runs.run_here(capsys, check.PROGRAM, root, '--layout=folder')
  assert status == 1 and '0.png: has no label' in text and '\n1 problem.' in text
  camvid = tmp_path_factory.mktemp('camvid')
  archives.camvid(camvid)
  status, text = runs.run_here(capsys, check.PROGRAM, camvid, '--layout=camvid')
  assert status == 0 and '10 bicyclist' in text and '0 problems.' in text


@pytest.mark.parametrize('count', [0, 2])
def test_the_program_checks_one_folder(root, capsys, count):
  status, text = runs.run_here(capsys, check.PROGRAM, *[root] * count)
  assert status == 2 and 'Give one folder: data.check <folder> --layout=<layout>' in text


RED, GREEN, BLUE = ((200, 0, 0), (0, 200, 0), (0, 0, 200))


@pytest.mark.parametrize(('stored', 'is_wrong'), [
    ((RED, GREEN, BLUE), False), ((GREEN, RED, BLUE), True), ((GREEN, BLUE, RED), True),
    ((GREEN, BLUE, (9, 9, 9)), True),  # the list lacks the first class
    (((0, 0, 0), (128, 0, 0), (0, 128, 0)), False),  # the default of some program
    ((BLUE, (9, 9, 9), (8, 8, 8)), False), ((BLUE, BLUE, BLUE), False)])
def test_a_palette_with_the_colours_of_other_classes_is_a_problem(root, stored, is_wrong):
  (root / 'classes.txt').write_text('bg #c80000\nroad  #00c800\ncar  #0000c8')
  label = np.zeros(archives.SIZE, np.uint8)
  label[0], label[1], label[2] = 1, 2, 255
  for path in (root / 'labels').rglob('*.png'):
    palette_label(path, label, **{f'c{i}': color for i, color in enumerate(stored)})
  problems = check.check(root).problems
  assert len(problems) == is_wrong
  if is_wrong:
    assert 'test/0.png: its palette and the list of classes disagree: ' in problems[0]
    assert 'label 0 (bg) has #00c800, the colour of road; label 1 (road) has' in problems[0]


@pytest.mark.parametrize(('num_strange', 'is_wrong'), [(0, True), (1, True), (2, False)])
def test_a_palette_is_just_another_where_as_many_colours_are_of_no_class(
    root, num_strange, is_wrong):
  colors = [(20 * i, 0, 0) for i in range(1, 7)]
  (root / 'classes.txt').write_text('\n'.join(
      f'c{i}  #{red:02x}0000' for i, (red, _, _) in enumerate(colors)))
  label = np.arange(np.prod(archives.SIZE), dtype=np.uint8).reshape(archives.SIZE) % 6
  stored = [colors[1], colors[0], colors[2], colors[3], *[(0, 9, 9), (0, 8, 8)][:num_strange]]
  for path in (root / 'labels').rglob('*.png'):
    palette_label(path, label, **{f'c{i}': color for i, color in enumerate(
        stored + colors[len(stored):])})
  problems = check.check(root).problems
  assert ['disagree' in problem for problem in problems] == [True] * is_wrong


def test_of_many_labels_with_the_colours_of_other_classes_some_are_named(root):
  colors = [(20 * i, 0, 0) for i in range(1, 7)]
  (root / 'classes.txt').write_text('\n'.join(
      f'c{i}  #{red:02x}0000' for i, (red, _, _) in enumerate(colors)))
  label = np.arange(np.prod(archives.SIZE), dtype=np.uint8).reshape(archives.SIZE) % 6
  for path in (root / 'labels').rglob('*.png'):
    palette_label(path, label, **{f'c{i}': colors[i - 1] for i in range(6)})
  problem, = check.check(root).problems
  assert problem.count('the colour of') == 4 and 'the colour of c2, and 2 more. Put' in problem


def test_the_palette_of_voc_in_labels_of_camvid_is_just_another(tmp_path):
  archives.camvid(tmp_path)
  label = np.arange(np.prod(archives.SIZE), dtype=np.uint8).reshape(archives.SIZE) % 12
  (tmp_path / 'valannot/1.png').write_bytes(archives.palette_png(label))
  assert check.check(tmp_path, layout='camvid').problems == []


def test_colours_are_of_stored_labels_and_only_listed_ones_are_compared(root):
  (root / 'classes.txt').write_text('labels: 7=1\nbg #c80000\nroad  #00c800\ncar')
  label = np.zeros(archives.SIZE, np.uint8)
  label[0], label[1] = 7, 2
  for path in (root / 'labels').rglob('*.png'):
    palette_label(path, label, c0=RED, c7=GREEN, c2=BLUE)
  assert check.check(root).problems == []
  for path in (root / 'labels').rglob('*.png'):
    palette_label(path, label, c0=GREEN, c7=RED, c2=BLUE)
  problem, = check.check(root).problems
  assert 'label 7 (road) has #c80000, the colour of bg. Put the names' in problem
