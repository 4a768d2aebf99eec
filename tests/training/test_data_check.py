"""What labels a run may begin with: classes that never occur, splits without labels."""

import concurrent.futures
import logging
import threading
import types

import jax.numpy as jnp
import numpy as np
import pytest

from kdseg_jax import data, tasks
from kdseg_jax.data import files
from kdseg_jax.errors import UserError
from kdseg_jax.training import data_check
from tests.data import archives

CLASSES = ('wall', 'crack', 'moss')


class Labels:
  """Labels of one value each; `reads` are the examples that were read."""

  classes, palette = CLASSES, None

  def __init__(self, values):
    self.values, self.reads = values, []

  def __len__(self):
    return len(self.values)

  def __getitem__(self, index):
    self.reads.append(index)
    label = np.full((2, 3), self.values[index], np.uint8)
    return {'image': np.zeros((2, 3, 3), np.uint8), 'label': label}


def check(tmp_path, train, val=(0, 1, 2), *, teacher=None, limit=0, should_stop=lambda: False):
  source, val = (given if hasattr(given, 'classes') else Labels(given) for given in (train, val))
  config = types.SimpleNamespace(
      eval=types.SimpleNamespace(split='val', limit=limit),
      data=types.SimpleNamespace(train_split='train'))
  data_check.check_data(types.SimpleNamespace(
      config=config, train_source=source, evaluation_source=val, teacher=teacher,
      task=tasks.SegmentationTask(len(source.classes))),
      str(tmp_path), should_stop)
  return source


def test_labels_of_every_class_are_not_remarked_upon(tmp_path, caplog):
  check(tmp_path, [0, 1, 2, 255])
  assert not caplog.records


@pytest.mark.parametrize(('train', 'message'), [
    ([255, 255], 'train: no pixel of its labels is of a class, all are ignored'),
    ([0, 255, 0], r'train: all labelled pixels are of one class, wall, .*"labels: 255=1"')])
def test_labels_of_which_nothing_can_be_learned_are_refused(tmp_path, train, message, caplog):
  with pytest.raises(UserError, match=message):
    check(tmp_path, train)
  check(tmp_path, train, teacher='one to learn from')
  assert 'nothing can be learned from them' in caplog.text


def test_a_class_that_never_occurs_is_a_warning(tmp_path, caplog):
  with caplog.at_level(logging.WARNING):
    check(tmp_path, [0, 1, 0])  # val has moss
  assert 'train has no pixel of moss: it cannot be learned' in caplog.text
  caplog.clear()
  check(tmp_path, [0, 1, 2], val=[0, 1])
  assert 'val has no pixel of moss: metrics are of the other classes alone' in caplog.text


def test_an_evaluation_without_labels_is_refused(tmp_path):
  with pytest.raises(UserError, match='val: no pixel of its labels is of a class'):
    check(tmp_path, [0, 1, 2], val=[255])
  with pytest.raises(UserError, match='val: no pixel'):
    check(tmp_path, [0, 1, 2], val=[255, 0, 1, 2], limit=1)  # what is evaluated is the first


def test_counts_of_several_processes_may_be_beyond_32_bits(monkeypatch):
  of_jax = lambda x: np.asarray(jnp.asarray(x))  # of at most 32 bits
  monkeypatch.setattr(data_check.multihost_utils, 'process_allgather', lambda x: np.stack(
      [of_jax(x)] * 2))
  own = data_check._Found(np.array([3, 2**40 + 5]), 7, stopped=False)
  found, failed = data_check._of_all_processes(own, False)
  assert (found.total.tolist(), found.read, found.stopped) == ([6, 2**41 + 10], 14, False)
  assert not failed


def test_training_labels_are_read_until_every_class_was_seen(tmp_path, monkeypatch, caplog):
  source = check(tmp_path, [0, 1, 2] + [0] * 500)
  assert len(source.reads) < 100  # and what the threads read ahead
  monkeypatch.setattr(data_check, 'MOST_TRAINING_LABELS', 50)
  source = check(tmp_path, [0] * 100 + [1] * 100)
  assert len(source.reads) == 50 and min(np.diff(sorted(source.reads))) == 4
  assert 'has, in 50 of its 200 labels, no pixel of moss' in caplog.text
  check(tmp_path, [0] * 200)  # the others may hold what these do not: no error


def test_unlabelled_images_are_no_training_labels(tmp_path):
  unlabelled = Labels([255] * 50)
  source = data.Concatenated(Labels([0, 1, 2]), unlabelled)
  check(tmp_path, source)
  assert not unlabelled.reads and len(source.first.reads) == 3
  with pytest.raises(UserError, match='all labelled pixels are of one class'):
    check(tmp_path, data.Concatenated(Labels([1, 1]), unlabelled))


def test_unlabelled_images_are_not_read_for_a_class_that_the_labelled_ones_lack(tmp_path, caplog):
  unlabelled = Labels([2] * 50)
  check(tmp_path, data.Concatenated(Labels([0, 1, 0]), unlabelled))
  assert not unlabelled.reads
  assert 'train has no pixel of moss: it cannot be learned' in caplog.text


def test_every_image_that_is_evaluated_is_read_though_all_classes_were_seen(tmp_path):
  val = Labels([0, 1, 2] + [0] * 60)
  check(tmp_path, [0, 1, 2], val)
  assert sorted(val.reads) == list(range(63))
  val = Labels([0, 1, 2] + [0] * 60)
  check(tmp_path, [0, 1, 2], val, limit=20)
  assert sorted(val.reads) == list(range(20))


def test_where_not_all_labels_were_read_the_evaluation_split_decides(tmp_path, monkeypatch):
  monkeypatch.setattr(data_check, 'MOST_TRAINING_LABELS', 5)
  for val in ([0, 0], [0, 255]):
    with pytest.raises(UserError, match='train: all labelled pixels are of one class, wall'):
      check(tmp_path, [0] * 20, val)
  check(tmp_path, [0] * 20, [0, 1])  # the training labels that were not read may have it too


class Generated(Labels):
  is_generated = True


@pytest.mark.parametrize('kind, goes_on', [(Generated, False), (Labels, True)])
def test_what_is_generated_or_was_read_when_the_run_began_is_not_read(kind, goes_on, tmp_path):
  sources = [kind([255]), kind([255])]
  if goes_on:
    (tmp_path / 'checkpoints' / '3').mkdir(parents=True)
  check(tmp_path, *sources)
  assert [source.reads for source in sources] == [[], []]


def test_each_split_is_looked_at_though_the_other_is_generated(tmp_path):
  with pytest.raises(UserError, match='val: no pixel'):
    check(tmp_path, Generated([255]), Labels([255]))
  with pytest.raises(UserError, match='train: no pixel'):
    check(tmp_path, Labels([255]), Generated([255]))


@pytest.mark.parametrize('told_in', ['val', 'train'])
def test_who_is_told_to_stop_reads_and_refuses_no_more(told_in, tmp_path):
  train, val = Labels([255]), Labels([255] if told_in == 'val' else [0, 1, 2])
  check(tmp_path, train, val, should_stop=lambda: told_in == 'val' or bool(train.reads))
  assert bool(train.reads) == (told_in == 'train')


def test_masks_of_0_and_255_end_before_training(tmp_path):
  for i in range(10):
    files.write_png(tmp_path / f'images/{i}.png', np.zeros((4, 6, 3), np.uint8))
    files.write_png(tmp_path / f'labels/{i}.png', np.tile(np.uint8([[0, 255]]), (4, 3)))
  (tmp_path / 'classes.txt').write_text('wall\ncrack')
  with pytest.raises(UserError, match=r'one class, wall, .*"labels: 255=1" in classes\.txt'):
    check(tmp_path / 'work', data.create('folder', 'train', root=tmp_path))
  (tmp_path / 'classes.txt').write_text('labels: 255=1\nwall\ncrack')
  check(tmp_path / 'work', data.create('folder', 'train', root=tmp_path))


def test_a_damaged_training_image_stops_before_training(tmp_path):
  archives.folder(tmp_path)
  (tmp_path / 'images/train/0.png').write_bytes(b'x')
  with pytest.raises(UserError, match=r'train.0\.png: cannot be decoded'):
    check(tmp_path / 'work', data.create('folder', 'train', root=tmp_path))


def together(monkeypatch, function, count=2):
  """What `function(index)` returns or raises in each of several processes, here threads."""
  local, barrier, slots = threading.local(), threading.Barrier(count), [None] * count

  def gather(own):
    slots[local.index] = own
    barrier.wait(timeout=60)
    every = np.stack(slots)
    barrier.wait(timeout=60)
    return every

  def run(index):
    local.index = index
    try:
      return function(index)
    except UserError as error:
      return str(error)
  monkeypatch.setattr(data_check.jax, 'process_index', lambda: local.index)
  monkeypatch.setattr(data_check.jax, 'process_count', lambda: count)
  monkeypatch.setattr(data_check.multihost_utils, 'process_allgather', gather)
  with concurrent.futures.ThreadPoolExecutor(count) as pool:
    return list(pool.map(run, range(count)))


def test_each_process_reads_its_part_and_all_hear_of_all(tmp_path, monkeypatch, caplog):
  sources = [Labels([0, 1, 0, 1, 0]), Labels([0, 1, 0, 1, 0])]
  assert together(monkeypatch, lambda index: check(tmp_path, sources[index], val=[0, 1, 2])
                  ) == sources
  assert [sorted(set(source.reads)) for source in sources] == [[0, 2, 4], [1, 3]]
  # Neither has seen both classes of train, nor the one that holds them all the whole of val.
  assert 'train has no pixel of moss' in caplog.text and 'of wall' not in caplog.text
  assert 'val has no' not in caplog.text


def test_a_process_without_examples_and_large_counts_are_added_up(monkeypatch):
  large = np.array([2 ** 40 + 3, 5])
  found = together(monkeypatch, lambda index: data_check._of_all_processes(
      data_check._Found(large if index else np.zeros(0, np.int64), 2 * index, index == 1), False))
  for (total, read, stopped), failed in found:
    assert total.tolist() == large.tolist() and (read, stopped, failed) == (2, True, False)


def test_what_one_process_cannot_read_ends_all(tmp_path, monkeypatch):
  class Damaged(Labels):

    def __getitem__(self, index):
      if index == 1:
        raise UserError('1.png: cannot be decoded')
      return super().__getitem__(index)
  found = together(monkeypatch, lambda index: check(tmp_path, Damaged([0, 1, 2])))
  assert found[1] == '1.png: cannot be decoded'
  assert found[0] == ('reading labels of train: another process found an error in its part, and '
                      'says it.')
