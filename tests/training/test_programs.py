"""The variables that the teacher's passes are given."""

import functools
import types

import flax.linen as nn
import jax
import numpy as np
import pytest
from flax import traverse_util

from kdseg_jax import default_config, distillers, parallel
from kdseg_jax.models.layers import ConvNorm
from kdseg_jax.training import experiment, programs
from kdseg_jax.training.step import make_teacher_step
from tests import toys, workdirs

Requires = distillers.Requires


class Teacher(nn.Module):
  """A layer with its BatchNorm."""

  @nn.compact
  def __call__(self, image, mask=None, index=None, train=False):
    x = ConvNorm(4, name='body')(image / 255, train)
    return x, {'x': x}


def experiment_with(teacher, platform='cpu'):
  devices = np.array([types.SimpleNamespace(platform=platform)])
  config = types.SimpleNamespace(train=types.SimpleNamespace(batch_size=8),
                                 augmentation=types.SimpleNamespace(crop=(64, 48)))
  return types.SimpleNamespace(
      teacher=teacher, config=config, mesh=types.SimpleNamespace(devices=devices, size=4))


def test_a_teacher_is_folded_on_cpu_where_its_statistics_are_fixed():
  module, image = Teacher(), np.arange(2 * 64 * 64 * 3, dtype=np.uint8).reshape(2, 64, 64, 3)
  variables = module.init(jax.random.key(0), image)
  teacher = types.SimpleNamespace(module=module, variables=variables)
  batch = {'image': image, 'mask': np.ones((2, 64, 64), bool), 'index': np.arange(2)}
  taps = {}
  for by_batch in (False, True):
    requires = Requires(teacher=('x',), teacher_batch_statistics=by_batch)
    ours = programs.teacher_variables(experiment_with(teacher), requires)
    assert (ours is variables) == by_batch and ('folded' in ours) != by_batch
    assert programs.teacher_variables(experiment_with(teacher, 'tpu'), requires) is variables
    step = jax.jit(make_teacher_step(module, requires))
    taps[by_batch] = step(ours, {}, batch)['x']
    np.testing.assert_allclose(taps[by_batch], step(variables, {}, batch)['x'], atol=1e-6)
  assert not np.allclose(taps[False], taps[True], atol=0.1)


def test_a_teacher_is_folded_for_the_crops_of_a_device(monkeypatch):
  monkeypatch.setattr(programs, 'fold', lambda *given, donate: (*given, donate))
  teacher = types.SimpleNamespace(module='module', variables='variables')
  assert programs.teacher_variables(experiment_with(teacher), Requires()) == (
      'module', 'variables', (2, 64, 48, 3), False)


def test_a_loaded_teacher_normalises_by_the_batch_of_all_devices(tmp_path, monkeypatch):
  toys.replace_models(monkeypatch, toys.BodyAndHead)
  config = workdirs.config_of()
  workdirs.save(tmp_path, config)
  config.teacher.checkpoint = str(tmp_path)
  images = np.random.default_rng(0).integers(0, 256, (8, 4, 6, 3), np.uint8)
  images[4:] //= 8  # the second device has darker ones
  batch = {'image': images, 'mask': np.ones((8, 4, 6), bool), 'index': np.arange(8)}
  requires = Requires(teacher=('x',), teacher_batch_statistics=True)
  taps = []
  for devices in (1, 2):
    mesh = parallel.create_mesh(jax.devices()[:devices])
    teacher = experiment.load_teacher(config, workdirs.CLASSES, mesh)
    program = programs.teacher_program(
        types.SimpleNamespace(teacher=teacher, mesh=mesh, config=config), requires)
    taps.append(np.asarray(program(teacher.variables, {}, batch)['x']))
  np.testing.assert_allclose(taps[0], taps[1], rtol=1e-4, atol=1e-5)
  assert np.std(taps[0]) > 0.1


def test_a_step_is_made_of_the_parts_and_numbers_of_its_experiment(monkeypatch):
  made = []
  monkeypatch.setattr(programs, 'make_train_step', lambda *parts, **numbers: made.append(
      (parts, numbers)))
  config = default_config.segmentation()
  config.critic.steps = 3
  config.train.update(accumulate=2, ema_decay=0.5)
  parts = {name: object() for name in ('task', 'student', 'distiller', 'optimizers')}
  teacher = types.SimpleNamespace(module=object())
  programs.train_step(types.SimpleNamespace(config=config, teacher=teacher, **parts))
  task, student, distiller, optimizers = parts.values()
  assert made == [((task, student, teacher.module, distiller, optimizers), {
      'critic_steps': 3, 'accumulate': 2, 'ema_decay': 0.5, 'axis_name': parallel.AXIS})]


def test_runs_share_a_program_if_they_differ_in_seed_and_rate_alone():
  def recipe(field=None):
    config = default_config.segmentation().copy_and_resolve_references().unlock()
    config.distill = {'kd': {'temperature': 1.0}}
    if field:
      *sections, name = field.split('.')
      section = functools.reduce(getattr, sections, config)
      with section.ignore_type():
        section[name] = 'another'
    return programs.recipe(config)
  config = default_config.segmentation()
  fields = traverse_util.flatten_dict(config.to_dict(), sep='.')
  assert len(fields) > 60
  same = {field for field in [*fields, 'distill.kd.temperature'] if recipe(field) == recipe()}
  assert same == {'seed', 'optimizer.learning_rate'}


def test_a_method_without_teacher_has_no_variables():
  assert programs.teacher_variables(experiment_with(None), Requires()) == {}


@pytest.mark.parametrize('splits, head, gives_up', [
    (False, False, True), (False, True, True), (True, False, True), (True, True, False)])
def test_what_is_folded_is_given_up_unless_a_second_program_reads_the_head(
    splits, head, gives_up, monkeypatch):
  """A ResNet-101 would be held twice, 0.2 GB, until the run ends."""
  given = []
  monkeypatch.setattr(programs, 'fold', lambda *_, donate: given.append(donate))
  monkeypatch.setattr(programs, 'teacher_program', lambda *_: None)
  monkeypatch.setattr(programs.Constants, 'of', lambda *_: None)
  experiment = experiment_with(types.SimpleNamespace(module=None, variables={}))
  experiment.distiller = types.SimpleNamespace(requires=Requires(teacher_head=head))
  experiment.config.train.split_teacher = splits
  for donate_teacher in (False, True):
    programs.train_step_of(experiment, 'student', donate_teacher=donate_teacher)
  assert given == [False, gives_up]


@pytest.mark.parametrize('build, kind', [
    (lambda built: programs.donating(built, 'step'), {'donate_state': True}),
    (lambda built: programs.teacher_program(built, distillers.Requires()), {'sharded': True})])
def test_programs_are_mapped_and_compiled_as_the_config_says(build, kind, monkeypatch):
  config, made = default_config.segmentation(), []
  config.parallel, config.train.compile_level = 'pmap', 1
  monkeypatch.setattr(programs.parallel, 'data_parallel', lambda step, mesh, **options: (
      made.append((mesh, options))))
  build(types.SimpleNamespace(config=config, mesh='mesh', teacher=toys.loaded('module')))
  assert made == [('mesh', {'mode': 'pmap', 'compile_level': 1, **kind})]
