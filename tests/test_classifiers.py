"""What the programs do with the work directory of a classifier."""

import json

import numpy as np
import pytest

import kdseg_jax
from configs import quickstart
from kdseg_jax import evaluate, models, predict
from kdseg_jax.data import files
from kdseg_jax.errors import UserError
from kdseg_jax.training import experiment
from tests import runs, toys, workdirs

CLASSES = tuple('abcdefg')


@pytest.fixture(scope='module', autouse=True)
def toy_models():
  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(models, 'create', lambda name, num_classes, axis_name, **_: (
        toys.Classifier if name in models.CLASSIFIERS else toys.Model)(num_classes, axis_name))
    yield


@pytest.fixture(scope='module')
def workdir(tmp_path_factory):
  folder = tmp_path_factory.mktemp('classifier')
  config = workdirs.config_of('resnet18', **{'student.output_stride': 32})
  workdirs.save(folder, config, classes=CLASSES, palette=None)
  return folder


def test_predict_writes_and_prints_the_most_probable_classes(workdir, tmp_path, capsys):
  rng = np.random.default_rng(0)
  photos, output = tmp_path / 'photos', tmp_path / 'out'
  images = {name: rng.integers(0, 256, (12, 10, 3), np.uint8) for name in ('a', 'b')}
  for name, image in images.items():
    files.write_png(photos / f'{name}.png', image)
  (photos / 'c.png').write_bytes(b'cut short')
  status, text = runs.run_here(
      capsys, predict.PROGRAM, f'--workdir={workdir}', f'--output={output}', photos)
  assert status == 1 and '2 images. Predictions: ' in text and 'c.png: cannot be decoded' in text
  assert [path.name for path in output.iterdir()] == ['predictions.json']
  written = json.loads((output / 'predictions.json').read_text())
  assert list(written) == [str(photos / 'a.png'), str(photos / 'b.png')]
  model = kdseg_jax.load(workdir)
  for name, image in images.items():
    (want,) = model.predict(image)
    rows = written[str(photos / f'{name}.png')]
    assert rows[0]['class'] == CLASSES[want.label] and len(rows) == 5
    assert rows[0]['probability'] == pytest.approx(want.probabilities.max())
    assert f' {rows[0]["class"]} |' in text and f'{100 * rows[4]["probability"]:.1f} %' in text


@pytest.mark.parametrize('program,options,message', [
    (predict, ['--split=val'], 'is a classifier; --split and --compare show segmentations'),
    (predict, ['--compare=OTHER', 'a.png'], 'is a classifier; --split and --compare'),
    (predict, [], 'No images: name files or folders'),
    (evaluate, [], 'resnet18 is a classifier; evaluating one on a data set is not there yet'),
])
def test_what_needs_labels_of_pixels_is_refused(program, options, message, workdir, capsys):
  options = [option.replace('OTHER', str(workdir)) for option in options]
  status, output = runs.run_here(capsys, program.PROGRAM, f'--workdir={workdir}', *options)
  assert status == 2 and message in output
  assert not (workdir / 'predictions').exists()


def test_a_segmenter_is_not_compared_with_a_classifier(workdir, tmp_path, capsys):
  workdirs.save(tmp_path / 'run', workdirs.config_of(), classes=CLASSES,
                palette=[[0, 0, 0]] * len(CLASSES))
  files.write_png(tmp_path / 'a.png', np.zeros((8, 8, 3), np.uint8))
  status, output = runs.run_here(
      capsys, predict.PROGRAM, f'--workdir={tmp_path / "run"}', f'--compare={workdir}',
      tmp_path / 'a.png')
  assert status == 2 and 'is a classifier, and has no labels to show' in output


def test_training_one_on_labels_of_pixels_is_refused():
  config = quickstart.get_config('runlocal')
  config.student.name = 'mobilenetv2'
  with pytest.raises(UserError, match='student.name=mobilenetv2 is a classifier.*deeplabv3_mobile'):
    experiment.create_experiment(config)
