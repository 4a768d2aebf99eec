"""Names of objects in configs: which texts are any, and which of a config of one's own count."""

import pytest
from ml_collections import ConfigDict

from kdseg_jax import references
from kdseg_jax.errors import UserError


@pytest.mark.parametrize('text, expected', [
    ('mylab:tiny', True), ('mylab.models:Tiny_2', True), ('_a._b:_c', True),
    ('tfds:voc', False), ('tfds.x:voc', True), ('kd', False), ('mylab.models', False),
    ('mylab:', False), (':tiny', False), ('mylab:a.b', False), ('mylab:a:b', False),
    ('2lab:a', False), ('my-lab:a', False), ('mylab..x:a', False), ('mylab:a\n', False),
    ('gs://a/b', False), ('', False)])
def test_a_reference_is_a_module_and_one_attribute(text, expected):
  assert references.is_reference(text) == expected


def test_what_a_config_of_ones_own_names_is_found_at_any_depth_once():
  config = ConfigDict({
      'student': {'name': 'mine.models:Tiny', 'init': 'mine.weights:x'},
      'task': {'name': 'segmentation'},
      'distill': {'a': {'factory': 'mine.losses:a', 'weight': 1.0}, 'kd': {'factory': 'kd'}},
      'study': {'title': 'mine:title', 'teacher': {'student': {'name': 'mine.models:Tiny'}},
                'students': {'b': {'distill': {'c': {'factory': 'mine.losses:c'}}}}}})
  assert sorted(references.named_in(config)) == [
      'mine.losses:a', 'mine.losses:c', 'mine.models:Tiny']
  assert references.named_in({}) == ()


def test_a_bug_of_a_module_that_is_named_keeps_its_traceback(tmp_path, monkeypatch):
  (tmp_path / 'with_a_bug.py').write_text('raise KeyError("bug")')
  (tmp_path / 'that_needs.py').write_text('import not_installed_here')
  monkeypatch.syspath_prepend(str(tmp_path))
  with pytest.raises(KeyError, match='bug'):
    references.find('with_a_bug:x', 'config.student.name')
  with pytest.raises(UserError, match=(
      "^config.student.name=that_needs:x: that_needs imports 'not_installed_here', which is mis")):
    references.find('that_needs:x', 'config.student.name')
