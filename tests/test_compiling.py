"""What is said while programs compile, where they are kept, and where sizes make many of them."""

import io
import logging
import os
import pathlib
import platform
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from absl import logging as absl_logging

from kdseg_jax import compiling, parallel
from kdseg_jax.inference.evaluation import Evaluator
from kdseg_jax.inference.views import Inference
from kdseg_jax.inference.windows import make_predictor
from kdseg_jax.tasks.segmentation import SegmentationTask
from tests import runs

TASK = SegmentationTask(num_classes=11)


@pytest.fixture(autouse=True)
def everything_is_logged(caplog):
  before = absl_logging.get_verbosity()
  absl_logging.set_verbosity(absl_logging.INFO)
  caplog.set_level(logging.INFO, logger='absl')
  yield
  absl_logging.set_verbosity(before)


def test_a_first_call_says_before_that_it_compiles_and_afterwards_how_long_it_took(caplog):
  said_before = []

  def program(x, y):
    said_before.extend(record.getMessage() for record in caplog.records)
    return x + y

  assert compiling.announced('the train step', program, jnp.ones(3), 1).sum() == 6
  assert said_before == ['Compiling the train step; this takes a while ...']
  assert 'Compiled the train step, and ran it once, in ' in caplog.records[1].getMessage()


def test_calls_are_announced_that_are_the_first_of_their_size(caplog):
  call = compiling.Announced('the train step')
  for size in ((8, 9), (8, 9), (9, 8), (8, 9), (9, 8)):
    assert call(size, lambda x: x + 1, jnp.ones(())) == 2
  assert [text for text in caplog.messages if text.startswith('Compiling')] == [
      'Compiling the train step; this takes a while ...',
      'Compiling the train step for images of 9x8; this takes a while ...']


def warnings(caplog):
  return [r.getMessage() for r in caplog.records if r.levelno == logging.WARNING]


def test_many_sizes_are_said_once_with_what_to_do(caplog):
  sizes = compiling.Sizes()
  assert [sizes.is_first((8, width)) for width in (1, 1, 2, 3, 4, 4)] == [True] + [False] * 5
  assert not warnings(caplog)
  for width in (5, 6, 7):
    sizes.is_first((8, width))
  (message,) = warnings(caplog)
  assert message.startswith('Images of 5 sizes so far')
  assert '--config.eval.pad_multiple=32' in message and 'config.data.size=' in message


@pytest.mark.parametrize('multiple,advised', [(1, 32), (16, 32), (32, 128), (64, 256)])
def test_a_larger_multiple_than_the_present_one_is_advised(caplog, multiple, advised):
  sizes = compiling.Sizes(multiple)
  for width in range(5):
    sizes.is_first((8, width))
  assert f'pad_multiple={advised} ' in warnings(caplog)[0]


class Shapes:
  """A model of logits, which counts how often it is traced."""

  def __init__(self):
    self.traced = 0

  def apply(self, variables, image, *, mask, index):
    self.traced += 1
    return jnp.stack([image[..., 0] * 0.1, mask.astype(jnp.float32)] + [0 * image[..., 0]] * 9,
                     axis=-1), {}


def images(count):
  rng = np.random.default_rng(0)
  return [rng.integers(0, 256, (8, 8 + i, 3), np.uint8) for i in range(count)]


def test_prediction_says_it_too_and_pads_to_few(caplog):
  predict = make_predictor(TASK, Shapes())
  for image in images(6):
    predict({}, image[None])
  assert len(warnings(caplog)) == 1
  assert sum('Compiling the model' in r.getMessage() for r in caplog.records) == 1
  caplog.clear()
  padded = make_predictor(TASK, Shapes(), multiple=16)
  for image in images(6):
    padded({}, image[None])
  assert not warnings(caplog)


def test_images_that_are_resized_compile_the_model_once(caplog):
  model = Shapes()
  predict = make_predictor(TASK, model, size=(6, 6))
  assert [predict({}, image[None])[0].shape for image in images(6)] == [
      (1, 8, 8 + i) for i in range(6)]
  assert model.traced == 1 and not warnings(caplog)
  mirrored = make_predictor(TASK, model, size=(6, 6), inference=Inference(flip=True))
  for image in images(5):
    mirrored({}, image[None])
  (message,) = warnings(caplog)
  assert 'pad_multiple' not in message  # it would not help: nothing is padded here


def test_evaluation_says_it_too(caplog):
  source = [{'image': image, 'label': np.zeros(image.shape[:2], np.uint8)}
            for image in images(6)]
  mesh = parallel.create_mesh(jax.devices()[:1])
  evaluator = Evaluator(TASK, Shapes(), mesh, batch_size=1)
  evaluator({}, source)
  evaluator({}, source)
  assert len(warnings(caplog)) == 1
  assert [r.getMessage() for r in caplog.records][0].startswith('Compiling the evaluation step')
  assert sum('Compiling' in r.getMessage() for r in caplog.records) == 1


CACHE_SETTINGS = ('jax_compilation_cache_dir', 'jax_compilation_cache_max_size',
                  'jax_persistent_cache_min_compile_time_secs', 'jax_enable_compilation_cache')


@pytest.fixture
def settings(monkeypatch, tmp_path):
  """Sets what jax has of its cache, as a user who has set nothing else; put back afterwards."""
  before = {name: getattr(jax.config, name) for name in CACHE_SETTINGS}
  monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path))

  def set_as(**given):
    for name, default in zip(CACHE_SETTINGS, (None, -1, 1.0, True)):
      jax.config.update(name, given.get(name, default))

  set_as()
  yield set_as
  for name, value in before.items():
    jax.config.update(name, value)


def said(caplog):
  return [record.getMessage() for record in caplog.records]


def test_programs_are_kept_in_a_folder_that_is_said_and_bounded(settings, caplog, tmp_path):
  folder = compiling.keep_programs()
  assert folder.startswith(str(tmp_path / 'kdseg_jax' / 'compiled' / platform.machine()))
  assert os.path.isdir(folder)
  assert jax.config.jax_compilation_cache_dir == folder
  assert jax.config.jax_compilation_cache_max_size == compiling.CACHE_BYTES
  assert jax.config.jax_persistent_cache_min_compile_time_secs < 1
  assert said(caplog) == [f'Compiled programs are kept in {folder}, at most 2.15 GB.']


def test_cpus_of_other_instructions_have_a_folder_of_their_own(settings, monkeypatch):
  def folder(content):
    def open_cpuinfo(path):
      assert path == '/proc/cpuinfo'
      if content is None:
        raise FileNotFoundError(path)
      return io.StringIO(content)
    monkeypatch.setattr(compiling, 'open', open_cpuinfo, raising=False)
    settings()
    return compiling.keep_programs()
  x86 = 'processor\t: 0\ncpu MHz\t\t: {}\nflags\t\t: fpu {}\nbugs\t\t: x\n'
  folders = [folder(x86.format(2000, 'avx2')), folder(x86.format(2000, 'avx512f')),
             folder('processor\t: 0\nFeatures\t: fp asimd\n'), folder(None)]
  assert len(set(folders)) == 4
  assert folder(x86.format(1999.5, 'avx2')) == folders[0]  # another speed is no other kind


@pytest.mark.parametrize('set_to', [None, ''])
def test_the_folder_is_in_the_home_where_no_other_is_set(settings, monkeypatch, tmp_path, set_to):
  monkeypatch.setenv('HOME', str(tmp_path / 'home'))
  monkeypatch.setenv('XDG_CACHE_HOME', set_to or '')
  if set_to is None:
    monkeypatch.delenv('XDG_CACHE_HOME')
  assert compiling.keep_programs().startswith(str(tmp_path / 'home' / '.cache' / 'kdseg_jax'))


def test_what_the_user_has_set_goes_first(settings, caplog, tmp_path):
  settings(jax_compilation_cache_dir='/theirs')
  assert compiling.keep_programs() == '/theirs'
  assert jax.config.jax_compilation_cache_max_size == -1  # all of their settings
  settings(jax_compilation_cache_max_size=1000)
  assert compiling.keep_programs() and jax.config.jax_compilation_cache_max_size == 1000
  settings(jax_enable_compilation_cache=False)
  assert compiling.keep_programs() is None and jax.config.jax_compilation_cache_dir is None
  assert 'in /theirs, as jax_compilation_cache_dir says' in said(caplog)[0]
  assert 'jax_enable_compilation_cache is false' in said(caplog)[2]


def test_a_folder_that_cannot_be_made_ends_no_run(settings, caplog, monkeypatch, tmp_path):
  (tmp_path / 'file').write_text('')
  monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path / 'file'))
  assert compiling.keep_programs() is None and jax.config.jax_compilation_cache_dir is None
  assert 'not kept' in said(caplog)[0] and 'Not a directory' in said(caplog)[0]


def test_what_is_kept_stays_within_the_bound(tmp_path):
  """Forty programs, where there is room for some of them."""
  code = """
import jax, jax.numpy as jnp
from kdseg_jax import compiling
print(compiling.keep_programs())
jax.config.update('jax_persistent_cache_min_compile_time_secs', 0)
for k in range(40):
  jax.jit(lambda x, k=k: x + k)(jnp.ones(3))
"""
  bound = 30_000
  environment = {name: value for name, value in runs.ENVIRONMENT.items()
                 if not name.startswith(('JAX_COMPILATION', 'JAX_PERSISTENT_CACHE_MIN_ENTRY'))}
  output = subprocess.run(
      [sys.executable, '-c', code], text=True, capture_output=True, check=True,
      env=environment | {'XDG_CACHE_HOME': str(tmp_path),
                         'JAX_COMPILATION_CACHE_MAX_SIZE': str(bound)})
  kept = list(pathlib.Path(output.stdout.strip()).glob('*-cache'))
  assert output.stdout.startswith(f'{tmp_path}/'), output.stderr
  assert 0 < len(kept) < 40 and sum(path.stat().st_size for path in kept) <= bound
