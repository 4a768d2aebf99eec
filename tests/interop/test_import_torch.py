"""What `import` says of the weights that it took."""

import types

import pytest

from kdseg_jax import default_config
from kdseg_jax.interop import import_torch


@pytest.mark.parametrize('left_out', [[], ['fc.weight', 'fc.bias']])
@pytest.mark.parametrize('drawn_anew', [[], ['params/head/kernel']])
def test_what_was_not_taken_and_what_was_drawn_are_both_said(left_out, drawn_anew):
  imported = types.SimpleNamespace(
      config=default_config.segmentation(), classes=('class 0', 'class 1', 'class 2', 'class 3'),
      report={'file': 'a.pth', 'scheme': 'cirkd', 'left_out': left_out, 'drawn_anew': drawn_anew})
  imported.config.student.update(mean=(1.0, 2.0, 3.0), std=(4.0, 5.0, 6.0))
  text = import_torch._described(
      imported, types.SimpleNamespace(workdir='runs/a', data=None))
  assert text.startswith('runs/a: deeplabv3_resnet18, 4 classes (class 0, class 1, class 2, ...), ')
  assert ('not taken' in text) == ('fc.weight' in text) == bool(left_out)
  assert ('drawn anew' in text) == ('params/head/kernel' in text) == bool(drawn_anew)
  assert 'The names of the classes are not known' in text
