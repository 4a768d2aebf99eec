"""The loop: teachers, divergence, what is logged and saved."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from configs import quickstart
from kdseg_jax.training import experiment, loop, parallel
from kdseg_jax.training.checkpoint import Checkpointer, CheckpointError
from kdseg_jax.training.evaluation import Evaluator
from tests import runs

pytestmark = pytest.mark.slow


def config_of(method='none', teacher=None, **train):
  role = 'student' if method != 'none' or teacher else 'teacher'
  config = quickstart.get_config(f'role={role},method={method},runlocal')
  config.teacher.checkpoint = str(teacher or '')
  config.train.update(train)
  return config


@pytest.fixture(scope='module')
def teacher(tmp_path_factory):
  workdir = tmp_path_factory.mktemp('teacher')
  loop.train(config_of(), str(workdir))
  return workdir


def test_a_teacher_below_the_minimum_is_refused_before_training(teacher, tmp_path):
  config = config_of('pixelwise', teacher)
  config.teacher.min_metric = 0.9
  with pytest.raises(loop.TeacherTooWeak, match='below config.teacher.min_metric=0.9'):
    loop.train(config, str(tmp_path))
  assert not runs.rows(tmp_path)


def test_the_teacher_is_measured_once_a_work_directory(teacher, tmp_path, monkeypatch):
  config = config_of('pixelwise', teacher)
  calls = []
  original = Evaluator.__call__
  monkeypatch.setattr(Evaluator, '__call__', lambda self, variables, source, **kwargs: (
      calls.append(1), original(self, variables, source, **kwargs))[1])
  loop.train(config, str(tmp_path))
  assert len(calls) == 2  # the teacher and the student
  config.train.steps = 3
  loop.train(config, str(tmp_path))
  assert len(calls) == 3  # the student alone
  known = json.loads((tmp_path / 'teacher.json').read_text())['metrics']['mean_iou']
  evaluations = [r for r in runs.rows(tmp_path) if r['phase'] == 'evaluation']
  assert [r['teacher_mean_iou'] for r in evaluations] == [known, known]


def test_a_teacher_of_other_leaves_is_refused_and_the_leaves_are_named(teacher):
  with pytest.raises(CheckpointError, match=r'classifier/kernel: expected .* 7\) float32'):
    experiment.load_model(str(teacher), 7, parallel.create_mesh())


def test_nan_in_the_loss_stops_at_once_and_names_step_terms_and_checkpoint(
    teacher, tmp_path, monkeypatch):
  original = experiment.create_optimizer
  explode = optax.stateless(lambda updates, _: jax.tree.map(lambda x: x * jnp.nan, updates))
  config = config_of('pixelwise', teacher, steps=10)
  config.log.every_steps = config.checkpoint.every_steps = config.eval.every_steps = 0
  loop.train(config_of('pixelwise', teacher, steps=2), str(tmp_path))
  monkeypatch.setattr(
      experiment, 'create_optimizer', lambda c, steps: optax.chain(original(c, steps), explode))
  with pytest.raises((loop.Diverged, CheckpointError)) as error:
    loop.train(config, str(tmp_path / 'fresh'))
  assert 'train step 2: not finite' in str(error.value)
  assert 'task/cross_entropy' in str(error.value) and 'no checkpoint was saved' in str(error.value)
  monkeypatch.setattr(experiment, 'create_optimizer', original)
  config.optimizer.learning_rate = 1e30
  with pytest.raises(loop.Diverged, match=r'the last good checkpoint is 2 in'):
    loop.train(config, str(tmp_path))
  assert Checkpointer(tmp_path, metric='mean_iou', create=False).latest_step() == 2


def test_the_same_seed_gives_the_same_run_and_another_seed_another(tmp_path):
  results = {}
  for name, seed in (('a', 0), ('b', 0), ('c', 1)):
    config = config_of()
    config.seed = seed
    loop.train(config, str(tmp_path / name))
    results[name] = runs.saved(tmp_path / name)
  kernel = next(name for name in results['a'] if name.endswith('kernel'))
  np.testing.assert_array_equal(results['a'][kernel], results['b'][kernel])
  assert not np.array_equal(results['a'][kernel], results['c'][kernel])


def test_student_alone_and_distilled_start_from_the_same_weights_and_batches(teacher):
  states, batches = [], []
  for method in ('none', 'pixelwise'):
    built = experiment.create_experiment(config_of(method, teacher))
    states.append(experiment.initial_state(built))
    run = loop._Run.__new__(loop._Run)
    run.experiment, run.config = built, built.config
    batches.append(next(run._batches('train', 0)))
  jax.tree.map(np.testing.assert_array_equal, states[0].params, states[1].params)
  jax.tree.map(np.testing.assert_array_equal, batches[0], batches[1])


@pytest.mark.parametrize('mode', parallel.MODES)
def test_ten_steps_of_a_real_run_on_eight_devices_equal_one(teacher, tmp_path, mode, monkeypatch):
  """Dropout on, unequal ignore masks (the scenes' rims and padding), a ragged evaluation batch."""
  losses, arrays = [], []
  for count in (1, 8):
    monkeypatch.setattr(parallel, 'create_mesh',
                        lambda devices=None, n=count: MESH(jax.devices()[:n]))
    config = config_of('pixelwise+pairwise', teacher, steps=10)
    config.parallel = mode
    config.augmentation.scale = (0.5, 2.0)  # padding, of unequal size
    config.optimizer.update(name='sgd', learning_rate=0.01)
    config.eval.update(limit=13, every_steps=0)
    config.checkpoint.every_steps = 0
    metrics = loop.train(config, str(tmp_path / str(count)))
    rows = runs.rows(tmp_path / str(count))
    losses.append([row['loss'] for row in rows if row['phase'] == 'train'])
    arrays.append(runs.saved(tmp_path / str(count)))
    assert metrics['images'] == 13
  assert len(losses[0]) == 10
  np.testing.assert_allclose(losses[1], losses[0], rtol=1e-5)
  for name, one in arrays[0].items():
    if name.startswith('model/params'):
      difference = np.linalg.norm(arrays[1][name] - one) / max(np.linalg.norm(one), 1e-3)
      assert difference <= 1e-5, (name, difference)


MESH = parallel.create_mesh
