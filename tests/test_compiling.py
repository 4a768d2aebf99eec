"""What is said while programs compile, and where many image sizes make many programs."""

import logging

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
