"""The recipe of ImageNet against the official code of knowledge review, imagenet_amp.py."""

import pytest

import kdseg_jax
from configs import imagenet
from kdseg_jax.data import prepare
from kdseg_jax.training import experiment, loop
from tests import runs
from tests.data import classified_sets

pytestmark = pytest.mark.usefixtures('one_device')

SCRIPT = {
    'data.name': 'imagenet', 'train.batch_size': 4 * 64, 'train.steps': 100 * 5005,
    'augmentation.crop': (224, 224), 'augmentation.resized_crop': (0.08, 1.0),
    'augmentation.scale': (), 'augmentation.pad': 0, 'augmentation.flip': 0.5,
    'eval.short_side': 256, 'eval.crop': (224, 224), 'eval.split': 'val',
    'optimizer.name': 'sgd', 'optimizer.learning_rate': 0.1, 'optimizer.momentum': 0.9,
    'optimizer.nesterov': False, 'optimizer.weight_decay': 1e-4, 'optimizer.decay': 'all',
    'optimizer.schedule': 'steps', 'optimizer.factor': 0.1,
    'optimizer.milestones': (0.3, 0.6, 0.9), 'optimizer.warmup_steps': 0,
    'student.mean': (123.675, 116.28, 103.53), 'student.std': (58.395, 57.12, 57.375),
    'student.dropout': 0.0, 'student.width': 1.0, 'student.output_stride': 32,
    'task.name': 'classification'}
STAGES = tuple(f'stage{i}' for i in (1, 2, 3, 4))


def value_of(config, path):
  for name in path.split('.'):
    config = config[name]
  return config


@pytest.mark.parametrize('arg,model', [
    ('role=teacher', 'resnet34'), ('role=teacher,model=resnet50', 'resnet50'),
    ('', 'resnet18'), ('model=mobilenetv1', 'mobilenetv1')])
def test_the_settings_are_those_of_the_script(arg, model):
  config = imagenet.get_config(arg)
  assert config.student.name == model
  assert {path: value_of(config, path) for path in SCRIPT} == SCRIPT


@pytest.mark.parametrize('model,weight,channels,student_taps', [
    ('resnet18', 1.0, None, STAGES), ('resnet34', 1.0, None, STAGES),
    ('mobilenetv1', 8.0, 256, tuple(f'{stage}_preactivation' for stage in STAGES))])
def test_review_is_that_of_the_pair(model, weight, channels, student_taps):
  review = imagenet.get_config(f'method=review,model={model}').distill.review
  assert (review.weight, review.channels, review.warmup_steps) == (weight, channels, 0)
  assert review.student_taps == (*student_taps, 'pooled')
  assert review.teacher_taps == (*STAGES, 'pooled') and not review.teacher_batch_statistics
  assert imagenet.get_config(f'method=review+review@3,model={model}').distill.review.weight == 3


@pytest.mark.parametrize('student,teacher,widths', [
    ('resnet18', 'resnet34', (64, 128, 256, 512, 512)),
    ('mobilenetv1', 'resnet50', (256, 512, 1024, 2048, 2048))])
def test_the_fusion_has_the_channels_of_the_official_code(student, teacher, widths, monkeypatch):
  config = imagenet.get_config(f'method=review,model={student},runlocal')
  config.student.width = 1.0
  config.augmentation.crop = (224, 224)
  config.data.name = 'scene_classes'
  config.teacher.checkpoint = 'given'
  given = imagenet.get_config(f'role=teacher,model={teacher}')
  module = experiment.create_model(given.student, 10)
  built = experiment.create_experiment(config, teacher=kdseg_jax.inference.Model(
      module=module, variables={}, classes=tuple(map(str, range(10))), config=given))
  inputs = experiment.abstract_inputs(built)
  taps = config.distill.review
  sizes = [(56, 56), (28, 28), (14, 14), (7, 7)]
  for side, names in ((inputs.student, taps.student_taps), (inputs.teacher, taps.teacher_taps)):
    assert [side[name].shape[1:3] for name in names[:-1]] == sizes
  assert tuple(inputs.teacher[name].shape[-1] for name in taps.teacher_taps) == widths


@pytest.fixture(scope='module')
def data_dir(tmp_path_factory):
  """ImageNet's tiny archives, prepared."""
  manual_dir, place = (tmp_path_factory.mktemp(name) for name in ('archives', 'prepared'))
  classified_sets.imagenet(manual_dir)
  prepare.prepare('imagenet', manual_dir, place, allow_partial=True)
  return place


@pytest.mark.slow
@pytest.mark.parametrize('teacher,student', [('resnet34', 'resnet18'), ('resnet50', 'mobilenetv1')])
def test_a_student_is_distilled_from_prepared_archives(
    data_dir, shallow_models, tmp_path, teacher, student):
  def train(arg, **fields):
    config = imagenet.get_config(f'{arg},runlocal')
    config.data.root = str(data_dir)
    config.update_from_flattened_dict(fields)
    workdir = str(tmp_path / config.role)
    return loop.train(config, workdir), workdir
  metrics, workdir = train(f'role=teacher,model={teacher}')
  assert metrics['images'] == 3
  metrics, workdir = train(f'method=review,model={student}', **{'teacher.checkpoint': workdir})
  assert metrics['images'] == 3 and 'top5' in metrics
  (last,) = [row for row in runs.rows(workdir) if row['phase'] == 'train' and row['step'] == 2]
  assert last['distill/review/raw'] > 0
