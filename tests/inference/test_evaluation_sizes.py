"""Images of many sizes are scored as each would be alone; padding to a multiple is not that."""

import functools
import importlib
import pathlib

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kdseg_jax import metrics, parallel, tasks
from kdseg_jax.inference.evaluation import Evaluator, sizes_of_all
from tests import toys

CLASSES = 5
SIZES = [(33, 47), (40, 23), (33, 47)]
RECIPES = sorted(path.stem for path in (pathlib.Path(__file__).parents[2] / 'configs').glob('*.py')
                 if path.stem not in ('__init__', 'common', 'papers'))


def source():
  rng = np.random.default_rng(0)
  return [{'image': rng.integers(0, 256, (*size, 3), dtype=np.uint8),
           'label': rng.integers(0, CLASSES, size).astype(np.uint8)} for size in SIZES]


class Pooling(nn.Module):
  """A map at stride 8 plus its mean over the whole map, as image pooling adds it."""

  @nn.compact
  def __call__(self, image, mask=None, index=None, train=False):
    x = jnp.where(mask[..., None], image / 255.0 - 0.5, 0)
    x = nn.Conv(CLASSES, (3, 3), 8, padding=1, name='conv')(x)
    return x + jnp.mean(x, axis=(1, 2), keepdims=True), {}


@functools.cache
def model():
  module = Pooling()
  image = source()[0]['image'][None]
  return module, toys.variables(module, image, np.ones(image.shape[:3], bool))


def evaluator(multiple=1):
  mesh = parallel.create_mesh(jax.devices()[:1])
  return Evaluator(
      tasks.SegmentationTask(CLASSES), model()[0], mesh, batch_size=2, multiple=multiple)


def evaluated(multiple):
  return evaluator(multiple).accumulate(model()[1], source()).matrix


def test_an_evaluation_that_is_told_to_stop_has_no_metrics():
  for stop_at, stopped in ((1, True), (2, True), (3, False)):
    asked = iter(range(1, 9))
    found = evaluator()(model()[1], source(), should_stop=lambda stop_at=stop_at, asked=asked: (
        next(asked) == stop_at))
    assert (found is None) == stopped


def test_without_padding_every_image_counts_as_it_would_alone():
  module, variables = model()
  expected = 0
  for example in source():
    size = example['label'].shape
    logits, _ = module.apply(variables, example['image'][None], np.ones((1, *size), bool))
    rows, columns = (np.linspace(0, side - 1, wide)  # aligned corners
                     for wide, side in zip(size, logits.shape[1:3]))
    upsampled = jnp.stack([jax.scipy.ndimage.map_coordinates(
        logits[0, ..., c], jnp.meshgrid(rows, columns, indexing='ij'), order=1)
        for c in range(CLASSES)], axis=-1)
    expected += metrics.confusion_matrix(
        example['label'].astype(np.int32), jnp.argmax(upsampled, axis=-1), CLASSES)
  np.testing.assert_array_equal(evaluated(1), expected)


def test_padding_changes_the_result():
  assert evaluated(128).sum() == evaluated(1).sum()
  assert np.abs(evaluated(128) - evaluated(1)).sum() > 0


class Uniform:
  """Images of one size, or of others at odd places, which is told without reading them."""

  def __init__(self, size, odd=None):
    self._sizes = size, odd or size
    if odd is None:
      self.size = list(size)

  def __len__(self):
    return 5

  def size_of(self, index):
    return list(self._sizes[index % 2])

  def __getitem__(self, index):
    size = self._sizes[index % 2]
    return {'image': np.zeros((*size, 3), np.uint8), 'label': np.zeros(size, np.uint8)}


def test_sizes_are_those_that_a_source_tells():
  assert sizes_of_all(Uniform((8, 9))) == [(8, 9)] * 5
  assert sizes_of_all(Uniform((8, 9), (7, 5))) == [(8, 9), (7, 5), (8, 9), (7, 5), (8, 9)]


def test_several_processes_know_the_sizes_of_every_source_and_of_its_first_images(monkeypatch):
  evaluators = {limit: Evaluator(
      tasks.SegmentationTask(CLASSES), model()[0], parallel.create_mesh(jax.devices()[:1]),
      batch_size=2, limit=limit) for limit in (0, 3)}
  monkeypatch.setattr(jax, 'process_count', lambda: 2)
  for sizes in (((8, 9),), ((7, 5),), ((7, 5), (8, 9)), ((8, 9),)):
    for limit, count in ((0, 5), (3, 3)):
      batches = list(evaluators[limit]._batches(Uniform(*sizes)))
      found = [batch['image'].shape for batch in batches]
      # Even and odd places are of one size or of two, and this process has half of each batch.
      groups = [count] if len(sizes) == 1 else [-(-count // 2), count // 2]
      expected = [size for size, many in zip(sizes, groups) for _ in range(-(-many // 2))]
      assert sorted(found) == sorted((1, *size, 3) for size in expected)


def test_a_batch_is_rounded_up_to_the_number_of_devices():
  mesh = parallel.create_mesh(jax.devices()[:4])
  rounded = Evaluator(tasks.SegmentationTask(CLASSES), model()[0], mesh, batch_size=5)
  batches = rounded._batches(6 * source())  # twelve and six of a size
  assert [len(batch['index']) for batch in batches] == [8, 8, 8]


@pytest.mark.parametrize('recipe', RECIPES)
def test_no_recipe_pads(recipe):
  config = importlib.import_module(f'configs.{recipe}').get_config()
  assert config.eval.pad_multiple == 1
