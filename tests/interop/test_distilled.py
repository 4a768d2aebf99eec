"""A student inside the model that distilled it: what is taken, and what is named as left out."""

import json
import pathlib

import numpy as np
import pytest

from kdseg_jax.errors import UserError
from kdseg_jax.interop import distilled, import_torch, importing
from kdseg_jax.interop.importing import Request
from kdseg_jax.models import cifar
from tests import runs
from tests.interop import states
from tests.interop import torch_writer as writer

GOLDEN = pathlib.Path(__file__).parents[1] / 'golden' / 'review.npz'


def fusion():
  """The arrays of the official fusion, by its own names."""
  start = 'review_path_resnet_train/w.'
  with np.load(GOLDEN) as golden:
    return {name.removeprefix(start): golden[name]
            for name in golden.files if name.startswith(start)}


def student():
  return states.state_dict('cifar_resnet8', 'cifar', 10)


def save(path, arrays):
  """As torch.save does, of a model in DataParallel."""
  tensors = {f'module.{key}': writer.tensor(array) for key, array in arrays.items()}
  path.write_bytes(writer.zipped({'model': writer.state_dict(**tensors), 'epoch': 240}))
  return str(path)


@pytest.fixture(scope='module')
def wrapped(tmp_path_factory):
  arrays = {f'student.{key}': array for key, array in student().items()} | fusion()
  return save(tmp_path_factory.mktemp('source') / 'resnet8_last.pt', arrays)


def test_the_student_is_that_of_its_own_file_and_the_fusion_is_named(wrapped, tmp_path):
  imported = importing.read(Request(wrapped, 'cifar_resnet8'))
  alone = importing.read(Request(save(tmp_path / 'student.pt', student()), 'cifar_resnet8'))
  assert len(imported.report['left_out']) == 46 and alone.report['left_out'] == []
  assert set(imported.report['left_out']) == fusion().keys()
  assert imported.report['drawn_anew'] == []
  kernel = lambda found: found.variables['params']['backbone']['stem']['conv']['kernel']
  np.testing.assert_array_equal(kernel(imported), kernel(alone))
  np.testing.assert_array_equal(
      kernel(imported), student()['conv1.weight'].transpose(2, 3, 1, 0))


def test_images_are_normalised_as_the_code_that_trained_it_does(wrapped):
  of = lambda **fields: importing.read(Request(wrapped, 'cifar_resnet8', **fields)).config.student
  assert (of().mean, of().std) == cifar.PREPROCESSING[:2]
  assert of(student={'mean': (1.0, 2.0, 3.0)}).mean == (1.0, 2.0, 3.0)


def test_the_program_counts_what_is_left_out(wrapped, tmp_path, capsys):
  status, output = runs.run_here(
      capsys, import_torch.PROGRAM, f'--source={wrapped}', '--model=cifar_resnet8',
      f'--workdir={tmp_path / "run"}')
  assert not status and 'not taken         46 arrays of abfs\n' in output
  report = json.loads((tmp_path / 'run' / importing.REPORT).read_text())
  assert 'abfs.3.att_conv.0.bias' in report['left_out']


def test_another_students_architecture_is_still_refused(wrapped):
  with pytest.raises(UserError, match=r'They are those of cifar_resnet8|another architecture'):
    importing.read(Request(wrapped, 'cifar_resnet20'))


def test_parts():
  bare = {'conv1.weight': np.ones(1), 'studentized.weight': np.ones(1)}
  assert distilled.parts(bare) == distilled.Distilled(bare)
  one, two = np.ones(1), np.ones(2)
  assert distilled.parts({'teacher.a': one, 'student.student.a': two}) == distilled.Distilled(
      {'student.a': two}, ('teacher.a',), by_review=False)
