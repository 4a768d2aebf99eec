"""StableHLO exports, run without the code of their model."""

import json
import shutil

import jax
import numpy as np
import pytest

import kdseg_jax
from kdseg_jax import inference, models, predict
from kdseg_jax.data import crops, files
from kdseg_jax.errors import UserError
from kdseg_jax.interop import exported, exporting
from kdseg_jax.interop.exporting import manifest
from tests import workdirs

RNG = np.random.default_rng(0)
OPTIONS = exporting.Options('stablehlo', platforms=('cpu',))


def image_of(height, width):
  return RNG.integers(0, 256, (height, width, 3), np.uint8)


def run(*arguments):
  with pytest.raises(SystemExit) as ended:
    predict.PROGRAM.run(['predict', *map(str, arguments)])
  return ended.value.code



@pytest.fixture(scope='module')
def segmenter(tmp_path_factory):
  """A work directory and its export."""
  base = tmp_path_factory.mktemp('segmenter')
  workdirs.save(base / 'run', workdirs.config_of())
  exporting.export(kdseg_jax.load(base / 'run'), str(base / 'out'), OPTIONS)
  return base


@pytest.fixture(scope='module')
def classifier(tmp_path_factory):
  base = tmp_path_factory.mktemp('classifier')
  workdirs.save(base / 'run', workdirs.config_of('resnet18', **{'student.output_stride': 32}),
                classes=tuple('abcdefg'), palette=None)
  exporting.export(kdseg_jax.load(base / 'run'), str(base / 'out'), OPTIONS)
  return base


def test_a_segmenter_says_what_the_model_says(segmenter, monkeypatch):
  live = kdseg_jax.load(segmenter / 'run')
  images = [image_of(40, 56), image_of(33, 47), image_of(40, 56)]
  wanted = [live.predict(image)[0] for image in images]
  monkeypatch.setattr(models, 'create', None)
  model = kdseg_jax.load(segmenter / 'out')
  assert model.classes == workdirs.CLASSES and model.palette == workdirs.PALETTE
  assert not model.is_classifier
  for found, want in zip(model.predict(images, batch_size=2), wanted, strict=True):
    assert isinstance(found, inference.Segmentation)
    np.testing.assert_allclose(found.scores, want.scores, atol=1e-4)
    assert (found.labels == want.labels).mean() > 0.999 and found.labels.dtype == np.uint8
  (without,) = model.predict(images[0], scores=False)
  assert without.scores is None
  logits, taps = jax.jit(model.apply)(images[0][None])
  assert logits.shape == (1, 40, 56, 3) and taps['logits'] is not None
  np.testing.assert_array_equal(np.argmax(logits[0], -1), without.labels)
  assert repr(model) == (f'Exported(espnet_c, 3 classes, any number of images of any size, '
                         f'{segmenter / "out"})')


def test_a_classifier_says_what_the_model_says(classifier, tmp_path, capsys):
  images = np.stack([image_of(40, 56), image_of(40, 56)])
  wanted = kdseg_jax.load(classifier / 'run').predict(images)
  model = kdseg_jax.load(classifier / 'out')
  assert model.is_classifier and model.palette is None
  assert model.description['output'] == {
      'name': 'logits', 'dtype': 'float32', 'shape': ['batch', 7]}
  for found, want in zip(model.predict(images), wanted, strict=True):
    assert isinstance(found, inference.Classification) and found.label == want.label
    np.testing.assert_allclose(found.probabilities, want.probabilities, rtol=1e-4)
  files.write_png(tmp_path / 'a.png', images[0])
  assert not run(f'--exported={classifier / "out"}', f'--output={tmp_path / "found"}',
                 tmp_path / 'a.png')
  (rows,) = json.loads((tmp_path / 'found/predictions.json').read_text()).values()
  assert rows[0]['class'] == model.classes[wanted[0].label]
  assert 'Predictions:' in capsys.readouterr().out


def test_predict_writes_the_same_labels(segmenter, tmp_path):
  files.write_png(tmp_path / 'a.png', image_of(40, 56))
  assert not run(f'--workdir={segmenter / "run"}', f'--output={tmp_path / "live"}',
                 tmp_path / 'a.png')
  assert not run(f'--exported={segmenter / "out"}', f'--output={tmp_path / "found"}',
                 tmp_path / 'a.png')
  labels = [files.read_label(tmp_path / name / 'labels/a.png') for name in ('live', 'found')]
  np.testing.assert_array_equal(*labels)
  assert (tmp_path / 'found/overlays/a.png').exists()


@pytest.mark.parametrize('options,message', [
    (['--output={tmp}', '--workdir={base}/run'], '--workdir is for work directories'),
    (['--output={tmp}', '--split=val'], '--split is for work directories'),
    ([], '--output is missing'),
    (['--output={tmp}', '--config.eval.flip=True'], 'there is no config whose field this is')])
def test_options_that_an_export_does_not_have(options, message, segmenter, tmp_path, capsys):
  options = [option.format(tmp=tmp_path, base=segmenter) for option in options]
  assert run(f'--exported={segmenter / "out"}', *options, tmp_path / 'a.png') == 2
  assert message in capsys.readouterr().err


def test_a_classifier_sees_the_centre_that_it_was_evaluated_on(classifier, tmp_path):
  views = inference.Inference(short_side=40, crop=(36, 32))
  live = kdseg_jax.load(classifier / 'run', views=views)
  assert manifest.describe(live, 'stablehlo', None)['centre'] == [40, 36, 32]
  shutil.copytree(classifier / 'out', tmp_path / 'out')
  description = json.loads((tmp_path / 'out' / manifest.FILE).read_text())
  assert description['centre'] is None
  (tmp_path / 'out' / manifest.FILE).write_text(json.dumps(description | {'centre': [40, 36, 32]}))
  image = image_of(50, 70)
  found, = kdseg_jax.load(tmp_path / 'out').predict(image)
  (want,), (whole,) = live.predict(image), kdseg_jax.load(classifier / 'run').predict(image)
  np.testing.assert_allclose(found.probabilities, want.probabilities, atol=1e-5)
  assert np.abs(whole.probabilities - want.probabilities).max() > 1e-4


def test_views_and_checkpoints_are_of_work_directories(segmenter):
  for options in ({'checkpoint': 'latest'}, {'views': inference.Inference(flip=True)}):
    with pytest.raises(UserError, match='is an export, of one checkpoint'):
      kdseg_jax.load(segmenter / 'out', **options)
  with pytest.raises(UserError, match='batch_size=0'):
    kdseg_jax.load(segmenter / 'out').predict(image_of(8, 8), batch_size=0)


def altered(segmenter, tmp_path, **fields):
  """A copy of the export whose description has other fields."""
  for file in (segmenter / 'out').iterdir():
    (tmp_path / file.name).write_bytes(file.read_bytes())
  description = manifest.read(str(tmp_path)) | fields
  (tmp_path / manifest.FILE).write_text(json.dumps(description))
  return tmp_path


def test_another_platform_kind_or_jax(segmenter, tmp_path, monkeypatch):
  path = altered(segmenter, tmp_path, kind='onnx')
  with pytest.raises(UserError, match='export of kind onnx, which other programs run'):
    kdseg_jax.load(path)
  altered(segmenter, tmp_path)
  monkeypatch.setattr(jax.export, 'default_export_platform', lambda: 'cuda')
  with pytest.raises(UserError, match='is for cpu, and jax runs on cuda here'):
    kdseg_jax.load(path)
  monkeypatch.undo()
  altered(segmenter, tmp_path, jax='0.1.2')

  def refuse(content):
    raise ValueError('version 1 is no longer supported')
  monkeypatch.setattr(jax.export, 'deserialize', refuse)
  with pytest.raises(UserError, match=r'exported by jax 0\.1\.2, and jax .* cannot read it .*'
                                      r'no longer supported(.|\n)*jax==0\.1\.2'):
    kdseg_jax.load(path)


def test_sizes_that_an_export_does_not_take(segmenter, tmp_path, monkeypatch):
  """Multiples by padding with the mean colour, one size by resizing; predictions are at ours."""
  input_ = manifest.read(str(segmenter / 'out'))['input']
  image = image_of(37, 50)
  model = kdseg_jax.load(altered(segmenter, tmp_path, input=input_ | {'multiple': 32}))
  shown = model._shown(image[None])
  assert shown.shape == (1, 64, 64, 3)
  np.testing.assert_array_equal(shown[0, :37, :50], image)
  assert (shown[0, 37:] == (124, 116, 104)).all() and (shown[0, :, 50:] == (124, 116, 104)).all()
  (padded,) = model.predict(image)
  np.testing.assert_array_equal(
      padded.labels, np.argmax(model.apply(shown)[0][0, :37, :50], axis=-1))
  model = kdseg_jax.load(altered(segmenter, tmp_path, input=input_ | {'size': [32, 48],
                                                                     'batch': 1}))
  numbers, compute = [], model._jitted
  monkeypatch.setattr(
      model, '_jitted', lambda images: numbers.append(len(images)) or compute(images))
  found = model.predict([image, image], batch_size=2)
  assert numbers == [1, 1]
  assert [x.labels.shape for x in found] == [(37, 50)] * 2
  resized = files.resize_image(image, (32, 48))
  (of_resized,) = kdseg_jax.load(segmenter / 'out').predict(resized)
  rows, columns = np.arange(37) * 32 // 37, np.arange(50) * 48 // 50
  assert (found[0].labels == of_resized.labels[rows][:, columns]).mean() > 0.8
  trained_at = kdseg_jax.load(altered(segmenter, tmp_path, resize=[32, 48])).predict(image)[0]
  np.testing.assert_array_equal(trained_at.labels, found[0].labels)


@pytest.mark.parametrize('size, resize, centre, expected', [
    (None, (20, 30), None, lambda image: files.resize_image(image, (20, 30))),
    ((16, 24), (20, 30), None, lambda image: files.resize_image(image, (16, 24))),
    (None, None, (12, 10, 8), lambda image: crops.centre(image, 12, (10, 8))),
    (None, (48, 24), (12, 10, 8), lambda image: crops.centre(
        files.resize_image(image, (48, 24)), 12, (10, 8))),
    ((16, 24), None, (12, 10, 8), lambda image: files.resize_image(
        crops.centre(image, 12, (10, 8)), (16, 24)))])
def test_what_a_model_is_shown(size, resize, centre, expected):
  image = image_of(40, 48)
  model = exported.Exported('', {
      'classes': ['a'], 'palette': None, 'resize': resize, 'centre': centre,
      'input': {'batch': None, 'size': size, 'multiple': 1}}, lambda images: images)
  np.testing.assert_array_equal(model._shown(image[None]), expected(image)[None])
