"""Fields of a config that cannot work are refused by name, before anything is built."""

import functools

import numpy as np
import pytest

from configs import quickstart
from kdseg_jax import parallel, tasks
from kdseg_jax.errors import UserError
from kdseg_jax.training import config_check, experiment, run
from tests import toys
from tests.data import archives


def config_with(field, value):
  config = quickstart.get_config('role=teacher,runlocal')
  *sections, name = field.split('.')
  functools.reduce(getattr, sections, config)[name] = value
  return config


@pytest.mark.parametrize('field,value,message', [
    ('train.steps', 0, 'config.train.steps=0 must be at least 1'),
    ('train.accumulate', 0, 'config.train.accumulate=0 must be at least 1'),
    ('train.accumulate', 3, 'config.train.accumulate=3 does not divide the 1 images'),
    ('train.accumulate', 2, 'config.train.accumulate=2 does not divide the 1 images'),  # of the 8
    ('train.batch_size', 12, 'multiple of 8'),
    ('train.compile_level', 4, 'config.train.compile_level=4 must be 0, 1, 2 or 3'),
    ('train.ema_decay', 1.0, 'config.train.ema_decay=1.0 must be'),
    ('train.ema_decay', -0.1, 'config.train.ema_decay=-0.1 must be'),
    ('eval.batch_size', 0, 'config.eval.batch_size=0 must be at least 1'),
    ('eval.pad_multiple', 0, 'config.eval.pad_multiple=0 must be at least 1'),
    ('critic.steps', -1, 'config.critic.steps=-1 must be at least 0'),
    ('checkpoint.keep', 0, 'config.checkpoint.keep=0 must be at least 1'),
    ('role', 'techer', "Unknown config.role: 'techer'. Did you mean 'teacher'"),
    ('task.supervised_loss', 'ohem_cross_entrop', "Did you mean 'ohem_cross_entropy'"),
    ('task.ohem_threshold', 7.0, r'ohem_threshold=7.0 must be in \[0, 1\]'),
    ('data.unlabelled_share', 0.5, 'unlabelled_share=0.5 has no effect without'),
    ('prepare.optimizer.options', {'b1': 0.9}, 'config.prepare.optimizer.options='),
])
def test_a_field_that_cannot_work_is_named(field, value, message):
  with pytest.raises(ValueError, match=message):
    experiment.create_experiment(config_with(field, value))


@pytest.mark.parametrize('term, message', [
    ({'weight': 1.0}, r"kd.factory=None: expected .*'kdseg_jax.distillers:pixelwise'"),
    ({'factory': 'kdseg_jax.distillers:pixelwise'}, 'distill.kd.weight=None: expected a number'),
    ({'factory': 'kdseg_jax.distillers:pixlwise', 'weight': 1.0}, "Did you mean 'pixelwise'"),
    ({'factory': 'kdseg_jax.distillers:pixelwise', 'weight': 1.0, 'temperature': 'hot'},
     "config.distill.kd.temperature='hot': is of type str; expected float")])
def test_a_term_that_cannot_be_made_is_refused(term, message):
  config = quickstart.get_config('runlocal')
  config.distill.kd = term
  with pytest.raises(UserError, match=message):
    experiment.create_experiment(config)


def test_a_mistyped_field_of_a_term_is_refused():
  config = quickstart.get_config('method=kd,runlocal')
  with config.unlocked():
    config.distill.kd.temprature = 2.0
  with pytest.raises(ValueError, match="field of config.distill.kd: 'temprature'. Did you mean 't"):
    experiment.create_experiment(config)


def test_pmap_on_several_processes_is_refused(monkeypatch):
  monkeypatch.setattr(config_check.jax, 'process_count', lambda: 2)
  with pytest.raises(ValueError, match='config.parallel=pmap runs in one process only'):
    config_check.check_config(config_with('parallel', 'pmap'), parallel.create_mesh())


def test_images_without_labels_have_no_batches_by_orientation():
  config = config_with('data.by_orientation', True)
  config.data.unlabelled = 'photos'
  with pytest.raises(UserError, match='by_orientation=True and unlabelled=photos: .* their sizes'):
    config_check.check_config(config, parallel.create_mesh())


def test_a_share_of_which_a_micro_batch_would_have_one_kind_alone_is_refused():
  config = config_with('data.unlabelled', 'rest')
  config.data.unlabelled_share = 0.5
  config.train.update(batch_size=16, accumulate=2)
  with pytest.raises(UserError, match='accumulate=2 would make micro-batches of only labelled'):
    config_check.check_config(config, parallel.create_mesh())
  config.data.unlabelled_share = 0.375
  config_check.check_config(config, parallel.create_mesh())


def test_images_without_labels_are_resized_as_the_others_are(tmp_path):
  archives.folder(tmp_path / 'labelled', counts=[('train', 2)], size=(36, 48))
  archives.folder(tmp_path / 'more', counts=[('train', 3)], size=(50, 40))
  config = config_with('data.name', 'folder')
  config.data.update(root=str(tmp_path / 'labelled'), train_limit=0,
                     unlabelled=str(tmp_path / 'more/images/train'), size=(20, 24))
  source = experiment.create_train_source(config)
  assert [source[index]['image'].shape for index in range(len(source))] == [(20, 24, 3)] * 5


def example_of(**fields):
  example = {'image': np.zeros((4, 6, 3), np.uint8), 'label': np.zeros((4, 6), np.uint8),
             'image_id': 'a'} | fields
  return {name: value for name, value in example.items() if value is not None}


@pytest.mark.parametrize('fields, message', [
    ({'label': None}, r'an example has no label, and the task segmentation needs label \(4, 6\)'),
    ({'label': np.zeros((6, 4))}, r'.*has label \(6, 4\), and the task .* needs label \(4, 6\)'),
    ({'image_id': None}, r"an example is dict \['image', 'label'\]; expected a dict with image"),
    ({'image': None}, r"an example is dict \['image_id', 'label'\]; expected a dict with image")])
def test_data_without_what_the_task_needs_are_refused(fields, message):
  task = tasks.SegmentationTask(num_classes=3)
  for source in ([], [example_of()]):
    experiment._check_fields(task, source, 'mine')
  with pytest.raises(UserError, match=f'config.data.name=mine: {message}'):
    experiment._check_fields(task, [example_of(**fields)], 'mine')


@pytest.mark.parametrize('fields, message', [
    ({'name': 'espnet_c'}, 'espnet_c has a backbone of its own'),
    ({'width': 0.5}, r'student.init=imagenet: published weights are of width 1, and .*0\.5')])
def test_published_weights_that_fit_no_such_student_are_refused(fields, message):
  config = config_with('student.init', 'imagenet')
  config.student.update(width=1.0)
  config.student.update(fields)
  with pytest.raises(ValueError, match=message):
    config_check.check_config(config, parallel.create_mesh())


def test_the_config_reaches_the_task_and_the_state():
  config = config_with('task.supervised_loss', 'ohem_cross_entropy')
  config.task.update(ohem_threshold=0.5, ohem_min_kept=77)
  task = experiment.create_task(config, 11)
  assert (task.supervised_loss, task.ohem_threshold, task.ohem_min_kept) == (
      'ohem_cross_entropy', 0.5, 77)


def test_a_critic_has_its_own_optimiser_and_steps_or_those_of_the_config():
  config = quickstart.get_config('method=holistic+adversarial,runlocal')
  config.teacher.checkpoint = 'given below'
  config.train.steps = 3
  config.critic.steps = 5
  config.critic.optimizer.update(momentum=0.0, weight_decay=0.0)
  config.distill.holistic.critic_steps = 2
  teacher = toys.loaded(None)

  def rates(optimizer, count):
    one = np.float32(1)
    state, found = optimizer.init(one), []
    for _ in range(count):
      update, state = optimizer.update(one, state, one)
      found.append(-update)
    return np.asarray(found)
  built = experiment.create_experiment(config, teacher=teacher)
  parts = built.distiller.critic.parts
  assert (parts['holistic'].steps, parts['adversarial'].steps) == (2, None)
  poly = lambda steps: 4e-4 * (1 - np.arange(steps + 1) / steps) ** 0.9  # ends at 0
  np.testing.assert_allclose(rates(built.optimizers.critic, 16), poly(15), rtol=1e-5)
  np.testing.assert_allclose(rates(parts['holistic'].optimizer, 7), poly(6), rtol=1e-5)
  np.testing.assert_allclose(rates(parts['adversarial'].optimizer, 16), 4e-4, rtol=1e-4)
  config.distill.holistic.critic_steps = None
  built = experiment.create_experiment(config, teacher=teacher)
  assert built.distiller.critic.parts['holistic'].optimizer is None


def test_teacher_and_student_of_one_seed_share_neither_kernels_nor_batches():
  student, teacher = (quickstart.get_config(f'role={role},runlocal')
                      for role in ('student', 'teacher'))
  keys = [experiment.run_key(config) for config in (student, teacher)]
  assert keys[0] != keys[1] and keys[0] == experiment.run_key(student.copy_and_resolve_references())
  kernels = [toys.Model().init({'params': key}, np.zeros((1, 8, 8, 3)))['params']['Conv_0']
             for key in keys]
  assert not np.allclose(kernels[0]['kernel'], kernels[1]['kernel'])
  assert run.data_seed(student) == 0 != run.data_seed(teacher)
  teacher.data.seed = 7  # asked for
  assert run.data_seed(teacher) == 7


class Loaded(Exception):
  """What a teacher is loaded with."""


@pytest.mark.parametrize('allowed', [(), ('mylab', 'other.models')])
def test_a_teacher_may_name_what_the_user_permits_and_what_the_config_names(allowed, monkeypatch):
  def load(config, classes, mesh, **options):
    raise Loaded(options)
  monkeypatch.setattr(experiment, 'load_teacher', load)
  toys.replace_models(monkeypatch)
  config = quickstart.get_config('method=kd,runlocal')
  config.teacher.checkpoint = 'somewhere'
  config.distill.mine = {
      'factory': 'tests.mylab.losses:my_term', 'weight': 1.0}
  with pytest.raises(Loaded) as loaded:
    experiment.create_experiment(config, allow_class_names=True, allow_imports=allowed)
  (options,) = loaded.value.args
  assert options.keys() == {'allow_class_names', 'allow_imports'} and options['allow_class_names']
  assert {*allowed, 'tests.mylab.losses:my_term'} <= set(options['allow_imports'])
