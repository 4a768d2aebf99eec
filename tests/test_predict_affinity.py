"""`predict --affinity_at` as a user starts it: what it writes, what it refuses."""

import numpy as np
import pytest

from kdseg_jax import inference, predict
from kdseg_jax.data import files
from kdseg_jax.inference.affinity import affinity
from kdseg_jax.report.affinity import draw
from tests import runs, workdirs

pytestmark = pytest.mark.usefixtures('toy_models')

IMAGE = np.random.default_rng(0).integers(0, 256, (36, 48, 3), np.uint8)


@pytest.fixture(scope='module')
def folders(toy_models, tmp_path_factory):
  """Work directories of two models that see images at different sizes, and an image."""
  root = tmp_path_factory.mktemp('runs')
  for name, size in (('alone', ()), ('teacher', (64, 64))):
    (root / name).mkdir()
    workdirs.save(root / name, workdirs.config_of(**{'data.size': size}))
  files.write_png(root / 'photo.png', IMAGE)
  return root


def test_it_draws_the_affinity_of_every_model_and_nothing_else(folders, tmp_path, capsys):
  status, text = runs.run_here(
      capsys, predict.PROGRAM, f'--workdir={folders / "alone"}', f'--output={tmp_path}',
      f'--compare=student={folders / "alone"},{folders / "teacher"}', '--affinity_at=40,9',
      folders / 'photo.png')
  assert status == 0 and '1 images. Affinities to the pixel x=40, y=9' in text
  assert [path.name for path in tmp_path.iterdir()] == ['affinities']
  maps = {title: affinity(inference.load(folders / name), IMAGE, (40, 9))
          for title, name in (('student', 'alone'), ('teacher', 'teacher'))}
  assert maps['student'].shape != maps['teacher'].shape
  np.testing.assert_array_equal(
      files.read_image(tmp_path / 'affinities' / 'photo.png'), draw(IMAGE, (40, 9), maps))


@pytest.mark.parametrize('options, message', [
    (['--affinity_at=48,9'], 'photo.png: The pixel x=48, y=9 is outside the image, which is 48 '
     'wide and 36 high'),
    (['--affinity_at=9'], '--affinity_at=9: expected x,y, the column and row of a pixel'),
    (['--affinity_at=-1,9'], '--affinity_at=-1,9: expected x,y'),
    (['--affinity_at=1.5,9'], '--affinity_at=1.5,9: expected x,y')])
def test_wrong_pixels_are_refused_and_nothing_is_written(
    folders, tmp_path, capsys, options, message):
  status, text = runs.run_here(
      capsys, predict.PROGRAM, f'--workdir={folders / "alone"}', f'--output={tmp_path}',
      *options, folders / 'photo.png')
  assert status == 2 and message in text
  assert not list(tmp_path.iterdir())


def test_an_image_that_cannot_be_read_is_left_out_and_ends_with_status_1(
    folders, tmp_path, capsys):
  (tmp_path / 'cut.png').write_bytes(b'cut short')
  status, text = runs.run_here(
      capsys, predict.PROGRAM, f'--workdir={folders / "alone"}', f'--output={tmp_path / "out"}',
      '--affinity_at=40,9', tmp_path / 'cut.png', folders / 'photo.png')
  assert status == 1 and '1 were left out:' in text and 'cut.png: cannot be decoded' in text
  assert [path.name for path in (tmp_path / 'out/affinities').iterdir()] == ['photo.png']


def test_an_export_shows_none(tmp_path, capsys):
  status, text = runs.run_here(
      capsys, predict.PROGRAM, '--exported=nowhere', f'--output={tmp_path}', '--affinity_at=1,2',
      'photo.png')
  assert status == 2 and '--affinity_at is for work directories' in text
