"""The loop: teachers, divergence, what is logged and saved."""

import json
import math
import types

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from configs import common, quickstart
from kdseg_jax import parallel
from kdseg_jax.checkpoint import Checkpointer, has_checkpoint
from kdseg_jax.data import scenes
from kdseg_jax.inference.evaluation import Evaluator
from kdseg_jax.training import experiment, loop, programs
from kdseg_jax.training.preemption import StopSignal
from kdseg_jax.training.run import Diverged, TeacherTooWeak, data_seed, training_batches
from tests import runs

pytestmark = pytest.mark.usefixtures('toy_models')


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


def test_a_checkpoint_describes_its_run(teacher):
  reader = Checkpointer(teacher)
  meta = reader.read_meta(2)
  config = config_of()
  assert meta['classes'] == list(scenes.Scenes.classes) and meta['jax'] == jax.__version__
  assert meta['palette'] == scenes.Scenes.palette.tolist() and meta['metric'] == 'mean_iou'
  assert meta['data'] == {'seed': data_seed(config), 'next_batch': 2}
  assert meta['config'] == json.loads((teacher / 'config.json').read_text())
  assert meta['config']['optimizer']['learning_rate'] == config.optimizer.learning_rate


def test_a_teacher_below_the_minimum_is_refused_before_training(teacher, tmp_path):
  config = config_of('pixelwise', teacher)
  config.teacher.min_metric = 0.9
  with pytest.raises(TeacherTooWeak, match='below config.teacher.min_metric=0.9'):
    loop.train(config, str(tmp_path))
  assert not runs.rows(tmp_path)


def test_a_memory_beyond_the_limit_is_refused_with_the_arithmetic(teacher, tmp_path):
  config = config_of('cirkd', teacher)
  config.memory_limit_gb = 1e-5
  with pytest.raises(ValueError, match=(
      r'config.distill \(.*memory@1.*would keep 0.00 GB .*config.memory_limit_gb=1e-05(.|\n)*'
      r'memory/pixel/embeddings: 11 x 64 x 11 x 4 bytes = 30,976 bytes')):
    loop.train(config, str(tmp_path / 'work'))
  assert not (tmp_path / 'work').exists()


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


def with_own_teacher(method='pixelwise', **teacher):
  config = config_of(method)
  common.own_teacher(config, config_of(**teacher))
  return config


def test_without_a_checkpoint_a_teacher_of_its_own_is_trained_first(tmp_path, monkeypatch, caplog):
  config = with_own_teacher(steps=3)
  caplog.set_level('INFO')
  loop.train(config, str(tmp_path))
  assert 'first a teacher is trained in' in caplog.text
  teacher, student = runs.saved(tmp_path / 'teacher'), runs.saved(tmp_path)
  assert teacher['training/step'] == 3 and student['training/step'] == 2
  saved = json.loads((tmp_path / 'config.json').read_text())['teacher']
  assert saved['checkpoint'] == str(tmp_path / 'teacher') and saved['config'] == {}
  assert config.teacher.checkpoint == ''  # what was given stays
  before = (tmp_path / 'teacher' / 'metrics.jsonl').read_text()
  config.train.steps = 4
  loop.train(config, str(tmp_path))  # on the teacher that it finds
  assert runs.saved(tmp_path)['training/step'] == 4
  assert (tmp_path / 'teacher' / 'metrics.jsonl').read_text() == before
  with pytest.raises(ValueError, match='(?s)was trained with another config.*train.steps is 5 now'):
    loop.train(with_own_teacher(steps=5), str(tmp_path))


@pytest.mark.parametrize('method, given', [('none', False), ('pixelwise', True)])
def test_a_teacher_that_is_given_or_not_needed_is_not_trained(method, given, teacher, tmp_path):
  config = with_own_teacher(method)
  config.teacher.checkpoint = str(teacher) if given else ''
  loop.train(config, str(tmp_path))
  assert not (tmp_path / 'teacher').exists()


def test_a_method_that_cannot_work_is_refused_before_the_teacher_is_trained(tmp_path):
  config = with_own_teacher('attention_transfer')
  config.distill.attention_transfer.student_tap = 'nowhere'
  with pytest.raises(ValueError, match="student has no tap 'nowhere'"):
    loop.train(config, str(tmp_path / 'work'))
  assert not (tmp_path / 'work').exists()


def test_stopped_while_its_teacher_is_trained(tmp_path, monkeypatch):
  with monkeypatch.context() as patch:
    patch.setattr(StopSignal, 'agree', lambda self, reached, step: (
        setattr(self, '_set', step == 1), step == 1)[1])
    assert loop.train(with_own_teacher(steps=3), str(tmp_path)) is None
  assert [path.name for path in tmp_path.iterdir()] == ['teacher']
  assert runs.saved(tmp_path / 'teacher')['training/step'] == 1
  assert loop.train(with_own_teacher(steps=3), str(tmp_path))
  assert runs.saved(tmp_path / 'teacher')['training/step'] == 3


class Spoilt(scenes.Scenes):
  """As if read from files, of which the last cannot be."""

  is_generated = False

  def __getitem__(self, index):
    if index == len(self) - 1:
      raise ValueError('street.png: cannot be decoded')
    return super().__getitem__(index)


def test_an_evaluation_image_that_cannot_be_read_stops_before_training(tmp_path, monkeypatch):
  spoilt = lambda config, split: (Spoilt if split == config.eval.split else scenes.Scenes)(
      split, length=5)
  config = config_of()
  with monkeypatch.context() as patch:
    patch.setattr(experiment, 'create_source', spoilt)
    with pytest.raises(ValueError, match='street.png'):
      loop.train(config, str(tmp_path))
    assert not list(tmp_path.iterdir())
    config.eval.limit = 4  # which does not reach it
    loop.train(config, str(tmp_path))
  # Where the file was spoilt since, what was trained is saved before the error ends the run.
  config.update({'train': {'steps': 3}, 'eval': {'limit': 5}})
  monkeypatch.setattr(experiment, 'create_source', spoilt)
  with pytest.raises(ValueError, match='street.png'):
    loop.train(config, str(tmp_path))
  assert Checkpointer(tmp_path).latest_step() == 3


@pytest.mark.parametrize('cut', [1, 2])
def test_an_evaluation_that_a_signal_cut_short_is_made_up(cut, tmp_path, monkeypatch):
  calls, values = [], [0.5, 0.9]

  def evaluate(self, variables, source, *, should_stop, **_):
    calls.append(1)
    if len(calls) == cut:
      should_stop._stop()
      return None
    return {'mean_iou': values.pop(0)}
  monkeypatch.setattr(Evaluator, '__call__', evaluate)
  config = config_of(steps=4)
  config.eval.every_steps = 2
  assert loop.train(config, str(tmp_path)) is None
  assert Checkpointer(tmp_path).latest_step() == 2 * cut
  assert loop.train(config, str(tmp_path))['mean_iou'] == 0.9
  assert [(row['step'], row['mean_iou']) for row in runs.rows(tmp_path)
          if row['phase'] == 'evaluation'] == [(2, 0.5), (4, 0.9)]
  assert Checkpointer(tmp_path).best_step() == 4


@pytest.mark.parametrize('caught_up', [None, {'mean_iou': 0.75}])
def test_a_run_that_goes_on_at_its_end_tells_what_it_scores(caught_up, tmp_path, monkeypatch):
  evaluated = []
  run = types.SimpleNamespace(
      catch_up=lambda: None, close=lambda: None, experiment=None, metrics=caught_up,
      evaluate=lambda: (evaluated.append(1), {'mean_iou': 0.5})[1])
  monkeypatch.setattr(loop, 'start', lambda *_, **__: (run, None))
  monkeypatch.setattr(loop, 'advance', lambda *_: None)
  monkeypatch.setattr(programs, 'train_step_of', lambda *_, **__: None)
  assert loop.train(config_of(), str(tmp_path)) == (caught_up or {'mean_iou': 0.5})
  assert len(evaluated) == (caught_up is None)


def test_the_teacher_is_the_best_checkpoint_and_not_the_newest(tmp_path, monkeypatch):
  values = iter([0.9, 0.1])
  monkeypatch.setattr(Evaluator, '__call__', lambda *_, **__: {'mean_iou': next(values)})
  config = config_of(steps=4)
  config.eval.every_steps = 2
  loop.train(config, str(tmp_path))
  teacher = experiment.load_teacher(
      config_of('pixelwise', tmp_path), scenes.Scenes.classes, parallel.create_mesh())
  kernel = teacher.variables['params']['Conv_0']['kernel']
  np.testing.assert_array_equal(kernel, runs.saved(tmp_path, 2)['model/params/Conv_0/kernel'])
  assert teacher.step == 2 and len(kernel.devices()) == len(jax.devices())


def test_a_teacher_of_another_number_of_classes_is_refused_before_it_is_restored(
    teacher, monkeypatch):
  monkeypatch.setattr(Checkpointer, 'restore_model', lambda *_: pytest.fail('too late'))
  config = config_of('pixelwise', teacher)
  with pytest.raises(ValueError, match='the teacher .*, 11 and 7 classes'):
    experiment.load_teacher(config, list('abcdefg'), parallel.create_mesh())


def test_nan_in_the_loss_stops_at_once_and_names_step_terms_and_checkpoint(
    teacher, tmp_path, monkeypatch):
  loop.train(config_of('pixelwise', teacher, steps=2), str(tmp_path))
  config = config_of('pixelwise', teacher, steps=10)
  config.log.every_steps = config.checkpoint.every_steps = config.eval.every_steps = 0
  original = experiment.create_optimizer
  explode = optax.stateless(lambda updates, _: jax.tree.map(lambda x: x * jnp.nan, updates))
  monkeypatch.setattr(experiment, 'create_optimizer', lambda c, steps: optax.chain(
      original(c, steps), explode))
  with pytest.raises(Diverged) as error:
    loop.train(config, str(tmp_path / 'fresh'))
  assert 'train step 2: not finite' in str(error.value)
  assert 'task/cross_entropy' in str(error.value) and 'no checkpoint was saved' in str(error.value)
  monkeypatch.setattr(experiment, 'create_optimizer', original)
  config.optimizer.learning_rate = 1e38
  with pytest.raises(Diverged, match=r'the last good checkpoint is 2 in'):
    loop.train(config, str(tmp_path))
  assert Checkpointer(tmp_path).latest_step() == 2


def test_weights_that_the_last_update_makes_not_finite_are_not_saved(tmp_path, monkeypatch):
  """The loss of the step is that of the weights before it."""
  original = programs.train_step_of
  def exploding(*parts, **options):
    step = original(*parts, **options)
    def stepped(state, batch):
      state, metrics = step(state, batch)
      return state._replace(params=jax.tree.map(lambda x: x * jnp.nan, state.params)), metrics
    return stepped
  monkeypatch.setattr(loop.programs, 'train_step_of', exploding)
  with pytest.raises(Diverged, match='train step 1: not finite: params/.*no checkpoint was saved'):
    loop.train(config_of(steps=1), str(tmp_path))
  assert not has_checkpoint(str(tmp_path))


@pytest.mark.parametrize('method', ['none', 'pixelwise'])
def test_a_step_is_checked_and_compiled_by_one_trace(method, teacher, tmp_path, monkeypatch):
  """Tracing takes seconds, a quarter of the start of a run whose programs are kept."""
  original, traces = loop.programs.make_train_step, []
  def counted(*parts, **options):
    step = original(*parts, **options)
    return lambda *given: (traces.append(given), step(*given))[1]
  monkeypatch.setattr(loop.programs, 'make_train_step', counted)
  loop.train(config_of(method, teacher if method != 'none' else None), str(tmp_path))
  assert len(traces) == 1


def test_a_run_does_not_hold_its_teacher_twice(tmp_path, teacher, monkeypatch):
  """What that means for the weights is tested with the step."""
  original, found = loop.programs.train_step_of, []
  monkeypatch.setattr(loop.programs, 'train_step_of', lambda *given, **options: (
      found.append(options), original(*given, **options))[1])
  loop.train(config_of('pixelwise', teacher), str(tmp_path))
  assert found == [{'donate_teacher': True}]


@pytest.mark.parametrize('value', [math.nan, math.inf, -math.inf])
def test_any_metric_that_is_not_finite_stops(value, tmp_path, monkeypatch):
  step = lambda state, batch: (state._replace(step=state.step + 1),
                               {'loss': jnp.float32(1), 'task/term': jnp.float32(value)})
  monkeypatch.setattr(loop.programs, 'train_step_of', lambda *_, **__: step)
  with pytest.raises(Diverged, match='train step 1: not finite: task/term;'):
    loop.train(config_of(), str(tmp_path))


def test_a_teacher_that_scores_nan_is_refused(teacher, tmp_path, monkeypatch):
  monkeypatch.setattr(Evaluator, '__call__', lambda *_, **__: {'mean_iou': math.nan})
  config = config_of('pixelwise', teacher)
  config.teacher.min_metric = 0.0
  with pytest.raises(TeacherTooWeak, match='scores mean_iou nan'):
    loop.train(config, str(tmp_path))


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
    batches.append(next(training_batches(built, 'train', start=0)))
  jax.tree.map(np.testing.assert_array_equal, states[0].params, states[1].params)
  jax.tree.map(np.testing.assert_array_equal, batches[0], batches[1])
