"""Windows, scales and mirror images: by hand, against the whole image, and over devices."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from configs import quickstart
from kdseg_jax import parallel, tasks
from kdseg_jax.data import files
from kdseg_jax.inference import evaluation
from kdseg_jax.inference.evaluation import Evaluator, throughput
from kdseg_jax.inference.views import WHOLE_IMAGE, Inference, apply_frozen, scaled
from kdseg_jax.inference.windows import make_predictor, make_scorer, window_starts
from kdseg_jax.training import experiment
from tests import toys

TASK = tasks.SegmentationTask(num_classes=3)
EVERYTHING = Inference(window=(8, 6), overlap=0.5, scales=(0.75, 1.5), flip=True)


class Pixelwise(nn.Module):
  """Logits of each pixel from its own colour, 0 where the mask is False."""

  @nn.compact
  def __call__(self, image, mask, index):
    logits = nn.Dense(3)(image.astype(jnp.float32) / 64 - 2) * mask[..., None]
    return logits, {}


class Function:
  """A function of (image, mask) as a model; remembers what it was shown."""

  def __init__(self, function):
    self.function, self.shown = function, []

  def apply(self, variables, image, mask, index):
    self.shown.append((image.shape, image.dtype.name))
    return self.function(image, mask), {}


def batch_of(shape=(2, 13, 11), seed=0):
  image = np.random.default_rng(seed).integers(0, 256, (*shape, 3), np.uint8)
  return {'image': image, 'mask': np.ones(shape, bool),
          'index': np.arange(shape[0], dtype=np.int32)}


def pixelwise():
  batch = batch_of()
  return Pixelwise(), Pixelwise().init(
      jax.random.key(0), batch['image'], batch['mask'], batch['index'])


def score_of(model, batch, inference, variables=None, size=None):
  size = size or batch['image'].shape[1:3]
  return jax.jit(make_scorer(TASK, model, inference), static_argnums=2)(variables, batch, size)


def two_classes(x):
  """Logits of which the softmax is (x, 1 - x, 0), nearly."""
  return jnp.stack([jnp.log(x), jnp.log(1 - x), jnp.full_like(x, -100)], axis=-1)


@pytest.mark.parametrize('total,window,overlap,starts', [
    (5, 3, 1 / 3, [0, 2]), (6, 3, 1 / 3, [0, 2, 3]), (7, 3, 0, [0, 3, 4]), (3, 3, 0.5, [0]),
    (4, 3, 0.9, [0, 1]), (2048, 713, 1 / 3, [0, 476, 952, 1335]),
    (200, 100, 0.29, [0, 71, 100])])
def test_windows_advance_by_their_stride_and_end_at_the_border(total, window, overlap, starts):
  assert window_starts(total, window, overlap).tolist() == starts


@settings(max_examples=50, deadline=None)
@given(st.integers(1, 40), st.integers(0, 200), st.floats(0, 0.999))
def test_windows_leave_no_gap(window, more, overlap):
  starts = window_starts(window + more, window, overlap)
  assert starts[0] == 0 and starts[-1] == more
  assert (np.diff(starts) > 0).all() and np.diff(starts, append=more).max() <= window


def test_plain_inference_gives_the_logits_themselves():
  model, variables = pixelwise()
  batch = batch_of()
  scores = score_of(model, batch, WHOLE_IMAGE, variables)
  np.testing.assert_array_equal(
      scores, jax.jit(model.apply)(variables, batch['image'], batch['mask'], batch['index'])[0])
  assert Inference(overlap=0.7).is_plain and not EVERYTHING.is_plain


@pytest.mark.parametrize('inference', [
    Inference(window=(5, 4)), Inference(window=(13, 11)), Inference(window=(20, 4), overlap=0.8),
    Inference(flip=True), Inference(window=(6, 6), overlap=0.0, flip=True),
    Inference(scales=(1.0, 1.0))], ids=str)
def test_a_model_that_sees_single_pixels_predicts_what_it_does_on_the_whole_image(inference):
  model, variables = pixelwise()
  batch = batch_of()
  logits = score_of(model, batch, WHOLE_IMAGE, variables)
  scores = score_of(model, batch, inference, variables)
  np.testing.assert_allclose(scores, jax.nn.softmax(logits), rtol=1e-5, atol=1e-6)
  np.testing.assert_array_equal(
      TASK.predict(scores, (13, 11)), TASK.predict(logits, (13, 11)))


def test_pixels_in_several_windows_get_the_mean_of_their_probabilities_by_hand():
  # Every pixel of a window gets its mean colour as probability. Rows 0-1 and 1-2, columns 0-2 and
  # 2-4: the middle pixel lies in all four.
  model = Function(lambda image, mask: two_classes(
      jnp.broadcast_to(jnp.mean(image[..., 0] / 255., axis=(1, 2), keepdims=True), mask.shape)))
  image = np.random.default_rng(0).integers(1, 255, (1, 3, 5, 3), np.uint8)
  batch = batch_of((1, 3, 5)) | {'image': image}
  scores = score_of(model, batch, Inference(window=(2, 3), overlap=0.5))
  red = image[0, ..., 0] / 255
  means = np.array([[red[top:top + 2, left:left + 3].mean() for left in (0, 2)]
                    for top in (0, 1)])
  rows = np.array([[1, 0], [0.5, 0.5], [0, 1]])
  columns = np.array([[1, 0], [1, 0], [0.5, 0.5], [0, 1], [0, 1]])
  np.testing.assert_allclose(scores[0, ..., 0], rows @ means @ columns.T, rtol=1e-5)
  np.testing.assert_allclose(np.sum(scores, axis=-1), 1, rtol=1e-6)
  assert len(set(model.shown)) == 1 and model.shown[0][0] == (1, 2, 3, 3)


def test_a_mirror_image_is_turned_back_and_averaged():
  column = jnp.linspace(0.1, 0.8, 5)  # what the model says depends on the place alone
  model = Function(lambda image, mask: two_classes(jnp.broadcast_to(column, mask.shape)))
  scores = score_of(model, batch_of((2, 3, 5)), Inference(flip=True))
  expected = np.broadcast_to((column + column[::-1]) / 2, (2, 3, 5))
  np.testing.assert_allclose(scores[..., 0], expected, rtol=1e-5)
  looks_left = Function(lambda image, mask: two_classes(
      0.1 + 0.8 * jnp.roll(image[..., 0] / 255., 1, axis=2)))
  batch = batch_of((1, 3, 5))
  scores = score_of(looks_left, batch, Inference(flip=True))
  red = batch['image'][..., 0] / 255
  np.testing.assert_allclose(
      scores[..., 0], 0.1 + 0.4 * (np.roll(red, 1, axis=2) + np.roll(red, -1, axis=2)), rtol=1e-4)


def test_of_a_mirror_image_the_padding_is_mirrored_too():
  batch = batch_of((1, 3, 5))
  batch['mask'][:, :, 3:] = False
  model = Function(lambda image, mask: two_classes(jnp.where(mask, 0.9, 0.2) + 0 * image[..., 0]))
  scores = score_of(model, batch, Inference(flip=True))
  np.testing.assert_allclose(scores[..., 0], np.where(batch['mask'], 0.9, 0.2), rtol=1e-5)


def test_logits_are_upsampled_before_they_become_probabilities():
  model = Function(lambda image, mask: jnp.stack(
      [image[:, ::2, ::2, 0] / 16., image[:, ::2, ::2, 1] / 32., jnp.zeros_like(mask[:, ::2, ::2])],
      axis=-1))
  batch = batch_of((1, 6, 8))
  logits = TASK.upsample(model.apply(None, batch['image'], batch['mask'], None)[0], (6, 8))
  scores = score_of(model, batch, Inference(scales=(1.0, 1.0)))
  np.testing.assert_allclose(scores, jax.nn.softmax(logits), rtol=1e-5, atol=1e-6)


def test_scales_show_resized_floats_and_are_averaged_at_the_size_that_is_asked_for():
  # The probability is the share of the true size that the model is shown: 0.25, 0.5.
  model = Function(lambda image, mask: two_classes(
      jnp.full(mask.shape, image.shape[1] / 32) + 0 * image[..., 0]))
  inference = Inference(scales=(0.5, 1.0))
  scores = score_of(model, batch_of((1, 16, 8)), inference, size=(20, 12))
  assert scores.shape == (1, 20, 12, 3)
  np.testing.assert_allclose(scores[..., 0], 0.375, rtol=1e-5)
  assert model.shown == [((1, 8, 4, 3), 'float32'), ((1, 16, 8, 3), 'uint8')]


def test_a_scaled_image_keeps_its_colours_and_its_mask():
  batch = batch_of((1, 8, 8))
  batch['image'][:] = np.where(np.arange(8)[:, None] < 4, 40, 200)[..., None]
  batch['mask'][:, :, 6:] = False
  colour = Function(lambda image, mask: two_classes(jnp.where(mask, image[..., 0] / 255., 0.5)))
  scores = score_of(colour, batch, Inference(scales=(2.0,)))
  np.testing.assert_allclose(scores[0, [0, 7], :6, 0], [[40 / 255] * 6, [200 / 255] * 6], rtol=1e-5)
  np.testing.assert_allclose(scores[0, :, 7, 0], 0.5, rtol=1e-5)


def test_windows_are_laid_over_the_scaled_image():
  small = batch_of((1, 6, 5))
  large = {'image': small['image'].repeat(2, 1).repeat(2, 2), 'mask': np.ones((1, 12, 10), bool),
           'index': small['index']}
  mean = Function(lambda image, mask: two_classes(jnp.broadcast_to(
      jnp.mean(image[..., 0] / 255., axis=(1, 2), keepdims=True), mask.shape)))
  of_small = score_of(mean, small, Inference(window=(4, 3), overlap=0.5))
  scores = score_of(mean, large, Inference(window=(4, 3), overlap=0.5, scales=(0.5,)))
  np.testing.assert_allclose(scores, TASK.upsample(of_small, (12, 10)), rtol=1e-5, atol=1e-6)


def test_sides_of_scaled_images_are_rounded_and_at_least_a_pixel():
  assert scaled((7, 9), 0.5) == (4, 4)  # 3.5 and 4.5 to the even
  assert scaled((7, 9), 1.25) == (9, 11) and scaled((1, 30), 0.1) == (1, 3)


def test_no_gradient_passes_a_frozen_model():
  model, variables = pixelwise()
  batch = batch_of()
  loss = lambda variables: jnp.sum(apply_frozen(model, variables, batch)[0] ** 2)
  assert loss(variables) > 0
  assert not any(np.any(leaf) for leaf in jax.tree.leaves(jax.grad(loss)(variables)))


def test_a_scaled_image_is_resized_as_those_of_the_data_are():
  batch = batch_of((1, 4, 5))
  batch['image'] = np.clip(batch['image'], 1, 254)
  red = Function(lambda image, mask: two_classes(image[..., 0] / 255.))
  scores = score_of(red, batch, Inference(scales=(2.0,)), size=(8, 10))
  wanted = files.resize_image(batch['image'][0], (8, 10))[..., 0] / 255
  np.testing.assert_allclose(scores[0, ..., 0], wanted, atol=1.01 / 255)


def test_an_image_smaller_than_the_window_is_padded_with_mask_false():
  # What the model says depends on how much of the window is image.
  model = Function(lambda image, mask: two_classes(
      jnp.broadcast_to(jnp.mean(mask, axis=(1, 2), keepdims=True), mask.shape)))
  scores = score_of(model, batch_of((2, 4, 5)), Inference(window=(8, 5)))
  assert scores.shape == (2, 4, 5, 3)
  np.testing.assert_allclose(scores[..., 0], 0.5, rtol=1e-5)
  assert set(model.shown) == {((2, 8, 5, 3), 'uint8')}


def test_the_program_does_not_grow_with_the_number_of_windows():
  def equations(window):
    model, variables = pixelwise()
    score = make_scorer(TASK, model, Inference(window=window))
    program = jax.make_jaxpr(score, static_argnums=2)(variables, batch_of((1, 40, 40)), (40, 40))
    return len(program.eqns)
  assert equations((20, 20)) == equations((4, 5))


class Source:
  """Images of two sizes, seven of the one and four of the other."""

  classes = ('a', 'b', 'c')

  def __len__(self):
    return 11

  def __getitem__(self, index):
    rng = np.random.default_rng(index)
    shape = (13, 11) if index % 3 else (7, 9)
    label = rng.integers(0, 3, shape).astype(np.uint8)
    label[rng.uniform(size=shape) < index / 11] = 255
    return {'image': rng.integers(0, 256, (*shape, 3), np.uint8), 'label': label}


@pytest.fixture(scope='module')
def counts_of_one_image_at_a_time():
  source, score = Source(), make_scorer(TASK, toys.Model(), EVERYTHING)
  variables = toys.Model().init(jax.random.key(0), batch_of()['image'])
  score, total = jax.jit(score, static_argnums=2), 0
  for index in range(len(source)):
    example = source[index]
    batch = {'image': example['image'][None], 'mask': np.ones((1, *example['label'].shape), bool),
             'index': np.array([index]), 'label': example['label'][None]}
    outputs = TASK.outputs(score(variables, batch, example['label'].shape), batch)
    total += outputs.sums['confusion_matrix']
  return variables, np.asarray(total)


@pytest.mark.parametrize('devices,mode', [(1, 'shard_map'), (8, 'shard_map'), (8, 'pmap')])
def test_evaluation_counts_the_same_on_any_number_of_devices_with_ragged_batches(
    devices, mode, counts_of_one_image_at_a_time):
  variables, expected = counts_of_one_image_at_a_time
  mesh = parallel.create_mesh(jax.devices()[:devices])
  evaluator = Evaluator(TASK, toys.Model(axis_name=parallel.AXIS), mesh, mode=mode, batch_size=8,
                        inference=EVERYTHING)
  variables = parallel.replicate(variables, mesh)
  found = evaluator.accumulate(variables, Source())
  assert found.images == 11
  np.testing.assert_array_equal(found.matrix, expected)
  if devices == 1:
    assert evaluator(variables, Source()) == found.summarize()


def test_predictor_and_throughput_see_images_alike():
  model, variables = pixelwise()
  images = batch_of()['image'][:1]
  labels, scores = make_predictor(TASK, model, inference=EVERYTHING)(
      variables, images, with_scores=True)
  assert labels.shape == (1, 13, 11) and labels.dtype == np.uint8
  wanted = score_of(model, batch_of((1, 13, 11)) | {'image': images}, EVERYTHING, variables)
  np.testing.assert_array_equal(labels, np.argmax(wanted, axis=-1))
  np.testing.assert_allclose(scores, wanted, rtol=1e-6)
  shown = Function(lambda image, mask: jnp.zeros((*mask.shape, 3)))
  assert make_predictor(TASK, shown, size=(8, 6))({}, images)[0].shape == (1, 13, 11)
  assert throughput(toys.loaded(shown, views=Inference(window=(4, 4))), images, seconds=0.01) > 0
  assert [shape for shape, _ in shown.shown[:1] + shown.shown[-1:]] == [(1, 8, 6, 3), (1, 4, 4, 3)]


def test_throughput_is_of_whole_predictions_once_they_are_compiled(monkeypatch):
  now, traced, predictions = [0.0], [], tasks.SegmentationTask.predictions

  def compiling(image, mask):
    now[0] += 100
    return jnp.zeros((*mask.shape, 3))
  monkeypatch.setattr(evaluation.time, 'perf_counter', lambda: now.append(now.pop() + 1) or now[0])
  monkeypatch.setattr(tasks.SegmentationTask, 'predictions', lambda *given: (
      traced.append(given), predictions(*given))[1])
  model = toys.loaded(Function(compiling))
  # Two rounds of two images, after which 4 s have passed.
  assert throughput(model, batch_of((2, 4, 4))['image'], seconds=2.5) == 1.0
  assert now[0] > 100 and len(traced) == 1


def test_predictor_pads_to_a_multiple_and_cuts_its_labels_out():
  # Labels tell the position; what is padded is masked.
  shown = Function(lambda image, mask: jax.nn.one_hot(
      jnp.where(mask, 1 + (jnp.arange(mask.shape[2]) > 4), 0), 3))
  labels = make_predictor(TASK, shown, multiple=8)({}, batch_of((1, 13, 11))['image'])[0][0]
  assert shown.shown[0][0] == (1, 16, 16, 3)
  np.testing.assert_array_equal(labels, np.tile([1] * 5 + [2] * 6, (13, 1)))


def test_what_a_predictor_pads_is_masked():
  share = Function(lambda image, mask: two_classes(
      jnp.broadcast_to(jnp.mean(mask, axis=(1, 2), keepdims=True), mask.shape)))
  _, scores = make_predictor(TASK, share, multiple=8)(
      {}, batch_of((1, 13, 11))['image'], with_scores=True)
  np.testing.assert_allclose(scores[..., 0], 13 * 11 / 256, rtol=1e-5)


@pytest.mark.parametrize('fields,message', [
    ({'window': (4,)}, r'window=\(4,\): expected \(height, width\)'),
    ({'window': (0, 4)}, 'both positive'), ({'window': (4.0, 4)}, 'whole pixels'),
    ({'overlap': 1.0}, 'overlap=1.0: expected a share'), ({'overlap': -0.1}, 'overlap=-0.1'),
    ({'scales': ()}, r'scales=\(\): expected one or more'), ({'scales': (1.0, 0.0)}, 'positive'),
    ({'scales': (float('nan'),)}, 'positive factors'),
    ({'crop': (8, 9), 'short_side': 8}, r'short_side=8 and crop=\(8, 9\): expected a side of'),
    ({'crop': (8, 8)}, 'short_side=0'), ({'short_side': 8}, r'crop=\(\)')])
def test_what_cannot_be_used_is_refused(fields, message):
  with pytest.raises(ValueError, match=f'config.eval.*{message}'):
    Inference(**fields)


def test_what_just_fits_is_taken():
  Inference(crop=(8, 9), short_side=9)
  Inference(window=(48, 64)).check_size((48, 64))
  Inference(window=(48, 64), scales=(0.5, 1.5)).check_size((32, 43))  # (48, 64) at 1.5


def test_a_config_is_refused_before_anything_is_built():
  config = quickstart.get_config()
  assert experiment.create_inference(config) == WHOLE_IMAGE
  config.data.size = (48, 64)
  config.eval.window = (64, 72)
  config.eval.scales = (1.0, 1.25)  # (60, 80): wider than the window
  assert experiment.create_inference(config).window == (64, 72)
  config.eval.scales = (1.0,)
  with pytest.raises(ValueError, match=r'window=\(64, 72\) is larger than every image.*\(48, 64\)'):
    experiment.create_experiment(config)


def test_inference_says_what_it_is():
  assert str(WHOLE_IMAGE) == 'whole images'
  assert str(EVERYTHING) == 'windows of 8x6 overlapping by 0.50, scales 0.75 1.5, flip'
  assert str(Inference(short_side=20, crop=(16, 18), flip=True)) == (
      'the centre 16x18 at a shorter side of 20, flip')
