"""What a run and an evaluation do is what their config says.

Runs are not compared with each other: what all of them ignore would stay unseen. Steps, models and
evaluations are made up, so that nothing is compiled.
"""

import json
import types

import numpy as np
import pytest
from ml_collections import ConfigDict

from configs import quickstart
from kdseg_jax import data, distillers, evaluate, parallel
from kdseg_jax.data import augmentation, pipeline
from kdseg_jax.errors import UserError
from kdseg_jax.inference import model
from kdseg_jax.training import experiment, initialization, loop, run
from kdseg_jax.training.state import TrainState
from kdseg_jax.training.writers import StepTimer
from tests import runs, toys


@pytest.fixture(autouse=True)
def toy_model(monkeypatch):
  monkeypatch.setattr(experiment, 'create_model', lambda config, classes: toys.Model(classes))


def config_of(**fields):
  config = quickstart.get_config('role=student,runlocal')
  config.augmentation.update(scale=(0.5, 1.5), flip=0.3)
  config.data.update(train_limit=0)
  config.train.steps = 12
  config.optimizer.update(learning_rate=0.5, power=2.0)
  config.update(fields)
  return config


class Checkpoints:
  """In place of a `Checkpointer`: the best is not the newest."""

  def __init__(self, workdir, **_):
    self.saved, self.restored = [], []

  latest_step = lambda self: 9
  best_step = lambda self: 2
  close = lambda self: None
  has_metrics = lambda self, step: True

  def read_meta(self, step):
    config = json.loads(quickstart.get_config('role=teacher').to_json())
    return {'config': config, 'classes': list('abc'), 'palette': [[0, 0, 0]] * 3, 'metric': 'x'}

  def restore_model(self, step, like):
    return {'params': {'from': step}, 'batch_stats': {}}


def run_of(config, workdir, monkeypatch, *, done=0, average=None, phase='train'):
  """A run whose state is a few numbers; `evaluated` notes what its evaluator is given."""
  monkeypatch.setattr(run, 'Checkpointer', lambda *_, **__: types.SimpleNamespace(
      latest_step=lambda: None, save=lambda *_: None, close=lambda: None,
      reached_preemption=None))
  evaluated = []

  def evaluator(variables, source, **_):
    evaluated.append((variables, source))
    return {'mean_iou': 0.25}
  state = TrainState(step=np.int32(done), params={'p': 1}, batch_stats={},
                     opt_state=(), distiller=(), rng=0, average=average or {})
  built = experiment.create_experiment(config)
  started = run.Run(built, str(workdir), state, evaluator=evaluator, should_stop=lambda: False,
                    phase=phase)
  return started, evaluated


def advance(started, at_each_step=lambda: None):
  """Takes the run to its end; the batches it read. The loss of step k is k."""
  read = []

  def step(state, batch):
    at_each_step()
    read.append(batch)
    state = state._replace(step=state.step + 1)
    return state, {'loss': np.float32(state.step)}
  loop.advance(started, step, types.SimpleNamespace(agree=lambda *_: False))
  return read


@pytest.mark.parametrize('phase,fields', [
    ('train', {}), ('train', {'seed': 3}), ('train', {'data': {'seed': 5}}), ('prepare', {})])
@pytest.mark.parametrize('start', [0, 4])
def test_a_run_reads_the_batches_of_its_config_from_where_it_goes_on(
    phase, fields, start, tmp_path, monkeypatch):
  config = config_of(prepare={'steps': 12}, **fields)
  started, _ = run_of(config, tmp_path, monkeypatch, done=start, phase=phase)
  read = advance(started)
  seed = config.seed if config.data.seed is None else config.data.seed
  wanted = pipeline.train_batches(
      data.create('scenes', 'train'), batch_size=8, start=start,
      seed=seed if phase == 'train' else run._named_seed('prepare', seed),
      augmentation=augmentation.Augmentation((32, 32), (0.5, 1.5), 0.3,
                                              fields=started.experiment.task.fields))
  assert len(read) == 12 - start
  for batch, want in zip(read[:3], wanted):
    for name in want:
      np.testing.assert_array_equal(batch[name], want[name])


@pytest.mark.parametrize('by_orientation', [False, True])
def test_the_crop_of_training_is_turned_for_upright_images_where_the_config_says_so(by_orientation):
  config = config_of()
  config.augmentation.update(crop=(12, 18), scale=())
  config.data.update(name='tests.mylab.parts:Turned', options=ConfigDict({'count': 24}),
                     by_orientation=by_orientation)
  batches = run.training_batches(experiment.create_experiment(config), 'train', start=0)
  sizes = {next(batches)['image'].shape[1:3] for _ in range(12)}
  assert sizes == ({(12, 18), (18, 12)} if by_orientation else {(12, 18)})


def test_each_process_reads_its_part_of_every_batch(monkeypatch):
  built = experiment.create_experiment(config_of())
  first = lambda: next(run.training_batches(built, 'train', start=2))
  whole, parts = first(), []
  monkeypatch.setattr('jax.process_count', lambda: 2)
  for process in (0, 1):
    monkeypatch.setattr('jax.process_index', lambda process=process: process)
    parts.append(first())
  for name, value in whole.items():
    np.testing.assert_array_equal(np.concatenate([part[name] for part in parts]), value)


def test_the_time_of_a_step_is_without_evaluations_and_checkpoints(tmp_path, monkeypatch):
  config = config_of(log={'every_steps': 12}, eval={'every_steps': 4},
                     checkpoint={'every_steps': 3})
  started, _ = run_of(config, tmp_path, monkeypatch)
  now = [0.0]

  def spend(seconds, result=None):
    now[0] += seconds
    return result
  started._timer = StepTimer(lambda: now[0], batch_size=8)
  started._evaluator = lambda *_, **__: spend(1000, {'mean_iou': 0.25})
  started.checkpointer.save = lambda *_: spend(100)
  advance(started, lambda: spend(2))
  (row,) = [row for row in runs.rows(tmp_path) if row['phase'] == 'train']
  assert (row['step_seconds'], row['images_per_second']) == (2, 4)


def test_an_evaluation_that_is_made_up_is_logged_once(tmp_path, monkeypatch):
  before = [{'phase': 'evaluation', 'step': 3, 'mean_iou': 0.125},
            {'phase': 'train', 'step': 4, 'loss': 1.0}]
  for known in (False, True):  # the run was killed before or after the row was written
    (tmp_path / 'metrics.jsonl').write_text(''.join(json.dumps(row) + '\n' for row in before))
    started, _ = run_of(config_of(), tmp_path, monkeypatch, done=4)
    assert started.evaluate() == {'mean_iou': 0.25} == started.metrics
    before += [{'phase': 'evaluation', 'step': 4, 'mean_iou': 0.25}] * (not known)
    assert runs.rows(tmp_path) == before


def test_statistics_that_are_not_finite_are_not_saved(tmp_path, monkeypatch):
  config = config_of(eval={'every_steps': 0}, checkpoint={'every_steps': 3})
  started, _ = run_of(config, tmp_path, monkeypatch)
  started.state = started.state._replace(batch_stats={'norm': {'mean': np.float32(np.nan)}})
  started.checkpointer.save = lambda *_: pytest.fail('not finite')
  with pytest.raises(run.Diverged, match='train step 3: not finite: batch_stats/norm/mean;'):
    advance(started)


def test_the_log_holds_the_rate_of_the_config_and_means_since_the_last_row(tmp_path, monkeypatch):
  config = config_of(log={'every_steps': 5}, eval={'every_steps': 4}, checkpoint={'every_steps': 3})
  started, evaluated = run_of(config, tmp_path, monkeypatch, average={'ema': 1})
  started.teacher_metrics, saved = {'mean_iou': 0.75}, {}
  started.checkpointer.save = lambda step, state, meta, metrics: saved.update({step: metrics})
  advance(started)
  rows = runs.rows(tmp_path)
  of_phase = lambda phase: [row for row in rows if row['phase'] == phase]
  assert [row['step'] for row in of_phase('train')] == [5, 10, 12]
  np.testing.assert_allclose([row['learning_rate'] for row in of_phase('train')],
                             [0.5 * (1 - done / 12)**2 for done in (4, 9, 11)], rtol=1e-5)
  assert [row['loss'] for row in of_phase('train')] == [3.0, 8.0, 11.5]
  assert [(row['step'], row['mean_iou'], row['teacher_mean_iou'])
          for row in of_phase('evaluation')] == [(step, 0.25, 0.75) for step in (4, 8, 12)]
  assert [variables for variables, _ in evaluated] == [{'ema': 1}] * 3  # not what is trained
  assert {(source.split, len(source)) for _, source in evaluated} == {('test', 500)}
  found = {'mean_iou': 0.25}  # a checkpoint has the metrics of its own evaluation alone
  assert saved == {3: None, 4: found, 6: None, 8: found, 9: None, 12: found}


@pytest.mark.parametrize('phase, step, stopping, log, evaluate, save', [
    ('train', 1, 0, 0, 0, 0), ('train', 3, 0, 0, 0, 1), ('train', 5, 0, 1, 0, 0),
    ('train', 4, 0, 0, 1, 1),  # what is evaluated is saved: it may be the best
    ('train', 11, 0, 1, 1, 1), ('train', 4, 1, 1, 0, 1), ('prepare', 4, 0, 0, 0, 0),
    ('prepare', 7, 0, 1, 0, 1)])
def test_what_follows_a_step(phase, step, stopping, log, evaluate, save):
  config = config_of(train={'steps': 11}, prepare={'steps': 7}, log={'every_steps': 5},
                     eval={'every_steps': 4}, checkpoint={'every_steps': 3})
  of_phase = types.SimpleNamespace(config=config, phase=phase, steps=config[phase].steps,
                                   _evaluator=None if phase == 'prepare' else 'evaluates')
  due = run.Run.due(of_phase, step, stopping=bool(stopping))
  assert due == (log, evaluate, save) and due.reads_state == bool(evaluate or save)


def test_the_critic_is_scheduled_over_its_own_updates():
  config = config_of(critic={'steps': 3, 'optimizer': {
      'learning_rate': 1.0, 'power': 1.0, 'momentum': 0.0, 'weight_decay': 0.0}})
  optimizer = experiment.create_experiment(config).optimizers.critic
  weight, moves = np.float32(0), []
  state = optimizer.init(weight)
  for _ in range(3):
    move, state = optimizer.update(np.float32(1), state, weight)
    moves.append(float(move))
  np.testing.assert_allclose(moves, [-(1 - done / 36) for done in range(3)], rtol=1e-5)


def test_teachers_and_starts_are_the_best_checkpoints_of_their_own_architecture(
    tmp_path, monkeypatch):
  sizes = []
  monkeypatch.setattr(model, 'create_module', lambda config, classes, axis_name=None: (
      sizes.append((config.width, classes, axis_name)), toys.Model(classes))[1])
  monkeypatch.setattr(model, 'Checkpointer', Checkpoints)
  monkeypatch.setattr(initialization, 'Checkpointer', Checkpoints)
  mesh = parallel.create_mesh()
  config = config_of(teacher={'checkpoint': 'somewhere'})
  teacher = experiment.load_teacher(config, tuple('abc'), mesh)
  assert teacher.step == 2 and teacher.variables['params'] == {'from': 2}
  assert teacher.workdir.endswith('somewhere')
  assert sizes == [(quickstart.get_config('role=teacher').student.width, 3, parallel.AXIS)]
  saved = initialization._of_run(experiment.create_experiment(config), 'elsewhere', {})
  assert saved.variables == {'params/from': 2}


def test_what_the_user_allows_holds_for_the_first_teacher_and_each_has_its_own_seed(monkeypatch):
  config = config_of()
  config.distill = distillers.terms_of('kd')
  config.teacher.config = quickstart.get_config('role=teacher,runlocal')
  config.seed, config.teacher.config.seed, config.data.seed = 3, 4, 5
  allowed, started = {'allow_class_names': True, 'allow_imports': ('mylab',)}, []

  def start(config, workdir, stop, **given):
    started.append((config.role, config.seed, config.data.seed, given))
    raise Seen
  monkeypatch.setattr(loop, 'start', start)
  monkeypatch.setattr(loop.shapes, 'check_with_untrained', lambda *_, **__: None)
  monkeypatch.setattr(loop.workdirs, 'require_same_config', lambda *_: None)
  for finished in (False, True):  # the teacher
    monkeypatch.setattr(loop.workdirs, 'is_finished', lambda *_, finished=finished: finished)
    with pytest.raises(Seen):
      loop.train(config, 'work', **allowed)
  assert started == [('teacher', 4, None, allowed), ('student', 3, 5, allowed)]


@pytest.mark.parametrize('allowed', [
    {}, {'allow_class_names': True, 'allow_imports': ('mylab',)}])
def test_a_run_is_built_with_what_the_user_allows(allowed, monkeypatch):
  def create(config, **given):
    raise Seen(given)
  monkeypatch.setattr(experiment, 'create_experiment', create)
  with pytest.raises(Seen) as seen:
    loop.start(config_of(), 'work', lambda: False, **allowed)
  assert seen.value.args == ({'allow_class_names': False, 'allow_imports': ()} | allowed,)


@pytest.mark.parametrize('allowed', [(), ('tests.mylab',)])
def test_weights_to_start_from_may_be_of_a_model_that_the_user_permits(allowed, monkeypatch):
  class OfAnother(Checkpoints):

    def read_meta(self, step):
      meta = super().read_meta(step)
      meta['config']['student']['name'] = 'tests.mylab.parts:Tiny'
      return meta
  monkeypatch.setattr(initialization, 'Checkpointer', OfAnother)
  monkeypatch.setattr(initialization, 'create_model', lambda config, classes: toys.Model(classes))
  built = types.SimpleNamespace(
      config=config_of(), train_source=types.SimpleNamespace(classes=[*'abc']),
      allow_class_names=False, allow_imports=allowed, mesh=parallel.create_mesh())
  if allowed:
    assert initialization._of_run(built, 'elsewhere', {}).variables == {'params/from': 2}
  else:
    with pytest.raises(UserError, match='--allow_imports=tests '):
      initialization._of_run(built, 'elsewhere', {})


class Options(types.SimpleNamespace):
  """As `absl.flags.FlagValues` is read."""

  def __getitem__(self, name):
    return types.SimpleNamespace(value=getattr(self, name))


class Seen(Exception):
  """Ends a program where what it was to show has been seen."""


def test_evaluate_looks_at_the_split_and_folder_asked_for_as_its_config_says(monkeypatch):
  config = config_of()
  config.data.name, config.parallel = 'folder', 'pmap'
  config.task.update(align_corners=False, absent_as_zero=True)
  config.eval.update(batch_size=24, limit=5, pad_multiple=16, window=(16, 24), overlap=0.25,
                     scales=(0.5, 1.0), flip=True)
  seen = {}
  source = types.SimpleNamespace(classes=tuple('abc'))
  monkeypatch.setattr(data, 'create', lambda name, split, root, **_: (
      seen.update(source=(name, split, root)), source)[1])
  monkeypatch.setattr(evaluate, 'restore', lambda workdir, *, checkpoint, views, **_: (
      seen.update(model=(workdir, checkpoint)),
      toys.loaded('module', 'variables', views=views, step=2))[1])

  class Evaluator:

    def __init__(self, task, module, mesh, **options):
      assert module == 'module'
      seen.update(task=task, options=options)

    def accumulate(self, variables, given):
      assert variables == 'variables' and given is source
      raise Seen
  monkeypatch.setattr(evaluate, 'Evaluator', Evaluator)
  monkeypatch.setattr(evaluate.program, 'require_workdir', lambda *_, **__: 'work')
  options = Options(
      config=config, split='extra', data_root='elsewhere', best=True, json=None, confusion=None,
      precision=None, conflict=None, allow_class_names=False, allow_imports=[], workdir='work')
  with pytest.raises(Seen):
    evaluate.main(options, [])
  assert seen['source'] == ('folder', 'extra', 'elsewhere') and seen['model'] == ('work', 'best')
  assert seen['options'] == {
      'mode': 'pmap', 'batch_size': 24, 'limit': 5, 'multiple': 16,
      'inference': experiment.Inference((16, 24), 0.25, (0.5, 1.0), True)}
  assert seen['task'].absent_as_zero and not seen['task'].align_corners
