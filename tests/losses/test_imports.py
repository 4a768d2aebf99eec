"""The losses serve users of any JAX library: importing them must not pull in ours."""

import json
import subprocess
import sys

UNWANTED = [
    'flax', 'orbax', 'grain', 'tensorflow_datasets', 'cv2', 'ml_collections', 'matplotlib']


def test_losses_import_alone():
  program = (
      'import json, sys\n'
      'from kdseg_jax import losses\n'
      'print(json.dumps(sorted({name.split(".")[0] for name in sys.modules})))')
  run = subprocess.run(
      [sys.executable, '-c', program], check=True, capture_output=True, text=True)
  loaded = json.loads(run.stdout)
  assert 'kdseg_jax' in loaded
  assert not set(UNWANTED) & set(loaded)
