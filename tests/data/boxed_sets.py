"""Tiny data sets with boxes, in the layouts of Pascal VOC and COCO."""

import io
import json

import numpy as np
import PIL.Image

from tests.data import archives

SIZE = (20, 30)  # height, width of every image
# By name: (class, xmin, ymin, xmax, ymax, difficult) of the objects.
VOC = {'a': [('dog', 1, 1, 30, 20, 0), ('cat', 3, 4, 10, 12, 1)], 'b': [],
       'c': [('cat', 5, 5, 15, 15, 0)], 'd': [('dog', 2, 2, 9, 9, 0)]}
# By id: (category id, x, y, width, height, crowd, area) of the objects.
COCO = {7: [(3, 1.5, 2, 10, 12.25, 0, 80.5), (1, 0, 0, 30, 20, 1, 400)], 3: [],
        12: [(3, 4, 4, 5, 6, 0, None)]}
CATEGORIES = [{'id': 3, 'name': 'dog'}, {'id': 1, 'name': 'cat'}]


def jpeg(seed, size=SIZE, orientation=None):
  """The content of a JPEG file of noise."""
  stream, exif = io.BytesIO(), PIL.Image.Exif()
  if orientation:
    exif[0x0112] = orientation
  pixels = np.random.default_rng(seed).integers(0, 256, (*size, 3), np.uint8)
  PIL.Image.fromarray(pixels).save(stream, 'JPEG', exif=exif)
  return stream.getvalue()


def an_object(name, xmin, ymin, xmax, ymax, difficult=0):
  """An object of an annotation of Pascal VOC, with a part that is not to be taken for it."""
  return f'''  <object>
    <name>{name}</name>
    <difficult>{difficult}</difficult>
    <part><name>head</name><bndbox><xmin>1</xmin><ymin>1</ymin><xmax>2</xmax><ymax>2</ymax></bndbox>
    </part>
    <bndbox><xmax>{xmax}</xmax><ymax>{ymax}</ymax><xmin>{xmin}</xmin><ymin>{ymin}</ymin></bndbox>
  </object>
'''


def annotation(objects, size=SIZE):
  """An annotation of Pascal VOC; without a size where it is None."""
  sides = '' if size is None else (
      f'  <size><width>{size[1]}</width><height>{size[0]}</height><depth>3</depth></size>\n')
  return f'<annotation>\n{sides}{"".join(an_object(*one) for one in objects)}</annotation>\n'


def voc(root, splits=None, objects=None, upright=()):
  """Writes a folder of Pascal VOC with lists of names; the images named `upright` are."""
  splits = {'train': ['a', 'b', 'd'], 'val': ['c']} if splits is None else splits
  for seed, (name, found) in enumerate((VOC if objects is None else objects).items()):
    size = SIZE[::-1] if name in upright else SIZE
    archives.write(root, {f'JPEGImages/{name}.jpg': jpeg(seed, size),
                          f'Annotations/{name}.xml': annotation(found, size)})
  archives.write(root, {f'ImageSets/Main/{split}.txt': '\n'.join(names) + '\n'
                        for split, names in splits.items()})
  return root


def instances(objects=None, categories=None, size=SIZE):
  """What a file of COCO holds, as JSON has it."""
  objects, annotations = COCO if objects is None else objects, []
  for image, found in objects.items():
    for category, *box, crowd, area in found:
      annotations.append({'id': 100 + len(annotations), 'image_id': image, 'bbox': box,
                          'category_id': category, 'iscrowd': crowd, 'segmentation': []}
                         | ({} if area is None else {'area': area}))
  return {'images': [{'id': image, 'file_name': f'{image:012d}.jpg', 'height': size[0],
                      'width': size[1]} for image in objects],
          'annotations': annotations,
          'categories': [dict(one) for one in categories or CATEGORIES]}


def coco(root, split='train', seed=0, **options):
  """Writes a split of a folder of COCO."""
  data = instances(**options)
  archives.write(root, {f'annotations/instances_{split}2017.json': json.dumps(data)} | {
      f'{split}2017/{image["file_name"]}': jpeg(seed + image['id']) for image in data['images']})
  return root


def coco_archives(root, train=None):
  """The three archives of COCO 2017 with a few images; the image ids of each split."""
  from kdseg_jax.data.tfds_builders.coco import Coco

  missing = {12, 26, 29, 30, 45, 66, 68, 69, 71, 83}
  ids = [number for number in range(1, 91) if number not in missing]
  categories = [{'id': i, 'name': name} for i, name in zip(ids, Coco.CLASSES, strict=True)]
  files, expected = {}, {}
  for split, objects in (('train', train or COCO), ('val', {1000: [(90, 1, 1, 0, 5, 0, None),
                                                                  (90, 2, 2, 3, 5, 0, None)]})):
    data = instances(objects, categories)
    files[f'annotations/instances_{split}2017.json'] = json.dumps(data)
    archives.write_zip(root / f'{split}2017.zip', {
        f'{split}2017/{image["file_name"]}': jpeg(image['id']) for image in data['images']})
    expected[split] = [f'{image:012d}' for image in sorted(objects)]
  archives.write_zip(root / 'annotations_trainval2017.zip', files)
  return expected
