"""Tiny data sets of images with one class each."""

import io
import pickle
import struct
import tarfile

import numpy as np
import PIL.Image
import scipy.io

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


CIFAR10 = ('airplane', 'automobile', 'bird', 'cat', 'deer', 'dog', 'frog', 'horse', 'ship', 'truck')


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


def encoded(rng, kind='JPEG', mode='RGB', size=(20, 24)):
  """The content of a picture of smooth noise, of one of PIL's formats and modes."""
  small = rng.integers(0, 256, (4, 4, 3), np.uint8)
  picture = PIL.Image.fromarray(small).resize(size[::-1], PIL.Image.Resampling.BILINEAR)
  stream = io.BytesIO()
  picture.convert(mode).save(stream, format=kind)
  return stream.getvalue()


def tar(contents):
  """The content of a tar of files by name."""
  stream = io.BytesIO()
  with tarfile.open(fileobj=stream, mode='w') as archive:
    for name, content in contents.items():
      info = tarfile.TarInfo(name)
      info.size = len(content)
      archive.addfile(info, io.BytesIO(content))
  return stream.getvalue()


def imagenet_train():
  """Three of the synsets' tars: grey and colour JPEGs, a CMYK one, and a PNG with alpha."""
  rng = np.random.default_rng(0)
  return {
      'n01440764': {'n01440764_10026': encoded(rng), 'n01440764_9': encoded(rng, mode='L')},
      'n02105855': {'n02105855_2933': encoded(rng, 'PNG', 'RGBA')},
      'n15075141': {'n15075141_1': encoded(rng, mode='CMYK'), 'n15075141_20': encoded(rng)}}


def devkit(ids, truth):
  """The files of the devkit: the table of `{synset: ILSVRC2012_ID}`, and the labels of val."""
  rows = np.zeros((len(ids), 1), [('ILSVRC2012_ID', object), ('WNID', object), ('words', object)])
  for row, (synset, number) in zip(rows[:, 0], ids.items()):
    row['ILSVRC2012_ID'], row['WNID'], row['words'] = float(number), synset, f'words of {synset}'
  meta = io.BytesIO()
  scipy.io.savemat(meta, {'synsets': rows}, do_compression=True)
  return {'data/meta.mat': meta.getvalue(), 'readme.txt': b'x',
          'data/ILSVRC2012_validation_ground_truth.txt': ''.join(
              f'{number}\n' for number in truth).encode()}


IDS = {'n15075141': 1, 'n01440764': 2, 'n02105855': 3, 'n00001740': 1001}  # the last: no class


def imagenet(root, *, train=None, ids=None, truth=(3, 1, 2)):
  """The three archives of ILSVRC 2012, tiny; `{split: {image_id: (content, class index)}}`."""
  rng, train = np.random.default_rng(1), imagenet_train() if train is None else train
  root.mkdir(parents=True, exist_ok=True)
  (root / 'ILSVRC2012_img_train.tar').write_bytes(tar({
      f'{synset}.tar': tar({f'{name}.JPEG': content for name, content in images.items()})
      for synset, images in train.items()}))
  val = {f'ILSVRC2012_val_{number:08d}': encoded(rng) for number in (1, 2, 3)}
  (root / 'ILSVRC2012_img_val.tar').write_bytes(
      tar({f'{name}.JPEG': content for name, content in val.items()}))
  with tarfile.open(root / 'ILSVRC2012_devkit_t12.tar.gz', 'w:gz') as archive:
    for name, content in devkit(ids or IDS, truth).items():
      info = tarfile.TarInfo(f'ILSVRC2012_devkit_t12/{name}')
      info.size = len(content)
      archive.addfile(info, io.BytesIO(content))
  index = {'n01440764': 0, 'n02105855': 230, 'n15075141': 999}
  of_id = {1: 999, 2: 0, 3: 230}
  return {
      'train': {name: (content, index.get(synset)) for synset, images in train.items()
                for name, content in images.items()},
      'val': {name: (content, of_id.get(number))
              for (name, content), number in zip(val.items(), truth)}}
