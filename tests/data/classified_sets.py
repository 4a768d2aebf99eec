"""Tiny data sets of images with one class each."""

import pickle
import struct

import numpy as np

from kdseg_jax.data import files


def arrays(count, classes, size=8, seed=0):
  """Images whose mean tells their class, and labels, each of which occurs."""
  rng = np.random.default_rng(seed)
  labels = np.arange(count) % classes
  images = rng.integers(0, 60, (count, size, size, 3)) + (
      190 * labels // max(classes - 1, 1))[:, None, None, None]
  return images.astype(np.uint8), labels


def npz(path, *, counts=(16, 8), classes=3, size=8, **more):
  """A file with train and test; further arrays by name."""
  content = {}
  for i, (split, count) in enumerate(zip(('train', 'test'), counts)):
    content[f'{split}_image'], content[f'{split}_label'] = arrays(count, classes, size, seed=i)
  np.savez(path, **content | more)
  return path


def folder(root, splits):
  """`{split: {class: names of pictures}}` as folders."""
  for split, classes in splits.items():
    for i, (name, pictures) in enumerate(classes.items()):
      (root / split / name).mkdir(parents=True)
      for picture in pictures:
        files.write_png(root / split / name / picture, np.full((4, 5, 3), 10 * i, np.uint8))


def _string(text):
  return b'U' + bytes([len(text)]) + text.encode('latin-1')


def cifar_batch(rows, labels, key='labels', dtype='u1'):
  """A pickle as Python 2 wrote those of the official archives, protocol 2."""
  count, width = rows.shape
  number = lambda n: b'J' + struct.pack('<i', n)
  content = rows.tobytes()
  array = (
      b'cnumpy.core.multiarray\n_reconstruct\nq\x02cnumpy\nndarray\nq\x03K\x00\x85q\x04' +
      _string('b') + b'\x87q\x06R(K\x01' + number(count) + number(width) +
      b'\x86cnumpy\ndtype\nq\x09' + _string(dtype) + b'K\x00K\x01\x87R(K\x03' + _string('|') +
      b'NNN' + number(-1) + number(-1) + b'K\x00tb\x89T' + struct.pack('<i', len(content)) +
      content + b'tb')
  items = b''.join(number(int(label)) for label in labels)
  return (b'\x80\x02}q\x00(' + _string('data') + array + _string(key) + b']q\x10(' + items +
          b'eu.')


def cifar10(root, classes=('cat', 'dog')):
  """The unpacked archive; the rows and labels of each of its six files."""
  rng, made = np.random.default_rng(0), {}
  root.mkdir(parents=True)
  for name in (*(f'data_batch_{i}' for i in range(1, 6)), 'test_batch'):
    rows, labels = rng.integers(0, 256, (2, 3072), np.uint8), rng.integers(0, len(classes), 2)
    (root / name).write_bytes(cifar_batch(rows, labels))
    made[name] = rows, labels
  (root / 'batches.meta').write_bytes(pickle.dumps({'label_names': list(classes)}, protocol=2))
  return made
