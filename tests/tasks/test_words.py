"""What trains, evaluates and reports holds no word of any one task."""

import pathlib
import re

import pytest

import kdseg_jax

ROOT = pathlib.Path(kdseg_jax.__file__).parent
WORDS = re.compile(r'mean_?iou|palette|confusion|label[_ ]map|ignore_label', re.IGNORECASE)
NEUTRAL = sorted([*(ROOT / 'training').rglob('*.py'), *(ROOT / 'studies').rglob('*.py'), *(
    ROOT / f'{name}.py' for name in ('train', 'evaluate', 'predict', 'study', 'quickstart'))])


@pytest.mark.parametrize('path', NEUTRAL, ids=lambda path: str(path.relative_to(ROOT)))
def test_no_word_of_segmentation(path):
  found = [f'{number}: {line}' for number, line in enumerate(path.read_text().splitlines(), 1)
           if WORDS.search(line)]
  assert not found, '\n'.join(found)
