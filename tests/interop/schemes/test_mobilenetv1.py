"""Names of layers against those of the source; see tests/golden/README.md."""

import json
import pathlib

from kdseg_jax.interop import schemes
from tests.interop import states

GOLDEN = pathlib.Path(__file__).parents[2] / 'golden' / 'cifar.json'


def test_layers_are_those_of_the_source():
  """No more, no fewer, and of the same shapes."""
  arrays = states.state_dict('mobilenetv1', 'reviewkd_mobilenet', 1000)
  assert {key.removesuffix('.weight'): list(array.shape) for key, array in arrays.items()
          if key.endswith('.weight')} == json.loads(GOLDEN.read_text())['mobilenetv1']
  assert schemes.choose('mobilenetv1', arrays).name == 'reviewkd_mobilenet'
