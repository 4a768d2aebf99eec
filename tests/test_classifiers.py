"""What the programs do with the work directory of a classifier."""

import json
import shutil

import numpy as np
import pytest

import kdseg_jax
from configs import quickstart
from kdseg_jax import evaluate, predict
from kdseg_jax.data import files
from kdseg_jax.errors import UserError
from kdseg_jax.training import experiment
from tests import runs, toys, workdirs

CLASSES = tuple('abcdefg')


@pytest.fixture(scope='module', autouse=True)
def toy_models():
  with pytest.MonkeyPatch.context() as patch:
    toys.replace_segmenters_and_classifiers(patch)
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
  assert sorted(path.name for path in output.iterdir()) == ['pictures', 'predictions.json']
  assert sorted(path.name for path in (output / 'pictures').iterdir()) == ['a.png', 'b.png']
  written = json.loads((output / 'predictions.json').read_text())
  assert list(written) == [str(photos / 'a.png'), str(photos / 'b.png')]
  model = kdseg_jax.load(workdir)
  for name, image in images.items():
    (want,) = model.predict(image)
    rows = written[str(photos / f'{name}.png')]
    assert rows[0]['class'] == CLASSES[want.label] and len(rows) == 5
    assert rows[0]['probability'] == pytest.approx(want.probabilities.max())
    assert f' {rows[0]["class"]} |' in text and f'{100 * rows[4]["probability"]:.1f} %' in text


def test_models_side_by_side_are_in_one_picture(workdir, tmp_path, capsys):
  files.write_png(tmp_path / 'a.png', np.zeros((8, 8, 3), np.uint8))
  heights = []
  for i, options in enumerate(([], [f'--compare=other={workdir.parent / "other"}'])):
    if options and not (workdir.parent / 'other').exists():
      shutil.copytree(workdir, workdir.parent / 'other')
    status, _ = runs.run_here(capsys, predict.PROGRAM, f'--workdir={workdir}',
                              f'--output={tmp_path / str(i)}', *options, tmp_path / 'a.png')
    assert not status
    heights.append(files.read_image(tmp_path / str(i) / 'pictures' / 'a.png').shape[0])
  assert heights[1] > heights[0]


@pytest.mark.parametrize('program,options,message', [
    (predict, ['--split=val'], 'have different classes'),
    (predict, [], 'No images: name files or folders'),
    (evaluate, [], 'have different classes, 11 and 7'),
])
def test_data_of_other_classes_are_refused(program, options, message, workdir, capsys):
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
  assert status == 2 and 'its task is classification, and that of' in output


def test_training_one_on_labels_of_pixels_is_refused():
  config = quickstart.get_config('runlocal')
  config.student.name = 'mobilenetv2'
  with pytest.raises(UserError, match='student.name=mobilenetv2 is a classifier.*deeplabv3_mobile'):
    experiment.create_experiment(config)
