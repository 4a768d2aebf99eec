"""The recipe of CIFAR against the official code of knowledge review, CIFAR-100/train.py."""

import pytest

from configs import cifar

SCRIPT = {
    'data.name': 'cifar100', 'train.batch_size': 128, 'train.steps': 240 * 391,
    'augmentation.crop': (32, 32), 'augmentation.pad': 4, 'augmentation.flip': 0.5,
    'augmentation.scale': (), 'optimizer.name': 'sgd', 'optimizer.learning_rate': 0.1,
    'optimizer.momentum': 0.9, 'optimizer.nesterov': True, 'optimizer.weight_decay': 5e-4,
    'optimizer.decay': 'all', 'optimizer.schedule': 'steps', 'optimizer.factor': 0.1,
    'optimizer.milestones': (150 / 240, 180 / 240, 210 / 240), 'optimizer.warmup_steps': 0,
    'student.mean': (125.3, 123.0, 113.9), 'student.std': (63.0, 62.1, 66.7),
    'student.dropout': 0.0, 'student.width': 1.0, 'task.name': 'classification',
    'eval.split': 'test'}


def value_of(config, path):
  for name in path.split('.'):
    config = config[name]
  return config


@pytest.mark.parametrize('role,model', [
    ('teacher', 'cifar_resnet56'), ('student', 'cifar_resnet20')])
def test_the_settings_are_those_of_the_script(role, model):
  config = cifar.get_config(f'role={role}')
  assert config.student.name == model
  assert {path: value_of(config, path) for path in SCRIPT} == SCRIPT


def test_epochs_are_of_as_many_images_as_there_are():
  assert cifar.get_config('data=npz,images=10000').train.steps == 240 * 79


def test_networks_without_residuals_start_slowly():
  rates = {name: cifar.get_config(f'model={name}').optimizer.learning_rate for name in (
      'cifar_shufflenetv1', 'cifar_mobilenetv2_half', 'cifar_vgg8')}
  assert list(rates.values()) == [0.02, 0.02, 0.1]


def test_review_takes_stages_and_the_pooled_vector():
  review = cifar.get_config('method=review').distill.review
  assert review.student_taps == ('stage1', 'stage2', 'stage3', 'pooled')
  assert review.teacher_taps[2:] == ('stage3_preactivation', 'pooled')
  assert review.warmup_steps == 20 * 391 and review.weight == 0.6
  assert cifar.get_config('method=review@2').distill.review.weight == 2
  four = cifar.get_config('method=review,model=cifar_vgg8').distill.review
  assert len(four.student_taps) == 5 and four.weight == 1.0


def test_maps_are_compared_before_their_mean():
  term = cifar.get_config('method=attention_transfer').distill.attention_transfer
  assert term.student_tap == term.teacher_tap == 'stage3'
