"""`load` and what it returns: predictions of images as users have them, and a pure function."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import PIL.Image
import pytest

import kdseg_jax
from kdseg_jax import inference, models, parallel, predict
from kdseg_jax.checkpoint import Checkpointer, CheckpointError
from kdseg_jax.data import files
from kdseg_jax.errors import UserError
from kdseg_jax.inference import Classification, Inference, Segmentation
from kdseg_jax.inference.model import leaves_of_classes, restore
from tests import runs, toys, workdirs

CREATE = models.create
CLASSES = tuple('abcdefg')
RNG = np.random.default_rng(0)


def image_of(height, width):
  return RNG.integers(0, 256, (height, width, 3), np.uint8)


@pytest.fixture(scope='module', autouse=True)
def toy_models():
  """Models of one layer, where nothing depends on which."""
  with pytest.MonkeyPatch.context() as patch:
    toys.replace_segmenters_and_classifiers(patch)
    yield


@pytest.fixture(scope='module')
def workdir(tmp_path_factory):
  """Checkpoints 1, 2, 3, of which 2 is the best."""
  folder = tmp_path_factory.mktemp('run')
  workdirs.save(folder, workdirs.config_of(), scores=(0.1, 0.3, 0.2))
  return folder


@pytest.fixture(scope='module')
def classifier(tmp_path_factory):
  """A work directory as `import` makes them: no palette."""
  folder = tmp_path_factory.mktemp('classifier')
  config = workdirs.config_of('resnet18', **{'student.output_stride': 32})
  workdirs.save(folder, config, classes=CLASSES, palette=None)
  return folder


@pytest.mark.parametrize('checkpoint,step', [('best', 2), ('latest', 3), (1, 1)])
def test_the_checkpoint_that_is_asked_for(workdir, checkpoint, step):
  first = kdseg_jax.load(workdir, checkpoint=1)
  model = kdseg_jax.load(str(workdir), checkpoint=checkpoint)
  assert (model.step, model.train_step, model.workdir) == (step, step, str(workdir))
  jax.tree.map(lambda a, b: np.testing.assert_array_equal(a, step * b),
               model.variables['params'], first.variables['params'])
  assert {len(leaf.devices()) for leaf in jax.tree.leaves(model.variables)} == {1}


def test_the_number_of_a_checkpoint_may_count_other_steps_too(workdir, monkeypatch):
  """Those of a preparation, before these were runs of their own."""
  read = Checkpointer.read_meta
  monkeypatch.setattr(Checkpointer, 'read_meta', lambda self, step: read(self, step) | {
      'data': {'seed': 0, 'next_batch': 1}})
  model = kdseg_jax.load(workdir, checkpoint=3)
  assert (model.step, model.train_step) == (3, 1)


@pytest.mark.parametrize('entry', ['config', 'classes'])
def test_a_checkpoint_without_what_describes_it_is_refused(entry, workdir, monkeypatch):
  read = Checkpointer.read_meta
  monkeypatch.setattr(Checkpointer, 'read_meta', lambda self, step: {
      name: value for name, value in read(self, step).items() if name != entry})
  with pytest.raises(CheckpointError, match=f'checkpoint . of .* has no {entry}; it is damaged'):
    kdseg_jax.load(workdir)


def test_what_a_model_knows(workdir):
  model = kdseg_jax.load(workdir)
  assert model.classes == workdirs.CLASSES and model.palette == workdirs.PALETTE
  assert model.config.student.name == 'espnet_c' and model.views == Inference()
  assert model.module == toys.Model(3, None)
  assert repr(model) == f'Model(espnet_c, 3 classes, 87 parameters, checkpoint 2 of {workdir})'
  assert repr(toys.loaded(None)).endswith('3 classes, 0 parameters)')


@pytest.mark.parametrize('align_corners', [True, False])
def test_its_task_upsamples_as_its_config_says(align_corners):
  config = workdirs.config_of(**{'task.align_corners': align_corners})
  task = dataclasses.replace(toys.loaded(None), config=config).task
  assert (task.num_classes, task.align_corners) == (3, align_corners)


@pytest.mark.parametrize('checkpoint', [7, 'newest', None])
def test_a_checkpoint_that_is_not_there(workdir, checkpoint):
  with pytest.raises(CheckpointError, match=f"no checkpoint {checkpoint!r}; .* 1, 2, 3"):
    kdseg_jax.load(workdir, checkpoint=checkpoint)


def test_a_folder_without_any(tmp_path):
  with pytest.raises(CheckpointError, match='nowhere has no checkpoint'):
    kdseg_jax.load(tmp_path / 'nowhere')
  with pytest.raises(UserError, match='gs://bucket/run: is an address'):
    kdseg_jax.load('gs://bucket/run')


def test_images_of_every_form_give_the_same(workdir, tmp_path, monkeypatch):
  model = kdseg_jax.load(workdir)
  images = np.stack([image_of(9, 7) for _ in range(3)])
  for i, image in enumerate(images):
    files.write_png(tmp_path / f'{i}.png', image)
  wanted = [model.predict(image)[0] for image in images]
  assert {(x.labels.shape, x.labels.dtype.name, x.scores.shape, x.scores.dtype.name)
          for x in wanted} == {((9, 7), 'uint8', (9, 7, 3), 'float32')}
  assert len({x.labels.tobytes() for x in wanted}) == 3
  names = [tmp_path / '0.png', str(tmp_path / '1.png'), images[2]]
  pictures = [PIL.Image.fromarray(image) for image in images]
  for given in (images, list(images), tuple(images), jnp.asarray(images), names, pictures):
    for found, want in zip(model.predict(given), wanted, strict=True):
      jax.tree.map(np.testing.assert_array_equal, found, want)
  assert model.predict([]) == []
  monkeypatch.setenv('HOME', str(tmp_path))
  for path in (tmp_path / '0.png', '~/0.png'):
    (from_path,) = model.predict(path)
    np.testing.assert_array_equal(from_path.labels, wanted[0].labels)


def test_scores_are_probabilities_whose_largest_is_the_label(workdir):
  (found,) = kdseg_jax.load(workdir).predict(image_of(9, 7))
  assert isinstance(found, Segmentation)
  np.testing.assert_allclose(found.scores.sum(axis=-1), 1, rtol=1e-5)
  np.testing.assert_array_equal(found.scores.argmax(axis=-1), found.labels)
  (without,) = kdseg_jax.load(workdir).predict(image_of(9, 7), scores=False)
  assert without.scores is None and without.labels.shape == (9, 7)


class Shares:
  """The logit of the first class is the share of the image that is no padding."""

  def apply(self, variables, image, *, mask=None, index=None):
    share = jnp.ones(len(image)) if mask is None else jnp.mean(mask, axis=(1, 2))
    logits = jnp.broadcast_to(share[:, None, None], image.shape[:3])
    return jnp.stack([logits, 0 * logits, 0 * logits], axis=-1), {}


def test_what_is_padded_is_told_to_the_module():
  model = toys.loaded(Shares())
  mask = np.ones((1, 4, 5), bool)
  mask[:, 2:] = False
  for given, share in ((None, 1), (mask, 0.5)):
    logits, _ = model.apply(np.zeros((1, 4, 5, 3), np.uint8), mask=given)
    np.testing.assert_allclose(logits[..., 0], share)
  config = workdirs.config_of(**{'eval.pad_multiple': 8})
  (found,) = dataclasses.replace(model, config=config).predict(image_of(13, 11))
  share = np.exp(13 * 11 / 256)
  np.testing.assert_allclose(found.scores[..., 0], share / (share + 2), rtol=1e-5)
  assert found.scores.shape == (13, 11, 3)


def test_batches_of_images_of_mixed_sizes_keep_their_order(workdir):
  model = kdseg_jax.load(workdir)
  images = [image_of(9, 7 + i % 2) for i in range(7)]  # 4 of one size and 3 of the other
  shapes = []
  shown = dataclasses.replace(model, module=Shown(model.module, shapes))
  for found, image in zip(shown.predict(images, batch_size=3), images, strict=True):
    want = model.predict(image)[0]
    np.testing.assert_array_equal(found.labels, want.labels)
    np.testing.assert_allclose(found.scores, want.scores, rtol=1e-5, atol=1e-6)
  # The fourth image is shown three times, for no other program to be compiled.
  assert sorted(shapes) == [(3, 9, 7, 3), (3, 9, 8, 3)]
  shapes.clear()
  shown = dataclasses.replace(model, module=Shown(model.module, shapes))
  assert len(shown.predict(images[::2], batch_size=8)) == 4 and shapes == [(4, 9, 7, 3)]


class Shown:
  """A module that notes the shapes for which it is traced."""

  def __init__(self, module, shapes):
    self._module, self._shapes = module, shapes

  def apply(self, variables, image, **options):
    self._shapes.append(image.shape)
    return self._module.apply(variables, image, **options)


def test_models_of_one_architecture_share_their_programs(workdir):
  first, second = (kdseg_jax.load(workdir, checkpoint=step) for step in (1, 2))
  shapes = []
  module = Shown(first.module, shapes)
  image = image_of(9, 7)
  (a,), (b,) = (dataclasses.replace(model, module=module).predict(image)
                for model in (first, second))
  assert len(shapes) == 1 and not np.allclose(a.scores, b.scores)


@pytest.mark.parametrize('image,message', [
    (np.zeros((4, 5, 3), np.float32), r'images\[0\] is float32 of shape \(4, 5, 3\)'),
    (np.zeros((4, 5), np.uint8), r'images\[0\] is uint8 of shape \(4, 5\); .* Grey: np.stack'),
    (np.zeros((4, 5, 1), np.uint8), r'shape \(4, 5, 1\); expected uint8 RGB'),
    (np.zeros((2, 4, 5, 4), np.uint8), r'\(4, 5, 4\); .* With alpha: image\[..., :3\]'),
    (np.zeros((4, 5, 3)), r'float64 of shape \(4, 5, 3\); .* Scale it to 0-255'),
    (np.zeros((4, 5, 3), np.int64), 'int64'),
    (np.zeros((0, 5, 3), np.uint8), r'\(0, 5, 3\)'),
    (np.zeros((3, 4, 5, 6, 3), np.uint8), r'\(3, 4, 5, 6, 3\)'),
    ([np.zeros((4, 5, 3), np.uint8), np.zeros((3, 4, 5), np.uint8)], r'images\[1\] .*\(3, 4, 5\)'),
    ([np.zeros((4, 5, 3), np.uint8)] * 2 + ['nowhere.png'], 'nowhere.png: no such file'),
    ('gs://bucket/a.png', 'gs://bucket/a.png: is an address'),
    (iter(()), r'images\[0\] is object'),
])
def test_what_is_no_image_is_named_before_anything_is_computed(image, message):
  shapes = []
  model = toys.loaded(Shown(None, shapes))
  with pytest.raises(UserError, match=message):
    model.predict(image, batch_size=2)
  assert not shapes


def test_no_batch_without_images():
  with pytest.raises(UserError, match='batch_size=0 must be at least 1'):
    toys.loaded(None).predict(image_of(4, 4), batch_size=0)


def test_a_model_is_an_argument_of_jitted_and_mapped_functions(workdir):
  first, second = (kdseg_jax.load(workdir, checkpoint=step) for step in (1, 2))
  images = np.stack([image_of(9, 7) for _ in range(2)])
  mask = np.ones((2, 9, 7), bool)
  logits, taps = jax.jit(lambda model, x: model.apply(x, mask=mask))(second, images)
  want, _ = second.module.apply(second.variables, images)
  np.testing.assert_allclose(logits, want, rtol=1e-5, atol=1e-6)
  np.testing.assert_array_equal(taps['logits'], logits)

  doubled = jax.jit(lambda model: jax.tree.map(lambda x: 2 * x, model))(first)
  assert isinstance(doubled, inference.Model) and doubled.classes == first.classes
  np.testing.assert_allclose(jax.tree.leaves(doubled)[0], 2 * jax.tree.leaves(first)[0])

  stacked = jax.tree.map(lambda *x: jnp.stack(x), first.variables, second.variables)
  apply = lambda variables: dataclasses.replace(first, variables=variables).apply(images)[0]
  both = jax.vmap(apply)(stacked)
  np.testing.assert_allclose(both[1], want, rtol=1e-5, atol=1e-6)


def test_gradients_reach_the_variables_and_the_images(workdir):
  model = kdseg_jax.load(workdir)
  loss = lambda model, images: model.apply(images)[0].std()
  of_model, of_images = jax.grad(loss, argnums=(0, 1))(model, jnp.ones((1, 9, 7, 3)))
  leaves = jax.tree.leaves(of_model.variables['params'])
  assert len(leaves) == 3 and any(np.abs(leaf).max() > 0 for leaf in leaves)
  assert np.abs(of_images).max() > 0


@pytest.mark.parametrize('fields,options,views', [
    ({}, [], None), ({'data.size': (8, 6)}, [], None), ({'eval.pad_multiple': 16}, [], None),
    ({'eval.scales': (0.5, 1.0), 'eval.flip': True}, [], None),
    ({}, ['--config.eval.window=(6,6)'], Inference(window=(6, 6)))])
def test_predictions_are_those_that_predict_writes(fields, options, views, tmp_path, capsys):
  workdirs.save(tmp_path / 'run', workdirs.config_of(**fields))
  image = image_of(9, 7)
  files.write_png(tmp_path / 'a.png', image)
  status, _ = runs.run_here(
      capsys, predict.PROGRAM, f'--workdir={tmp_path / "run"}', tmp_path / 'a.png', *options)
  assert not status
  (found,) = kdseg_jax.load(tmp_path / 'run', views=views).predict(image)
  written = files.read_label(tmp_path / 'run' / 'predictions' / 'labels' / 'a.png')
  np.testing.assert_array_equal(found.labels, written)
  if not fields and not options:
    logits, _ = kdseg_jax.load(tmp_path / 'run').apply(image[None])
    np.testing.assert_array_equal(written, np.argmax(logits[0], axis=-1))


def test_views_are_those_of_the_config_or_those_that_are_given(tmp_path):
  workdirs.save(tmp_path, workdirs.config_of(**{'eval.window': (8, 8), 'eval.flip': True}))
  assert kdseg_jax.load(tmp_path).views == Inference(window=(8, 8), flip=True)
  assert kdseg_jax.load(tmp_path, views=Inference()).views == Inference()


def test_programs_restore_over_their_mesh_after_a_check_of_the_classes(workdir, monkeypatch):
  model = restore(workdir, mesh=parallel.create_mesh(jax.devices()[:4]))
  assert {len(leaf.devices()) for leaf in jax.tree.leaves(model.variables)} == {4}

  def refuse(classes):
    raise UserError(f'not {" ".join(classes)}')
  monkeypatch.delattr(Checkpointer, 'restore_model')  # nothing is restored before
  with pytest.raises(UserError, match='not sky road tree'):
    restore(workdir, check=refuse)


def test_leaves_that_follow_from_the_number_of_classes(monkeypatch):
  toys.replace_models(monkeypatch, toys.BodyAndHead)
  assert leaves_of_classes(workdirs.config_of().student, 3) == {
      'params/head/kernel', 'params/head/bias'}


def test_a_classifier_says_probabilities(classifier):
  model = kdseg_jax.load(classifier)
  assert model.palette is None and model.task.name == 'classification'
  images = [image_of(12, 10) for _ in range(3)]
  wanted = jax.nn.softmax(model.apply(np.stack(images))[0])
  for found, want in zip(model.predict(images, batch_size=2), wanted, strict=True):
    assert isinstance(found, Classification)
    np.testing.assert_allclose(found.probabilities, want, rtol=1e-5)
    assert found.label == want.argmax() and found.probabilities.dtype == np.float32


def test_a_classifier_sees_images_at_the_size_of_its_config(classifier):
  model, image = kdseg_jax.load(classifier), image_of(12, 10)
  config = workdirs.config_of('resnet18', **{'data.size': (6, 6)})
  (found,) = dataclasses.replace(model, config=config).predict(image)
  (want,) = model.predict(files.resize_image(image, (6, 6)))
  np.testing.assert_array_equal(found.probabilities, want.probabilities)
  with pytest.raises(UserError, match='whole images only, or their centre, not flip'):
    kdseg_jax.load(classifier, views=Inference(flip=True)).predict(image)


@pytest.mark.slow
@pytest.mark.parametrize('name', ['espnet_c', 'mobilenetv2'])
def test_models_of_the_package(name, tmp_path, monkeypatch):
  monkeypatch.setattr(models, 'create', CREATE)
  workdirs.save(tmp_path, workdirs.config_of(name, **{
      'student.output_stride': 32 if name in models.CLASSIFIERS else 8}))
  model = kdseg_jax.load(tmp_path)
  images = np.stack([image_of(40, 48) for _ in range(2)])
  logits, taps = jax.jit(type(model).apply)(model, images)
  assert logits.shape == ((2, 3) if name in models.CLASSIFIERS else (2, 5, 6, 3))
  assert {'stage1', 'embedding', 'logits'} <= set(taps)
  for found, row in zip(model.predict(images, batch_size=2), logits):
    if name in models.CLASSIFIERS:
      assert found.label == row.argmax()
    else:
      np.testing.assert_array_equal(
          found.labels, model.task.predict(row[None], (40, 48))[0])
