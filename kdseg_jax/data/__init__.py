"""Sources of examples by name, pipelines, augmentation and palettes.

A source has `classes` (names in label order), `palette` `(C, 3)` uint8, `len(source)`, and
`source[i]`, a dict of `image` `(H, W, 3)` uint8 RGB, `label` `(H, W)` uint8 with 255 = ignore,
`image_id` str, and what else it knows. It can be pickled and read by many threads at once.
"""

from __future__ import annotations

import os
from typing import Any

from kdseg_jax import names
from kdseg_jax.data.camvid import CamVid
from kdseg_jax.data.scenes import Scenes

_SOURCES = {'scenes': Scenes, 'camvid': CamVid}
_BUILT_IN = ('scenes',)

__all__ = ['CamVid', 'Scenes', 'create']


def create(name: str, split: str, *, root: str | os.PathLike | None = None,
           size: tuple[int, int] | None = None, **options: Any) -> Any:
  """Creates the source of a split.

  Args:
    name: 'scenes' (built in) or 'camvid'.
    split: 'train', 'val' or 'test'.
    root: folder of the data set; None or '' for scenes.
    size: (height, width) of every example; None is the source's own.
    **options: further arguments of the source.

  Raises:
    ValueError: unknown name or split, with the nearest known ones, or as the source says.
    FileNotFoundError: the data are not where they should be.
  """
  names.require(name, _SOURCES, 'data set')
  if root and name in _BUILT_IN:
    raise ValueError(f'{name} is built in and reads no folder; leave root={root} out.')
  given = {key: value for key, value in {'root': root, 'size': size}.items() if value}
  return _SOURCES[name](split, **given, **options)
